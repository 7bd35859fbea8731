"""A permuted network's graph is the same graph with its nodes in another order."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from converters import NeuronGraph, permute, relabelling, sample_permutation, to_graph
from tests.converters.laws import case, random_state
from tests.converters.networks import ALL, NETWORKS

Edge = tuple[int, int, int, int, bytes]


def edges(graph: NeuronGraph, old: torch.Tensor) -> Counter[Edge]:
    """Edges as a multiset: both ends by their old number, type, block, and the bits of the kernel."""
    ends = old[graph.edge_index].t().tolist()
    kinds = torch.stack([graph.edge_type, graph.edge_layer], dim=1).tolist()
    kernels = [row.tobytes() for row in graph.edge_attr.numpy()]
    return Counter((*end, *kind, kernel) for end, kind, kernel in zip(ends, kinds, kernels, strict=True))


def compared(name: str, seed: int, coupled: bool = True) -> tuple[NeuronGraph, NeuronGraph, torch.Tensor]:
    c = case(name)
    state = random_state(c.model)
    permutation = sample_permutation(c.structure, torch.Generator().manual_seed(seed))
    graph = to_graph(state, structure=c.structure)
    moved = to_graph(permute(state, permutation), structure=c.structure)
    return graph, moved, relabelling(c.structure, permutation)


@pytest.mark.parametrize("name", ALL)
def test_permuting_weights_relabels_nodes(name: str) -> None:
    graph, moved, old = compared(name, 0)
    assert torch.equal(old.sort().values, torch.arange(graph.num_nodes))
    for key in (
        "x",
        "node_mask",
        "node_type",
        "node_layer",
        "node_group",
        "node_position",
        "activation",
        "node_attributes",
    ):
        assert torch.equal(moved[key], graph[key][old]), key
    assert edges(moved, old) == edges(graph, torch.arange(graph.num_nodes))


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.groups])
def test_relabelling_moves_something(name: str) -> None:
    graph, moved, old = compared(name, 1)
    stays = torch.arange(graph.num_nodes)
    assert not torch.equal(old, stays)
    assert edges(moved, stays) != edges(graph, stays) or not torch.equal(moved.x, graph.x)


@pytest.mark.parametrize("name", NETWORKS)
def test_positions_mark_exactly_what_must_not_move(name: str) -> None:
    """Node positions are -1 wherever some true symmetry moves the node."""
    c = case(name)
    graph = to_graph(c.model, structure=c.structure)
    moves = torch.zeros(graph.num_nodes, dtype=torch.bool)
    for seed in range(8):
        permutation = sample_permutation(c.structure, torch.Generator().manual_seed(seed))
        moves |= relabelling(c.structure, permutation) != torch.arange(graph.num_nodes)
    assert (graph.node_position[moves] == -1).all()


@pytest.mark.parametrize("name", ALL)
def test_sources_come_before_targets(name: str) -> None:
    """Layers and blocks are in execution order, recurrent edges go back, and edges lie block by block."""
    structure = case(name).structure
    graph = to_graph(case(name).model, structure=structure)
    for block in structure.blocks:
        assert (block.source > block.target) == (block.edge_type == "recurrent")
    targets = [block.target for block in structure.blocks]
    assert targets == sorted(targets)
    assert torch.equal(graph.edge_layer, graph.edge_layer.sort().values)
    for number, block in enumerate(structure.blocks):
        ends = graph.edge_index[:, graph.edge_layer == number]
        assert set(graph.node_layer[ends[0]].tolist()) <= {block.source}
        assert set(graph.node_layer[ends[1]].tolist()) <= {block.target}
        pairs = list(zip(*ends.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("name", ["mlp", "cnn_kernels", "resnet18", "siren", "mlp_layer_norm", "residual_mlp", "unet"])
def test_every_node_is_on_a_path_from_an_input(name: str) -> None:
    c = case(name)
    graph = to_graph(c.model, structure=c.structure)
    reached = graph.node_type == 0
    assert reached.any()
    for source, target in graph.edge_index.t().tolist():
        reached[target] |= reached[source]
    assert reached.all()
