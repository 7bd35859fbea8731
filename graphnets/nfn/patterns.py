"""Every way in which a piece of weights can be read from, and written to, by a map that knows no order of neurons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from graphnets.pieces import Piece, Pieces, Unit

__all__ = ["Exchange", "Key", "Pattern", "exchanges"]

Key = tuple[tuple[Unit, tuple[int, ...]], ...]
"""The units that a feature still has, each with the places of those it lies in."""


@dataclass(frozen=True)
class Pattern:
    """One way to reduce a piece to fewer axes, or to spread fewer axes over a piece.

    Read: axes of one block are joined on their diagonal, blocks that are not kept are averaged. Written: kept blocks
    are indexed, the others filled evenly, and axes of one block hold values on their diagonal alone.

    Args:
        piece: number of the piece.
        blocks: a partition of its axes.
        kept: the blocks that stay, in the order of the key.
    """

    piece: int
    blocks: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether every axis stays, on its own and in order."""
        return self.kept == tuple(range(len(self.blocks))) and all(len(block) == 1 for block in self.blocks)

    @property
    def left(self) -> tuple[int, ...]:
        """The blocks that do not stay."""
        return tuple(b for b in range(len(self.blocks)) if b not in self.kept)


@dataclass(frozen=True)
class Exchange:
    """Features and results that meet in the same units: each feature may have a say in each result."""

    key: Key
    read: tuple[Pattern, ...]
    written: tuple[Pattern, ...]


@lru_cache(maxsize=64)
def exchanges(pieces: Pieces) -> tuple[Exchange, ...]:
    """All linear maps between the pieces that commute with their symmetry, as one exchange per key.

    The maps from a feature to a result, over all exchanges, span the equivariant linear maps: their indicators are sums
    of orbits of pairs of weights, one for each way in which neurons of one weight can be those of the other (Maron et
    al. 2019, arXiv:1812.09902, for sets; nested groups may only meet where what they lie in meets). They are a basis
    where every group has at least as many members as a pair of weights has axes along it.
    """
    read: dict[Key, list[Pattern]] = {}
    written: dict[Key, list[Pattern]] = {}
    for number, piece in enumerate(pieces.pieces):
        for blocks in _partitions(piece):
            for kept in _kept(piece, blocks):
                first, *others = sorted(
                    _orders(piece, blocks, kept), key=lambda order: (_key(piece, blocks, order), order)
                )
                key = _key(piece, blocks, first)
                written.setdefault(key, []).append(Pattern(number, blocks, first))
                same = [order for order in others if _key(piece, blocks, order) == key]
                read.setdefault(key, []).extend(Pattern(number, blocks, order) for order in (first, *same))
    order = sorted(read, key=lambda key: (len(key), key))
    return tuple(_in_place(pieces, Exchange(key, tuple(read[key]), tuple(written[key]))) for key in order)


def _in_place(pieces: Pieces, exchange: Exchange) -> Exchange:
    """The same with its units in the order in which the largest piece has them, which then is read as it lies."""
    largest = max(exchange.written, key=lambda p: (math.prod(pieces[p.piece].sizes) * pieces[p.piece].fixed, -p.piece))
    order = sorted(range(len(exchange.key)), key=lambda i: largest.kept[i])

    def turned(patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
        return tuple(replace(p, kept=tuple(p.kept[i] for i in order)) for p in patterns)

    key = tuple((exchange.key[i][0], tuple(sorted(order.index(p) for p in exchange.key[i][1]))) for i in order)
    return Exchange(key, turned(exchange.read), turned(exchange.written))


def _partitions(piece: Piece) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every partition of a piece's axes into blocks that have a diagonal."""

    def grow(axis: int, blocks: list[list[int]]) -> Iterator[tuple[tuple[int, ...], ...]]:
        if axis == len(piece.units):
            yield tuple(tuple(block) for block in blocks)
            return
        where = {a: b for b, block in enumerate(blocks) for a in block}
        above = [where[a] for a in piece.parents[axis]]
        alike = [
            b
            for b, block in enumerate(blocks)
            if piece.units[block[0]] == piece.units[axis] and [where[a] for a in piece.parents[block[0]]] == above
        ]
        for b in alike:
            blocks[b].append(axis)
            yield from grow(axis + 1, blocks)
            blocks[b].pop()
        if len(alike) < piece.units[axis].size:
            yield from grow(axis + 1, [*blocks, [axis]])

    return grow(0, [])


def _above(piece: Piece, blocks: Sequence[Sequence[int]]) -> list[set[int]]:
    """The blocks that each block lies in."""
    where = {a: b for b, block in enumerate(blocks) for a in block}
    return [{where[a] for a in piece.parents[block[0]]} for block in blocks]


def _kept(piece: Piece, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    above = _above(piece, blocks)
    for count in range(len(blocks) + 1):
        for kept in itertools.combinations(range(len(blocks)), count):
            if all(above[b] <= set(kept) for b in kept):
                yield kept


def _orders(piece: Piece, blocks: Sequence[Sequence[int]], kept: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The orders of kept blocks in which units ascend: several where a unit occurs more than once."""
    by_unit: dict[Unit, list[int]] = {}
    for b in kept:
        by_unit.setdefault(piece.units[blocks[b][0]], []).append(b)
    choices = [itertools.permutations(by_unit[unit]) for unit in sorted(by_unit)]
    return (tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*choices))


def _key(piece: Piece, blocks: Sequence[Sequence[int]], kept: Sequence[int]) -> Key:
    above = _above(piece, blocks)
    place = {b: i for i, b in enumerate(kept)}
    return tuple((piece.units[blocks[b][0]], tuple(sorted(place[p] for p in above[b]))) for b in kept)
