"""Which neuron sits where in a tensor: bundles of axes that carry element ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bundle", "Choice", "Ids", "Labels"]

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bundle:
    """``ids[i, j, ...]`` is the element at position ``(i, j, ...)`` of the axes ``axes``, all other axes alike."""

    axes: tuple[int, ...]
    ids: Ids

    def ordered(self, axes: Iterable[int]) -> Ids:
        """The ids with their axes in another order."""
        moved: Ids = self.ids.transpose([self.axes.index(axis) for axis in axes])
        return moved


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of a tensor's axes.

    An axis is in at most one bundle; or ``blank``: the same value at all its positions; or else uniform: its positions
    are told apart by where they are. ``source`` is "input" for values computed from inputs without parameters,
    "constant" for those that depend on neither, and "" for all others.
    """

    bundles: tuple[Bundle, ...] = ()
    blank: frozenset[int] = frozenset()
    source: str = ""
    shape: tuple[int, ...] = field(default=())

    def bundle_at(self, axis: int) -> Bundle | None:
        """The bundle that ``axis`` is part of."""
        return next((bundle for bundle in self.bundles if axis in bundle.axes), None)

    def uniform(self, axis: int) -> bool:
        """Whether the axis has positions of its own: longer than one, no bundle, not blank."""
        return self.shape[axis] > 1 and axis not in self.blank and self.bundle_at(axis) is None

    def move(self, mapping: Mapping[int, int], shape: tuple[int, ...], blank: Iterable[int] = ()) -> Labels:
        """Rename axes; bundles lose no axis longer than one, ``blank`` axes are added."""
        bundles = []
        for bundle in self.bundles:
            kept = [axis for axis in bundle.axes if axis in mapping]
            lost = [i for i, axis in enumerate(bundle.axes) if axis not in mapping]
            ids: Any = bundle.ids
            for i in sorted(lost, reverse=True):
                ids = ids.take(0, axis=i)
            if kept:
                bundles.append(Bundle(tuple(mapping[axis] for axis in kept), ids))
        moved = frozenset(mapping[axis] for axis in self.blank if axis in mapping)
        return Labels(tuple(bundles), moved | frozenset(blank), self.source, shape)


@dataclass(frozen=True, eq=False)
class Choice:
    """Numbers of neurons, or rows listed in their order.

    Args:
        ids: the neurons that are chosen among, by number.
        reason: why they are fixed where the choice is not followed.
        numbers: whether the values are numbers of neurons.
        list: which list the first axis is in the order of; empty where it is in none.
        length: of that list.
        role: "order" (where each row of the list comes from), "inverse" (where each row went), "counts" (how many rows
            each neuron has), "ends" (where they end); empty for rows.
    """

    ids: Ids
    reason: str
    numbers: bool = True
    list: str = ""
    length: int = 0
    role: str = ""
