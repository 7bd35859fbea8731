"""A guessed structure has the groups of the traced one, and whatever is no chain is refused."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from converters import (
    StructureMismatch,
    execute,
    load_weights,
    permute,
    sample_permutation,
    to_graph,
    to_state_dict,
    trace,
)
from converters.sequential import guess_structure


def vgg() -> nn.Module:
    net = nn.Module()
    net.features = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(24, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5))
    net.forward = lambda x: net.classifier(net.features(x).flatten(1))
    return net


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 12), nn.Linear(12, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.tanh(self.conv2(x)), 2).flatten(1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


def no_counter(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
    return net


def named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


S, L, C, R, F = nn.Sequential, nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten
IMAGE = torch.zeros(2, 3, 8, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor | None]] = {
    "linear": (lambda: L(3, 2), None),
    "mlp": (lambda: S(L(4, 8), R(), L(8, 8), R(), L(8, 3)), None),
    "mlp without bias": (lambda: S(L(4, 8, bias=False), nn.Tanh(), nn.Dropout(), L(8, 3, bias=False)), None),
    "deep mlp": (lambda: S(*[m for _ in range(7) for m in (L(6, 6), nn.GELU())], L(6, 6)), None),
    "float64": (lambda: S(L(4, 8), R(), L(8, 3)).double(), None),
    "bfloat16": (lambda: S(L(4, 8), R(), L(8, 3)).bfloat16(), None),
    "named": (lambda: named(fc_in=L(4, 8), act=R(), fc_out=L(8, 3)), None),
    "norms": (
        lambda: S(nn.BatchNorm1d(4), L(4, 8), nn.LayerNorm(8), R(), L(8, 6), nn.BatchNorm1d(6), R(), L(6, 2)),
        None,
    ),
    "plain norms": (lambda: S(L(4, 8), nn.BatchNorm1d(8, affine=False), R(), L(8, 2)), None),
    "blocks": (lambda: S(*[named(linear=L(n, n + 1), norm=nn.LayerNorm(n + 1), act=R()) for n in range(3, 14)]), None),
    "square blocks": (
        lambda: S(*[named(linear=L(5, 5), norm=nn.LayerNorm(5), act=R()) for _ in range(3)], L(5, 2)),
        None,
    ),
    "convolution": (lambda: C(3, 4, 3), IMAGE),
    "global pool": (lambda: S(C(3, 4, 3), R(), C(4, 5, (1, 3)), R(), nn.AdaptiveAvgPool2d(1), F(), L(5, 2)), IMAGE),
    "flatten": (lambda: S(C(3, 4, 3), R(), C(4, 5, 3), R(), F(), L(80, 6), R(), L(6, 2)), IMAGE),
    "even kernel": (lambda: S(C(3, 4, 2), R(), nn.MaxPool2d((7, 1)), F(), L(28, 2)), IMAGE),
    "flatten to a row": (lambda: S(C(3, 4, (8, 2)), R(), F(), L(28, 2)), IMAGE),
    "depthwise": (lambda: S(C(3, 4, 1), C(4, 8, 3, groups=4), R(), C(8, 6, 1), R(), C(6, 2, 1)), IMAGE),
    "first norm": (lambda: S(nn.BatchNorm2d(3), C(3, 4, 3), R(), C(4, 2, 3)), IMAGE),
    "1d": (
        lambda: S(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), R(), nn.Conv1d(4, 3, 3), F(), L(12, 2)),
        torch.zeros(2, 2, 8),
    ),
    "3d": (lambda: S(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), R(), F(), L(32, 2)), torch.zeros(2, 1, 4, 4, 4)),
    "vgg": (vgg, IMAGE),
    "no batch counter": (lambda: no_counter(vgg()), IMAGE),
    "lenet": (LeNet, torch.zeros(2, 1, 28, 28)),
}


def check(net: nn.Module, example: Tensor | None, weights: dict[str, Tensor]) -> None:
    real, guess = trace(net, example), guess_structure(weights)
    assert not guess.certified
    assert real.certified
    assert [(g.size, g.role, g.parent, g.cells) for g in guess.groups] == [
        (g.size, g.role, g.parent, g.cells) for g in real.groups
    ]
    assert {g.size for g in guess.groups if g.permutable} == {g.size for g in real.groups if g.permutable}
    assert not guess.frozen_reasons
    for name, parameter in real.parameter.items():
        other = guess.parameter[name]
        assert (parameter.shape, parameter.dtype, parameter.axes, parameter.buffer) == (
            other.shape,
            other.dtype,
            other.axes,
            other.buffer,
        ), name
    assert guess.parameter.keys() == real.parameter.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_those_of_the_traced_module(name: str) -> None:
    make, example = NETWORKS[name]
    net = make()
    check(net, example, net.state_dict())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "square blocks"])
def test_alphabetical_order_as_safetensors_give_it(name: str, tmp_path: Path) -> None:
    make, example = NETWORKS[name]
    net = make()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    check(net, example, {key: loaded[key] for key in sorted(loaded)})


def test_sorted_names_that_fit_twice_are_refused() -> None:
    state = NETWORKS["square blocks"][0]().state_dict()
    with pytest.raises(StructureMismatch, match="several orders fit"):
        guess_structure({key: state[key] for key in sorted(state)})


def test_ten_square_layers_are_not_taken_in_alphabetical_order() -> None:
    net = S(*[m for _ in range(11) for m in (L(4, 4), R())], L(4, 4))
    state = net.state_dict()
    guess = guess_structure({key: state[key] for key in sorted(state)})
    order = [layer.name for layer in guess.layers if layer.kind == "linear"]
    assert order == [str(2 * i) for i in range(12)]


def test_a_bare_state_dict_converts_and_comes_back() -> None:
    net = vgg()
    graph = to_graph(net.state_dict())
    assert not graph.structure.certified
    back = to_state_dict(graph)
    assert list(back) == list(net.state_dict())
    assert all(torch.equal(back[name], value) for name, value in net.state_dict().items())


def test_guessed_permutations_keep_the_real_function(seeded: torch.Generator) -> None:
    net = vgg().double().eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=seeded)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=seeded)
    expected = net(x)
    structure = guess_structure(net.state_dict())
    for coupled in (True, False):
        moved = permute(net.state_dict(), sample_permutation(structure, seeded, coupled=coupled))
        net_moved = vgg().double().eval()
        net_moved.load_state_dict(moved)
        error = (net_moved(x) - expected).abs().max() / expected.abs().max()
        assert (error < 1e-12) if coupled else (error > 1e-6)


def test_a_relu_mlp_is_guessed_in_full() -> None:
    net = S(L(4, 8), R(), L(8, 3))
    guess = guess_structure(net.state_dict())
    assert [(la.kind, la.activation) for la in guess.layers] == [
        ("input", "identity"),
        ("linear", "relu"),
        ("linear", "identity"),
    ]
    x = torch.randn(5, 4)
    assert torch.allclose(execute(net.state_dict(), x, structure=guess), net(x))


def test_weights_are_neither_copied_nor_changed() -> None:
    weights = {"0.weight": torch.randn(3, 2, requires_grad=True), "1.weight": torch.randn(2, 3, requires_grad=True)}
    before = {name: value.detach().clone() for name, value in weights.items()}
    graph = to_graph(weights, materialize=False)
    assert all(graph.views[name].data_ptr() == weights[name].data_ptr() for name in weights)
    assert all(torch.equal(weights[name], before[name]) and weights[name].requires_grad for name in weights)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.booleans())
def test_any_widths(widths: list[int], bias: bool) -> None:
    layers = [L(a, b, bias=bias) for a, b in itertools.pairwise(widths)]
    net = S(*[m for layer in layers for m in (layer, R())][:-1])
    check(net, None, net.state_dict())


# -- refused ---------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = C(4, 4, 3, padding=1), C(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


def tied() -> dict[str, Tensor]:
    net = S(L(4, 4), R(), L(4, 4))
    net[2].weight = net[0].weight
    return net.state_dict()


REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "empty": ({}, "an empty state_dict has no structure"),
    "gap": (
        S(L(4, 8), R(), L(9, 3), R(), L(5, 2)).state_dict(),
        r"2 faults\):\n  2\.weight, 2\.bias: 2 \(linear \[3, 9\]\) does not take the 8 .* that 0 gives\n  4\.weight",
    ),
    "flatten": (S(C(3, 4, 3), F(), L(30, 2)).state_dict(), r"2 \(linear \[2, 30\]\) does not take the 4 values"),
    "grouped": (
        S(C(4, 8, 3), C(8, 8, 3, groups=2)).state_dict(),
        r"1 \(convolution \[8, 4, 3, 3\]\) does not take the 8",
    ),
    "wrong norm": (S(L(4, 8), nn.BatchNorm1d(7)).state_dict(), r"1 \(batch_norm \[7\]\) does not take the 8"),
    "group norm": (S(C(3, 4, 3), nn.GroupNorm(2, 4)).state_dict(), r"1 \(layer_norm \[4\]\) does not take"),
    "recurrent": (
        nn.LSTM(2, 3).state_dict(),
        r"weight_ih_l0 \[12, 2\], .*is no Linear, convolution, BatchNorm or LayerNorm",
    ),
    "prelu": (S(L(2, 3), nn.PReLU(), L(3, 1)).state_dict(), r"1: weight \[1\] is no Linear"),
    "parameter": ({**S(L(2, 3)).state_dict(), "scale": torch.ones(3)}, r"the network: scale \[3\] is no Linear"),
    "loose": ({"0.weight": torch.ones(3, 2), "0.bias": torch.ones(2)}, r"0: weight \[3, 2\], bias \[2\] is no Linear"),
    "integers": ({"0.weight": torch.ones(3, 2, dtype=torch.int8)}, "is not of floating-point numbers"),
    "residual": (
        S(C(3, 4, 3), Residual(), Residual()).state_dict(),
        r"1: holds 1\.conv1, 1\.conv2, a block that may have skip",
    ),
    "downsample": (named(conv=C(3, 4, 3), downsample=C(4, 4, 1)).state_dict(), "downsample: its name says"),
    "nested": (
        {"a.weight": torch.ones(2, 2), "a.b.weight": torch.ones(2, 2)},
        r"a\.weight: beside the layer a\.b",
    ),
    "tied": (tied(), r"2\.weight: shares its memory with 0\.weight"),
    "stack": ({k: torch.stack([v] * 5) for k, v in S(L(4, 8), R(), L(8, 3)).state_dict().items()}, "is no Linear"),
    "ambiguous": (
        {
            f"{name}.{slot}": torch.ones(4, 4) if slot == "weight" else torch.ones(4)
            for name in "ab"
            for slot in ("bias", "weight")
        },
        "several orders fit: [ab] -> [ab]; or [ab] -> [ab]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_chain_is_refused_with_the_remedies(name: str) -> None:
    weights, words = REFUSED[name]
    with pytest.raises(StructureMismatch, match=words) as caught:
        guess_structure(weights)
    assert "Pass structure=trace(model, example_inputs), or pass the module itself" in str(caught.value)
    with pytest.raises(StructureMismatch):
        to_graph(weights)


def test_a_search_without_end_is_cut_off() -> None:
    weights = {
        f"{letter}.{slot}": torch.ones(*shape)
        for letter in "abcdefghijklm"
        for slot, shape in (("bias", (4,)), ("weight", (4, 4)))
    }
    with pytest.raises(StructureMismatch):
        guess_structure(weights)
