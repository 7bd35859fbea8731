from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from converters import sample_permutation
from graphnets import NeuronMessagePassing
from graphnets.layered import Bundle, Layered
from graphnets.message_passing.kernels import reference_message_passing
from graphnets.testing import EdgeFeatures, NodeFeatures, PermutationAction, assert_equivariant

from .networks import mixture, stack, structures

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "narrow": {"hidden_channels": 3},
    "sum": {"aggr": "sum", "gates": 2},
    "gates": {"gates": 3, "update_edges": False},
    "gates_only": {"hidden_channels": 0, "gates": 1},
}


def gradients(layer: NeuronMessagePassing, x: Tensor, edge_attr: Tensor, out: tuple[Tensor, Tensor]) -> list[Tensor]:
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in out)
    inputs = [x, edge_attr, *layer.parameters()]
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_equals_the_textbook_layer_in_values_and_gradients(variant: str) -> None:
    layer = NeuronMessagePassing(5, 3, **VARIANTS[variant]).double()
    edge_index = torch.randint(0, 7, (2, 30))  # node 8 has no edges, some pairs have several
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(30, 3, dtype=torch.float64, requires_grad=True)
    fast, slow = layer(x, edge_index, edge_attr), reference_message_passing(layer, x, edge_index, edge_attr)
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    pairs = zip(gradients(layer, x, edge_attr, fast), gradients(layer, x, edge_attr, slow), strict=True)
    for a, b in pairs:
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    assert max(float(g.abs().max()) for g in gradients(layer, x, edge_attr, fast)) > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_dense_path_equals_the_textbook_layer_on_each_network(variant: str, name: str) -> None:
    layer = NeuronMessagePassing(5, 3, **VARIANTS[variant]).double()
    batch = stack(structures()[name], 3)
    x = torch.randn(len(batch.x), 5, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(len(batch.edge_attr), 3, dtype=torch.float64, requires_grad=True)
    slow = reference_message_passing(layer, x, batch.edge_index, edge_attr)
    for mixed in (False, True):
        view = Layered(batch, mixed=mixed)
        assert view.dense is not mixed
        states, edges = layer.parallel(view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr)), view)
        expected = view.nodes(slow[0]), view.edges(slow[1])
        found = torch.cat(states, 1), torch.cat(edges, 1)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-10)
        pairs = zip(gradients(layer, x, edge_attr, found), gradients(layer, x, edge_attr, expected), strict=True)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in pairs)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_sweep_is_the_textbook_layer_one_layer_of_the_network_after_the_other(reverse: bool) -> None:
    layer = NeuronMessagePassing(4, 2, hidden_channels=3, gates=2).double()
    batch = stack(structures()["residual"], 2)
    x, edge_attr = torch.randn(len(batch.x), 4).double(), torch.randn(len(batch.edge_attr), 2).double()
    ends = batch.edge_index.flip(0) if reverse else batch.edge_index
    expected = x.clone()
    last = int(batch.node_layer.max())
    for number in range(last, -1, -1) if reverse else range(last + 1):
        here = batch.node_layer == number
        new, _ = reference_message_passing(layer, expected, ends, edge_attr)
        expected = torch.where(here.unsqueeze(1), new, expected)
    pairs = torch.cat([expected[ends[0]], expected[ends[1]], edge_attr], 1)
    weight = torch.cat([layer.edge_source.weight, layer.edge_target.weight, layer.edge_edge.weight], 1)
    hidden = (pairs @ weight.T + layer.edge_source.bias).relu()
    new_edges = layer.edge_norm(edge_attr + layer.edge_message(hidden))
    for mixed in (False, True):
        view = Layered(batch, mixed=mixed)
        inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
        states, edges = layer.sweep(*inputs, view, reverse=reverse)
        assert torch.allclose(torch.cat(states, 1), view.nodes(expected), rtol=0, atol=1e-10)
        assert torch.allclose(torch.cat(edges, 1), view.edges(new_edges), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", list(structures()))
def test_it_is_equivariant_on_the_graph_of_every_kind_of_network(name: str, seeded: torch.Generator) -> None:
    structure = structures()[name]
    graph = stack(structure, 1)[0]
    layer = NeuronMessagePassing(4, 3, gates=1).double()
    # Edges carry their structure's own types, so that the features are not the same for all fixed edges.
    x = NodeFeatures(torch.randn(structure.num_nodes, 4))
    edges = EdgeFeatures(torch.randn(structure.num_edges, 3))

    def apply(features: tuple[NodeFeatures, EdgeFeatures]) -> tuple[NodeFeatures, EdgeFeatures]:
        new = layer(features[0].values, graph.edge_index, features[1].values)
        return NodeFeatures(new[0]), EdgeFeatures(new[1])

    action = PermutationAction(sample_permutation(structure, seeded))
    control = PermutationAction(sample_permutation(structure, seeded))
    control.edge_order = torch.randperm(structure.num_edges)
    assert_equivariant(apply, (x, edges), action, control, tolerance=1e-12)


def test_mean_aggregation_ignores_how_often_an_edge_is_repeated() -> None:
    layer = NeuronMessagePassing(3, 2, hidden_channels=16, update_edges=False)
    x, edge_index, edge_attr = torch.randn(2, 3), torch.tensor([[0], [1]]), torch.randn(1, 2)
    once, _ = layer(x, edge_index, edge_attr)
    twice, _ = layer(x, edge_index.repeat(1, 2), edge_attr.repeat(2, 1))
    assert torch.allclose(once, twice, atol=1e-6)
    total = NeuronMessagePassing(3, 2, hidden_channels=16, update_edges=False, aggr="sum")
    summed, _ = total(x, edge_index, edge_attr)
    assert not torch.allclose(summed, total(x, edge_index.repeat(1, 2), edge_attr.repeat(2, 1))[0])


def test_gradients_are_right_by_finite_differences() -> None:
    layer = NeuronMessagePassing(3, 2, gates=1).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    edge_attr = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    assert torch.autograd.gradcheck(lambda a, b: layer(a, edge_index, b), (x, edge_attr))


def test_it_leaves_its_inputs_alone_and_works_without_edges() -> None:
    layer = NeuronMessagePassing(3, 2)
    x, edge_attr = torch.randn(4, 3), torch.randn(2, 2)
    kept = x.clone(), edge_attr.clone()
    layer(x, torch.tensor([[0, 1], [1, 2]]), edge_attr)
    assert torch.equal(x, kept[0])
    assert torch.equal(edge_attr, kept[1])
    out, edges = layer(x, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 2))
    assert torch.equal(out, x)  # nobody heard anything
    assert edges.shape == (0, 2)


def test_a_printed_layer_tells_its_contract() -> None:
    expected = "nodes=4, edges=2, hidden=4, aggr=mean, update_edges=True, gates=1"
    assert expected in repr(NeuronMessagePassing(4, 2, gates=1))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="aggr='max' is unknown"):
        NeuronMessagePassing(4, 2, aggr="max")
    with pytest.raises(ValueError, match="leave no messages"):
        NeuronMessagePassing(4, 2, hidden_channels=0)
    with pytest.raises(ValueError, match="dense bundle"):
        Bundle(0, 1, 0, 4, (2, 2)).ends(False)


def test_mixed_batches_are_laid_out_layer_by_layer() -> None:
    batch = mixture()
    view = Layered(batch)
    assert not view.dense
    layers = view.nodes(batch.node_layer)[0]
    assert bool((layers.diff() >= 0).all())
    source, target = (view.edges(batch.node_layer[end])[0] for end in batch.edge_index)
    for bundle in view.bundles:
        assert set(source[bundle.start : bundle.stop].tolist()) == {bundle.source}
        assert set(target[bundle.start : bundle.stop].tolist()) == {bundle.target}
    assert int(view.fan_in.max()) == int(torch.bincount(batch.edge_index[1]).max())
