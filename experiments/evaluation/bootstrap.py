"""Uncertainty: a bootstrap over test networks, paired between methods, and the spread over seeds.

A resample of ``n`` networks is a vector of counts that sum to ``n``. Every metric is a ratio of forms that
are linear or quadratic in the counts, so all resamples are evaluated by a few matrix products, and two
methods are compared on the very same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RESAMPLED",
    "Comparison",
    "Interval",
    "compare",
    "interval",
    "resample_counts",
    "resampled_metric",
    "seed_spread",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Comparison:
    """``metric(first) - metric(second)`` with the bounds of its paired bootstrap."""

    first: str
    second: str
    setting: str
    metric: str
    difference: Interval


def resample_counts(networks: int, resamples: int, seed: int = 0) -> Floats:
    """How often each network occurs in each resample, ``[resamples, networks]``."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(networks, np.full(networks, 1.0 / networks), size=resamples)
    return counts.astype(np.float64)


def _tau(counts: Floats, prediction: Floats, truth: Floats) -> Floats:
    one, two = (np.sign(v[:, None] - v[None, :]) for v in (prediction, truth))

    def form(matrix: Floats) -> Floats:
        product: Floats = np.einsum("rn,rn->r", counts @ matrix, counts)
        return product

    scale = np.sqrt(form(np.abs(one)) * form(np.abs(two)))
    return np.divide(form(one * two), scale, out=np.zeros(len(counts)), where=scale > 0)


def _mean(counts: Floats, values: Floats) -> Floats:
    mean: Floats = counts @ values / counts.sum(1)
    return mean


def _mse(counts: Floats, prediction: Floats, truth: Floats) -> Floats:
    return _mean(counts, np.square(prediction - truth))


def _r2(counts: Floats, prediction: Floats, truth: Floats) -> Floats:
    centred = truth - truth.mean()
    variance = _mean(counts, np.square(centred)) - np.square(_mean(counts, centred))
    r2: Floats = 1.0 - _mse(counts, prediction, truth) / np.maximum(variance, np.finfo(np.float64).tiny)
    return r2


RESAMPLED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "tau": _tau,
    "r2": _r2,
    "mae": lambda counts, prediction, truth: _mean(counts, np.abs(prediction - truth)),
    "mse": _mse,
    "rmse": lambda counts, prediction, truth: np.sqrt(_mse(counts, prediction, truth)),
    "accuracy": lambda counts, prediction, truth: _mean(counts, (prediction == truth).astype(np.float64)),
    "ticket_accuracy": lambda counts, prediction, truth: _mean(counts, prediction),
    "agreement": lambda counts, prediction, truth: _mean(counts, prediction),
    "recall_1": lambda counts, prediction, truth: _mean(counts, prediction),
    "best_accuracy": lambda counts, prediction, truth: _mean(counts, prediction),
}
"""Metrics of predictions and truths: of a classifier numbers of classes, of winning tickets the accuracies reached, of
networks that came back how far they agree with those that were there, of searches whether they found, of networks that
were made for a purpose the accuracy they reach."""


def resampled_metric(metric: str, counts: Floats, prediction: Floats, truth: Floats) -> Floats:
    """A metric of every resample.

    Args:
        metric: a key of `RESAMPLED`.
        counts: ``[resamples, networks]`` from `resample_counts`.
        prediction: of every network, ``[networks]``.
        truth: of every network, ``[networks]``.

    >>> one = np.ones((1, 3))
    >>> float(resampled_metric("mae", one, np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0, 2.0])).round(4)[0])
    0.1667
    """
    return RESAMPLED[metric](counts, np.asarray(prediction, np.float64), np.asarray(truth, np.float64))


def interval(value: float, resampled: Floats, level: float = 0.95) -> Interval:
    """The estimate between the percentiles that hold ``level`` of the resamples."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def compare(value: float, first: Sequence[Floats], second: Sequence[Floats], level: float = 0.95) -> Interval:
    """The difference of two methods between the percentiles of its resamples.

    Args:
        value: the difference itself, first minus second, averaged over seeds.
        first: the first method's value in every resample, per seed.
        second: the second method's values in the same resamples.
        level: the share of resamples between the bounds.
    """
    difference: Floats = np.mean(first, axis=0) - np.mean(second, axis=0)
    return interval(value, difference, level)


def seed_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; the deviation of a single seed is not a number.

    >>> seed_spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else float("nan")
