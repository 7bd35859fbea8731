"""Structures of at most 200 weights, small enough to count every orbit of pairs of weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from converters import Structure, trace

from ..networks import mlp


class Block(nn.Module):
    """A residual block with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 4)  # four members: as many as a pair of square matrices has axes
        self.inner = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.norm(self.inner(x)).relu()).relu())


class Attention(nn.Module):
    """Two heads of two dimensions, separate maps, between hidden neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, 3), nn.Linear(3, 2)
        self.maps = nn.ModuleList(nn.Linear(3, 4, bias=False) for _ in range(3))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        query, key, value = (m(x).unflatten(-1, (2, 2)).transpose(-3, -2) for m in self.maps)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head(x + self.out(mixed.transpose(-3, -2).flatten(-2)))


class Recurrent(nn.Module):
    """A hidden state, whose neurons are the rows and the columns of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNN(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


def grouped() -> nn.Sequential:
    """A grouped and a depthwise convolution: cells that move as a whole."""
    return nn.Sequential(
        nn.Conv1d(1, 6, 1, bias=False),
        nn.ReLU(),
        nn.Conv1d(6, 6, 1, groups=2),
        nn.ReLU(),
        nn.Conv1d(6, 6, 1, groups=6, bias=False),
        nn.ReLU(),
        nn.Conv1d(6, 1, 1, bias=False),
    )


@cache
def small_structures() -> dict[str, Structure]:
    cnn = nn.Sequential(nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Conv1d(3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2))
    return {
        "mlp": trace(mlp(2, 4, 3, 2)),
        "cnn": trace(cnn, torch.zeros(1, 1, 4)),
        "residual": trace(Block(), torch.zeros(2, 2)),
        "attention": trace(Attention(), torch.zeros(1, 3, 2)),
        "fused_attention": trace(nn.MultiheadAttention(4, 2, batch_first=True), (torch.zeros(1, 3, 4),) * 3),
        "recurrent": trace(Recurrent(), torch.zeros(1, 3, 2)),
        "grouped": trace(grouped(), torch.zeros(1, 1, 3)),
    }


def opened(structure: Structure) -> Structure:
    """The same with input and output neurons permutable: what the NP symmetry is about."""
    groups = tuple(replace(g, role="hidden") if g.role in ("input", "output") else g for g in structure.groups)
    return replace(structure, groups=groups)
