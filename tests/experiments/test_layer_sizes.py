"""The sizes in the table are those of the layers, and of the orders that the paper states."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from experiments.layer_sizes import SERIES, layer_sizes, perceptron
from graphnets import HNPLinear, NPLinear


def test_counts_are_the_numbers_of_parameters_of_layers() -> None:
    rows = {row[1]: row for row in layer_sizes().rows}
    assert len(rows) == sum(map(len, SERIES.values()))
    for sizes in ((2, 32, 3), (2, 8, 8, 3), (28, 32, 32, 10)):
        structure = perceptron(sizes)
        row = rows[f"{sizes[0]}, {len(sizes) - 2} x {sizes[1]}, {sizes[-1]}"]
        found = [sum(p.numel() for p in kind(structure, 1, 1).parameters()) for kind in (NPLinear, HNPLinear)]
        assert [row[3], row[5]] == found
        assert row[2] == sum((i + 1) * o for i, o in itertools.pairwise(sizes)) ** 2


@pytest.mark.parametrize(
    ("kind", "scale"),
    [(NPLinear.count, lambda depth, ends: depth), (HNPLinear.count, lambda depth, ends: depth + ends)],
)
def test_sizes_grow_as_the_square_and_not_with_the_width(
    kind: Callable[..., int], scale: Callable[[int, int], int]
) -> None:
    shares = [
        kind(perceptron(sizes), 1, 1) / scale(len(sizes) - 1, sizes[0] + sizes[-1]) ** 2
        for series in SERIES.values()
        for sizes in series
    ]
    assert min(shares) > 1.5
    assert max(shares) < 10
    assert len({kind(perceptron(sizes), 1, 1) for sizes in SERIES["width"]}) == 1
    assert kind(perceptron((2, 8, 3)), 4, 6) / kind(perceptron((2, 8, 3)), 2, 3) > 3.5
