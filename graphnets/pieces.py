"""Weight-space features cut into pieces whose every axis is one set of neurons, for the maps that work on these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from converters import Axis, Group, Parameter, Structure, StructureMismatch, WeightSpaceFeatures
from converters.structure import Ints

__all__ = ["SYMMETRIES", "Piece", "PieceLayer", "Pieces", "Unit"]

SYMMETRIES = ("np", "hnp")
"""Which neurons count as permutable: all (with inputs and outputs), or hidden ones alone."""

Dims = tuple[tuple["Unit", tuple[int, ...]], ...]
"""Units that an element is counted by, each with the places of those that must agree before it can be compared."""


@dataclass(frozen=True, order=True)
class Unit:
    """A set of neurons that may be exchanged freely: a group, or the inside of a nested group's cells.

    Args:
        depth: how many units it lies in.
        group: of the structure.
        cell: tells the insides of cells apart that are themselves fixed.
        size: number of members.
        open: whether it is an input or output group, permutable under ``"np"`` only.
    """

    depth: int
    group: int
    cell: int
    size: int
    open: bool = False


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


@dataclass(frozen=True, eq=False)
class _Segment:
    """Positions along one axis of a parameter that share their units: ``[*unit sizes, fixed]``, flattened."""

    dims: Dims
    fixed: int
    positions: Ints

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(unit.size for unit, _ in self.dims)


@dataclass(frozen=True, eq=False)
class _Members:
    """What the members of a group, or the positions of an axis, are made of.

    ``kinds[kind[m]]`` are the units that member ``m`` is counted by, ``values[m]`` its place in each of them and
    ``label[m]`` what is fixed about it.
    """

    kinds: tuple[Dims, ...]
    kind: Ints
    values: Ints
    label: Ints


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
        roles = _permutable(structure, symmetry)
        members = [_members(structure, g, roles) for g in range(len(structure.groups))]
        self.names = [
            p.name
            for p in structure.parameters
            if p.alias_of is None and (buffers or not p.buffer) and getattr(torch, p.dtype).is_floating_point
        ]
        self._cuts = {name: _cut(structure, structure.parameter[name], members) for name in self.names}
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
        return [part for name in self.names for part in _split(features[name], self._cuts[name])]

    def join(self, parts: Sequence[Tensor]) -> WeightSpaceFeatures:
        """The inverse of `split`, for any number of channels."""
        out, position = {}, 0
        for name in self.names:
            cuts = self._cuts[name]
            count = int(np.prod([len(cut) for cut in cuts], dtype=np.int64))
            shape = self.structure.parameter[name].shape
            out[name] = _join(list(parts[position : position + count]), cuts, shape)
            position += count
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

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """From ``{name: [B, *parameter axes, in_channels]}`` to the same with ``out_channels``."""
        return self.pieces.join(self.on_pieces(self.pieces.split(features)))


def _permutable(structure: Structure, symmetry: str) -> list[bool]:
    """Whether the members of each group are exchanged."""
    groups = structure.groups
    out = [group.role == "hidden" for group in groups]
    if symmetry == "hnp":
        return out
    axes = [axis for p in structure.parameters for axis in p.axes]
    cells = {g for p in structure.parameters if p.grouped is not None for g in p.grouped.groups}
    for g, group in enumerate(groups):
        if group.role in ("input", "output") and (g not in cells or group.parent is not None):
            out[g] = all(_complete(axis, g, group) for axis in axes if g in axis.groups)
    return out


def _complete(axis: Axis, g: int, group: Group) -> bool:
    here = axis.group.values == g
    member, slot = axis.member.values[here], np.unique(axis.slot.values[here], return_inverse=True)[1]
    counts = np.zeros((int(slot.max()) + 1, group.size), np.int64)
    np.add.at(counts, (slot, member), 1)
    return bool((counts == 1).all())


def _members(structure: Structure, g: int, permutable: Sequence[bool]) -> _Members:
    group = structure.groups[g]
    if group.factors:
        parts = [_members(structure, f, permutable) for f in group.factors]
        rows = [_take(part, column.values) for part, column in zip(parts, group.table, strict=True)]
        return _paired(rows)
    size = np.arange(group.size)
    nothing = np.zeros((group.size, 0), np.int64)
    zeros = np.zeros(group.size, np.int64)
    width = group.size // group.cells
    if group.parent is None:
        above = _Members(((),), zeros, nothing, zeros)
    else:
        above = _take(_members(structure, group.parent, permutable), size // width)
    if width == 1:
        return above
    if not permutable[g]:
        return _Members(above.kinds, above.kind, above.values, above.label * width + size % width)
    # One unit for every fixed label and kind of what it lies in: the insides of fixed cells move on their own.
    keys, cell = np.unique(np.stack([above.kind, above.label]), axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    kinds = []
    for number, kind in enumerate(keys[0]):
        dims = above.kinds[kind]
        unit = Unit(len(dims), g, number, width, group.role != "hidden")
        kinds.append((*dims, (unit, tuple(range(len(dims))))))
    longest = max(len(kind) for kind in kinds)
    values = np.zeros((group.size, longest), np.int64)
    values[:, : above.values.shape[1]] = above.values
    for number, dims in enumerate(kinds):
        values[cell == number, len(dims) - 1] = (size % width)[cell == number]
    return _Members(tuple(kinds), cell, values, zeros)


def _take(members: _Members, index: Ints) -> _Members:
    return _Members(members.kinds, members.kind[index], members.values[index], members.label[index])


def _paired(rows: Sequence[_Members]) -> _Members:
    """Elements described by several things at once; what agrees everywhere is counted once."""
    first = rows[0]
    for second in rows[1:]:
        pairs, kind = np.unique(np.stack([first.kind, second.kind]), axis=1, return_inverse=True)
        kind = kind.reshape(-1)
        kinds: list[Dims] = []
        columns = np.zeros((len(kind), first.values.shape[1] + second.values.shape[1]), np.int64)
        for number, (a, b) in enumerate(pairs.T):
            here = kind == number
            dims = list(first.kinds[a])
            columns[here, : len(dims)] = first.values[here, : len(dims)]
            place: list[int] = []
            for column, (unit, parents) in enumerate(second.kinds[b]):
                values, above = second.values[here, column], tuple(place[p] for p in parents)
                same = [
                    i for i, dim in enumerate(dims) if dim == (unit, above) and np.array_equal(columns[here, i], values)
                ]
                if same:
                    place.append(same[0])
                    continue
                place.append(len(dims))
                columns[here, len(dims)] = values
                dims.append((unit, above))
            kinds.append(tuple(dims))
        label = first.label * (int(second.label.max(initial=0)) + 1) + second.label
        first = _Members(tuple(kinds), kind, columns, label)
    return first


def _along(axis: Axis, members: Sequence[_Members]) -> _Members:
    """What the positions of an axis are."""
    group, member, slot = axis.group.values, axis.member.values, axis.slot.values
    kinds: list[Dims] = [()]
    kind, label = np.zeros(len(axis), np.int64), np.arange(len(axis))
    widest = max((members[g].values.shape[1] for g in axis.groups), default=0)
    values = np.zeros((len(axis), widest), np.int64)
    for g in axis.groups:
        here, own = group == g, members[g]
        values[here, : own.values.shape[1]] = own.values[member[here]]
        for number, dims in enumerate(own.kinds):
            if not dims:
                continue  # fixed places all belong to one kind and keep their position as their label
            mine = here & (own.kind[np.where(here, member, 0)] == number)
            kind[mine], label[mine] = len(kinds), slot[mine] * len(own.label) + own.label[member[mine]]
            kinds.append(dims)
    return _Members(tuple(kinds), kind, values, label)


def _cut(structure: Structure, parameter: Parameter, members: Sequence[_Members]) -> list[list[_Segment]]:
    axes = [_along(axis, members) for axis in parameter.axes]
    if parameter.grouped is not None:  # rows and columns as one axis: the columns depend on the row's cell
        rows, width = parameter.shape[:2]
        row, column = np.divmod(np.arange(rows * width), width)
        height = rows // (len(parameter.grouped) // width)
        columns = _take(_along(parameter.grouped, members), row // height * width + column)
        fixed = not any(columns.kinds[kind] for kind in np.unique(columns.kind))
        if fixed:
            columns = _Members(columns.kinds, columns.kind, columns.values, column)
        axes = [_paired([_take(axes[0], row), columns]), *axes[2:]]
    return [_segments(structure, parameter.name, axis) for axis in axes]


def _segments(structure: Structure, name: str, axis: _Members) -> list[_Segment]:
    out = []
    for number in np.unique(axis.kind):
        dims = axis.kinds[number]
        positions = np.flatnonzero(axis.kind == number)
        values = axis.values[positions, : len(dims)]
        labels, label = np.unique(axis.label[positions], return_inverse=True)
        key = np.zeros(len(positions), np.int64)
        for column, (unit, _) in enumerate(dims):
            key = key * unit.size + values[:, column]
        key = key * len(labels) + label
        full = int(np.prod([unit.size for unit, _ in dims], dtype=np.int64)) * len(labels)
        if len(positions) != full or len(np.unique(key)) != full:
            groups = sorted({structure.groups[unit.group].name for unit, _ in dims})
            raise StructureMismatch(
                f"{structure!r}: an axis of {name} holds {len(positions)} of {full} combinations of "
                f"{', '.join(groups)}, so it is no product of sets. Use a model of neuron graphs (NeuronGNN)"
            )
        out.append(_Segment(dims, len(labels), positions[np.argsort(key)]))
    return out


def _products(name: str, cuts: Sequence[Sequence[_Segment]]) -> list[Piece]:
    chosen: list[tuple[_Segment, ...]] = [()]
    for segments in cuts:
        chosen = [(*before, segment) for before in chosen for segment in segments]
    pieces = []
    for parts in chosen:
        units: list[Unit] = []
        parents: list[tuple[int, ...]] = []
        for part in parts:
            start = len(units)
            units += [unit for unit, _ in part.dims]
            parents += [tuple(start + p for p in above) for _, above in part.dims]
        fixed = int(np.prod([part.fixed for part in parts], dtype=np.int64))
        pieces.append(Piece(name, tuple(units), tuple(parents), fixed))
    return pieces


def _pick(tensor: Tensor, axis: int, positions: Ints) -> Tensor:
    """Positions along an axis; a view where they are a range."""
    if np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions))):
        return tensor.narrow(axis, int(positions[0]), len(positions))
    return tensor.index_select(axis, torch.from_numpy(positions).to(tensor.device))


def _split(tensor: Tensor, cuts: Sequence[Sequence[_Segment]]) -> list[Tensor]:
    lengths = [sum(len(segment.positions) for segment in segments) for segments in cuts]
    tensor = tensor.reshape(tensor.shape[0], *lengths, tensor.shape[-1])
    parts: list[tuple[Tensor, tuple[_Segment, ...]]] = [(tensor, ())]
    for number, segments in enumerate(cuts):
        parts = [(_pick(t, number + 1, s.positions), (*before, s)) for t, before in parts for s in segments]
    out = []
    for part, segments in parts:
        shape = [n for segment in segments for n in (*segment.sizes, segment.fixed)]
        part = part.reshape(part.shape[0], *shape, part.shape[-1])
        neurons, places = _places(segments)
        order = [0, *neurons, *places, part.dim() - 1]
        sizes = [n for segment in segments for n in segment.sizes]
        out.append(part.permute(order).reshape(part.shape[0], *sizes, -1))
    return out


def _places(segments: Sequence[_Segment]) -> tuple[list[int], list[int]]:
    """Which axes of a cut tensor are neurons and which are fixed places; the network axis is 0."""
    neurons: list[int] = []
    places: list[int] = []
    number = 1
    for segment in segments:
        neurons += range(number, number + len(segment.dims))
        number += len(segment.dims)
        places.append(number)
        number += 1
    return neurons, places


def _join(parts: list[Tensor], cuts: Sequence[Sequence[_Segment]], shape: Sequence[int]) -> Tensor:
    chosen: list[tuple[_Segment, ...]] = [()]
    for segments in cuts:
        chosen = [(*before, segment) for before in chosen for segment in segments]
    whole = []
    for part, each in zip(parts, chosen, strict=True):
        neurons, places = _places(each)
        sizes = [n for segment in each for n in segment.sizes]
        spread = part.reshape(part.shape[0], *sizes, *[segment.fixed for segment in each], -1)
        back = np.argsort([0, *neurons, *places, spread.dim() - 1])
        lengths = [len(segment.positions) for segment in each]
        whole.append(spread.permute(*back.tolist()).reshape(part.shape[0], *lengths, spread.shape[-1]))
    for number in range(len(cuts) - 1, -1, -1):
        segments = cuts[number]
        count = len(segments)
        whole = [_glued(whole[i : i + count], number + 1, segments) for i in range(0, len(whole), count)]
    return whole[0].reshape(whole[0].shape[0], *shape, whole[0].shape[-1])


def _glued(parts: Sequence[Tensor], axis: int, segments: Sequence[_Segment]) -> Tensor:
    positions = np.concatenate([segment.positions for segment in segments])
    tensor = parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
    if np.array_equal(positions, np.arange(len(positions))):
        return tensor
    return tensor.index_select(axis, torch.from_numpy(np.argsort(positions)).to(tensor.device))
