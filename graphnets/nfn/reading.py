"""Reading features of fewer neurons from pieces of weights, and writing results over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphnets.nfn.patterns import Pattern
from graphnets.pieces import Piece, Pieces, Unit

__all__ = ["AGGREGATIONS", "Reader", "written"]

AGGREGATIONS = ("mean", "sum", "max")
Blocks = tuple[tuple[int, ...], ...]
Columns = Mapping[Unit, Tensor]
"""Learned weights of the members of a unit, ``[size, rank]``, beside the even ones."""


class Reader:
    """Reads patterns from pieces and remembers what they have in common: a mean of everything is a mean of row means.

    Args:
        pieces: what the tensors are.
        parts: ``[B, *unit sizes, F * C]`` per piece.
        aggr: how members are united: ``"mean"``, ``"sum"``, ``"max"``.
        columns: for the units that it names, weighted means beside the even one, each with channels of its own.
    """

    def __init__(self, pieces: Pieces, parts: Sequence[Tensor], aggr: str, columns: Columns) -> None:
        self.pieces, self.parts, self.aggr, self.columns = pieces, parts, aggr, columns
        self._known: dict[tuple[int, Blocks, frozenset[int]], Tensor] = {}

    def __call__(self, pattern: Pattern) -> Tensor:
        """``[B, *sizes of the key, features]``."""
        values = self._reduced(pattern.piece, pattern.blocks, frozenset(pattern.kept))
        if len(pattern.kept) < 2:
            return values
        place = {b: i for i, b in enumerate(sorted(pattern.kept))}
        order = [place[b] + 1 for b in pattern.kept]
        return values if order == sorted(order) else values.permute(0, *order, -1)

    def _reduced(self, number: int, blocks: Blocks, kept: frozenset[int]) -> Tensor:
        known = self._known.get((number, blocks, kept))
        if known is not None:
            return known
        if len(kept) == len(blocks):
            values = _diagonal(self.parts[number], blocks)
        else:
            piece = self.pieces[number]
            outer = min(b for b in range(len(blocks)) if b not in kept)
            more = kept | {outer}
            values = self._reduced(number, blocks, more)
            values = self._united(values, sorted(more).index(outer) + 1, piece.units[blocks[outer][0]])
        self._known[number, blocks, kept] = values
        return values

    def _united(self, values: Tensor, axis: int, unit: Unit) -> Tensor:
        if self.aggr == "max":
            even = values.amax(axis)
        else:
            even = values.mean(axis) if self.aggr == "mean" else values.sum(axis)
        if unit not in self.columns:
            return even
        weighted = torch.einsum("...cn,nr->...cr", values.movedim(axis, -1), self.columns[unit])
        return torch.cat([even, weighted.flatten(-2)], -1)


def written(piece: Piece, results: Sequence[tuple[Pattern, Tensor]], columns: Columns, *, new: bool = False) -> Tensor:
    """The sum of results over a piece, ``[B, *unit sizes, F * C]``.

    Args:
        results: patterns and ``[B, *sizes of the key, features]``, features counting F, C and the columns of every unit
            over which the result is spread. A result that nothing else needs may be added to in place.
        columns: of `Reader`, but for results.
        new: whether the sum must be a tensor of its own.
    """
    partial: dict[tuple[Blocks, frozenset[int]], Tensor] = {}
    everywhere: dict[Blocks, list[Tensor]] = {}
    for pattern, values in results:
        if len(pattern.kept) > 1:
            order = [pattern.kept.index(b) + 1 for b in sorted(pattern.kept)]
            values = values if order == sorted(order) else values.permute(0, *order, -1)
        where = (pattern.blocks, frozenset(pattern.kept))
        partial[where] = partial[where] + values if where in partial else values
    for blocks, kept in sorted(partial, key=lambda where: len(where[1])):
        values = partial.pop((blocks, kept))
        while len(kept) < len(blocks):  # spread over one more block, until something else stands there
            outer = min(b for b in range(len(blocks)) if b not in kept)
            kept = kept | {outer}
            values = _spread(values, sorted(kept).index(outer) + 1, piece.units[blocks[outer][0]], columns)
            if (blocks, kept) in partial and len(kept) < len(blocks):
                partial[blocks, kept] = partial[blocks, kept] + values
                break
        else:
            everywhere.setdefault(blocks, []).append(values)
    plain = tuple((axis,) for axis in range(len(piece.units)))
    own = new or len(everywhere) > 1
    out = _total(everywhere.pop(plain), piece.sizes, own)
    for blocks, terms in everywhere.items():
        view = _diagonal(out, blocks)
        for term in terms:
            view.add_(term)
    return out


def _total(terms: Sequence[Tensor], sizes: Sequence[int], new: bool) -> Tensor:
    """The sum of tensors that broadcast to ``[B, *sizes, C]``."""
    *others, out = sorted(terms, key=Tensor.numel)
    shape = (out.shape[0], *sizes, out.shape[-1])
    for number, term in enumerate(reversed(others)):
        in_place = out.shape == shape and (number > 0 or not (new or out._is_view()))
        out = out.add_(term) if in_place else out + term
    if out.shape == shape and (others or not new):
        return out
    return out.expand(shape).clone() if new else out.expand(shape)


def _spread(values: Tensor, axis: int, unit: Unit, columns: Columns) -> Tensor:
    if unit not in columns:
        return values.unsqueeze(axis)
    weights = columns[unit]
    rank = weights.shape[1]
    width = values.shape[-1] // (1 + rank)
    even, weighted = values[..., :width], values[..., width:].unflatten(-1, (width, rank))
    return even.unsqueeze(axis) + torch.einsum("...cr,nr->...nc", weighted, weights).movedim(-2, axis)


def _diagonal(tensor: Tensor, blocks: Blocks) -> Tensor:
    """The view of ``[B, *axes, C]`` on the diagonals of blocks, ``[B, *blocks, C]``."""
    names: list[int] = [-1, *range(tensor.dim() - 2), -2]
    for block in blocks:
        for axis in block[1:]:
            tensor = tensor.diagonal(0, names.index(block[0]), names.index(axis))
            names = [name for name in names if name not in (block[0], axis)] + [block[0]]
    return tensor.permute([names.index(name) for name in (-1, *(block[0] for block in blocks), -2)])
