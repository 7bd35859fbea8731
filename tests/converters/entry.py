"""What the table of networks is made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Nested", "Network", "draw"]


class Nested(NamedTuple):
    """A permutable group whose members stay within the cells of another group."""

    size: int
    cells: int


@dataclass(frozen=True)
class Network:
    """A network by name.

    Args:
        build: makes the module; called under a fixed seed.
        inputs: example inputs: a tuple of positional or a dict of keyword arguments.
        groups: expected permutable groups, by size; None where nothing is annotated.
        frozen: part of a reason that must be recorded.
        least_batch: the smallest batch the module itself runs on.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    groups: tuple[int | Nested, ...] | None
    frozen: str | None = None
    least_batch: int = 1

    def make(self, seed: int = 0) -> nn.Module:
        """The module in eval mode, its weights depending on ``seed`` alone."""
        with torch.random.fork_rng():
            torch.manual_seed(seed + zlib.crc32(self.name.encode()))
            return self.build().eval()

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Example inputs as positional and keyword arguments."""
        inputs = self.inputs()
        return ((), inputs) if isinstance(inputs, dict) else (inputs, {})


def draw(*shape: int) -> Tensor:
    """Normal numbers that depend on the shape alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
