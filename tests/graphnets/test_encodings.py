"""What neurons and weights are told about themselves at first, and that it is the same for all that may be permuted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import EDGE_TYPES, NODE_SLOTS, NeuronGraph, Structure, sample_permutation, to_graph, trace
from converters.neuron_graph import topology
from graphnets import NeuralGraphGNN, NeuronGNN, NeuronTransformer
from graphnets.layered import Layered
from graphnets.message_passing.encodings import EdgeEncoding, NodeEncoding, PositionEncoding, kernel_size_of
from graphnets.message_passing.network import NeuronNetwork
from graphnets.message_passing.readout import OutputReadout, PooledReadout
from graphnets.testing import (
    EdgeFeatures,
    NodeFeatures,
    PermutationAction,
    assert_equivariant,
    assert_independent,
    assert_invariant,
)

from .networks import attention_structure, mixture, mlp, stack, structures

NETWORKS = ["mlp", "cnn", "residual", "attention"]
MODELS: list[type[NeuronNetwork]] = [NeuronGNN, NeuronTransformer, NeuralGraphGNN]


def known(network: str) -> tuple[Structure, NeuronGraph]:
    structure = attention_structure() if network == "attention" else structures()[network]
    return structure, stack(structure, 1)[0]


def actions(structure: Structure, seeded: torch.Generator) -> tuple[PermutationAction, PermutationAction]:
    """A true symmetry, and one that mixes neurons and weights of all layers."""
    action, control = (PermutationAction(sample_permutation(structure, seeded)) for _ in range(2))
    control.node_order = torch.randperm(structure.num_nodes, generator=seeded)
    control.edge_order = torch.randperm(structure.num_edges, generator=seeded)
    return action, control


def shaken(module: nn.Module) -> Any:
    """In float64, with no parameter zero or in a special position."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("encodings", [*([name] for name in NodeEncoding.ENCODINGS), NodeEncoding.ENCODINGS, []])
@pytest.mark.parametrize("network", NETWORKS)
def test_encodings_of_neurons_are_equivariant(
    network: str, encodings: list[str], structured: bool, seeded: torch.Generator
) -> None:
    structure, graph = known(network)
    encoding = shaken(NodeEncoding(structure if structured else None, 5, encodings))

    def encode(nodes: NodeFeatures) -> NodeFeatures:
        return NodeFeatures(encoding(nodes.values.unsqueeze(0), Layered(graph))[0])

    nodes = NodeFeatures(torch.randn(structure.num_nodes, len(NODE_SLOTS)))
    assert_equivariant(encode, nodes, *actions(structure, seeded), tolerance=1e-12)


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("encodings", [["edge_type"], ["kernel"], EdgeEncoding.ENCODINGS])
@pytest.mark.parametrize("network", NETWORKS)
def test_encodings_of_weights_are_equivariant(
    network: str, encodings: list[str], structured: bool, seeded: torch.Generator
) -> None:
    structure, graph = known(network)
    encoding = shaken(EdgeEncoding(structure if structured else None, 4, encodings=encodings))

    def encode(edges: EdgeFeatures) -> EdgeFeatures:
        return EdgeFeatures(encoding(edges.values.unsqueeze(0), structure.kernel_size, Layered(graph))[0])

    action, control = actions(structure, seeded)
    edges = EdgeFeatures(torch.randn(structure.num_edges, graph.edge_attr.shape[1]))
    told = len({(block.edge_type, block.kernel) for block in structure.blocks}) > 1
    if told and (network != "attention" or "edge_type" in encodings or not structured):
        assert_equivariant(encode, edges, action, control, tolerance=1e-12)
    else:  # all weights are told the same, so any reordering is a symmetry
        assert_equivariant(encode, edges, action, tolerance=1e-12)
        assert_equivariant(encode, edges, control, tolerance=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("structured", [True, False])
def test_fixed_neurons_have_positions_of_their_own_and_permutable_ones_have_none(
    network: str, structured: bool
) -> None:
    structure, _ = known(network)
    position = shaken(PositionEncoding(structure if structured else None, 6))([structure]).detach()
    fixed = topology(structure).node_position >= 0
    assert 0 < int(fixed.sum()) < len(fixed)
    assert torch.equal(position[~fixed], torch.zeros_like(position[~fixed]))
    inputs = position[[layer.kind == "input" for layer in structure.layers for _ in range(layer.size)]]
    outputs = position[-structure.layers[-1].size :]
    apart = torch.cdist(*[torch.cat([inputs, outputs])] * 2) + torch.eye(len(inputs) + len(outputs))
    assert float(apart.min()) > 1e-3


def test_a_smaller_kernel_is_not_a_larger_one_with_zeros() -> None:
    small, large = nn.Conv2d(2, 3, (1, 3), padding=(0, 1)), nn.Conv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        large.weight.zero_()
        large.weight[:, :, 1:2] = small.weight
    encoded: dict[str, list[Tensor]] = {}
    for encodings in (["edge_type"], ["edge_type", "kernel"]):
        encoding = shaken(EdgeEncoding(None, 4, (3, 3), encodings))
        for net in (small, large):
            graph = to_graph(net.double(), torch.zeros(1, 2, 4, 4).double(), kernel_size=(3, 3))
            weights = graph.edge_attr.unsqueeze(0)
            encoded.setdefault(str(encodings), []).append(encoding(weights, (3, 3), Layered(graph)))
    (a, b), (c, d) = encoded.values()
    assert torch.equal(a, b)
    assert float((c - d).detach().abs().min()) > 1e-3


def test_mixed_networks_are_told_each_its_own_kernels_and_types() -> None:
    batch = mixture()
    encoding = shaken(EdgeEncoding(None, 4, (3, 3)))
    view = Layered(batch)
    back = view.edges(torch.arange(len(batch.edge_attr)).unsqueeze(1)).flatten().argsort()
    together = encoding(view.edges(batch.edge_attr), kernel_size_of(batch), view)[0, back]
    graphs = batch.to_data_list()
    alone = [encoding(graph.edge_attr.unsqueeze(0), kernel_size_of(graph), Layered(graph))[0] for graph in graphs]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("readout", [PooledReadout, OutputReadout])
@pytest.mark.parametrize("network", NETWORKS)
def test_readouts_are_invariant(readout: Any, network: str, seeded: torch.Generator) -> None:
    structure, graph = known(network)
    for given in (structure, None):
        read = shaken(readout(given, 5))

        def pool(nodes: NodeFeatures, read: nn.Module = read) -> Tensor:
            out: Tensor = read(nodes.values.unsqueeze(0), Layered(graph))
            return out

        nodes = NodeFeatures(torch.randn(structure.num_nodes, 5))
        assert_equivariant(pool, nodes, *actions(structure, seeded), tolerance=1e-11)


@pytest.mark.parametrize("left_out", NeuronNetwork.ENCODINGS)
@pytest.mark.parametrize("kind", MODELS)
def test_every_encoding_matters_can_be_left_out_and_keeps_the_symmetry(
    kind: Any, left_out: str, seeded: torch.Generator
) -> None:
    batch = mixture()
    chosen = [name for name in NeuronNetwork.ENCODINGS if name != left_out]
    model = shaken(kind(None, 2, channels=8, encodings=chosen))
    model.fit_statistics([batch])
    assert_invariant(model, batch, seeded, samples=1, noticed=1e-5)
    assert_independent(model, batch)
    whole = shaken(kind(None, 2, channels=8))
    missing = set(whole.state_dict()) - set(model.state_dict())
    assert missing
    whole.load_state_dict(model.state_dict(), strict=False)
    assert not torch.allclose(model.double().eval()(batch), whole.double().eval()(batch))


@pytest.mark.parametrize("kind", MODELS)
def test_unknown_encodings_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="unknown encodings colour; known are layer_type, activation, attributes, pos"):
        kind(None, 1, encodings=["position", "colour"])
    with pytest.raises(ValueError, match="unknown encodings position; known are edge_type, kernel"):
        EdgeEncoding(None, 4, encodings=["position"])


def test_networks_without_kernels_need_no_encoding_of_them() -> None:
    encoding = EdgeEncoding(trace(mlp(4, 3)), 4)
    assert encoding.present is None
    assert encoding.kind.num_embeddings == len(EDGE_TYPES)
