"""What the survey runs on: a name and a function that makes the network and its example inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Case", "Unavailable"]


class Unavailable(Exception):
    """The network cannot be had here; the text says why, and the page shows it."""


@dataclass(frozen=True)
class Case:
    """One architecture.

    Args:
        name: unique within its source.
        kind: the table of the page that it belongs to.
        make: the network in eval mode, and its example inputs (a tuple, a tensor, or keywords).
        note: what the reader should know, such as the licence of its weights.
    """

    name: str
    kind: str
    make: Callable[[], tuple[nn.Module, Any]]
    note: str = ""
