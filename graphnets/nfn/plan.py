"""The size of an equivariant layer, known before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from converters import Structure
from graphnets.nfn.patterns import Exchange, Pattern, exchanges
from graphnets.nfn.reading import AGGREGATIONS
from graphnets.pieces import Pieces, Unit

__all__ = ["MAX_PARAMETERS", "TERMS", "Plan", "plan_layer"]

TERMS = ("all", "local")
MAX_PARAMETERS = 2**28
"""A layer with more parameters than this (1 GiB in float32) is refused unless asked for."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What an equivariant layer computes, as sizes.

    Args:
        pieces: what it works on.
        in_channels, out_channels: feature channels per weight.
        terms, rank: see `graphnets.nfn.linear.PermutationLinear`.
    """

    pieces: Pieces
    in_channels: int
    out_channels: int
    terms: str
    rank: int | None

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The products."""
        return exchanges(self.pieces)

    @cached_property
    def told_apart(self) -> tuple[Unit, ...]:
        """The units that learned columns tell apart."""
        units = {unit for piece in self.pieces for unit in piece.units if unit.open}
        return tuple(sorted(units)) if self.rank is not None else ()

    def width(self, pattern: Pattern, channels: int) -> int:
        """Channels of a feature that is read, or of a result before it is written."""
        piece = self.pieces[pattern.piece]
        left = sum(piece.units[pattern.blocks[b][0]] in self.told_apart for b in pattern.left)
        return int(piece.fixed * channels * (1 + (self.rank or 0)) ** left)

    def shared(self, exchange: Exchange) -> bool:
        """Whether its features reach other pieces through a few pooled numbers only."""
        return self.terms == "local" and not exchange.key and len({p.piece for p in exchange.read}) > 1

    def shapes(self, exchange: Exchange) -> list[tuple[int, int]]:
        """Shapes (results, features) of an exchange's matrices.

        One matrix, or where it is `shared`: one per piece, one into the pooled numbers, one out of them.
        """
        read: dict[int, int] = {}
        results: dict[int, int] = {}
        for pattern in exchange.read:
            read[pattern.piece] = read.get(pattern.piece, 0) + self.width(pattern, self.in_channels)
        for pattern in exchange.written:
            results[pattern.piece] = results.get(pattern.piece, 0) + self.width(pattern, self.out_channels)
        features, outcomes = sum(read.values()), sum(results.values())
        if not self.shared(exchange):
            return [(outcomes, features)]
        own = [(results[piece], read[piece]) for piece in read]
        return [*own, (self.out_channels, features), (outcomes, self.out_channels)]

    @cached_property
    def constants(self) -> int:
        """Numbers of the bias: a constant for every result that depends on no neuron."""
        return sum(self.width(p, self.out_channels) for e in self.exchanges if not e.key for p in e.written)

    def count(self, bias: bool) -> int:
        """Number of parameters."""
        matrices = sum(math.prod(shape) for exchange in self.exchanges for shape in self.shapes(exchange))
        columns = sum(2 * unit.size * (self.rank or 0) for unit in self.told_apart)
        return matrices + columns + (self.constants if bias else 0)


@lru_cache(maxsize=256)
def plan_layer(
    structure: Structure,
    in_channels: int,
    out_channels: int,
    symmetry: str,
    terms: str = "all",
    aggr: str = "mean",
    rank: int | None = None,
    buffers: bool = False,
) -> Plan:
    """The plan of a `PermutationLinear` with these arguments.

    Raises:
        ValueError: an argument is unknown.
    """
    if terms not in TERMS:
        raise ValueError(f"terms={terms!r} is unknown; choose one of {', '.join(TERMS)}")
    if aggr not in AGGREGATIONS:
        raise ValueError(f"aggr={aggr!r} is unknown; choose one of {', '.join(AGGREGATIONS)}")
    if rank is not None and (symmetry != "hnp" or rank < 1):
        raise ValueError(f"rank={rank} tells inputs and outputs apart: it goes with symmetry='hnp' and is at least 1")
    pieces = Pieces.of(structure, symmetry if rank is None else "np", buffers)
    return Plan(pieces, in_channels, out_channels, terms, rank)
