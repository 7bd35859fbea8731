"""How many parameters equivariant layers have, counted on the layers themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from converters import Structure, trace
from experiments.evaluation.tables import Cell, Table
from graphnets import HNPLinear, NPLinear

__all__ = ["SERIES", "layer_sizes", "perceptron"]

SERIES: dict[str, tuple[tuple[int, ...], ...]] = {
    "depth": tuple((2, *[32] * (depth - 1), 3) for depth in (2, 4, 8, 16, 32)),
    "width": tuple((2, width, width, 3) for width in (8, 32, 128, 512)),
    "inputs": tuple((inputs, 32, 32, 10) for inputs in (2, 28, 196, 784)),
}
"""Layer sizes of perceptrons in which one thing grows."""


def perceptron(sizes: Sequence[int]) -> Structure:
    """The structure of a perceptron with these layer sizes."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return trace(nn.Sequential(*layers[:-1]))


def layer_sizes() -> Table:
    """Table 1 of the NFN paper: parameters of `NPLinear` and `HNPLinear` beside the orders it states."""
    rows: list[tuple[Cell, ...]] = []
    for grows, series in SERIES.items():
        for sizes in series:
            structure, depth, ends = perceptron(sizes), len(sizes) - 1, sizes[0] + sizes[-1]
            np, hnp = NPLinear.count(structure, 1, 1), HNPLinear.count(structure, 1, 1)
            shown = f"{sizes[0]}, {depth - 1} x {sizes[1]}, {sizes[-1]}"
            dense = structure.num_parameters**2
            rows.append((grows, shown, dense, np, np / depth**2, hnp, hnp / (depth + ends) ** 2))
    return Table(
        "layer_sizes",
        "Parameters of equivariant layers (NFN, Table 1)",
        ("what grows", "perceptron", "linear layer", "NP", "NP / L²", "HNP", "HNP / (L + n₀ + n_L)²"),
        tuple(rows),
        "Layers from one channel to one, counted on `NPLinear` and `HNPLinear`; a linear layer on all weights and "
        "biases would have the square of their number. The paper's orders are L² for NP and (L + n₀ + n_L)² for HNP, "
        "with L matrices, n₀ inputs and n_L outputs: shares of them stay bounded, and the width of hidden layers has "
        "no say.",
        digits=2,
    )
