"""What `NeuronTransformer` does beyond the contract that all models are tested for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from converters.neuron_graph import topology
from graphnets import NeuronAttention, NeuronGNN, NeuronTransformer
from graphnets.layered import Layered
from graphnets.message_passing.neighbourhood import neighbour_pairs
from graphnets.testing import in_double

from .networks import attention_structure, mixture, stack, structures


def test_it_differs_from_message_passing_in_nothing_but_its_layers() -> None:
    structure = structures()["residual"]
    one, other = NeuronTransformer(structure, 3).state_dict(), NeuronGNN(structure, 3).state_dict()

    def shared(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in state.items() if "_layers." not in key}

    assert shared(one) == shared(other)
    layer = NeuronAttention(32, 4, update_edges=False)
    prefix = "forward_layers.0."
    inside = {key.removeprefix(prefix): value.shape for key, value in one.items() if key.startswith(prefix)}
    assert inside == {key: value.shape for key, value in layer.state_dict().items()}


def test_every_round_and_direction_has_its_own_attention() -> None:
    model = NeuronTransformer(structures()["mlp"], 1, channels=12, heads=3, rounds=2, edge_channels=2)
    layers = [module for module in model.modules() if isinstance(module, NeuronAttention)]
    assert len(layers) == 4
    assert {(layer.heads, layer.node_channels, layer.edge_channels) for layer in layers} == {(3, 12, 2)}
    forward_only = NeuronTransformer(structures()["mlp"], 1, rounds=2, backward=False)
    assert sum(isinstance(module, NeuronAttention) for module in forward_only.modules()) == 2


@pytest.mark.parametrize("options", [{}, {"order": "parallel", "rounds": 3}, {"update_edges": True, "rounds": 2}])
@pytest.mark.parametrize("structured", [True, False])
def test_every_parameter_that_can_matter_gets_a_finite_gradient(options: dict[str, Any], structured: bool) -> None:
    structure = structures()["residual"]
    batch = stack(structure) if structured else mixture()
    model = NeuronTransformer(structure if structured else None, 2, channels=16, **options).double()
    model.fit_statistics([batch])
    model(batch).square().sum().backward()
    layers = model.forward_layers.named_parameters()
    found = {name: parameter.grad for name, parameter in layers if "edge_norm" not in name}
    assert found
    for name, gradient in found.items():
        if gradient is None:  # the last round's edges are read by nobody
            assert name.split(".")[1].startswith("edge_")
        else:
            assert bool(gradient.isfinite().all())
            assert float(gradient.abs().max()) > 0, name


def test_weight_noise_and_dropout_act_in_training_only() -> None:
    structure = structures()["mlp"]
    batch = stack(structure)
    chosen: list[dict[str, Any]] = [
        {"weight_noise": 0.2, "head_dropout": 0.0},
        {"dropout": 0.3, "head_dropout": 0.0},
        {},
    ]
    for options in chosen:
        model = NeuronTransformer(structure, 1, **options).double()
        assert not torch.equal(model(batch), model(batch))
        model.eval()
        assert torch.equal(model(batch), model(batch))


@torch.no_grad()
def test_a_weight_of_zero_keeps_its_edge() -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 1)
    batch.edge_attr = torch.zeros_like(batch.edge_attr)
    model, view = NeuronTransformer(structure, 1).double().eval(), Layered(batch)
    before = view.split(model.node_encoding(model.scaling(batch, view)[0], view))
    after = model.embed(batch, view)
    for one, other in zip(before, after, strict=True):
        assert bool(((one - other).abs().amax(-1) > 1e-3).all())  # every neuron heard others, forward or backward


@torch.no_grad()
def test_attention_reaches_the_declared_neighbours_and_nobody_else() -> None:
    structure = attention_structure()  # its slices and norms join single neurons of two layers
    batch = stack(structure, 1)
    layer_of, edges = batch.node_layer, set(map(tuple, batch.edge_index.T.tolist()))
    joined = {(int(layer_of[a]), int(layer_of[b])) for a, b in edges}
    kinds = {
        "edges": lambda a, b: (a, b) in edges,
        "layer": lambda a, b: (a, b) in edges or layer_of[a] == layer_of[b],
        "adjacent": lambda a, b: (int(layer_of[a]), int(layer_of[b])) in joined,
    }
    for neighbourhood, hears in kinds.items():
        model = NeuronTransformer(
            structure, 1, channels=8, heads=2, order="parallel", backward=False, neighbourhood=neighbourhood
        )
        model.double().eval()
        for view in (Layered(batch), Layered(batch, mixed=True)):
            before = torch.cat(model.embed(batch, view), 1)[0]
            for source in range(0, len(layer_of), 9):
                changed = in_double(batch)
                changed.x = batch.x.index_fill(0, torch.tensor(source), 2.0)
                after = torch.cat(model.embed(changed, view), 1)[0]
                found = (after - before).abs().amax(-1) > 1e-12
                expected = [target == source or hears(source, target) for target in range(len(layer_of))]
                assert found.tolist() == [bool(e) for e in expected]


def test_neighbours_without_an_edge_are_pairs_that_no_weight_joins() -> None:
    for name, structure in structures().items():
        edges = set(map(tuple, topology(structure).edge_index.T.tolist()))
        assert not neighbour_pairs(structure, "edges").numel()
        for neighbourhood in ("layer", "adjacent"):
            pairs = list(map(tuple, neighbour_pairs(structure, neighbourhood).T.tolist()))
            assert len(set(pairs)) == len(pairs)
            assert not set(pairs) & edges
        assert bool(pairs) is (name in ("cnn", "residual"))  # perceptrons have every edge between their layers


def test_a_printed_model_tells_its_heads() -> None:
    printed = repr(NeuronTransformer(None, 3, channels=16, heads=2))
    assert "any architecture -> 3 targets, channels=16, rounds=1, order=sweep" in printed
    assert "parameters, heads=2, gates=1, neighbourhood=edges" in printed


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="order='up' is unknown"):
        NeuronTransformer(None, 1, order="up")
    with pytest.raises(ValueError, match="rounds=0"):
        NeuronTransformer(None, 1, rounds=0)
    with pytest.raises(ValueError, match="neighbourhood='all' is unknown; choose one of edges, layer, adjacent"):
        NeuronTransformer(None, 1, neighbourhood="all")
    with pytest.raises(ValueError, match="heads=5 does not divide"):
        NeuronTransformer(None, 1, heads=5)
