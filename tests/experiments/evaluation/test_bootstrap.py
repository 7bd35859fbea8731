"""The bootstrap by matrix products is the textbook one: networks drawn with replacement, then the metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.evaluation.bootstrap import (
    Interval,
    compare,
    interval,
    resample_counts,
    resampled_metric,
    seed_spread,
)
from experiments.evaluation.metrics import HIGHER_IS_BETTER, METRICS, classification_metrics, regression_metrics


def data(networks: int = 40, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    truth = generator.normal(size=networks).round(1)  # rounded: ties must be handled
    return (truth + noise * generator.normal(size=networks)).round(1), truth


@pytest.mark.parametrize("metric", METRICS)
def test_every_resample_equals_the_metric_of_the_drawn_networks(metric: str) -> None:
    prediction, truth = data()
    counts = resample_counts(len(truth), 25, seed=1)
    fast = resampled_metric(metric, counts, prediction, truth)
    for row, value in zip(counts, fast, strict=True):
        drawn = np.repeat(np.arange(len(truth)), row.astype(int))
        one, two = torch.from_numpy(prediction[drawn]), torch.from_numpy(truth[drawn])
        assert value == pytest.approx(regression_metrics(one, two)[metric], abs=1e-9)


def test_resamples_draw_as_many_networks_and_follow_the_seed() -> None:
    counts = resample_counts(30, 100, seed=5)
    assert (counts.sum(1) == 30).all()
    assert (counts > 1).any()
    assert (counts == resample_counts(30, 100, seed=5)).all()
    assert (counts != resample_counts(30, 100, seed=6)).any()


def test_constant_predictions_have_no_ranking() -> None:
    _, truth = data()
    counts = resample_counts(len(truth), 4)
    assert (resampled_metric("tau", counts, np.zeros_like(truth), truth) == 0).all()


def test_a_clearly_better_method_is_told_apart_and_equal_ones_are_not() -> None:
    good, truth = data(200, noise=0.2)
    bad, _ = data(200, noise=2.0)
    counts = resample_counts(len(truth), 500)
    for metric in METRICS:
        higher = HIGHER_IS_BETTER[metric]
        one, two = (resampled_metric(metric, counts, prediction, truth) for prediction in (good, bad))
        difference = compare(0.0, [one, one], [two, two])
        assert (difference.low > 0) if higher else (difference.high < 0)
        same = compare(0.0, [one], [one])
        assert same.low == same.high == 0


def test_pairing_narrows_the_interval() -> None:
    prediction, truth = data(200)
    counts = resample_counts(len(truth), 500)
    other = prediction + 0.01 * np.sin(np.arange(200))
    one, two = (resampled_metric("mae", counts, each, truth) for each in (prediction, other))
    paired = compare(0.0, [one], [two])
    alone = interval(0.0, one)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_interval_covers_the_estimate_and_reads_well() -> None:
    prediction, truth = data(100)
    counts = resample_counts(100, 1000)
    value = regression_metrics(torch.from_numpy(prediction), torch.from_numpy(truth))["r2"]
    found = interval(value, resampled_metric("r2", counts, prediction, truth))
    assert found.low < found.value < found.high
    assert f"{Interval(0.5, 0.25, 0.75):.2f}" == "0.50 [0.25, 0.75]"


def test_spread_of_one_seed_is_unknown() -> None:
    mean, deviation = seed_spread([0.5])
    assert mean == 0.5
    assert np.isnan(deviation)


def test_accuracies_are_resampled_as_means_of_what_is_right() -> None:
    truth = np.arange(60) % 3
    guess = np.where(np.arange(60) % 4 == 0, 0, truth)
    counts = np.vstack([np.ones(60), resample_counts(60, 200)])
    found = resampled_metric("accuracy", counts, guess, truth)
    assert found[0] == classification_metrics(torch.from_numpy(guess), torch.from_numpy(truth))["accuracy"]
    assert found[1] == pytest.approx(np.repeat(guess == truth, counts[1].astype(int)).mean())
    assert 0.02 < found.std() < 0.1
