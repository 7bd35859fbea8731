from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import NeuronGraphs, StructureMismatch, sample_permutation, to_graphs, trace
from graphnets import NeuralGraphGNN, NeuronGNN, NeuronTransformer
from graphnets.layered import Layered
from graphnets.message_passing.probes import ProbeFeatures, watched
from graphnets.testing import (
    NodeFeatures,
    PermutationAction,
    assert_equivariant,
    assert_independent,
    assert_invariant,
)

from .networks import attention_structure, cnn, mlp, random_weights, stack, structures

KINDS: list[Any] = [NeuralGraphGNN, NeuronGNN, NeuronTransformer]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_neurons_hold_what_they_hold_in_the_network_itself(name: str) -> None:
    net: nn.Sequential = {"mlp": mlp(4, 6, 5, 3), "cnn": cnn()}[name].double()
    structure = structures()[name]
    probes = ProbeFeatures(structure, 7, 4).double()
    weights = random_weights(structure, 3)
    held = probes.held(structure, weights)
    assert held.shape == (3, structure.num_nodes, 7)
    _, layers = watched(structure)
    for i in range(3):
        net.load_state_dict({key: value[i] for key, value in weights.items()})
        values: list[Tensor] = []  # what every weight tensor reads, and the outputs
        x = probes.inputs
        for module in net:
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                values.append(x)
            x = module(x)
        values.append(x)
        for layer, value in zip(layers, values, strict=True):
            rows = slice(structure.node_offsets[layer], structure.node_offsets[layer] + structure.layers[layer].size)
            expected = value.flatten(2).mean(2) if value.dim() > 2 else value
            torch.testing.assert_close(held[i, rows].T, expected)


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
def test_features_are_equivariant_and_the_same_in_every_layout(name: str, seeded: torch.Generator) -> None:
    structure = structures()[name]
    probes = ProbeFeatures(structure, 6, 5).double()

    def encode(batch: NeuronGraphs) -> NodeFeatures:
        return NodeFeatures(probes(batch, Layered(batch)))

    action, control = (PermutationAction(sample_permutation(structure, seeded, coupled)) for coupled in (True, False))
    batch = stack(structure, 3)
    assert_equivariant(encode, batch, action, control)
    view = Layered(batch, mixed=True)
    torch.testing.assert_close(probes(batch, view), view.nodes(encode(batch).values.flatten(0, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_with_probes_are_invariant_and_independent(kind: Any, seeded: torch.Generator) -> None:
    structure = trace(mlp(2, 6, 5, 1, activation=nn.Tanh))  # as an implicit neural representation
    batch = stack(structure)
    model = kind(structure, 2, channels=8, probes=9).double()
    model.fit_statistics([batch])
    model.double().eval()
    assert_invariant(model, batch, seeded)
    assert_independent(model, batch)
    model(batch).square().sum().backward()
    assert float(model.probes.inputs.grad.abs().max()) > 0
    assert "9 probes of shape (2,)" in repr(model)


def test_networks_that_differ_in_activation_are_each_run_with_their_own() -> None:
    known = structures()
    weights = {key: value[:1].expand(3, *value.shape[1:]) for key, value in random_weights(known["mlp"], 1).items()}
    relu, tanh = known["mlp"], known["mlp_tanh"]
    batch = to_graphs(weights, [relu, tanh, relu])
    probes = ProbeFeatures(relu, 6, 5).double()
    first, second, third = probes(batch, Layered(batch))
    assert torch.equal(first, third)
    assert float((first - second).detach().abs().max()) > 1e-3


def test_what_cannot_be_probed_is_refused() -> None:
    with pytest.raises(ValueError, match="probes=4 are inputs of one architecture's networks; pass structure="):
        NeuralGraphGNN(None, 1, probes=4)
    with pytest.raises(StructureMismatch, match="AttentionBlock cannot be probed: that needs a traced network of one"):
        NeuronTransformer(attention_structure(), 1, probes=4)
