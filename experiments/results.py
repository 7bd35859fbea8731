"""The result of one job, as it is stored, summarised and recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["JobResult"]


@dataclass(frozen=True)
class JobResult:
    """What a job found.

    Args:
        metrics: setting to metric to value, on the test split; of other splits with their name before the metric's.
        permutation_delta: see `experiments.evaluation.metrics.permutation_delta`.
        trial: which of the method's settings won on validation; ``trial_scores`` holds the scores of all.
        epoch, history, parameters, cpu_seconds: of the training that won, see `experiments.training.Outcome`.
        tuning_seconds: processor time of all trainings together.
        prediction, truth: test networks by settings, ``[N, T]``; of a classifier the numbers of classes.
    """

    method: str
    seed: int
    metrics: dict[str, dict[str, float]]
    permutation_delta: float
    trial: int
    trial_scores: list[float]
    epoch: int | None
    history: dict[str, list[float]]
    parameters: int
    cpu_seconds: float
    tuning_seconds: float
    prediction: NDArray[np.float64]
    truth: NDArray[np.float64]
