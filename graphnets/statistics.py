"""Statistics of training networks, passed on to a model inside another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

__all__ = ["take_statistics"]


def take_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Let a model take the statistics of its inputs, if it standardises them (``fit_statistics``)."""
    fit: Callable[[Iterable[Any]], Any] | None = getattr(model, "fit_statistics", None)
    if fit is not None:
        fit(batches)
