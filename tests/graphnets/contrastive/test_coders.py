"""Coders behind one contract: what goes through them, what comes back, and what order of neurons does to it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import NeuronGraphs, Structure, execute, permute, sample_permutation, to_graphs, trace
from graphnets import NeuronGNN
from graphnets.contrastive import (
    AutoencoderCoder,
    BehaviourCoder,
    GraphCoder,
    LinearCoder,
    SequenceCoder,
    WeightCoder,
    from_rows,
    to_rows,
)
from tests.graphnets.networks import mlp

NUMBERS = 4 * 6 + 6 + 6 * 3 + 3


@pytest.fixture(scope="module")
def structure() -> Structure:
    return trace(mlp(4, 6, 3))


@pytest.fixture(scope="module")
def stack(structure: Structure) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {p.name: torch.randn(24, *p.shape) for p in structure.parameters}


@pytest.fixture(scope="module")
def batch(structure: Structure, stack: dict[str, Tensor]) -> NeuronGraphs:
    return to_graphs(stack, structure)


CODERS: dict[str, Any] = {
    "linear": partial(LinearCoder, rank=5),
    "autoencoder": partial(AutoencoderCoder, rank=5, latent=7, hidden=[8]),
    "sequence": partial(SequenceCoder, size=5, channels=8, heads=2, blocks=1, latent=2, window=4),
    "behaviour": partial(BehaviourCoder, latent=7, probes=5, hidden=[8]),
    "graph": partial(GraphCoder, encoder=partial(NeuronGNN, channels=8), rank=5, latent=7, hidden=[8]),
}


def fitted(name: str, structure: Structure, batch: NeuronGraphs) -> WeightCoder:
    torch.manual_seed(0)
    coder: WeightCoder = CODERS[name](structure, NUMBERS)
    if isinstance(coder, LinearCoder):
        coder.fit([batch], torch.empty(0))
    elif isinstance(coder, (AutoencoderCoder, BehaviourCoder, SequenceCoder, GraphCoder)):
        coder.fit_statistics([batch])
    return coder.eval()


@pytest.mark.parametrize("name", CODERS)
def test_codes_are_short_and_rows_come_back(name: str, structure: Structure, batch: NeuronGraphs) -> None:
    coder = fitted(name, structure, batch)
    codes = coder.encode(batch)
    assert codes.flatten(1).shape == (24, coder.code_size)
    rows = coder(batch)
    assert rows.shape == (24, NUMBERS)
    assert torch.equal(rows, to_rows(coder.decode(codes), structure))
    assert {n: t.shape[1:] for n, t in coder.decode(codes).items()} == {p.name: p.shape for p in structure.parameters}


@pytest.mark.parametrize("name", CODERS)
def test_a_code_depends_on_its_network_alone(
    name: str, structure: Structure, stack: dict[str, Tensor], batch: NeuronGraphs
) -> None:
    coder = fitted(name, structure, batch)
    alone = to_graphs({n: t[3:4] for n, t in stack.items()}, structure)
    assert torch.allclose(coder.encode(alone)[0], coder.encode(batch)[3], atol=1e-5)


@pytest.mark.parametrize("name", CODERS)
def test_codes_of_graphs_alone_know_no_order_of_neurons(
    name: str, structure: Structure, stack: dict[str, Tensor], batch: NeuronGraphs
) -> None:
    coder = fitted(name, structure, batch)
    moved = to_graphs(permute(stack, sample_permutation(structure, torch.Generator().manual_seed(1))), structure)
    change = float((coder.encode(moved) - coder.encode(batch)).detach().abs().max())
    assert (change < 1e-5) is (name in ("graph", "behaviour")), change


@pytest.mark.parametrize("name", ["autoencoder", "sequence"])
def test_the_contrast_is_seeded_and_trains_the_encoder_alone(
    name: str, structure: Structure, batch: NeuronGraphs
) -> None:
    coder = fitted(name, structure, batch)
    assert isinstance(coder, (AutoencoderCoder, SequenceCoder))
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(coder.extra_loss(batch))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    losses[0].backward()
    trained = {key.split(".")[1] for key, p in coder.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert "encoder" in trained
    assert not trained & {"decoder", "leave", "widen"}


def test_without_a_share_there_is_no_contrast(structure: Structure, batch: NeuronGraphs) -> None:
    coder = AutoencoderCoder(structure, NUMBERS, rank=5, beta=1.0)
    coder.fit_statistics([batch])
    assert float(coder.extra_loss(batch)) == 0.0
    with pytest.raises(ValueError, match="beta=0 must be above 0"):
        AutoencoderCoder(structure, NUMBERS, beta=0)


@pytest.mark.parametrize("name", CODERS)
def test_a_state_is_stored_and_read(name: str, structure: Structure, batch: NeuronGraphs) -> None:
    coder, other = fitted(name, structure, batch), CODERS[name](structure, NUMBERS).eval()
    other.load_state_dict(coder.state_dict())
    assert torch.equal(other(batch), coder(batch))


def test_rows_hold_every_number_and_come_back(structure: Structure, stack: dict[str, Tensor]) -> None:
    rows = to_rows(stack, structure)
    assert sorted(rows[0].tolist()) == sorted(torch.cat([t[0].flatten() for t in stack.values()]).tolist())
    back = from_rows(rows, structure)
    assert all(torch.equal(back[name], tensor) for name, tensor in stack.items())
    with pytest.raises(ValueError, match=r"rows of shape \[24, 5\]"):
        from_rows(rows[:, :5], structure)


def test_rows_of_other_numbers_are_refused(structure: Structure) -> None:
    with pytest.raises(ValueError, match=f"7 targets, but a row of .* has {NUMBERS} numbers"):
        LinearCoder(structure, 7)
    with pytest.raises(ValueError, match="pass structure="):
        LinearCoder(None, 7)


def test_running_variances_come_back_as_variances() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    structure = trace(net, torch.zeros(2, 4))
    rows = to_rows({name: tensor.unsqueeze(0) for name, tensor in net.state_dict().items()}, structure)
    back = from_rows(rows - 3.0, structure)
    assert torch.equal(back["1.running_var"], torch.zeros(1, 6))
    assert float(back["1.running_mean"].max()) == -3.0
    assert bool(torch.isfinite(execute(back, torch.ones(2, 4), structure=structure)).all())
