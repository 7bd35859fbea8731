"""Puts groups, parameters, layers and blocks together into a Structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from converters.program import Program
from converters.structure import Axis, Block, Group, IndexArray, Layer, Parameter, Structure
from converters.trace.activations import finish_activation
from converters.trace.context import Context
from converters.trace.labels import Ids
from converters.trace.layers import LayerBuilder
from converters.trace.solver import Solution
from converters.trace.tables import as_met

__all__ = ["assemble"]


class _Groups:
    """Numbers the groups in the order they are met."""

    def __init__(self, context: Context, solution: Solution) -> None:
        self.context, self.solution = context, solution
        self.groups: list[Group] = []
        self._of_unit: dict[int, int] = {}
        self._of_family: dict[int, int] = {}
        self._members: dict[int, tuple[Ids, Ids]] = {}
        self._axes: dict[tuple[bytes, bytes], Axis] = {}
        self._count: dict[str, int] = {}
        self._taken: set[str] = set()
        kinds = np.array([family.kind for family in context.solver.families] + ["none"])
        self._unfixed, self._kernel = np.isin(kinds, ["none", "mark"]), kinds == "kernel"
        self._copied = bool(solution.raw.any())

    def axis(self, ids: Ids, name: str, role: str = "hidden") -> Axis:
        """The axis whose positions are these elements (-1: none); ``role`` of a single neuron met first here."""
        s = self.solution
        occurrences = s.raw[ids].tobytes() if self._copied else b""
        key = np.where(ids < 0, -1, s.root[ids]).tobytes(), occurrences
        if key not in self._axes:
            self._axes[key] = self._axis(ids, name, role)
        return self._axes[key]

    def _axis(self, ids: Ids, name: str, role: str) -> Axis:
        n = len(ids)
        group, member, slot = np.full(n, -1, np.int64), np.arange(n, dtype=np.int64), np.zeros(n, np.int64)
        known = np.flatnonzero(ids >= 0)
        if not len(known):
            return Axis.of(group, member, slot)
        s, here = self.solution, ids[known]
        units, families = s.unit[here], s.family[here]
        hidden = (s.sizes[units] > 1) | self._unfixed[families]
        for unit in dict.fromkeys(units[hidden].tolist()):
            at = known[hidden & (units == unit)]
            group[at], member[at] = self._unit(unit, name, role), s.member[ids[at]]
            slot[at] = _slots(member[at], s.slot[ids[at]], s.raw[ids[at]])
        fixed = ~hidden & ~self._kernel[families]
        for family in dict.fromkeys(families[fixed].tolist()):
            at = known[fixed & (families == family)]
            group[at], member[at] = self._family(family, s.value[ids[at]], name)
            slot[at] = _occurrence(member[at])
        return Axis.of(group, member, slot)

    def alone(self, number: int) -> bool:
        """Whether a group is one entry that is nobody's double, and not frozen for a reason of its own."""
        group = self.groups[number]
        return group.size == 1 and not group.reason

    def _unit(self, unit: int, name: str, role: str) -> int:
        if unit not in self._of_unit:
            spec = self.solution.units[unit]
            parent = None if spec.parent is None else self._unit(spec.parent, f"{name}.cells", "hidden")
            factors = tuple(self._unit(f, f"{name}.factor", "hidden") for f in spec.factors)
            table = tuple(IndexArray.of(column) for column in spec.table.T) if spec.factors else ()
            role = role if spec.size == 1 else "hidden"
            self._of_unit[unit] = len(self.groups)
            group = Group(self._free(name), spec.size, role, parent, spec.cells, factors=factors, table=table)
            self.groups.append(group)
        return self._of_unit[unit]

    def _family(self, family: int, values: Ids, name: str) -> tuple[int, Ids]:
        spec = self.context.solver.families[family]
        if family not in self._of_family:
            self._of_family[family] = len(self.groups)
            self._members[family] = np.zeros(0, np.int64), np.zeros(0, np.int64)
            self.groups.append(Group(self._free(name), 0, spec.kind, None, 1, spec.reason))
        known, numbers = self._members[family]
        found = np.searchsorted(known, values)
        new = values[known[np.minimum(found, len(known) - 1)] != values] if len(known) else values
        if len(new):
            new = np.unique(new)
            known, numbers = np.append(known, new), np.append(numbers, np.arange(len(known), len(known) + len(new)))
            order = np.argsort(known, kind="stable")
            known, numbers = known[order], numbers[order]
            self._members[family] = known, numbers
            index = self._of_family[family]
            old = self.groups[index]
            self.groups[index] = Group(old.name, len(known), old.role, None, 1, old.reason)
        return self._of_family[family], numbers[np.searchsorted(known, values)]

    def _free(self, name: str) -> str:
        while True:
            self._count[name] = self._count.get(name, 0) + 1
            count = self._count[name]
            candidate = name if count == 1 else f"{name}.{count}"
            if candidate not in self._taken:
                self._taken.add(candidate)
                return candidate


def _slots(member: Ids, slot: Ids, raw: NDArray[np.uint64]) -> Ids:
    """Slots numbered as they come; several occurrences of one piece are told apart by how they came about."""
    if (slot == slot[0]).all() and (member[1:] > member[:-1]).all():
        return np.zeros(len(slot), np.int64)
    small = np.unique(slot, return_inverse=True)[1].astype(np.int64)
    if len(np.unique(np.stack([member, small], axis=1), axis=0)) < len(member):
        small = small * len(raw) + np.unique(raw, return_inverse=True)[1]
    return as_met(small)


def _occurrence(values: Ids) -> Ids:
    """How often each value came before, position by position."""
    if (values[1:] > values[:-1]).all():
        return np.zeros(len(values), np.int64)
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    out = np.empty(len(values), np.int64)
    out[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    return out


def assemble(
    name: str,
    program: Program,
    context: Context,
    aliases: Mapping[str, str],
    buffers: set[str],
    order: Sequence[str],
) -> Structure:
    """The structure of a labelled program.

    Args:
        aliases: tied names -> the name that holds the tensor.
        buffers: names that are not trained.
        order: all names in the state_dict's order.
    """
    solution = context.solver.solve()
    for family in (context.solver.families[index] for index in context.solver.applied):
        if (family.where, family.reason) not in context.reasons:
            context.reasons.append((family.where, family.reason))
    builder = LayerBuilder(program, context, solution)
    builder.build()
    groups = _Groups(context, solution)
    layer_names = _unique([layer.name or layer.kind for layer in builder.layers])
    layers = []
    for layer, title in zip(builder.layers, layer_names, strict=True):
        activation, numbers = finish_activation(layer.activations)
        attributes = {**layer.attributes, **numbers}
        pairs = tuple(sorted((key, float(value)) for key, value in attributes.items() if value))
        axis = groups.axis(layer.ids, title, "input" if layer.kind == "input" else "hidden")
        layers.append(Layer(title, layer.kind, axis, activation, pairs, tuple(sorted(layer.slots.items()))))
    blocks = [
        Block(
            name=draft.parameter or f"{layers[draft.source].name} -> {layers[draft.target].name}",
            **{key: getattr(draft, key) for key in Block.__dataclass_fields__ if key != "name"},
        )
        for draft in builder.blocks
    ]
    parameters, indices = {}, dict(program.named_refs)
    for key in (n for n in order if n not in aliases):
        labels = context.labels[indices[key]]
        axes = []
        for axis_number, size in enumerate(labels.shape):
            bundle = labels.bundle_at(axis_number)
            ids = bundle.ids if bundle is not None else np.full(size, -1, np.int64)
            axes.append(groups.axis(ids, key.rsplit(".", 1)[0]))
        if any(len(axis) > 1 and axis.groups and all(groups.alone(g) for g in axis.groups) for axis in axes):
            context.reasons.append((key, "its entries are used one by one"))
        dtype = str(context.recording.dtypes[indices[key]]).removeprefix("torch.")
        listed = context.grouped.get(indices[key])
        grouped = None if listed is None else groups.axis(listed, key)
        parameters[key] = Parameter(key, labels.shape, dtype, tuple(axes), key in buffers, None, grouped)
    for key, first in aliases.items():
        original = parameters[first]
        parameters[key] = Parameter(
            key, original.shape, original.dtype, original.axes, key in buffers, first, original.grouped
        )
    return Structure(
        name=name,
        groups=tuple(groups.groups),
        parameters=tuple(parameters[key] for key in order),
        layers=tuple(layers),
        blocks=tuple(blocks),
        program=program,
        dtype=str(builder.dtype).removeprefix("torch."),
        frozen_reasons=tuple(context.reasons),
        extras=tuple(key for key in order if key not in aliases and key not in builder.placed),
    )


def _unique(names: Sequence[str]) -> list[str]:
    count: dict[str, int] = {}
    out = []
    for name in names:
        count[name] = count.get(name, 0) + 1
        out.append(name if count[name] == 1 else f"{name}#{count[name]}")
    return out
