"""The task of predicting winning tickets: its targets, its likelihood, masks from probabilities, and their training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from converters import weight_space
from experiments.evaluation.bootstrap import resample_counts, resampled_metric
from experiments.evaluation.mask_scores import draw_mask_scores, mask_scores
from experiments.predictor import Predictor, predict
from experiments.tasks import WinningTickets
from experiments.tasks.winning_tickets import TicketLikelihood, chosen
from experiments.zoo import Zoo, get_zoo
from graphnets.nfn import GivenTicket, TicketVAE
from graphnets.nfn.tickets import by_tensor, in_a_row

SMALL: dict[str, Any] = {
    "kind": "tickets",
    "name": "predicted",
    "size": 24,
    "data": {"name": "digits", "pooling": 2},
    "architecture": {"family": "mlp", "hidden": [12, 10], "activation": "relu"},
    "ranges": {
        "optimiser": "adam",
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "initial_scale": 1.0,
        "dropout": 0.0,
        "label_noise": 0.0,
        "train_fraction": 1.0,
        "steps": 60,
    },
    "batch_size": 16,
    "sparsity": 0.8,
    "splits": {"train": 0.4, "val": 0.1, "test": 0.5},
    "executor": "in_process",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("tickets"), progress=False)


@pytest.fixture
def task(zoo: Zoo) -> WinningTickets:
    return WinningTickets(zoo, permutations=2)


def given(task: WinningTickets, kind: str) -> Predictor:
    torch.manual_seed(0)
    model = GivenTicket(task.structure, task.outputs, kind, 0.2)
    model.fit_statistics(tickets for tickets, _ in task.loader("train", 5))
    return Predictor([(model, task.objective())])


def learned(task: WinningTickets, **options: Any) -> Predictor:
    torch.manual_seed(0)
    model = TicketVAE(task.structure, task.outputs, channels=[6, 6], **options)
    model.fit_statistics(tickets for tickets, _ in task.loader("train", 5))
    return Predictor([(model, task.objective())])


def weights_of(networks: Any, task: WinningTickets) -> dict[str, Tensor]:
    assert task.structure is not None
    return weight_space(networks, task.structure).to_weights()


def test_targets_are_the_zoos_masks_and_lie_beside_their_own_networks(task: WinningTickets, zoo: Zoo) -> None:
    (name,) = zoo.architectures
    weights, masks = zoo.weights(name), zoo.masks(name)
    assert task.structure is not None
    rows = {tuple(w.tolist()): m for w, m in zip(*(in_a_row(t, task.structure) for t in (weights, masks)), strict=True)}
    assert len(rows) == 24
    for split in ("train", "val", "test"):
        count = 0
        for (networks, given_masks), target in task.loader(split, 5, shuffle=True, seed=3):
            found = in_a_row(weights_of(networks, task), task.structure)
            for row, mask in zip(found, target, strict=True):
                assert torch.equal(rows[tuple(row.tolist())].float(), mask)
            assert torch.equal(in_a_row(given_masks, task.structure), target)
            count += len(target)
        assert count == int((zoo.records["split"] == split).sum())
    orders = [torch.cat([y for _, y in task.loader("train", 5, shuffle=True, seed=seed)]) for seed in (3, 3, 4)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_the_likelihood_is_that_of_the_masks_less_the_divergence() -> None:
    objective = TicketLikelihood()
    output = torch.randn(3, 8, dtype=torch.float64)
    target = (torch.rand(3, 7) < 0.4).double()
    bernoulli = torch.distributions.Bernoulli(logits=output[:, :-1])
    bound = bernoulli.log_prob(target).sum(1) - output[:, -1]
    assert torch.allclose(objective.losses(output, target), -bound.mean(0, keepdim=True) / 7)
    assert torch.equal(objective.decode(output), bernoulli.probs)
    sure = objective.encode(target)
    assert torch.allclose(objective.decode(sure), target, atol=2e-4)
    assert float(objective.loss(sure, target)) < 2e-4
    certain = torch.tensor([[torch.inf, -torch.inf, 0.0]])
    assert objective.decode(certain).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("drawn", [False, True])
def test_masks_keep_what_is_expected_of_every_tensor(drawn: bool) -> None:
    sizes = [400, 100]
    probabilities = torch.rand(30, 500, dtype=torch.float64) * torch.tensor([0.1] * 400 + [0.8] * 100)
    masks = chosen(probabilities, sizes, 0.1, drawn)
    assert masks.sum(1).tolist() == pytest.approx([50] * 30, abs=1)
    expected = probabilities[:, :400].sum(1) / probabilities.sum(1)
    assert torch.allclose(masks[:, :400].sum(1).double() / 50, expected, atol=0.03)
    for part, mask in zip(probabilities.split(sizes, 1), masks.split(sizes, 1), strict=True):
        inside, outside = (
            torch.stack([p[m].mean() for p, m in zip(part, each, strict=True)]) for each in (mask, ~mask)
        )
        assert (inside > outside).all()
        least = torch.stack([p[m].min() for p, m in zip(part, mask, strict=True)])
        most = torch.stack([p[~m].max() for p, m in zip(part, mask, strict=True)])
        assert bool((least >= most).all()) == (not drawn)


def test_weights_are_drawn_by_their_odds_and_certain_ones_are_not_drawn() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.25, 0.0, 1.0], dtype=torch.float64).expand(20000, -1)
    masks = chosen(probabilities[:, :3], [3], 1 / 3, drawn=True)
    odds = torch.tensor([1, 1 / 3, 1 / 3], dtype=torch.float64)
    assert torch.allclose(masks.double().mean(0), odds / odds.sum(), atol=0.02)
    certain = chosen(probabilities, [5], 0.4, drawn=True)
    assert certain[:, 3:].unique(dim=0).tolist() == [[False, True]]


def test_dense_and_pruned_networks_reach_what_the_zoo_says(task: WinningTickets, zoo: Zoo) -> None:
    records = zoo.records[zoo.records["split"] == "test"]
    for kind, column in (("dense", "dense_accuracy"), ("imp", "ticket_accuracy")):
        prediction, target = predict(given(task, kind), task, "test", 5)
        answers, truth = task.answers(prediction, target)
        assert answers[:, 0].tolist() == records[column].tolist()
        assert torch.equal(answers[:, 0], answers[:, 1])
        assert truth[:, 1].tolist() == pytest.approx(records["ticket_accuracy"].tolist())
        scores = task.score(prediction, target)
        assert scores["drawn"] == scores["largest"]
        assert scores["largest"]["ticket_accuracy"] == pytest.approx(records[column].mean())
        assert scores["largest"]["kept"] == pytest.approx({"dense": 1.0, "imp": 0.2}[kind], abs=2e-3)
        assert scores["largest"]["ticket_recall"] == 1.0


def test_pruning_after_training_beats_chance_and_other_masks_are_trained_as_well(task: WinningTickets) -> None:
    found = {}
    for kind in ("imp", "random", "magnitude"):
        found[kind] = task.score(*predict(given(task, kind), task, "test", 5))["largest"]
    assert found["imp"]["ticket_accuracy"] > found["random"]["ticket_accuracy"] + 0.05
    assert found["random"]["ticket_recall"] == pytest.approx(0.2, abs=0.05)
    assert found["random"]["ticket_recall"] < found["magnitude"]["ticket_recall"] < 1
    masks = predict(given(task, "imp"), task, "test", 5)
    with pytest.raises(ValueError, match="2 masks for 12 test networks"):
        task.answers(masks[0][:2], masks[1][:2])


def test_predicted_masks_move_with_the_neurons_and_those_of_places_do_not(task: WinningTickets) -> None:
    assert task.invariance(learned(task, io_encoding="sinusoidal")) < 1e-5
    places = torch.linspace(0, 1, task.outputs - 1).double()
    assert task.invariance(lambda tickets: places.expand(tickets.networks.num_graphs, -1)) > 0.1


def test_the_accuracy_of_tickets_is_resampled_as_their_mean() -> None:
    counts, reached = resample_counts(5, 20), np.array([0.5, 0.7, 0.9, 0.2, 0.4])
    found = resampled_metric("ticket_accuracy", counts, reached, np.ones(5))
    assert found == pytest.approx([np.repeat(reached, row.astype(int)).mean() for row in counts])


def test_mask_scores_are_what_the_decoder_says_of_one_weight(task: WinningTickets, tmp_path: Path) -> None:
    predictor = learned(task, variant="pt", norm=False)
    model = predictor.first
    assert isinstance(model, TicketVAE)
    assert task.structure is not None
    curves = mask_scores(
        model, {"0.weight": 0.3, "0.bias": 0.3, "2.weight": 0.4, "2.bias": 0.4, "4.weight": 1, "4.bias": 1}
    )
    tickets, _ = next(iter(task.loader("test", 4)))
    with torch.no_grad():
        rows = by_tensor(model.eval()(tickets)[:, :-1], task.structure)
    for name in ("0.weight", "2.weight"):
        values, scores = curves[name]
        weights = weights_of(tickets.networks, task)[name].flatten()[:20]
        assert float(weights.abs().max()) < values[-1]
        assert np.interp(weights.double(), values, scores) == pytest.approx(rows[name].flatten()[:20].numpy(), abs=0.02)
        assert np.ptp(scores) > 0.02
    reached = {"largest": {"ticket_accuracy": 0.5}}
    draw_mask_scores(predictor, task, tmp_path, reached)
    assert (tmp_path / "mask_scores.png").stat().st_size > 5000
    assert "0.500" in (tmp_path / "mask_scores.svg").read_text()
    draw_mask_scores(learned(task), task, tmp_path / "none", reached)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="scores are a function of the weight in pointwise models alone"):
        mask_scores(TicketVAE(task.structure, channels=[4]), {})


def test_what_has_no_tickets_is_refused_with_a_remedy(tiny_zoo: Zoo, zoo: Zoo) -> None:
    with pytest.raises(ValueError, match=r"has no winning tickets; .* such as zoo=digits_mlp_tickets"):
        WinningTickets(tiny_zoo)
    with pytest.raises(ValueError, match="test_zoo: tickets are tested on initialisations of the zoo"):
        WinningTickets(zoo, test_zoo=zoo)
    with pytest.raises(ValueError, match=r"trainer\.loss='mse': tickets are learned by their likelihood"):
        WinningTickets(zoo).objective("mse")
