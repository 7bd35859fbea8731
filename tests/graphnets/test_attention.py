from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from converters import sample_permutation
from graphnets import NeuronAttention
from graphnets.layered import Bundle, Layered
from graphnets.message_passing.kernels import reference_attention
from graphnets.testing import EdgeFeatures, NodeFeatures, PermutationAction, assert_equivariant

from .networks import mixture, stack, structures

VARIANTS: dict[str, dict[str, Any]] = {
    "multiplied_out": {"node_channels": 12, "edge_channels": 3, "heads": 2},
    "one_head": {"node_channels": 6, "edge_channels": 2, "heads": 1, "update_edges": False, "gates": 0},
    "joint": {"node_channels": 8, "edge_channels": 3, "heads": 4, "gates": 2},
    "wide_edges": {"node_channels": 6, "edge_channels": 9, "heads": 3},
}


def build(variant: str) -> NeuronAttention:
    """A layer of which no parameter is zero or in a special position."""
    layer = NeuronAttention(**VARIANTS[variant]).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return layer


def features(layer: NeuronAttention, nodes: int, edges: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(nodes, layer.node_channels, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(edges, layer.edge_channels, dtype=torch.float64, requires_grad=True)


def gradients(layer: NeuronAttention, x: Tensor, edge_attr: Tensor, out: tuple[Tensor, Tensor]) -> list[Tensor]:
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in out)
    return list(torch.autograd.grad(loss, [x, edge_attr, *layer.parameters()], retain_graph=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_equals_textbook_attention_in_values_and_gradients(variant: str) -> None:
    layer = build(variant)
    edge_index = torch.randint(0, 7, (2, 30))  # node 8 has no edges, some pairs have several
    x, edge_attr = features(layer, 9, 30)
    fast, slow = layer(x, edge_index, edge_attr), reference_attention(layer, x, edge_index, edge_attr)
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    found = gradients(layer, x, edge_attr, fast)
    for a, b in zip(found, gradients(layer, x, edge_attr, slow), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    assert min(float(g.abs().max()) for g in found) > 1e-5  # every parameter matters
    assert torch.equal(fast[0][8], x[8])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_dense_path_equals_textbook_attention_on_each_network(variant: str, name: str) -> None:
    layer = build(variant)
    batch = stack(structures()[name], 3)
    x, edge_attr = features(layer, len(batch.x), len(batch.edge_attr))
    for reverse in (False, True):
        ends = batch.edge_index.flip(0) if reverse else batch.edge_index
        slow = reference_attention(layer, x, ends, edge_attr)
        for mixed in (False, True):
            view = Layered(batch, mixed=mixed)
            assert view.dense is not mixed
            inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
            states, edges = layer.parallel(*inputs, view, reverse=reverse)
            expected = view.nodes(slow[0]), view.edges(slow[1])
            found = torch.cat(states, 1), torch.cat(edges, 1)
            for a, b in zip(found, expected, strict=True):
                assert torch.allclose(a, b, rtol=0, atol=1e-10)
            pairs = zip(gradients(layer, x, edge_attr, found), gradients(layer, x, edge_attr, expected), strict=True)
            assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in pairs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("variant", ["multiplied_out", "joint"])
def test_a_sweep_is_textbook_attention_one_layer_of_the_network_after_the_other(variant: str, reverse: bool) -> None:
    layer = build(variant)
    batch = stack(structures()["residual"], 2)
    x, edge_attr = features(layer, len(batch.x), len(batch.edge_attr))
    ends = batch.edge_index.flip(0) if reverse else batch.edge_index
    expected = x
    last = int(batch.node_layer.max())
    for number in range(last, -1, -1) if reverse else range(last + 1):
        new, _ = reference_attention(layer, expected, ends, edge_attr)
        expected = torch.where((batch.node_layer == number).unsqueeze(1), new, expected)
    assert not torch.allclose(expected, reference_attention(layer, x, ends, edge_attr)[0])
    for mixed in (False, True):
        view = Layered(batch, mixed=mixed)
        inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
        states, _ = layer.sweep(*inputs, view, reverse=reverse)
        assert torch.allclose(torch.cat(states, 1), view.nodes(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", list(structures()))
@pytest.mark.parametrize("variant", ["multiplied_out", "joint"])
def test_it_is_equivariant_on_the_graph_of_every_kind_of_network(
    variant: str, name: str, seeded: torch.Generator
) -> None:
    structure = structures()[name]
    graph = stack(structure, 1)[0]
    layer = build(variant)
    x = NodeFeatures(torch.randn(structure.num_nodes, layer.node_channels))
    edges = EdgeFeatures(torch.randn(structure.num_edges, layer.edge_channels))

    def apply(features: tuple[NodeFeatures, EdgeFeatures]) -> tuple[NodeFeatures, EdgeFeatures]:
        new = layer(features[0].values, graph.edge_index, features[1].values)
        return NodeFeatures(new[0]), EdgeFeatures(new[1])

    action = PermutationAction(sample_permutation(structure, seeded))
    control = PermutationAction(sample_permutation(structure, seeded))
    control.edge_order = torch.randperm(structure.num_edges)
    assert_equivariant(apply, (x, edges), action, control, tolerance=1e-12)


def test_mixed_architectures_get_what_each_gets_alone() -> None:
    layer, batch = build("multiplied_out"), mixture()
    x, edge_attr = features(layer, len(batch.x), len(batch.edge_attr))
    view = Layered(batch)
    assert not view.dense
    inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
    states, edges = layer.parallel(*inputs, view)
    slow = reference_attention(layer, x, batch.edge_index, edge_attr)
    assert torch.allclose(torch.cat(states, 1), view.nodes(slow[0]), rtol=0, atol=1e-10)
    assert torch.allclose(torch.cat(edges, 1), view.edges(slow[1]), rtol=0, atol=1e-10)


@torch.no_grad()
def test_an_edge_of_zeros_is_an_edge() -> None:
    layer = build("multiplied_out")
    x, edge_attr = features(layer, 3, 2)
    edge_attr = edge_attr * torch.tensor([[1.0], [0.0]])
    both, _ = layer(x, torch.tensor([[0, 1], [2, 2]]), edge_attr)
    without, _ = layer(x, torch.tensor([[0], [2]]), edge_attr[:1])
    assert float((both[2] - without[2]).abs().max()) > 1e-2
    alone, _ = layer(x, torch.tensor([[1], [2]]), edge_attr[1:])
    assert float((alone[2] - x[2]).abs().max()) > 1e-2


@torch.no_grad()
def test_signed_messages_keep_their_size_whatever_the_degree_and_the_attention() -> None:
    torch.manual_seed(0)
    layer = NeuronAttention(16, 2, heads=2).double()
    layer.edge_value.weight.zero_()
    layer.edge_query.weight.zero_()
    layer.edge_key.weight.zero_()
    layer.value.weight[:, :8] = 0  # attention sees the first half of the channels, values the other
    sizes = []
    for sharpness in (0.0, 3.0):
        layer.query.weight.copy_(sharpness * torch.eye(16))
        layer.key.weight.copy_(torch.eye(16) * (torch.arange(16) < 8))
        for degree in (4, 64, 1024):
            x, weights = torch.randn(200, 1 + degree, 16).double(), torch.randn(200, degree, 2).double()
            target = torch.zeros(degree, dtype=torch.int64)
            bundle = Bundle(0, 0, 0, degree, None, torch.arange(1, degree + 1), target)
            heard = layer.attend(x, [(bundle, x, weights)])[:, 0]
            sizes.append(heard.square().mean().sqrt().item())
    assert max(sizes) / min(sizes) < 1.2
    assert min(sizes) > 0.1


def test_huge_scores_neither_overflow_nor_lose_their_gradients() -> None:
    layer = build("multiplied_out")
    x, edge_attr = features(layer, 5, 8)
    edge_index = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2], [1, 2, 3, 4, 0, 2, 3, 4]])
    out = layer(1e4 * x, edge_index, 1e4 * edge_attr)
    assert all(bool(part.isfinite().all()) for part in out)
    assert all(bool(g.isfinite().all()) for g in gradients(layer, x, edge_attr, out))


def test_gradients_are_right_by_finite_differences() -> None:
    layer = NeuronAttention(4, 2, heads=2).double()
    x, edge_attr = features(layer, 4, 5)
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    assert torch.autograd.gradcheck(lambda a, b: layer(a, edge_index, b), (x, edge_attr))


def test_it_leaves_its_inputs_alone_and_works_without_edges() -> None:
    layer = build("joint")
    x, edge_attr = features(layer, 4, 2)
    kept = x.clone(), edge_attr.clone()
    layer(x, torch.tensor([[0, 1], [1, 2]]), edge_attr)
    assert torch.equal(x, kept[0])
    assert torch.equal(edge_attr, kept[1])
    out, edges = layer(x, torch.zeros(2, 0, dtype=torch.int64), edge_attr[:0])
    assert torch.equal(out, x)  # nobody heard anything
    assert edges.shape == (0, layer.edge_channels)


def test_dropout_acts_in_training_only() -> None:
    layer = NeuronAttention(8, 2, dropout=0.5)
    x, edge_index, edge_attr = torch.randn(2, 8), torch.tensor([[0], [1]]), torch.randn(1, 2)
    assert not torch.equal(layer(x, edge_index, edge_attr)[0], layer(x, edge_index, edge_attr)[0])
    layer.eval()
    assert torch.equal(layer(x, edge_index, edge_attr)[0], layer(x, edge_index, edge_attr)[0])


def test_a_printed_layer_tells_its_contract() -> None:
    assert "nodes=8, edges=2, heads=4, update_edges=True, gates=1" in repr(NeuronAttention(8, 2))


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=3 does not divide node_channels=8; choose a divisor"):
        NeuronAttention(8, 2, heads=3)
    with pytest.raises(ValueError, match="heads=0"):
        NeuronAttention(8, 2, heads=0)
