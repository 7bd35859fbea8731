"""Laws of one network's graph, for networks outside the table."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from converters import NeuronGraph, Structure, permute, relabelling, sample_permutation, to_graph, to_state_dict, trace
from tests.converters.laws import random_state
from tests.converters.test_relabelling import edges
from tests.converters.test_round_trip import assert_bits, numbered

__all__ = ["assert_laws", "content", "edge_types", "kinds", "seeded"]


def seeded(model: nn.Module) -> dict[str, Tensor]:
    """Weights that depend on names and shapes alone, so that variants of one network share them."""
    out = {}
    for key, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
        out[key] = noise.to(tensor.dtype) if tensor.is_floating_point() else tensor
    return out


def content(graph: NeuronGraph) -> tuple[Any, ...]:
    """What a predictor sees of a graph, the order of edges left out."""
    columns = [graph.x, graph.node_mask, graph.node_type[:, None], graph.activation[:, None], graph.node_attributes]
    ends = torch.cat([graph.edge_index.t(), graph.edge_type[:, None], graph.edge_attr], 1)
    return tuple(map(tuple, torch.cat(columns, 1).tolist())), tuple(sorted(map(tuple, ends.tolist())))


def kinds(structure: Structure) -> list[str]:
    """The kinds of all layers."""
    return [layer.kind for layer in structure.layers]


def edge_types(structure: Structure) -> list[str]:
    """The types of all blocks."""
    return [block.edge_type for block in structure.blocks]


def assert_laws(model: nn.Module, inputs: Any) -> Structure:
    """Bit-exact round trip, every float exactly once on nodes or edges, JSON, permuting commutes with converting."""
    model = model.eval()
    structure = trace(model, inputs)
    assert Structure.from_json(structure.to_json()) == structure
    assert_bits(to_state_dict(to_graph(model, structure=structure)), model.state_dict())
    state, count = numbered(model)
    graph = to_graph(state, structure=structure)
    held = torch.cat([graph.x[graph.node_mask], graph.edge_attr.reshape(-1)]).double()
    rest = [t.reshape(-1).double() for t in graph.extras.tensors.values()]
    found = torch.cat([held, *rest])
    assert torch.equal(found[found != 0].sort().values, torch.arange(1, count + 1, dtype=torch.float64))
    for name in structure.extras:
        parameter = structure.parameter[name]
        assert parameter.dtype != structure.dtype or not parameter.shape, name
    random = random_state(model)
    permutation = sample_permutation(structure, torch.Generator().manual_seed(1))
    plain = to_graph(random, structure=structure)
    moved, old = to_graph(permute(random, permutation), structure=structure), relabelling(structure, permutation)
    assert torch.equal(moved.x, plain.x[old])
    assert torch.equal(moved.node_attributes, plain.node_attributes[old])
    assert edges(moved, old) == edges(plain, torch.arange(plain.num_nodes))
    if any(group.permutable for group in structure.groups):
        assert not torch.equal(old, torch.arange(plain.num_nodes))
    for block in structure.blocks:
        assert (block.source > block.target) == (block.edge_type == "recurrent")
    return structure
