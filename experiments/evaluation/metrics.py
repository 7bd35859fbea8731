"""How well predictions meet the truth, and how far they are from permutation invariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.stats import kendalltau
from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score

from converters import Structure, permute, sample_permutation, to_graphs

__all__ = ["DIGITS", "HIGHER_IS_BETTER", "METRICS", "classification_metrics", "permutation_delta", "regression_metrics"]


def _tau(prediction: Tensor, truth: Tensor) -> float:
    value = float(kendalltau(prediction.numpy(), truth.numpy()).statistic)
    return value if value == value else 0.0


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "tau": _tau,
    "r2": lambda prediction, truth: float(r2_score(prediction, truth)),
    "mae": lambda prediction, truth: float(mean_absolute_error(prediction, truth)),
    "rmse": lambda prediction, truth: float(mean_squared_error(prediction, truth, squared=False)),
}
"""Of regressions: name to function of ``(prediction [n], truth [n])``, in float64."""

DIGITS: dict[str, int] = {"mse": 4, "train_mse": 4}
"""Decimals that readers are shown, where three are not enough."""

HIGHER_IS_BETTER: dict[str, bool] = {
    "tau": True,
    "r2": True,
    "mae": False,
    "rmse": False,
    "accuracy": True,
    "train_accuracy": True,
    "mse": False,
    "train_mse": False,
    "relative_mse": False,
    "train_relative_mse": False,
    "psnr": True,
    "train_psnr": True,
    "ticket_accuracy": True,
    "ticket_recall": True,
    "agreement": True,
    "correlation": True,
    "cosine": True,
    "class_entropy": True,
    "accuracy_drop": False,
    "noise_agreement": True,
    "noise_class_entropy": True,
    "recalibrated_agreement": True,
    "recalibrated_drop": False,
    "recall_1": True,
    "recall_10": True,
    "recall_1_weights": True,
    "recall_1_lift": True,
    "below_chance": True,
    "nt_xent": False,
    "probe_accuracy": True,
    "probe_loss": True,
    "probe_class": True,
    "reached_accuracy": True,
    "best_accuracy": True,
    "spearman": True,
    "diversity": True,
    "distance": True,
}
"""Which way each metric points."""


def regression_metrics(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Kendall's tau-b, R2, mean absolute error and root mean squared error of ``[n]`` predictions.

    A constant prediction has no ranking; its tau counts as 0.

    >>> truth = torch.tensor([0.1, 0.4, 0.2, 0.9])
    >>> {name: round(value, 6) for name, value in regression_metrics(truth, truth).items()}
    {'tau': 1.0, 'r2': 1.0, 'mae': 0.0, 'rmse': 0.0}

    Raises:
        ValueError: the shapes differ, there are fewer than two networks, or a prediction is not finite.
    """
    if prediction.shape != truth.shape or prediction.ndim != 1 or len(prediction) < 2:
        raise ValueError(
            "metrics need two vectors of one length of at least 2, got predictions of shape "
            f"{tuple(prediction.shape)} and truths of shape {tuple(truth.shape)}"
        )
    if not bool(torch.isfinite(prediction).all()):
        raise ValueError(
            f"{int((~torch.isfinite(prediction)).sum())} of {len(prediction)} predictions are not finite; "
            "lower the learning rate (optim.optimizer.lr) or clip gradients (optim.gradient_clip)"
        )
    prediction, truth = prediction.detach().cpu().double(), truth.detach().cpu().double()
    return {name: metric(prediction, truth) for name, metric in METRICS.items()}


def classification_metrics(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """The share of ``[n]`` predicted classes that are right.

    >>> classification_metrics(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]))
    {'accuracy': 0.75}
    """
    return {"accuracy": float((prediction == truth).double().mean())}


@torch.no_grad()
def permutation_delta(
    predict: Callable[[Any], Tensor],
    weights: Mapping[str, Tensor],
    structure: Structure,
    *,
    draws: int = 4,
    seed: int = 0,
) -> float:
    """The largest change of any prediction when the hidden neurons of the networks are reordered.

    Args:
        predict: from a batch of neuron graphs to predictions ``[B, T]``.
        weights: stacked networks, ``{name: [B, ...]}``.
        structure: their architecture.
        draws: how many random true permutations are tried, each on all networks.
        seed: of the permutations.

    Returns:
        ``max |predict(permuted) - predict(original)|`` in the unit of the predictions; 0 for an invariant
        model, up to rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = dict(weights)
    reference = predict(to_graphs(weights, structure))
    worst = 0.0
    for _ in range(draws):
        permutation = sample_permutation(structure, generator=generator)
        moved = predict(to_graphs(permute(weights, permutation), structure))
        worst = max(worst, float((moved - reference).abs().max()))
    return worst
