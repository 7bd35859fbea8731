"""Pieces set aside: what is a known piece of an element moves with it, and its relations are the element's own.

A pixel of a channel of a head belongs to the channel, to the pixel of the head and, where a table is shared by all
heads, to a row of that table. Only that the channel belongs to the head and to the row is news.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from converters.trace.decompose import Decomposition, Relations, broken, decompose
from converters.trace.labels import Ids
from converters.trace.tables import both, distinct

__all__ = ["proven", "without_pieces"]


def proven(colour: Ids, relations: Relations) -> tuple[Decomposition, Ids]:
    """Units that keep all relations, and nothing; or the elements in the way of proving those of the first attempt."""
    first: tuple[Decomposition, Ids] | None = None
    for attempt in (decompose, without_pieces):
        found = attempt(colour, relations)
        lost = found.lost if len(found.lost) else np.flatnonzero(np.isin(found.unit, broken(found, relations)))
        if not len(lost):
            return found, lost
        first = first or (found, lost)
    assert first is not None
    return first


def without_pieces(colour: Ids, relations: Relations) -> Decomposition:
    """The decomposition of elements that are pieces of no other; every piece is placed with what it is a piece of."""
    holder, path = _holders(colour, relations)
    inside = holder != np.arange(len(colour))
    child, parent = holder[relations.child], holder[relations.parent]
    ends = both(path[relations.child], path[relations.parent])
    key = both(relations.key, ends).view(np.int64) >> 1  # signed, and so is its negative
    apart = child != parent
    bare = np.where(inside, len(colour) + np.arange(len(colour)), colour)
    found = decompose(bare, Relations(*distinct(child[apart], parent[apart], key[apart])))
    placed = inside & (found.unit[holder] >= 0)
    unit, member = found.unit.copy(), found.member.copy()
    unit[placed], member[placed] = found.unit[holder[placed]], found.member[holder[placed]]
    slot = np.where(placed | (found.unit >= 0), colour, found.slot)
    at = np.flatnonzero(unit >= 0)
    if len(distinct(unit[at], member[at], slot[at])[0]) != len(at):
        return replace(found, lost=at)  # two pieces of one element that look alike
    return Decomposition(unit, member, slot, found.units, found.lost)


def _holders(colour: Ids, relations: Relations) -> tuple[Ids, Ids]:
    """Per moving element the outermost one it is a known piece of (else itself), and which piece."""
    n = len(colour)
    moving = np.bincount(colour)[colour] > 1
    known = np.flatnonzero((relations.key >= 0) & moving[relations.child] & moving[relations.parent])
    order = known[np.lexsort((relations.parent[known], relations.child[known]))]
    first = order[np.append(True, np.diff(relations.child[order]) != 0)] if len(order) else order
    holder, path = np.arange(n), np.zeros(n, np.int64)
    holder[relations.child[first]] = relations.parent[first]
    path[relations.child[first]] = relations.key[first] + 1
    for _ in range(n.bit_length()):
        above = holder[holder]
        if np.array_equal(above, holder):
            return holder, path
        path = np.where(above != holder, both(path, path[holder]).view(np.int64), path)
        holder = above
    return np.arange(n), np.zeros(n, np.int64)  # pieces of each other
