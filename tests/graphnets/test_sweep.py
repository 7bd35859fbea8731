"""NeuronSweep carries signals as weights do, learns what activations do, and never runs a network."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from converters import ACTIVATIONS, NeuronGraphs, StructureMismatch, collate, execute, to_graph, to_graphs, trace
from graphnets import NeuronSweep
from graphnets.message_passing.sweep import SignalUpdate, moments_width, signal_ends, signal_moments
from graphnets.testing import assert_independent, assert_invariant

from .networks import Residual, cnn, mlp, random_weights


def perceptrons() -> NeuronGraphs:
    """Several depths, widths and activations, in no order."""
    nets = [mlp(4, 6, 3), mlp(4, 5, 7, 6, 3, activation=nn.Tanh), mlp(4, 6, 3), mlp(4, 9, 3), mlp(4, 3)]
    return collate([to_graph(net.double()) for net in nets])


def images() -> NeuronGraphs:
    """Convolutional networks with mixed kernels, with BatchNorm and a residual connection."""
    image = torch.zeros(1, 2, 8, 8)
    kinds = [trace(cnn(), image), trace(Residual(), image), trace(cnn(nn.Tanh), image)]
    stacks = [{name: value[0] for name, value in random_weights(kind, 1).items()} for kind in kinds]
    return collate([to_graph(weights, structure=kind) for weights, kind in zip(stacks, kinds, strict=True)])


def sweep(batch: NeuronGraphs, **options: object) -> NeuronSweep:
    model = NeuronSweep(None, 2, probes=12, hidden=(16, 16), **options).double()
    model.fit_statistics([batch])
    return model.double().eval()


@pytest.mark.parametrize("shakes", [0, 2])
@pytest.mark.parametrize("make", [perceptrons, images])
def test_predictions_are_invariant_and_independent_of_other_networks(
    make: object, shakes: int, seeded: torch.Generator
) -> None:
    batch: NeuronGraphs = make()
    model = sweep(batch, shakes=shakes)
    assert_invariant(model, batch, seeded)
    assert_independent(model, batch)


@pytest.mark.parametrize("shakes", [0, 2])
@pytest.mark.parametrize("make", [perceptrons, images])
def test_learned_updates_and_hidden_moments_keep_the_invariance(
    make: object, shakes: int, seeded: torch.Generator
) -> None:
    batch: NeuronGraphs = make()
    model = sweep(batch, shakes=shakes, update="perceptron", hidden_moments=True)
    assert model.mixtures is None
    assert_invariant(model, batch, seeded)
    assert_independent(model, batch)


def test_a_signal_update_tells_activations_apart_and_learns() -> None:
    update = SignalUpdate(5).double()
    values = torch.randn(2, 3, 5, dtype=torch.float64)
    relu, tanh = (update(values, ACTIVATIONS.index(name)) for name in ("relu", "tanh"))
    assert float((relu - tanh).detach().abs().max()) > 1e-3
    relu.square().sum().backward()
    for name, parameter in update.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_hidden_moments_are_those_of_the_signals_and_symmetric_in_neurons_and_signals() -> None:
    states = [torch.randn(2, n, 4, dtype=torch.float64) for n in (3, 5)]
    told = signal_moments(states, states[0])
    assert told.shape == (2, moments_width())
    first = told.unflatten(1, (-1, 4))[:, 0]
    torch.testing.assert_close(first[:, 0], states[0].mean((1, 2)))
    torch.testing.assert_close(first[:, 2], (states[0].var(1, unbiased=False) + 1e-5).sqrt().mean(1))
    moved = [state.flip(1)[..., [2, 0, 3, 1]] for state in states]
    torch.testing.assert_close(signal_moments(moved, states[0]), told)
    alone = [state[..., [2, 0, 3, 1]] if i else state * 2 for i, state in enumerate(states)]
    assert float((signal_moments(alone, states[0]) - told).abs().max()) > 1e-2
    assert torch.equal(signal_moments([], states[0]), torch.zeros_like(told))


def test_an_unknown_update_is_refused() -> None:
    with pytest.raises(ValueError, match="update='relu' is unknown; choose 'mixture' or 'perceptron'"):
        NeuronSweep(trace(mlp(4, 6, 3)), 1, update="relu")


@pytest.mark.parametrize(("activation", "column"), [(nn.ReLU, 1), (nn.Tanh, 2), (nn.SiLU, 4)])
def test_where_the_mixture_is_the_activation_signals_are_what_the_network_does(
    activation: type[nn.Module], column: int
) -> None:
    structure = trace(mlp(4, 6, 5, 3, activation=activation))
    weights = random_weights(structure, 7)
    model = NeuronSweep(structure, 1, probes=12).double()
    name = next(layer.activation for layer in structure.layers if layer.activation != "identity")
    probes = torch.randn(12, 4, dtype=torch.float64)
    truth = execute(weights, probes, structure=structure)
    assert not torch.allclose(model.answers(weights, structure, probes), truth, atol=1e-3)
    assert model.mixtures is not None
    with torch.no_grad():
        model.mixtures[ACTIVATIONS.index(name)] = torch.eye(6, dtype=torch.float64)[column]
    torch.testing.assert_close(model.answers(weights, structure, probes), truth)


def test_norm_layers_act_with_their_running_statistics() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double().eval()
    structure = trace(net)
    weights = {name: value[0:1] for name, value in random_weights(structure, 1).items()}
    weights["1.running_var"] = weights["1.running_var"].abs() + 0.5
    probes = torch.randn(12, 4, dtype=torch.float64)
    model = NeuronSweep(structure, 1, probes=12).double()
    torch.testing.assert_close(model.answers(weights, structure, probes), execute(weights, probes, structure=structure))


def test_examples_are_the_first_signals_and_what_mixes_is_learned() -> None:
    structure = trace(mlp(4, 6, 3))
    examples, own = torch.rand(12, 1, 2, 2), torch.arange(12) % 3
    model = NeuronSweep(structure, 1, probes=12, examples=(examples, own))
    torch.testing.assert_close(model.questions.probes(), examples.flatten(1))
    batch = to_graphs({name: value.float() for name, value in random_weights(structure, 5).items()}, structure)
    model.fit_statistics([batch])
    model.train()(batch).square().sum().backward()
    assert model.mixtures is not None
    gradient = model.mixtures.grad
    assert isinstance(gradient, Tensor)
    assert float(gradient.abs().max()) > 0


def test_a_state_dict_builds_the_model_anew() -> None:
    batch = perceptrons()
    model = sweep(batch)
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    other = NeuronSweep(None, 2, probes=12, hidden=(16, 16)).double()
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other.double().eval()(batch), model(batch))


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(StructureMismatch, match="cannot be swept: it needs one layer of input neurons"):
        signal_ends(trace(TwoOutputs()))
    model = sweep(perceptrons())
    with pytest.raises(StructureMismatch, match=r"this NeuronSweep asks inputs of shape \(4,\) and reads 3 classes"):
        model(to_graph(mlp(5, 6, 3).double()))
