"""How the learning rate moves over the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from experiments.config import Optim

__all__ = ["SCHEDULES"]


def _constant(optimizer: Optimizer, optim: Optim, steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1.0, optim.warmup * steps)))


def _cosine(optimizer: Optimizer, optim: Optim, steps: int) -> LRScheduler:
    rise = max(1.0, optim.warmup * steps)

    def factor(step: int) -> float:
        fall = min(1.0, max(0.0, step - rise) / max(1.0, steps - rise))
        return (step + 1) / rise if step + 1 < rise else 0.5 * (1 + math.cos(math.pi * fall))

    return LambdaLR(optimizer, factor)


def _onecycle(optimizer: Optimizer, optim: Optim, steps: int) -> LRScheduler:
    peaks = [group["lr"] for group in optimizer.param_groups]
    start = min(max(optim.warmup, 1.5 / (steps + 1)), 0.9)
    return OneCycleLR(optimizer, peaks, total_steps=steps + 1, pct_start=start, cycle_momentum=False)


SCHEDULES: dict[str, Callable[[Optimizer, Optim, int], LRScheduler]] = {
    "constant": _constant,
    "cosine": _cosine,
    "onecycle": _onecycle,
}
"""Name to learning-rate schedule over a number of steps; keys are the values of ``optim.schedule``."""
