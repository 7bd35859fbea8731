"""Editing networks: new weights from every functional, and what edited networks compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import (
    Structure,
    StructureMismatch,
    execute,
    permute,
    sample_permutation,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
    weight_space,
)
from graphnets import NFN, NFT, DWSNet, Editor, FlatMLP, NeuralGraphGNN, NeuronGNN, NeuronTransformer
from graphnets.testing import PermutationAction, assert_equivariant, in_double

from .networks import mlp, random_weights, stack, structures

GRAPHS: dict[str, Any] = {"channels": 8, "edge_channels": 4, "head_channels": 8}
EQUIVARIANT: dict[str, Callable[..., nn.Module]] = {
    "nfn": partial(NFN, variant="np", channels=[4, 4], fourier=1.0, io_encoding="sinusoidal"),
    "nft": partial(NFT, channels=8, blocks=1, heads=2, fourier_channels=8),
    "dws": partial(DWSNet, channels=[4, 4]),
    "gnn": partial(NeuronGNN, update_edges=True, hidden_channels=8, **GRAPHS),
    "gnn_sweep": partial(NeuronGNN, gates=2, hidden_channels=0, backward=False, **GRAPHS),
    "transformer": partial(NeuronTransformer, heads=2, neighbourhood="layer", **GRAPHS),
    "neural_graph": partial(NeuralGraphGNN, rounds=2, **GRAPHS),
}
PERCEPTRON = partial(FlatMLP, hidden=[16], dropout=0.0)
COPIES = 3


class WithBuffers(nn.Module):
    """A parameter under two names, and a norm with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.inner = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.first(x)))
        return self.head(torch.tanh(self.again(torch.tanh(self.inner(x)))))


def editor(name: str, structure: Structure, batch: Any, parallel: int = 1) -> Editor:
    functional = PERCEPTRON if name == "perceptron" else EQUIVARIANT[name]
    made = Editor(structure, functional, parallel, step=0.5).double()
    made.fit_statistics([batch])
    return made.double().eval()


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("network", ["mlp", "cnn", "residual"])
def test_new_weights_move_with_the_neurons(name: str, network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    batch = stack(structure)
    true, false = (sample_permutation(structure, seeded, coupled=coupled) for coupled in (True, False))
    model = editor(name, structure, batch, COPIES).functional
    assert_equivariant(model, batch, PermutationAction(true), PermutationAction(false))


@pytest.mark.parametrize("name", [*EQUIVARIANT, "perceptron"])
def test_a_functional_gives_a_change_for_every_weight_and_copy(name: str) -> None:
    structure = structures()["mlp"]
    batch = stack(structure)
    model = editor(name, structure, batch, COPIES)
    edited, before = model(batch), weight_space(batch, structure)
    assert {n: t.shape for n, t in edited.items()} == {n: (*t.shape[:-1], COPIES) for n, t in before.items()}
    for name_, tensor in edited.items():
        assert (tensor - before[name_]).abs().flatten(0, -2).amax(0).min() > 1e-4
        assert not torch.allclose(tensor[..., 0], tensor[..., 1])
    alone = model(batch[1])
    assert all(torch.allclose(alone[n][0], edited[n][1], rtol=0, atol=1e-12) for n in edited)


@pytest.mark.parametrize("name", ["nfn", "gnn"])
def test_what_edited_networks_compute_knows_no_order_of_neurons(name: str, seeded: torch.Generator) -> None:
    structure = structures()["mlp"]
    batch, x = stack(structure), torch.randn(5, 4, dtype=torch.float64)
    model = editor(name, structure, batch, COPIES)
    expected = model.run(batch, x)
    moved = model.run(permute(batch, sample_permutation(structure, seeded)), x)
    assert torch.allclose(moved, expected, rtol=0, atol=1e-12)
    false = model.run(permute(batch, sample_permutation(structure, seeded, coupled=False)), x)
    assert (false - expected).abs().max() > 1e-3


@pytest.mark.parametrize("build", [lambda: mlp(4, 6, 5, 3, activation=nn.Tanh), WithBuffers])
def test_outputs_are_averaged_over_the_edited_networks(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    structure, x = trace(build().eval(), torch.zeros(1, 4)), torch.randn(7, 4, dtype=torch.float64)
    drawn = random_weights(structure, 2)
    ties = {p.name: p.alias_of for p in structure.parameters if p.alias_of is not None}
    batch = to_graphs(drawn | {name: drawn[own] for name, own in ties.items()}, structure)
    model = editor("nfn", structure, batch, COPIES)
    edited = model(batch)
    expected = []
    for network in range(2):
        outputs = []
        for copy in range(COPIES):
            weights = to_state_dict(batch[network])
            weights |= {name: tensor[network, ..., copy] for name, tensor in edited.items()}
            weights |= {name: weights[own] for name, own in ties.items()}
            outputs.append(execute(weights, x, structure=structure))
        expected.append(torch.stack(outputs).mean(0))
    assert torch.allclose(model.run(batch, x), torch.stack(expected), rtol=0, atol=1e-12)


def test_steps_of_zero_change_nothing_and_steps_are_learned() -> None:
    structure = structures()["mlp"]
    batch, x = stack(structure), torch.randn(5, 4, dtype=torch.float64)
    model = Editor(structure, EQUIVARIANT["nfn"], parallel=2, step=0.0).double().eval()
    assert torch.equal(model.run(batch, x), execute(batch, x))
    model.run(batch, x).square().sum().backward()
    assert model.steps.grad is not None
    assert model.steps.shape == (6, 2)
    assert model.steps.grad.abs().min() > 0


def test_a_loss_of_outputs_trains_the_functional() -> None:
    torch.manual_seed(0)
    structure = trace(mlp(2, 8, 8, 1, activation=nn.Tanh))
    batch, x = to_graphs(in_double(random_weights(structure, 8)), structure), torch.randn(20, 2).double()
    target = -execute(batch, x)
    model = editor("nfn", structure, batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (model.run(batch, x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_an_augmented_perceptron_puts_new_weights_back_in_order() -> None:
    structure = structures()["mlp"]
    batch = stack(structure)
    model = FlatMLP(structure, None, hidden=[16], dropout=0.0, augment=True, out_channels=2).double()
    model.fit_statistics([batch])
    model.double().train()
    # A perceptron that hands on what it reads is equivariant, if what it says is put back.
    model.network = nn.Sequential(Doubled())
    new, read = model(batch), model.eval()(batch)
    for name in read:
        assert torch.allclose(new[name], read[name])
    model.network = nn.Sequential(Doubled(), Scaled(torch.arange(structure.num_parameters)))
    assert not torch.allclose(model.train()(batch)["0.weight"], model.eval()(batch)["0.weight"])


class Doubled(nn.Module):
    """Rows ``[B, P]`` twice over, as two channels."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.stack([rows, 2 * rows], 2).flatten(1)


class Scaled(nn.Module):
    """Another factor for every place."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors.repeat_interleave(2)

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.factors


def test_new_weights_need_a_structure() -> None:
    with pytest.raises(ValueError, match="gives new weights is one of a single layout; pass structure="):
        FlatMLP(None, None)
    with pytest.raises(ValueError, match="new weights are those of one architecture; pass structure="):
        NeuronGNN(None, None)


def test_a_parameter_of_no_neuron_is_named() -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gain = nn.Linear(4, 3), nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.gain

    structure = to_graph(Gain(), torch.zeros(1, 4)).structure
    with pytest.raises(ValueError, match="gain belong to no neuron and no edge"):
        NeuronGNN(structure, None)


def test_networks_that_compute_otherwise_are_not_run_together() -> None:
    relu, tanh = structures()["mlp"], structures()["mlp_tanh"]
    weights = {k: v.expand(2, *v.shape[1:]) for k, v in random_weights(relu, 1).items()}
    model = Editor(relu, EQUIVARIANT["nfn"]).double().eval()
    with pytest.raises(StructureMismatch, match="run those of one structure at a time"):
        model.run(to_graphs(weights, [relu, tanh]), torch.randn(5, 4).double())


def test_repr_tells_contract_and_size() -> None:
    model = Editor(structures()["mlp"], PERCEPTRON, parallel=2)
    size = sum(p.numel() for p in model.parameters())
    assert model.extra_repr().endswith(f"-> 2 x new weights, {size:,} parameters")
    assert "-> new weights, not equivariant" in model.functional.extra_repr()
