"""Networks without weights: traced in shapes alone, to the structure that the real one has."""

from __future__ import annotations

import copy
import gc
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from converters import (
    ExampleInputError,
    GraphTooLarge,
    load_pretrained,
    to_graph,
    to_state_dict,
    trace,
    without_weights,
)
from tests.converters.networks import ALL

NAMES = ["mlp", *[name for name in ALL if name != "mlp"][::7]]


def on_meta(model: nn.Module) -> nn.Module:
    """A copy without its parameters; sharing and buffers stay."""
    out = copy.deepcopy(model)
    made: dict[int, nn.Parameter] = {}
    for module in out.modules():
        for name, old in list(module._parameters.items()):
            if old is not None:
                fresh = made.setdefault(id(old), nn.Parameter(old.detach().to("meta"), old.requires_grad))
                module._parameters[name] = fresh
    return out


@pytest.mark.parametrize("name", NAMES)
def test_the_structure_is_that_of_the_network_with_weights(name: str) -> None:
    model = ALL[name].make()
    args, kwargs = ALL[name].arguments()
    bare = on_meta(model)
    held = [*bare.parameters(), *bare.buffers()]
    found, expected = trace(bare, kwargs or args, cache=False), trace(model, kwargs or args, cache=False)
    for part in ("groups", "parameters", "layers", "blocks", "extras", "dtype"):
        assert getattr(found, part) == getattr(expected, part)
    assert found == expected
    after = [*bare.parameters(), *bare.buffers()]
    assert len(held) == len(after)
    assert all(a is b for a, b in zip(held, after, strict=True))


class Experts(nn.Module):
    """Every token goes to one of three matrices, chosen by number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 2)
        self.weight = nn.Parameter(torch.randn(3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.tensor([2, 3, 4], dtype=torch.int32)
        return self.last(torch._grouped_mm(self.first(x), self.weight, offs=counts.cumsum(0, dtype=torch.int32)).relu())


class Attention(nn.Module):
    """Attention over inputs whose batch comes first: torch lays them out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0])


@pytest.mark.parametrize(("kind", "shape"), [(Experts, (9, 8)), (Attention, (2, 5, 8))])
def test_experts_and_attention_without_weights(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    with without_weights():
        bare = kind()
    assert trace(bare, torch.zeros(shape), cache=False) == trace(kind(), torch.zeros(shape), cache=False)


class Positions(nn.Module):
    """A buffer of positions outside the state_dict steers it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("order", torch.tensor([5, 4, 3, 2, 1, 0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x * x[:, self.get_buffer("order")])


def test_without_weights_keeps_buffers() -> None:
    with without_weights():
        net = Positions()
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert net.get_buffer("order").tolist() == [5, 4, 3, 2, 1, 0]
    assert trace(net) == trace(Positions())
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_ties_survive_building_without_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    with without_weights():
        net = Tied()
    assert net.a.weight is net.b.weight
    assert trace(net) == trace(Tied())


def test_one_parameter_given_to_two_modules_stays_one() -> None:
    def make() -> nn.Module:
        shared = nn.Parameter(torch.ones(4, 4))
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        net[0].weight = net[2].weight = shared
        return net

    with without_weights():
        net = make()
    assert net[0].weight is net[2].weight
    assert net[0].weight.device.type == "meta"
    assert trace(net) == trace(make())


def test_lost_buffers_are_named_with_the_remedy() -> None:
    with torch.device("meta"):
        net = Positions()
    with pytest.raises(ExampleInputError, match=r"order on the meta device lost their values.*without_weights"):
        trace(net)


def test_what_depends_on_the_values_of_weights_is_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if self.a.weight.sum() > 0 else x

    with without_weights():
        net = Reads()
    with pytest.raises(ExampleInputError, match="does not run on the example inputs"):
        trace(net)
    assert net.a.weight.device.type == "meta"


def test_old_autograd_functions_are_followed_and_other_threads_keep_their_gradients() -> None:
    gradients: list[Any] = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.scale = 2.0
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return gradient * ctx.scale * x

    def elsewhere() -> None:
        x = torch.tensor(3.0, requires_grad=True)
        Square.apply(x).backward()
        gradients.append(x.grad)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return self.b(Square.apply(self.a(x)))

    structure = trace(Net())
    assert [group.size for group in structure.groups if group.permutable] == [5]
    assert gradients
    assert all(float(g) == 6.0 for g in gradients)
    elsewhere()
    assert float(gradients[-1]) == 6.0


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_views_of_a_file_take_no_memory(tmp_path: Path) -> None:
    width, depth = 2500, 8

    def make() -> nn.Module:
        layers = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    trace(nn.Linear(4, 4))
    with without_weights():
        net = make()
    weights = {name: torch.zeros(tensor.shape) for name, tensor in net.state_dict().items()}
    total = sum(tensor.nbytes for tensor in weights.values())
    save_file(weights, tmp_path / "w.safetensors")
    del weights
    before = resident()
    graph = to_graph(tmp_path / "w.safetensors", architecture=make, materialize=False)
    assert resident() - before < total / 3
    assert not graph.is_materialized
    sizes = [tuple(block.shape) for block in graph.blocks]
    assert sizes.count((width, width, 1)) == depth
    assert resident() - before < total / 3
    assert total > 190_000_000
    with pytest.raises(GraphTooLarge, match="the limit is 1,000 edges"):
        graph.materialize(max_edges=1000)


def test_large_graphs_are_refused_with_an_estimate_and_the_remedies() -> None:
    net = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))
    with pytest.raises(GraphTooLarge) as caught:
        to_graph(net, max_edges=21_999)
    text = str(caught.value)
    assert "22,000 edges and 310 nodes, about 0.0 GB; the limit is 21,999 edges" in text
    assert "materialize=False" in text
    assert "graph.blocks" in text
    assert "max_edges=None" in text
    assert to_graph(net, max_edges=22_000).num_edges == 22_000
    assert to_graph(net, max_edges=None).num_edges == 22_000
    views = to_graph(net, max_edges=10, materialize=False)
    with pytest.raises(GraphTooLarge, match="the limit is 10 edges"):
        views.materialize(max_edges=10)
    assert not views.is_materialized
    assert views.materialize(max_edges=None).num_edges == 22_000


def test_the_default_limit_is_met_before_anything_is_allocated() -> None:
    with without_weights():
        net = nn.Sequential(nn.Linear(20_000, 20_000), nn.ReLU(), nn.Linear(20_000, 10))
    with pytest.raises(GraphTooLarge, match=r"400,200,000 edges .* about 14\.4 GB"):
        to_graph(net)
    assert to_graph(net, materialize=False).structure.num_edges == 400_200_000


def test_a_loaded_module_can_be_filled_without_a_copy(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    make = lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))  # noqa: E731
    found = load_pretrained(tmp_path / "w.safetensors", make)
    found.model.load_state_dict(found.weights, assign=True)
    x = torch.randn(4, 3)
    assert torch.equal(found.model(x), net(x))
    assert found.model[0].weight.data_ptr() == found.weights["0.weight"].data_ptr()
    graph = to_graph(found.model)
    assert all(torch.equal(to_state_dict(graph)[name], value) for name, value in net.state_dict().items())
