"""What fused layers do tile by tile, for whom they compute gradients, and what they keep for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import NeuronGraphs
from graphnets import NeuronAttention, NeuronMessagePassing, links
from graphnets.layered import Bundle, Layered
from graphnets.message_passing.kernels import reference_attention, reference_message_passing

from .networks import mixture, stack, structures

REFERENCES: dict[type[nn.Module], Any] = {
    NeuronMessagePassing: reference_message_passing,
    NeuronAttention: reference_attention,
}
KINDS = list(REFERENCES)


def build(kind: type[nn.Module], **options: Any) -> Any:
    layer = kind(4, 3, **({"heads": 2} if kind is NeuronAttention else {}), gates=1, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return layer


def features(nodes: int, edges: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(nodes, 4, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(edges, 3, dtype=torch.float64, requires_grad=True)


def small() -> tuple[Tensor, Tensor, Tensor]:
    x, edge_attr = features(4, 6)
    return x, torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 2, 2]]), edge_attr


def through(layer: Any, batch: NeuronGraphs, view: Layered, x: Tensor, edge_attr: Tensor, order: str) -> list[Tensor]:
    inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
    states, edges = getattr(layer, order)(*inputs, view)
    return [torch.cat(states, 1), torch.cat(edges, 1)]


def gradients(layer: Any, out: list[Tensor], *inputs: Tensor) -> list[Tensor]:
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in out)
    return list(torch.autograd.grad(loss, [*inputs, *layer.parameters()]))


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(list(found), list(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "few"), [(1, 0), (1, 4096), (700, 0), (700, 4096)])
@pytest.mark.parametrize("order", ["parallel", "sweep"])
@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_how_edges_are_cut(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], order: str, size: int, few: int
) -> None:
    layer = build(kind)
    for batch, mixed in ((stack(structures()["residual"], 3), False), (mixture(), True)):
        x, edge_attr = features(len(batch.x), len(batch.edge_attr))
        results = []
        for cut in (False, True):
            if cut:
                monkeypatch.setattr(links, "CACHED_BYTES", size)
                monkeypatch.setattr(links, "FEW_EDGES", few)
            view = Layered(batch, mixed=mixed)
            out = through(layer, batch, view, x, edge_attr, order)
            results.append((view, [*out, *gradients(layer, out, x, edge_attr)]))
            monkeypatch.undo()
        pieces = [sum(map(len, view.links(range(len(view.bundles)), False).tiles(4, x))) for view, _ in results]
        assert pieces[1] >= pieces[0]
        assert_close(results[1][1], results[0][1])


def test_small_tiles_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    view = Layered(stack(structures()["mlp"], 3))
    monkeypatch.setattr(links, "CACHED_BYTES", 8 * 4 * 10)
    tiles = view.links(range(len(view.bundles)), False).tiles(4, torch.zeros(1, dtype=torch.float64))
    assert max(tile.place.stop - tile.place.start for part in tiles for tile in part) <= 10
    for part, bundle in zip(tiles, view.bundles, strict=True):
        covered = [edge for tile in part for edge in range(tile.place.start, tile.place.stop)]
        assert covered == list(range(3 * (bundle.stop - bundle.start)))


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_equal_targets_are_summed_as_any_edges(kind: type[nn.Module]) -> None:
    layer = build(kind)
    target = torch.tensor([3] * 5 + [1] * 7 + [3] * 4 + [0] * 6)
    x, edge_attr = features(5, len(target))
    ends = torch.stack([torch.randint(0, 5, target.shape), target])
    bundle = Bundle(0, 0, 0, len(target), None, *ends)
    (tile,) = links.Links([bundle], [5], 1).tiles(4, x)[0]
    assert isinstance(tile, links.Pairs)
    assert tile.runs is not None
    assert tile.runs[1].tolist() == [3, 1, 3, 0]
    found, expected = layer(x, ends, edge_attr), REFERENCES[kind](layer, x, ends, edge_attr)
    assert_close(found, expected)


@pytest.mark.parametrize("wanted", ["nodes", "edges", "parameters"])
@pytest.mark.parametrize("used", ["nodes", "edges"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_what_is_used_to_what_is_wanted(kind: type[nn.Module], used: str, wanted: str) -> None:
    layer, (x, ends, edge_attr) = build(kind), small()
    inputs = {"nodes": [x], "edges": [edge_attr], "parameters": list(layer.parameters())}[wanted]
    for value in (x, edge_attr, *layer.parameters()):
        value.requires_grad_(any(value is other for other in inputs))
    found = []
    for run in (layer, lambda *given: REFERENCES[kind](layer, *given)):
        out = run(x, ends, edge_attr)[used == "edges"]
        found.append(
            torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), inputs, allow_unused=True)
        )
    zeros = [torch.zeros_like(value) for value in inputs]
    ours, theirs = ([z if g is None else g for g, z in zip(grads, zeros, strict=True)] for grads in found)
    assert_close(ours, theirs)
    assert max(float(grad.abs().max()) for grad in ours) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_edges_may_be_used_elsewhere_and_gone_through_twice(kind: type[nn.Module]) -> None:
    layer, (x, ends, edge_attr) = build(kind), small()

    def loss(run: Any) -> Tensor:
        edges = edge_attr * 1.5
        one = run(x, ends, edges)
        two = run(one[0], ends, edges + one[1])
        return two[0].square().sum() + (two[1] * one[1] * edges).sum()

    ours, theirs = loss(layer), loss(lambda *given: REFERENCES[kind](layer, *given))
    wanted = [x, edge_attr, *layer.parameters()]
    first = torch.autograd.grad(ours, wanted, retain_graph=True)
    assert_close(torch.autograd.grad(ours, wanted), first)
    assert_close(first, torch.autograd.grad(theirs, wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_right_by_finite_differences(kind: type[nn.Module]) -> None:
    layer, (x, ends, edge_attr) = build(kind), small()
    assert torch.autograd.gradgradcheck(lambda a, b: layer(a, ends, b), (x, edge_attr))


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_to_parameters_are_those_of_the_textbook(kind: type[nn.Module]) -> None:
    layer, (x, ends, edge_attr) = build(kind), small()
    batch = stack(structures()["residual"], 2)
    weights, found = list(layer.parameters()), []
    for run in (layer, lambda *given: REFERENCES[kind](layer, *given)):
        out = sum(part.square().sum() for part in run(x, ends, edge_attr))
        slopes = torch.autograd.grad(out, weights, create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), [x, edge_attr, *weights]))
    assert_close(*found)
    nodes, edges = features(len(batch.x), len(batch.edge_attr))
    swept, mixed = [], []
    for into, form in ((swept, False), (mixed, True)):
        out = through(layer, batch, Layered(batch, mixed=form), nodes, edges, "sweep")
        slopes = torch.autograd.grad(sum(part.square().sum() for part in out), weights, create_graph=True)
        into += torch.autograd.grad(sum(slope.square().sum() for slope in slopes), [nodes, *weights])
    assert_close(swept, mixed)


# The compiler looks at .grad of tensors that it takes up in the middle of a function.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_layer_gives_the_same(kind: type[nn.Module]) -> None:
    layer, (x, ends, edge_attr) = build(kind), small()
    compiled = torch.compile(layer, backend="eager")
    plain, out = layer(x, ends, edge_attr), compiled(x, ends, edge_attr)
    assert_close(out, plain)
    assert_close(gradients(layer, list(out), x, edge_attr), gradients(layer, list(plain), x, edge_attr))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_per_edge_is_kept_but_edge_states(kind: type[nn.Module]) -> None:
    layer = kind(4, 8, gates=0).double()
    edges = 20_000
    ends, x = torch.randint(0, 10, (2, edges)), torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(edges, 8, dtype=torch.float64, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        if value.is_floating_point():
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        out = layer(x, ends, edge_attr)
    assert out[1].requires_grad
    states, moments = edge_attr.untyped_storage().nbytes(), 2 * 8 * edges
    assert states <= sum(kept.values()) < states + moments + 50_000


@pytest.mark.parametrize("kind", KINDS)
def test_layers_run_in_lower_precision_where_asked_to(kind: type[nn.Module]) -> None:
    layer, (x, ends, edge_attr) = build(kind).float(), small()
    x, edge_attr = x.detach().float().requires_grad_(), edge_attr.detach().float().requires_grad_()
    expected = layer(x, ends, edge_attr)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x, ends, edge_attr)
    sum(part.float().square().sum() for part in out).backward()
    for found, value in zip(out, expected, strict=True):
        torch.testing.assert_close(found.float(), value, rtol=0.1, atol=0.1)
    assert all(bool(value.grad.isfinite().all()) for value in (x, edge_attr, *layer.parameters()))
