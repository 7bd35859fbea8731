"""How axes of parameters are cut into products of sets of neurons, and tensors with them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from converters import Axis, Group, Parameter, Structure, StructureMismatch
from converters.structure import Ints

__all__ = [
    "Cut",
    "Dims",
    "Members",
    "Segment",
    "Unit",
    "combinations",
    "cut",
    "join",
    "members_of",
    "permutable_groups",
    "split",
]

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
class Segment:
    """Positions along an axis that share their units.

    Args:
        dims: the units; fixed: number of fixed places.
        positions: along the axis, ``[*unit sizes, fixed]`` flattened.
    """

    dims: Dims
    fixed: int
    positions: Ints

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Of the units."""
        return tuple(unit.size for unit, _ in self.dims)

    @cached_property
    def length(self) -> int:
        """Number of positions."""
        return len(self.positions)

    @cached_property
    def start(self) -> int | None:
        """The first position, if the others follow it one by one."""
        first = int(self.positions[0])
        return first if np.array_equal(self.positions, first + np.arange(self.length)) else None

    @cached_property
    def index(self) -> Tensor:
        """The positions as a tensor."""
        return torch.from_numpy(self.positions)


@dataclass(frozen=True, eq=False)
class Cut:
    """An axis of a parameter (or two, of a grouped convolution, as one) in segments."""

    segments: tuple[Segment, ...]

    @cached_property
    def length(self) -> int:
        """Number of positions."""
        return sum(segment.length for segment in self.segments)

    @cached_property
    def inverse(self) -> Tensor | None:
        """Where in the segments, one after the other, each position is; None if they are in order."""
        positions = np.concatenate([segment.positions for segment in self.segments])
        return None if np.array_equal(positions, np.arange(self.length)) else torch.from_numpy(np.argsort(positions))


@dataclass(frozen=True, eq=False)
class Members:
    """What the members of a group, or the positions of an axis, are made of.

    ``kinds[kind[m]]`` are the units that member ``m`` is counted by, ``values[m]`` its place in each of them and
    ``label[m]`` what is fixed about it.
    """

    kinds: tuple[Dims, ...]
    kind: Ints
    values: Ints
    label: Ints


def permutable_groups(structure: Structure, symmetry: str) -> list[bool]:
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


def members_of(structure: Structure, g: int, permutable: Sequence[bool]) -> Members:
    """What the members of a group are made of."""
    group = structure.groups[g]
    if group.factors:
        parts = [members_of(structure, f, permutable) for f in group.factors]
        rows = [_take(part, column.values) for part, column in zip(parts, group.table, strict=True)]
        return _paired(rows)
    size = np.arange(group.size)
    nothing = np.zeros((group.size, 0), np.int64)
    zeros = np.zeros(group.size, np.int64)
    width = group.size // group.cells
    if group.parent is None:
        above = Members(((),), zeros, nothing, zeros)
    else:
        above = _take(members_of(structure, group.parent, permutable), size // width)
    if width == 1:
        return above
    if not permutable[g]:
        return Members(above.kinds, above.kind, above.values, above.label * width + size % width)
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
    return Members(tuple(kinds), cell, values, zeros)


def _take(members: Members, index: Ints) -> Members:
    return Members(members.kinds, members.kind[index], members.values[index], members.label[index])


def _paired(rows: Sequence[Members]) -> Members:
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
        first = Members(tuple(kinds), kind, columns, label)
    return first


def _along(axis: Axis, members: Sequence[Members]) -> Members:
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
    return Members(tuple(kinds), kind, values, label)


def cut(structure: Structure, parameter: Parameter, members: Sequence[Members]) -> list[Cut]:
    """The axes of a parameter, given what the members of every group are made of.

    Raises:
        StructureMismatch: an axis is no product of sets.
    """
    axes = [_along(axis, members) for axis in parameter.axes]
    if parameter.grouped is not None:  # rows and columns as one axis: the columns depend on the row's cell
        rows, width = parameter.shape[:2]
        row, column = np.divmod(np.arange(rows * width), width)
        height = rows // (len(parameter.grouped) // width)
        columns = _take(_along(parameter.grouped, members), row // height * width + column)
        fixed = not any(columns.kinds[kind] for kind in np.unique(columns.kind))
        if fixed:
            columns = Members(columns.kinds, columns.kind, columns.values, column)
        axes = [_paired([_take(axes[0], row), columns]), *axes[2:]]
    return [Cut(tuple(_segments(structure, parameter.name, axis))) for axis in axes]


def _segments(structure: Structure, name: str, axis: Members) -> list[Segment]:
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
        out.append(Segment(dims, len(labels), positions[np.argsort(key)]))
    return out


def split(tensor: Tensor, cuts: Sequence[Cut]) -> list[Tensor]:
    """From ``[B, *shape, C]`` to ``[B, *unit sizes, F * C]`` per combination of segments."""
    tensor = tensor.reshape(tensor.shape[0], *[cut.length for cut in cuts], tensor.shape[-1])
    parts: list[tuple[Tensor, tuple[Segment, ...]]] = [(tensor, ())]
    for number, cut in enumerate(cuts):
        parts = [(_pick(part, number + 1, s), (*before, s)) for part, before in parts for s in cut.segments]
    out = []
    for part, segments in parts:
        shape = [n for segment in segments for n in (*segment.sizes, segment.fixed)]
        part = part.reshape(part.shape[0], *shape, part.shape[-1])
        neurons, places = _places(segments)
        sizes = [n for segment in segments for n in segment.sizes]
        out.append(part.permute(0, *neurons, *places, part.dim() - 1).reshape(part.shape[0], *sizes, -1))
    return out


def _pick(tensor: Tensor, axis: int, segment: Segment) -> Tensor:
    """A segment of an axis; a view where it is a range."""
    if segment.start is not None:
        return tensor.narrow(axis, segment.start, segment.length)
    return tensor.index_select(axis, segment.index.to(tensor.device))


def _places(segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
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


def join(parts: Sequence[Tensor], cuts: Sequence[Cut], shape: Sequence[int]) -> Tensor:
    """The inverse of `split`."""
    chosen = combinations(cuts)
    whole = []
    for part, segments in zip(parts, chosen, strict=True):
        neurons, places = _places(segments)
        sizes = [n for segment in segments for n in segment.sizes]
        spread = part.reshape(part.shape[0], *sizes, *[segment.fixed for segment in segments], -1)
        order = [0, *neurons, *places, spread.dim() - 1]
        back = [order.index(axis) for axis in range(len(order))]
        whole.append(spread.permute(back).reshape(part.shape[0], *[s.length for s in segments], spread.shape[-1]))
    for number in range(len(cuts) - 1, -1, -1):
        count = len(cuts[number].segments)
        whole = [_glued(whole[i : i + count], number + 1, cuts[number]) for i in range(0, len(whole), count)]
    return whole[0].reshape(whole[0].shape[0], *shape, whole[0].shape[-1])


def combinations(cuts: Sequence[Cut]) -> list[tuple[Segment, ...]]:
    """One segment of every axis, in the order in which `split` lists them."""
    return list(itertools.product(*[cut.segments for cut in cuts]))


def _glued(parts: Sequence[Tensor], axis: int, cut: Cut) -> Tensor:
    tensor = parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
    return tensor if cut.inverse is None else tensor.index_select(axis, cut.inverse.to(tensor.device))
