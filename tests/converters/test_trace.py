"""Tracing: it changes nothing, infers inputs where it can, and says all that it cannot do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import (
    DEFAULT_RULES,
    ConversionError,
    ExampleInputError,
    UnsupportedOperation,
    execute,
    to_graph,
    trace,
    verify,
)
from converters.trace.context import Context
from converters.trace.labels import Labels
from tests.converters.entry import draw
from tests.converters.laws import case
from tests.converters.modules import Buffer, Net
from tests.converters.networks import ALL


def snapshot(model: nn.Module) -> list[Any]:
    """Everything of a module that a trace might disturb."""
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_state_dict_hooks",
        "_load_state_dict_pre_hooks",
    )
    found: list[Any] = []
    for name, module in model.named_modules():
        found.append((name, module.training, sorted(vars(module)), [dict(getattr(module, hook)) for hook in hooks]))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else tensor.grad.tolist()
        found.append(
            (
                name,
                id(tensor),
                tensor.requires_grad,
                tensor.is_leaf,
                str(tensor.tolist()),
                grad,
                tensor._version,
            )
        )
    return found


@pytest.mark.parametrize("name", ALL)
def test_nothing_of_the_model_changes(name: str) -> None:
    model = ALL[name].make()
    for number, module in enumerate(model.modules()):
        module.training = bool(number % 2)
    calls: list[str] = []
    model.register_forward_hook(lambda *_: calls.append("hook"))
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        if number % 2 == 0:
            parameter.grad = torch.ones_like(parameter)
    args, kwargs = ALL[name].arguments()
    before, inputs = snapshot(model), copy.deepcopy((args, kwargs))
    random, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    mkldnn, fastpath = torch.backends.mkldnn.is_available(), torch.backends.mha.get_fastpath_enabled()
    to_graph(model, kwargs or args)
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert (torch.backends.mkldnn.is_available(), torch.backends.mha.get_fastpath_enabled()) == (
        mkldnn,
        fastpath,
    )
    for one, other in zip((*inputs[0], *inputs[1].values()), (*args, *kwargs.values()), strict=True):
        assert torch.equal(one, other)


def counting(net: Net, x: Tensor) -> Tensor:
    net.calls.add_(1)
    return net.layer(x)


def noisy(net: Net, x: Tensor) -> Tensor:
    return net.layer(x + 0.1 * torch.randn_like(x))


def overwriting(net: Net, x: Tensor) -> Tensor:
    return net.layer(torch.nn.functional.relu(x, inplace=True))


@pytest.mark.parametrize("forward", [counting, noisy, overwriting])
def test_careless_forwards_leave_no_trace(forward: Callable[..., Tensor]) -> None:
    """A forward that counts its calls, draws numbers or overwrites its input changes nothing while traced."""
    model = Net(forward, layer=nn.Linear(4, 3), calls=Buffer(torch.tensor(0))).eval()
    x, random = draw(3, 4), torch.get_rng_state()
    kept = x.clone()
    trace(model, x)
    assert torch.equal(x, kept)
    assert int(model.calls) == 0
    assert torch.equal(torch.get_rng_state(), random)


def test_a_failing_forward_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(7, 2)).train()
    before = snapshot(model)
    with pytest.raises(ExampleInputError):
        trace(model, draw(3, 4))
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), (4,)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 32, 32)),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU()), (2, 32)),
        (nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU()), (1, 16, 16, 16)),
        (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)), (8,)),
        (nn.Linear(4, 2).double(), (4,)),
    ],
)
def test_inputs_are_inferred(model: nn.Module, shape: tuple[int, ...]) -> None:
    (spec,) = trace(model).program.inputs
    assert spec.shape[1:] == shape
    assert spec.free[0]


def test_what_cannot_be_inferred_is_said() -> None:
    with pytest.raises(ExampleInputError) as error:
        trace(nn.Sequential(nn.ReLU(), nn.Softmax(-1)))
    assert str(error.value) == (
        "cannot infer an input for Sequential: it has no Linear, Conv or Embedding layer. "
        "Pass example_inputs: a tensor, a tuple of positional or a dict of keyword arguments."
    )
    assert isinstance(error.value, ConversionError)


def test_inputs_that_do_not_fit_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(7, 2)))
    with pytest.raises(ExampleInputError) as error:
        trace(model, draw(3, 4))
    text = str(error.value)
    assert "Sequential does not run on the example inputs ([3, 4]), in 1.1" in text
    assert "mat1 and mat2" in text
    assert "Pass example_inputs" in text
    assert isinstance(error.value.__cause__, RuntimeError)


def test_only_modules_are_traced() -> None:
    with pytest.raises(ExampleInputError, match="got a dict"):
        trace({"weight": torch.zeros(2)})


@pytest.mark.parametrize("inputs", [draw(3, 4), (draw(3, 4),), [draw(3, 4)], {"x": draw(3, 4)}])
def test_inputs_of_every_form(inputs: Any) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = Named().eval()
    structure = trace(model, inputs)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((draw(3, 4),), {})
    found = execute(dict(model.state_dict()), *args, structure=structure, **kwargs)
    assert torch.allclose(found, model(draw(3, 4)))


class MyAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)


class Airy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(self.inner(x))


class HybridNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 8)
        self.layer1 = nn.Sequential(nn.ModuleDict({"attn": MyAttention()})["attn"])
        self.head = Airy()

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer1(torch.relu(self.enter(x)))
        return self.head(h)


def test_strict_lists_every_place_at_once() -> None:
    with pytest.raises(UnsupportedOperation) as error:
        trace(HybridNet(), draw(3, 4), strict=True)
    assert str(error.value) == (
        "cannot convert HybridNet; 2 places have no rule:\n"
        "  layer1.0 (MyAttention): no rule for aten.special_airy_ai\n"
        "  head (Airy): no rule for aten.special_airy_ai\n"
        "Those axes are kept fixed when strict=False; pass rules={**DEFAULT_RULES, ...} to add a rule."
    )
    assert error.value.network == "HybridNet"
    assert [where for where, _ in error.value.places] == ["layer1.0 (MyAttention)", "head (Airy)"]
    with pytest.raises(UnsupportedOperation):
        to_graph(HybridNet(), draw(3, 4), strict=True)


def test_without_strict_the_same_places_are_reasons() -> None:
    model = HybridNet()
    structure = trace(model, draw(3, 4))
    assert ("layer1.0 (MyAttention)", "no rule for aten.special_airy_ai") in structure.frozen_reasons
    assert ("head (Airy)", "no rule for aten.special_airy_ai") in structure.frozen_reasons
    assert not any(group.permutable for group in structure.groups)


@pytest.mark.parametrize(
    "name", ["mlp", "siren", "resnet18", "cnn_flatten", "mlp_layer_norm", "cnn_pools", "residual_mlp"]
)
def test_strict_accepts_what_has_rules(name: str) -> None:
    c = case(name)
    assert trace(c.model, c.inputs, strict=True) == c.structure


def elementwise_cube(context: Context) -> list[Labels]:
    """The rule of a function of one value."""
    labels = context.of(context.tensors()[0])
    return [Labels(labels.bundles, labels.blank, labels.source, context.out_shape)]


def test_a_rule_can_be_added() -> None:
    model = Net(
        lambda n, x: n.last(torch.special.airy_ai(n.first(x))), first=nn.Linear(4, 8), last=nn.Linear(8, 2)
    ).eval()
    without = trace(model, draw(3, 4))
    assert not any(group.permutable for group in without.groups)
    assert any("special_airy_ai" in why for _, why in without.frozen_reasons)
    table = dict(DEFAULT_RULES)
    ruled = trace(model, draw(3, 4), rules={**DEFAULT_RULES, "special_airy_ai": elementwise_cube}, strict=True)
    assert [group.size for group in ruled.groups if group.permutable] == [8]
    assert verify(model, draw(3, 4), ruled).sound
    assert table == DEFAULT_RULES


def test_a_rule_can_be_taken_away() -> None:
    model = case("mlp").model
    fewer = {name: rule for name, rule in DEFAULT_RULES.items() if name != "relu"}
    with pytest.raises(UnsupportedOperation) as error:
        trace(model, draw(3, 4), rules=fewer, strict=True)
    assert [where for where, _ in error.value.places] == ["1 (ReLU)", "3 (ReLU)"]
    assert "no rule for aten.relu" in str(error.value)


def test_an_overload_has_precedence_over_its_operator() -> None:
    seen: list[str] = []

    def watch(context: Context) -> list[Labels]:
        seen.append(context.op.target)
        return elementwise_cube(context)

    trace(case("mlp").model, draw(3, 4), rules={**DEFAULT_RULES, "aten.relu.default": watch})
    assert seen == ["aten.relu.default"] * 2


class FromOneImage(nn.Module):
    """Takes an image without a batch axis, as detectors do; with one channel it would run too, by broadcasting."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.first, self.head = form, nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        batch = image.new_zeros(1, 3, 8, 8)
        if self.form == "copy":
            batch[0, :3].copy_(image)
        elif self.form == "add":
            batch = batch + image
        else:
            batch = image.expand(1, 3, 8, 8)
        return self.head(self.first(batch).relu().mean((2, 3)))


@pytest.mark.parametrize("form", ["copy", "add", "expand"])
def test_channels_of_an_image_are_no_batch(form: str) -> None:
    net, image = FromOneImage(form).eval(), torch.rand(3, 8, 8)
    structure = trace(net, image)
    assert not any(any(spec.free) for spec in structure.program.inputs)
    assert [group.size for group in structure.groups if group.permutable] == [4]
    assert verify(net, image, structure).sound
    assert torch.equal(execute(net.state_dict(), image, structure=structure), net(image))
