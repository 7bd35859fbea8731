"""Symmetries of activations keep the function, their copies have one canonical form, and false ones are refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converters import (
    RESCALINGS,
    Rescaling,
    Structure,
    StructureMismatch,
    canonicalize,
    execute,
    permute,
    rescale,
    sample_permutation,
    sample_rescaling,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
)

Stack = dict[str, Tensor]
BATCH = 6


class Sine(nn.Module):
    def __init__(self, w0: float) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(self.w0 * inputs)


class Erf(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.erf(inputs)


def perceptron(make: Callable[[], nn.Module], bias: bool = True) -> nn.Module:
    layers = [nn.Linear(2, 7, bias=bias), make(), nn.Linear(7, 5, bias=bias), make(), nn.Linear(5, 3, bias=bias)]
    return nn.Sequential(*layers)


def mixed() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sine": (lambda: perceptron(lambda: Sine(5.0)), (2,)),
    "sine_one_layer": (lambda: nn.Sequential(nn.Linear(2, 7), Sine(30.0), nn.Linear(7, 1)), (2,)),
    "sine_without_bias": (lambda: perceptron(lambda: Sine(5.0), bias=False), (2,)),
    "tanh": (lambda: perceptron(nn.Tanh), (2,)),
    "erf": (lambda: perceptron(Erf), (2,)),
    "relu": (lambda: perceptron(nn.ReLU), (2,)),
    "leaky_relu": (lambda: perceptron(lambda: nn.LeakyReLU(0.1)), (2,)),
    "mixed": (mixed, (2,)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Sine(3.0), nn.Conv2d(4, 3, (1, 2))),
        (2, 5, 4),
    ),
}


def made(name: str) -> tuple[Structure, Stack, Tensor]:
    """A structure, stacked random weights with large biases, and inputs."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    net = make()
    inputs = torch.randn(9, *shape, dtype=torch.float64)
    structure = trace(net, inputs[:2].float())
    state = {key: torch.randn(BATCH, *value.shape, dtype=torch.float64) for key, value in net.state_dict().items()}
    return structure, state, inputs


def distance(one: Stack, two: Stack) -> float:
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_random_symmetry_keeps_the_function_and_moves_the_weights(name: str) -> None:
    structure, weights, inputs = made(name)
    expected = execute(weights, inputs, structure=structure)
    assert expected.std() > 0.1
    for seed in range(3):
        moved = rescale(weights, sample_rescaling(structure, torch.Generator().manual_seed(seed)))
        assert torch.allclose(execute(moved, inputs, structure=structure), expected, rtol=1e-9, atol=1e-9)
        assert distance(moved, weights) > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_canonical_network_computes_the_same_and_is_its_own_canonical_form(name: str) -> None:
    structure, weights, inputs = made(name)
    found = canonicalize(weights, structure)
    expected = execute(weights, inputs, structure=structure)
    assert torch.allclose(execute(found, inputs, structure=structure), expected, rtol=1e-9, atol=1e-9)
    assert distance(found, weights) > 0.1
    assert distance(canonicalize(found, structure), found) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_all_copies_of_a_network_have_one_canonical_form(name: str) -> None:
    structure, weights, _ = made(name)
    expected = canonicalize(weights, structure)
    for seed in range(3):
        copy = rescale(weights, sample_rescaling(structure, torch.Generator().manual_seed(seed)))
        assert distance(copy, expected) > 0.1
        assert distance(canonicalize(copy, structure), expected) < 1e-9


@pytest.mark.parametrize("name", NETWORKS)
def test_it_commutes_with_permutations(name: str) -> None:
    structure, weights, _ = made(name)
    permutation = sample_permutation(structure, torch.Generator().manual_seed(3))
    expected = permute(canonicalize(weights, structure), permutation)
    assert distance(canonicalize(permute(weights, permutation), structure), expected) < 1e-12
    assert distance(canonicalize(weights, structure), expected) > 0.1


def test_each_kind_removes_its_own_symmetry_and_no_other() -> None:
    structure, weights, _ = made("sine")
    for kind in RESCALINGS[:3]:
        copy = rescale(weights, sample_rescaling(structure, torch.Generator().manual_seed(0), [kind]))
        assert distance(canonicalize(copy, structure, [kind]), canonicalize(weights, structure, [kind])) < 1e-9
        others = [other for other in RESCALINGS if other != kind]
        assert distance(canonicalize(copy, structure, others), canonicalize(weights, structure, others)) > 0.1
    assert distance(canonicalize(weights, structure, ["scale"]), weights) == 0


def test_canonical_weights_are_what_they_are_said_to_be() -> None:
    structure, weights, _ = made("sine")
    found = canonicalize(weights, structure)
    assert (found["2.weight"].sum(1) > 0).all()
    assert (found["4.weight"].sum(1) > 0).all()
    assert (found["0.weight"][:, :, 0] > 0).all()
    assert all(bool((found[name].abs() <= math.pi / 5.0 + 1e-12).all()) for name in ("0.bias", "2.bias"))
    assert torch.equal(found["4.bias"], weights["4.bias"])
    structure, weights, _ = made("relu")
    found = canonicalize(weights, structure)
    for name in ("0.weight", "2.weight"):
        assert torch.allclose(found[name].norm(dim=2), torch.ones((), dtype=torch.float64))


def test_a_dead_rectifier_stays_finite() -> None:
    structure, weights, inputs = made("relu")
    weights["0.weight"][:, 2] = 0
    found = canonicalize(weights, structure)
    expected = execute(weights, inputs, structure=structure)
    assert torch.allclose(execute(found, inputs, structure=structure), expected)


def test_single_networks_graphs_and_batches_agree() -> None:
    structure, weights, _ = made("tanh")
    weights = {name: tensor.float() for name, tensor in weights.items()}
    expected = canonicalize(weights, structure)
    single = {name: tensor[1] for name, tensor in weights.items()}
    graph, batch = to_graph(single, structure=structure), to_graphs(weights, structure)
    assert all(torch.equal(value, expected[name][1]) for name, value in canonicalize(single, structure).items())
    assert all(torch.equal(value, expected[name][1]) for name, value in to_state_dict(canonicalize(graph)).items())
    changed = canonicalize(batch)
    again = to_state_dict(changed)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert not torch.equal(batch.edge_attr, changed.edge_attr)
    assert torch.equal(batch.edge_index, changed.edge_index)


def test_the_sign_of_an_activation_that_is_not_odd_is_refused_for_it_changes_the_function() -> None:
    structure, weights, inputs = made("relu")
    flipped = {**weights, **{name: weights[name].clone() for name in ("0.weight", "0.bias", "2.weight")}}
    flipped["0.weight"][:, 0] *= -1
    flipped["0.bias"][:, 0] *= -1
    flipped["2.weight"][:, :, 0] *= -1
    expected = execute(weights, inputs, structure=structure)
    assert (execute(flipped, inputs, structure=structure) - expected).abs().max() > 0.1
    ones = {layer: torch.ones(structure.layers[layer].size) for layer in (1, 2)}
    none = {layer: torch.zeros_like(one) for layer, one in ones.items()}
    minus = {1: ones[1].index_fill(0, torch.tensor([0]), -1), 2: ones[2]}
    with pytest.raises(StructureMismatch, match="0: relu is not odd: its arguments may be multiplied by positive"):
        Rescaling(structure, minus, none, minus)
    with pytest.raises(StructureMismatch, match="the argument of tanh may change its sign together with the output"):
        Rescaling(made("tanh")[0], minus, none, ones)
    quarter = {1: none[1] + math.pi / 10, 2: none[2]}
    with pytest.raises(StructureMismatch, match="may change its sign and be shifted by half periods, and no more"):
        Rescaling(made("sine")[0], ones, quarter, ones)
    with pytest.raises(StructureMismatch, match="a sine changes its sign with its argument's and with every half"):
        Rescaling(made("sine")[0], ones, {1: none[1] + math.pi / 5, 2: none[2]}, ones)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        out: Tensor = self.last(hidden + torch.tanh(self.second(hidden)))
        return out


REFUSED: list[tuple[nn.Module, str]] = [
    (perceptron(nn.GELU), "0: gelu is neither odd nor positively homogeneous\n  2: gelu"),
    (Residual(), "does not follow the layer before it by one dense weight alone"),
    (nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)), "1 (batch_norm) does not follow"),
    (nn.Sequential(nn.Linear(2, 4), nn.PReLU(), nn.Linear(4, 1)), "does not follow"),
]


@pytest.mark.parametrize(("net", "message"), REFUSED)
def test_other_networks_are_refused_with_every_place(net: nn.Module, message: str) -> None:
    structure = trace(net.eval(), torch.randn(2, next(net.parameters()).shape[1]))
    with pytest.raises(StructureMismatch) as caught:
        canonicalize(dict(net.state_dict()), structure)
    assert "is no chain of linear layers with the activations tanh, erf, sin, relu, leaky_relu" in str(caught.value)
    assert message in str(caught.value)


def test_unknown_kinds_and_weights_without_structure_are_refused() -> None:
    structure, weights, _ = made("tanh")
    with pytest.raises(ValueError, match=r"kinds \['signs'\]: choose a list of sign, reflection, period, scale"):
        canonicalize(weights, structure, ["signs"])
    with pytest.raises(StructureMismatch, match="weights alone do not tell their activations"):
        canonicalize(weights)
