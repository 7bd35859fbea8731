"""Models on weight-space features: the contract of predictors of one architecture, and of equivariant networks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from converters import Structure, StructureMismatch, collate, sample_permutation, to_graph, to_graphs, trace
from graphnets import NFN, DWSNet
from graphnets.nfn.model import NeuralFunctional
from graphnets.testing import PermutationAction, assert_equivariant, assert_independent, assert_invariant

from ..networks import mlp, random_weights, stack, structures

SMALL: dict[str, Any] = {"channels": [4, 4, 3], "head": [8]}
MODELS: dict[str, Callable[[Structure, int | None], NeuralFunctional]] = {
    "nfn_hnp": lambda s, t: NFN(s, t, **SMALL),
    "nfn_hnp_rank": lambda s, t: NFN(s, t, rank=2, pool="max", **SMALL),
    "nfn_np": lambda s, t: NFN(s, t, variant="np", io_encoding="sinusoidal", **SMALL),
    "nfn_np_local": lambda s, t: NFN(s, t, variant="np", terms="local", fourier=1.0, channel_dropout=0.2, **SMALL),
    "nfn_pt": lambda s, t: NFN(s, t, variant="pt", io_encoding="learned", activations=True, **SMALL),
    "nfn_lifted": lambda s, t: NFN(
        s, t, variant="np", fourier=1.0, io_encoding="sinusoidal", perceptron=[6, 5], **SMALL
    ),
    "nfn_buffers": lambda s, t: NFN(s, t, buffers=True, **SMALL),
    "dws": lambda s, t: DWSNet(s, t, channels=[4, 4, 4], head=[8], skip=True, off_diagonal=0.5, weight_noise=0.1),
}


def fitted(name: str, structure: Structure, batch: Any, targets: int | None = 2) -> NeuralFunctional:
    model = MODELS[name](structure, targets).double()
    model.fit_statistics([batch])
    return model.double().eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("network", ["mlp", "cnn", "residual"])
def test_predictions_are_invariant(name: str, network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    batch = stack(structure)
    if (
        name == "nfn_pt" and network != "residual"
    ):  # only diagonals of square matrices show which weights share a neuron
        with pytest.raises(AssertionError, match="a false symmetry went unnoticed"):
            assert_invariant(fitted(name, structure, batch), batch, seeded)
    else:
        assert_invariant(fitted(name, structure, batch), batch, seeded)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_new_weights_move_with_the_neurons(name: str, network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    batch = stack(structure)
    model = fitted(name, structure, batch, targets=None)
    true, false = (sample_permutation(structure, seeded, coupled=coupled) for coupled in (True, False))
    control = None if name == "nfn_pt" else PermutationAction(false)
    assert_equivariant(model, batch, PermutationAction(true), control)


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_depends_on_no_other_network(name: str) -> None:
    batch = stack(structures()["residual"])
    assert_independent(fitted(name, structures()["residual"], batch), batch)


@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_is_the_whole_model(name: str) -> None:
    structure = structures()["cnn"]
    batch = stack(structure)
    model, buffer = fitted(name, structure, batch), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    other = MODELS[name](structure, 2).double().eval()
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert torch.equal(model(batch), other(batch))


def test_activations_are_known_only_where_asked() -> None:
    relu, tanh = structures()["mlp"], structures()["mlp_tanh"]
    weights = random_weights(relu, 1)
    pair = to_graphs({k: v.expand(2, *v.shape[1:]) for k, v in weights.items()}, [relu, tanh])
    for knows in (False, True):
        model = NFN(relu, 1, activations=knows, **SMALL).double().eval()
        first, second = model(pair)
        assert torch.allclose(first, second, rtol=1e-9, atol=1e-12) == (not knows)


def test_noise_and_dropout_only_while_training() -> None:
    batch = stack(structures()["mlp"])
    model = fitted("dws", structures()["mlp"], batch)
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_every_parameter_gets_a_gradient() -> None:
    batch = stack(structures()["residual"])
    for name in MODELS:
        model = fitted(name, structures()["residual"], batch)
        model(batch).square().sum().backward()
        idle = [key for key, value in model.named_parameters() if value.grad is None]
        assert not idle, (name, idle)


def test_the_weights_of_a_network_get_gradients() -> None:
    batch = stack(structures()["mlp"])
    batch.edge_attr.requires_grad_()
    fitted("nfn_np", structures()["mlp"], batch)(batch).sum().backward()
    assert batch.edge_attr.grad is not None
    assert batch.edge_attr.grad.abs().min() > 0


@pytest.mark.parametrize("build", [NFN, DWSNet])
def test_networks_that_it_was_not_made_for_are_refused(build: type[NeuralFunctional]) -> None:
    with pytest.raises(ValueError, match="needs its structure; networks of several architectures are for NeuronGNN"):
        build(None, 1)
    model = build(structures()["mlp"], 1)
    with pytest.raises(StructureMismatch, match=r"was built for .* and cannot read"):
        model(stack(structures()["deep"]))
    with pytest.raises(ValueError, match="leaves no layer"):
        build(structures()["mlp"], 1, channels=[])
    with pytest.raises(ValueError, match="variant='best' is unknown; choose one of np, hnp, pt"):
        NFN(structures()["mlp"], 1, variant="best")


def test_diverged_networks_do_not_decide_the_scale() -> None:
    structure = trace(mlp(4, 6, 3))
    weights = random_weights(structure, 5)
    wild = {name: torch.cat([value, 1e8 * value[:1]]) for name, value in weights.items()}
    tame, model = NFN(structure, 1, **SMALL), NFN(structure, 1, **SMALL)
    tame.fit_statistics([to_graphs(weights, structure)])
    model.fit_statistics([to_graphs(wild, structure)])
    ratio = model.read.scale.scale.deviation / tame.read.scale.scale.deviation
    assert float(ratio.min()) > 0.5
    assert float(ratio.max()) < 2


def test_a_printed_model_tells_its_contract() -> None:
    printed = repr(NFN(structures()["mlp"], 3, **SMALL))
    assert "Sequential -> 3 targets" in printed
    assert "hnp, 4 -> 3 channels, terms=all" in printed
    graph = to_graph(mlp(4, 6, 5, 3))
    assert nn.Module.__call__(NFN(graph.structure, 3, **SMALL).eval(), collate([graph, graph])).shape == (2, 3)
