"""Winning tickets: scores move with the neurons, no mask is read where one is predicted, rules give what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from converters import Structure, WeightSpaceFeatures, permute, sample_permutation, to_graphs, weight_space
from graphnets import NFN, NFT, NeuronGNN
from graphnets.nfn import DirectTicket, GivenTicket, Tickets, TicketVAE
from graphnets.nfn.tickets import by_tensor, in_a_row
from graphnets.testing import PermutationAction, assert_equivariant

from ..networks import random_weights, structures

MODELS: dict[str, dict[str, Any]] = {
    "np": {"variant": "np", "io_encoding": "sinusoidal"},
    "np_plain": {"variant": "np", "norm": False},
    "hnp": {"variant": "hnp"},
    "hnp_rank": {"variant": "hnp", "rank": 2},
    "pt": {"variant": "pt"},
    "pt_marked": {"variant": "pt", "io_encoding": "learned"},
}


def tickets_of(structure: Structure, networks: int = 3) -> Tickets:
    weights = {name: value.double() for name, value in random_weights(structure, networks).items()}
    graphs = to_graphs(weights, structure)
    initial = weight_space(graphs, structure).to_weights()
    return Tickets(graphs, {name: (torch.rand_like(value) < 0.3).double() for name, value in initial.items()})


def model_of(name: str, tickets: Tickets, structure: Structure) -> TicketVAE:
    model = TicketVAE(structure, channels=[4, 4], latent=3, **MODELS[name])
    model.fit_statistics([tickets])
    return model.double().eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_scores_and_latents_move_with_the_neurons(name: str, network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    tickets = tickets_of(structure)
    model = model_of(name, tickets, structure)
    true, false = (sample_permutation(structure, seeded, coupled=coupled) for coupled in (True, False))
    control = None if model.variant == "pt" else PermutationAction(false)  # every weight by itself has more symmetries
    features = weight_space([tickets.networks, tickets.masks], structure)

    def both(pair: WeightSpaceFeatures) -> list[WeightSpaceFeatures]:
        return list(model.posterior(pair.map(lambda t: t[..., :1]), pair.map(lambda t: t[..., 1])))

    assert_equivariant(
        lambda pair: model.scores(pair.map(lambda t: t[..., :1])), features, PermutationAction(true), control
    )
    assert_equivariant(both, features, PermutationAction(true), control)


def test_a_prediction_moves_with_the_neurons_and_reads_no_mask(seeded: torch.Generator) -> None:
    structure = structures()["mlp"]
    tickets = tickets_of(structure)
    model = model_of("np", tickets, structure)
    found = model(tickets)
    assert found.shape == (3, structure.num_parameters + 1)
    assert (found[:, -1] == 0).all()
    assert torch.equal(found, model(Tickets(tickets.networks, {})))
    permutation = sample_permutation(structure, seeded)
    moved = model(Tickets(permute(tickets.networks, permutation), {}))
    expected = in_a_row(permute(by_tensor(found[:, :-1], structure), permutation), structure)
    assert torch.allclose(moved[:, :-1], expected, atol=1e-10)
    assert not torch.allclose(moved, found, atol=1e-3)


def test_in_training_the_divergence_is_that_of_the_encoder_and_masks_are_read() -> None:
    structure = structures()["mlp"]
    tickets = tickets_of(structure)
    model = model_of("np", tickets, structure).train()
    torch.manual_seed(0)
    found = model(tickets)
    mean, deviation = model.posterior(model.read(tickets.networks), tickets.masks)
    expected = sum(
        kl_divergence(Normal(mean[name], deviation[name].exp()), Normal(0.0, 1.0)).flatten(1).sum(1) for name in mean
    )
    assert isinstance(expected, Tensor)
    assert torch.allclose(found[:, -1], expected, rtol=1e-10)
    other = {name: 1 - mask for name, mask in tickets.masks.items()}
    torch.manual_seed(0)
    assert not torch.allclose(found, model(Tickets(tickets.networks, other)), atol=1e-3)
    torch.manual_seed(1)
    assert not torch.allclose(found[:, :-1], model(tickets)[:, :-1], atol=1e-3)
    found.sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.encoder.layers.parameters())


@pytest.mark.parametrize("functional", [NFN, NFT, NeuronGNN])
def test_any_functional_of_weights_gives_scores_that_move_with_the_neurons(
    functional: type[nn.Module], seeded: torch.Generator
) -> None:
    structure = structures()["mlp"]
    tickets = tickets_of(structure)
    model = DirectTicket(structure, functional=functional)
    model.fit_statistics([tickets])
    model = model.double().eval()
    found = model(Tickets(tickets.networks, {}))
    true, false = (sample_permutation(structure, seeded, coupled=coupled) for coupled in (True, False))
    for permutation, moves in ((true, True), (false, False)):
        moved = model(Tickets(permute(tickets.networks, permutation), {}))
        expected = in_a_row(permute(by_tensor(found[:, :-1], structure), permutation), structure)
        error = float(((moved[:, :-1] - expected).abs().max() / expected.std()).detach())
        assert (error < 1e-9) if moves else (error > 1e-3)


def test_rows_and_tensors_are_each_others_inverse() -> None:
    structure = structures()["cnn"]
    row = torch.arange(2.0 * structure.num_parameters).view(2, -1)
    tensors = by_tensor(row, structure)
    assert {name: tuple(t.shape[1:]) for name, t in tensors.items()} == {
        p.name: tuple(p.shape) for p in structure.parameters if not p.buffer
    }
    assert torch.equal(in_a_row(dict(reversed(tensors.items())), structure), row)


def test_rules_give_what_they_say() -> None:
    structure = structures()["mlp"]
    tickets = tickets_of(structure, 40)

    def scores(kind: str, **options: Any) -> Tensor:
        torch.manual_seed(0)
        model = GivenTicket(structure, kind=kind, **options)
        model.fit_statistics([tickets])
        out: Tensor = model(tickets)
        assert (out[:, -1] == 0).all()
        return out[:, :-1]

    assert (scores("dense") == torch.inf).all()
    assert torch.equal(scores("imp") == torch.inf, in_a_row(tickets.masks, structure) == 1)
    assert torch.equal(scores("imp") == -torch.inf, in_a_row(tickets.masks, structure) == 0)
    drawn = scores("random", kept=0.2)
    assert drawn.isinf().all()
    assert 0.18 < float((drawn > 0).double().mean()) < 0.22
    assert torch.equal(drawn, scores("random", kept=0.2))
    assert len({tuple(row) for row in drawn.tolist()}) == len(drawn)
    sizes, weights = scores("magnitude"), in_a_row(weight_space(tickets.networks, structure).to_weights(), structure)
    first = structure.parameters[0].numel
    order = (weights[:, :first] - weights[:, :first].mean()).abs()
    assert sizes.isfinite().all()
    assert torch.corrcoef(torch.stack([sizes[:, :first].flatten(), order.flatten()]))[0, 1] > 0.99


def test_wrong_arguments_are_answered_with_right_ones() -> None:
    structure = structures()["mlp"]
    with pytest.raises(ValueError, match="variant='nft' is unknown; choose one of np, hnp, pt"):
        TicketVAE(structure, variant="nft")
    with pytest.raises(ValueError, match=r"targets=3: this model gives \d+ scores and a divergence"):
        TicketVAE(structure, 3)
    with pytest.raises(ValueError, match="it needs its structure"):
        TicketVAE(None)
    with pytest.raises(ValueError, match="kind='small' is unknown; choose one of dense, imp, random, magnitude"):
        GivenTicket(structure, kind="small")
