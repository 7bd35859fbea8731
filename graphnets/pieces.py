"""Weight-space features cut into pieces whose every axis is one set of neurons, for the maps that work on these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch, WeightSpaceFeatures
from graphnets.cutting import Cut, Unit, combinations, cut, join, members_of, permutable_groups, split

__all__ = ["SYMMETRIES", "Piece", "PieceLayer", "Pieces", "Unit"]

F = TypeVar("F", bound=Callable[..., object])
_eager: Callable[[F], F] = torch.compiler.disable  # which has no annotations

SYMMETRIES = ("np", "hnp")
"""Which neurons count as permutable: all (with inputs and outputs), or hidden ones alone."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a parameter that is a full product of units and fixed places.

    Args:
        parameter: its name.
        units: what its axes are, in order.
        parents: per axis, the axes that it is nested in (a dimension of a head lies in the head).
        fixed: number of fixed places F (kernel positions, pixels behind a flatten, frozen axes), which act as channels.
    """

    parameter: str
    units: tuple[Unit, ...]
    parents: tuple[tuple[int, ...], ...]
    fixed: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        return tuple(unit.size for unit in self.units)


class Pieces:
    """The pieces of a structure's parameters under a symmetry.

    A permutation of neurons acts on a piece by reordering its axes. Axes that are several groups in a row (a fused
    query-key-value matrix, a concatenation) are cut; axes that are pairs of heads and dimensions become two; the rows
    and columns of a grouped convolution share their cell; a flattened convolution's pixels become channels.

    Args:
        structure: of the networks.
        symmetry: ``"hnp"``: the symmetries of the traced network; ``"np"``: input and output groups are permutable too
            (only where every axis that meets them holds all of their members, and no grouped convolution tells them
            apart).
        buffers: whether running statistics belong to the features.

    Raises:
        StructureMismatch: an axis is no product of sets.
        ValueError: the symmetry is unknown.

    >>> from converters import trace
    >>> from torch import nn
    >>> structure = trace(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)))
    >>> [(piece.parameter, piece.sizes, piece.fixed) for piece in Pieces.of(structure, "hnp")]
    [('0.weight', (4,), 2), ('0.bias', (4,), 1), ('2.weight', (4,), 3), ('2.bias', (), 3)]
    """

    def __init__(self, structure: Structure, symmetry: str, buffers: bool = False) -> None:
        if symmetry not in SYMMETRIES:
            raise ValueError(f"symmetry={symmetry!r} is unknown; choose one of {', '.join(SYMMETRIES)}")
        self.structure, self.symmetry = structure, symmetry
        roles = permutable_groups(structure, symmetry)
        members = [members_of(structure, g, roles) for g in range(len(structure.groups))]
        self.names = [
            p.name
            for p in structure.parameters
            if p.alias_of is None and (buffers or not p.buffer) and getattr(torch, p.dtype).is_floating_point
        ]
        self._cuts = {name: cut(structure, structure.parameter[name], members) for name in self.names}
        self.pieces = [piece for name in self.names for piece in _products(name, self._cuts[name])]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(structure: Structure, symmetry: str, buffers: bool = False) -> Pieces:
        """The pieces of a structure, remembered."""
        return Pieces(structure, symmetry, buffers)

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def __getitem__(self, index: int) -> Piece:
        return self.pieces[index]

    def split(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """From ``{name: [B, *shape, C]}`` to one ``[B, *unit sizes, F * C]`` per piece; views where that is possible.

        Raises:
            StructureMismatch: the features are not those of this structure's parameters.
        """
        if list(features) != self.names and set(features) != set(self.names):
            raise StructureMismatch(
                f"features and {self.structure!r} differ in: {sorted(set(features) ^ set(self.names))}. "
                "Take them from weight_space(...) with this structure (and the same `buffers`)"
            )
        return [part for name in self.names for part in split(features[name], self._cuts[name])]

    def join(self, parts: Sequence[Tensor]) -> WeightSpaceFeatures:
        """The inverse of `split`, for any number of channels."""
        out, position = {}, 0
        for name in self.names:
            cuts = self._cuts[name]
            stop = position + len(combinations(cuts))
            out[name] = join(parts[position:stop], cuts, self.structure.parameter[name].shape)
            position = stop
        return WeightSpaceFeatures(out)


class PieceLayer(nn.Module, ABC):
    """A layer on weight-space features that works piece by piece.

    Attributes:
        pieces: what it works on.
        in_channels, out_channels: feature channels per weight.
    """

    pieces: Pieces
    in_channels: int
    out_channels: int

    @abstractmethod
    def on_pieces(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """From ``[B, *unit sizes, F * in_channels]`` per piece to the same with ``out_channels``."""

    # torch.compile leaves layers as they are: it has nothing to gain from cutting and joining.
    @_eager
    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """From ``{name: [B, *parameter axes, in_channels]}`` to the same with ``out_channels``."""
        return self.pieces.join(self.on_pieces(self.pieces.split(features)))


def _products(name: str, cuts: Sequence[Cut]) -> list[Piece]:
    pieces = []
    for parts in combinations(cuts):
        units: list[Unit] = []
        parents: list[tuple[int, ...]] = []
        for part in parts:
            start = len(units)
            units += [unit for unit, _ in part.dims]
            parents += [tuple(start + p for p in above) for _, above in part.dims]
        fixed = int(np.prod([part.fixed for part in parts], dtype=np.int64))
        pieces.append(Piece(name, tuple(units), tuple(parents), fixed))
    return pieces
