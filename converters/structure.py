"""The weight-free description of an architecture, from which every view of its weights is derived."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.program import Program

__all__ = ["Axis", "Block", "Group", "IndexArray", "Layer", "Parameter", "Structure"]

SCHEMA = 2
UNUSED = "never used in the forward pass"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class IndexArray:
    """Integers as arithmetic runs ``(start, step, count)``: hashable, and short where the numbers are regular.

    >>> IndexArray.of(np.array([0, 0, 0, 1, 1, 1])).runs
    ((0, 0, 3), (1, 0, 3))
    """

    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, values: Ints) -> IndexArray:
        """Compress an array."""
        runs: list[tuple[int, int, int]] = []
        values = np.asarray(values, dtype=np.int64)
        steps = values[1:] - values[:-1]
        if len(steps) and (steps == steps[0]).all():
            return cls(((int(values[0]), int(steps[0]), len(values)),))
        turns = np.append(np.flatnonzero(np.diff(steps)) + 1, len(steps))
        start = 0
        while start < len(values):
            last = start >= len(steps)
            stop = start + 1 if last else int(turns[np.searchsorted(turns, start, side="right")]) + 1
            runs.append((int(values[start]), int(steps[start]) if stop - start > 1 else 0, stop - start))
            start = stop
        return cls(tuple(runs))

    @cached_property
    def values(self) -> Ints:
        """The integers, read-only."""
        parts = [start + step * np.arange(count, dtype=np.int64) for start, step, count in self.runs]
        values: Ints = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        values.flags.writeable = False
        return values


@dataclass(frozen=True)
class Group:
    """Neurons that are permuted together wherever they occur.

    Args:
        name: the first place it was met.
        size: number of members.
        role: ``hidden`` groups are permutable; ``input``, ``output`` and ``fixed`` ones are not.
        parent: the group whose members are the cells of this one, or None for a root.
        cells: number of cells; member ``m`` lies in cell ``m // (size // cells)`` and moves only within it,
            and with the whole cell when the parent's member moves.
        reason: why it is fixed.
        factors: groups whose members this one's are made of: member ``m`` is the tuple of ``table[i][m]`` of
            ``factors[i]`` and moves with these alone (a query head that shares a key, and a dimension of this key).
    """

    name: str
    size: int
    role: str
    parent: int | None = None
    cells: int = 1
    reason: str = ""
    factors: tuple[int, ...] = ()
    table: tuple[IndexArray, ...] = ()

    @property
    def permutable(self) -> bool:
        """Whether some permutation other than the identity is a true symmetry."""
        return self.role == "hidden" and self.size > 1


@dataclass(frozen=True)
class Axis:
    """How the positions of one axis meet the groups.

    Position ``i`` holds copy ``slot[i]`` of member ``member[i]`` of group ``group[i]`` (-1: a plain fixed position).
    A permutation of the members moves all copies along: a flattened convolution's axis has one slot per pixel.
    """

    group: IndexArray
    member: IndexArray
    slot: IndexArray

    @classmethod
    def of(cls, group: Ints, member: Ints, slot: Ints) -> Axis:
        """Compress three arrays."""
        return cls(IndexArray.of(group), IndexArray.of(member), IndexArray.of(slot))

    @classmethod
    def fixed(cls, length: int) -> Axis:
        """An axis that belongs to no group: kernel positions, axes frozen for want of a rule."""
        ids = np.arange(length, dtype=np.int64)
        return cls.of(np.full(length, -1, np.int64), ids, np.zeros(length, np.int64))

    def __len__(self) -> int:
        return len(self.group.values)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The groups it meets."""
        return tuple(int(g) for g in np.unique(self.group.values) if g >= 0)

    @cached_property
    def sole_group(self) -> int | None:
        """The group it is, exactly and in order, or None."""
        if len(self.groups) != 1 or (self.group.values < 0).any() or self.slot.values.any():
            return None
        return self.groups[0] if np.array_equal(self.member.values, np.arange(len(self))) else None

    @cached_property
    def _lookup(self) -> tuple[Ints, Ints, int, int]:
        members = int(self.member.values.max(initial=0)) + 1
        slots = int(self.slot.values.max(initial=0)) + 1
        keys = ((self.group.values + 1) * members + self.member.values) * slots + self.slot.values
        order = np.argsort(keys, kind="stable")
        return keys[order], order, members, slots

    def source_index(self, permutation: Mapping[int, Tensor]) -> Tensor | None:
        """The positions to read from, ``new[i] = old[index[i]]``, or None where nothing moves.

        Args:
            permutation: per group index a LongTensor ``[size]``; groups left out stay.
        """
        if not any(g in permutation for g in self.groups):
            return None
        member = self.member.values.copy()
        for g in self.groups:
            if g in permutation:
                here = self.group.values == g
                member[here] = permutation[g].cpu().numpy()[member[here]]
        keys, order, members, slots = self._lookup
        wanted = ((self.group.values + 1) * members + member) * slots + self.slot.values
        return torch.from_numpy(order[np.searchsorted(keys, wanted)])


@dataclass(frozen=True)
class Parameter:
    """One entry of the state_dict: name, shape, dtype, and how each of its axes meets the groups.

    ``grouped`` (grouped convolutions): axis 1 lists, for the rows of cell ``c``, the positions ``c * a`` to
    ``c * a + a`` of this axis, ``a`` being the length of axis 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[Axis, ...]
    buffer: bool = False
    alias_of: str | None = None
    grouped: Axis | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Layer:
    """A set of nodes. ``axis`` says which neuron each node is; ``slots`` which parameters its nodes own."""

    name: str
    kind: str
    axis: Axis
    activation: str = "identity"
    attributes: tuple[tuple[str, float], ...] = ()
    slots: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.axis)


@dataclass(frozen=True)
class Block:
    """The edges between two layers that come from one weight tensor, or parameter-free ones (``parameter=None``).

    Args:
        pattern: ``dense`` (every source to every target, row-major ``[rows, cols]``), ``diagonal`` (``rows`` edges),
            ``block_diagonal`` (``groups`` dense blocks of ``[rows // groups, cols // groups]``).
        axes: the parameter's axes in the order (target, source, kernel...); ``index`` fixes the remaining outer ones,
            ``span`` (axis, start, stop) takes a part of one.
        sources, targets: node positions of each edge's ends (diagonal only; None: in order).
    """

    name: str
    source: int
    target: int
    pattern: str
    edge_type: str
    rows: int
    cols: int
    groups: int = 1
    parameter: str | None = None
    axes: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    index: tuple[tuple[int, int], ...] = ()
    span: tuple[tuple[int, int, int], ...] = ()
    sources: IndexArray | None = None
    targets: IndexArray | None = None

    @property
    def num_edges(self) -> int:
        """Number of edges, zero weights included."""
        return self.rows if self.pattern == "diagonal" else self.rows * self.cols // self.groups

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the block without its kernel axis."""
        if self.pattern == "diagonal":
            return (self.rows,)
        if self.pattern == "dense":
            return (self.rows, self.cols)
        return (self.groups, self.rows // self.groups, self.cols // self.groups)


@dataclass(frozen=True, eq=False)
class Structure:
    """Everything about a network but its weights: groups, parameters, layers, blocks and program.

    Two structures are equal if their fingerprints are, wherever they were traced. ``certified`` is False where the
    structure was guessed from names and shapes alone.

    >>> import torch.nn as nn
    >>> from converters import trace
    >>> structure = trace(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> Structure.from_json(structure.to_json()) == structure
    True
    """

    name: str
    groups: tuple[Group, ...]
    parameters: tuple[Parameter, ...]
    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    program: Program | None
    dtype: str = "float32"
    frozen_reasons: tuple[tuple[str, str], ...] = ()
    certified: bool = True
    extras: tuple[str, ...] = field(default=())

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.fingerprint == other.fingerprint

    def __repr__(self) -> str:
        hidden = sum(group.permutable for group in self.groups)
        return (
            f"Structure({self.name}: {len(self.layers)} layers, {self.num_nodes} nodes, {self.num_edges} edges, "
            f"{self.num_parameters} parameters, {hidden} permutable groups, {self.fingerprint[:8]})"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content; the class name does not count."""
        content = {key: value for key, value in self._content().items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "groups": [asdict(group) for group in self.groups],
            "parameters": [asdict(parameter) for parameter in self.parameters],
            "layers": [asdict(layer) for layer in self.layers],
            "blocks": [asdict(block) for block in self.blocks],
            "program": None if self.program is None else self.program.to_json(),
            "dtype": self.dtype,
            "frozen_reasons": [list(pair) for pair in self.frozen_reasons],
            "certified": self.certified,
            "extras": list(self.extras),
        }

    def to_json(self) -> str:
        """The whole structure as a JSON document."""
        return json.dumps(self._content())

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: the document was written by another version of the schema.
        """
        data = json.loads(text)
        if data.get("schema") not in (1, SCHEMA):  # 1 had no pairs and no spans
            raise ValueError(
                f"this structure has schema {data.get('schema')!r}, this version reads {SCHEMA}; trace again"
            )
        return cls(
            name=data["name"],
            groups=tuple(_group(item) for item in data["groups"]),
            parameters=tuple(_parameter(item) for item in data["parameters"]),
            layers=tuple(_layer(item) for item in data["layers"]),
            blocks=tuple(_block(item) for item in data["blocks"]),
            program=None if data["program"] is None else Program.from_json(data["program"]),
            dtype=data["dtype"],
            frozen_reasons=tuple((where, why) for where, why in data["frozen_reasons"]),
            certified=data["certified"],
            extras=tuple(data["extras"]),
        )

    @cached_property
    def node_offsets(self) -> tuple[int, ...]:
        """Layer ``l`` owns nodes ``node_offsets[l]:node_offsets[l + 1]``."""
        return tuple(int(n) for n in np.cumsum([0] + [layer.size for layer in self.layers]))

    @cached_property
    def edge_offsets(self) -> tuple[int, ...]:
        """Block ``b`` owns edges ``edge_offsets[b]:edge_offsets[b + 1]``."""
        return tuple(int(n) for n in np.cumsum([0] + [block.num_edges for block in self.blocks]))

    @property
    def num_nodes(self) -> int:
        """Nodes of one network."""
        return self.node_offsets[-1]

    @property
    def num_edges(self) -> int:
        """Edges of one network."""
        return self.edge_offsets[-1]

    @cached_property
    def num_parameters(self) -> int:
        """Trainable elements, tied tensors once, buffers not counted."""
        return sum(p.numel for p in self.parameters if not p.buffer and p.alias_of is None)

    @cached_property
    def kernel_size(self) -> tuple[int, ...]:
        """The largest kernel, per spatial axis; ``()`` where no block has one."""
        rank = max((len(block.kernel) for block in self.blocks), default=0)
        padded = [(1,) * (rank - len(block.kernel)) + block.kernel for block in self.blocks]
        return tuple(max(sizes) for sizes in zip(*padded, strict=True)) if rank else ()

    @cached_property
    def parameter(self) -> dict[str, Parameter]:
        """Parameters and buffers by name."""
        return {parameter.name: parameter for parameter in self.parameters}


def _index(data: dict[str, Any] | None) -> IndexArray | None:
    return None if data is None else IndexArray(tuple((a, b, c) for a, b, c in data["runs"]))


def _group(data: dict[str, Any]) -> Group:
    table = tuple(IndexArray(tuple((a, b, c) for a, b, c in column["runs"])) for column in data.get("table", ()))
    return Group(**{**data, "factors": tuple(data.get("factors", ())), "table": table})


def _axis(data: dict[str, Any]) -> Axis:
    group, member, slot = _index(data["group"]), _index(data["member"]), _index(data["slot"])
    if group is None or member is None or slot is None:
        raise ValueError("an axis of the structure has no index arrays; the file is damaged, trace the network again")
    return Axis(group, member, slot)


def _parameter(data: dict[str, Any]) -> Parameter:
    axes = tuple(_axis(axis) for axis in data["axes"])
    grouped = None if data["grouped"] is None else _axis(data["grouped"])
    return Parameter(**{**data, "shape": tuple(data["shape"]), "axes": axes, "grouped": grouped})


def _layer(data: dict[str, Any]) -> Layer:
    pairs = {key: tuple((a, b) for a, b in data[key]) for key in ("attributes", "slots")}
    return Layer(**{**data, **pairs, "axis": _axis(data["axis"])})


def _block(data: dict[str, Any]) -> Block:
    fixed = {
        "axes": tuple(data["axes"]),
        "kernel": tuple(data["kernel"]),
        "index": tuple((a, i) for a, i in data["index"]),
        "span": tuple((a, start, stop) for a, start, stop in data.get("span", ())),
    }
    ends = {key: _index(data[key]) for key in ("sources", "targets")}
    return Block(**{**data, **fixed, **ends})
