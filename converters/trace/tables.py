"""Hashes of integers, and the different rows of tables: what refinement works with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.trace.labels import Ids

__all__ = ["Colours", "as_met", "both", "classes_of", "distinct", "mix", "repeated"]

Colours = NDArray[np.uint64]


def mix(values: Any) -> Colours:
    """A 64-bit hash (splitmix64) of integers, elementwise."""
    z = np.asarray(values).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Colours = z ^ (z >> np.uint64(31))
    return mixed


def both(a: Any, b: Any) -> Colours:
    """A hash of pairs, elementwise; the order matters."""
    return mix(mix(a) * np.uint64(3) + mix(b))


def distinct(*columns: Ids) -> tuple[Ids, ...]:
    """The different rows of a table given by its columns, sorted."""
    if not len(columns[0]):
        return columns
    lows = [int(column.min()) for column in columns]
    spans = [int(column.max()) - low + 1 for column, low in zip(columns, lows, strict=True)]
    if math.prod(spans) < 2**62:
        packed = np.zeros(len(columns[0]), np.int64)
        for column, low, span in zip(columns, lows, spans, strict=True):
            packed = packed * span + (column - low)
        packed = np.sort(packed)
        packed = packed[np.append(True, packed[1:] != packed[:-1])]
        out: list[Ids] = []
        for low, span in zip(reversed(lows), reversed(spans), strict=True):
            out.append(packed % span + low)
            packed = packed // span
        return tuple(reversed(out))
    order = np.lexsort(columns[::-1])
    ranked = [column[order] for column in columns]
    new = np.append(True, np.any([column[1:] != column[:-1] for column in ranked], axis=0))
    return tuple(column[new] for column in ranked)


def classes_of(colours: Colours) -> int:
    """How many different colours there are."""
    ranked = np.sort(colours)
    return int((ranked[1:] != ranked[:-1]).sum()) + 1 if len(ranked) else 0


def as_met(values: NDArray[Any]) -> Ids:
    """Small integers in place of values, numbered in the order of first occurrence.

    >>> as_met(np.array([7, 7, 3, 9, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    if not len(values):
        return np.zeros(0, np.int64)
    order = np.argsort(values)
    ranked = values[order]
    new = np.append(True, ranked[1:] != ranked[:-1])
    first = np.minimum.reduceat(order, np.flatnonzero(new))
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    out = np.empty(len(values), np.int64)
    out[order] = rank[np.cumsum(new) - 1]
    return out


def repeated(values: Ids, last: Ids | None = None) -> NDArray[np.bool_] | None:
    """Which of these integers occur more than once; None where none does.

    Args:
        last: scratch space, as long as the largest integer; without it they are sorted.
    """
    if last is not None:
        positions = np.arange(len(values))
        last[values] = positions
        if np.array_equal(last[values], positions):
            return None
    order = np.argsort(values)
    same = values[order[1:]] == values[order[:-1]]
    twice = np.zeros(len(values), bool)
    twice[order[1:][same]] = twice[order[:-1][same]] = True
    return twice if same.any() else None
