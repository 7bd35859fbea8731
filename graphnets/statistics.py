"""Statistics of training networks, passed on to a model inside another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

__all__ = ["READ", "kept_first", "take_statistics"]

READ = 16
"""Batches of training networks that are enough for the spread of what a model makes of them."""


def take_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Let a model take the statistics of its inputs, if it standardises them (``fit_statistics``)."""
    fit: Callable[[Iterable[Any]], Any] | None = getattr(model, "fit_statistics", None)
    if fit is not None:
        fit(batches)


def kept_first(items: Iterable[Any], kept: list[Any], count: int) -> Iterator[Any]:
    """The items as they are; the first ``count`` of them are also put into ``kept``."""
    for item in items:
        if len(kept) < count:
            kept.append(item)
        yield item
