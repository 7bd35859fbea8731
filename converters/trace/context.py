"""What a rule works with: the labels of every tensor read so far, and the few moves every rule is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from converters.program import Op, Ref, Size
from converters.trace.labels import Bundle, Choice, Ids, Labels
from converters.trace.recorder import Recording
from converters.trace.solver import Solver

__all__ = ["Context", "Operand", "joint_source", "plain_array"]


@dataclass(frozen=True)
class Operand:
    """A tensor's labels with its axes named by letters; axes that are not named do not take part."""

    labels: Labels
    letters: Mapping[int, str]
    index: int = -1


@dataclass
class Context:
    """The state of one labelling pass."""

    recording: Recording
    batch: int
    solver: Solver = field(default_factory=Solver)
    labels: dict[int, Labels] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    gaps: list[tuple[str, str]] = field(default_factory=list)
    grouped: dict[int, Ids] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    choices: dict[int, Choice] = field(default_factory=dict)
    makers: dict[int, Op] = field(default_factory=dict)
    standard: frozenset[str] = frozenset()
    _places: dict[tuple[str, str], int] = field(default_factory=dict)
    op: Op = field(default_factory=lambda: Op("aten.none.none", (), (), ()))

    # -- arguments -------------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The module of the current operation, in words."""
        name = self.op.scope
        return f"{name or 'forward'} ({self.recording.scopes.get(name, 'Module')})"

    def arg(self, position: int, name: str = "", default: Any = None) -> Any:
        """An argument by position or name, batch-dependent integers resolved."""
        value = self.op.args[position] if position < len(self.op.args) else dict(self.op.kwargs).get(name, default)
        return self.plain(value)

    def plain(self, value: Any) -> Any:
        """Integers that follow the batch size as integers."""
        if isinstance(value, Size):
            return value.coefficient * self.batch + value.offset
        return tuple(self.plain(item) for item in value) if isinstance(value, tuple) else value

    def shape(self, ref: Ref | int) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.recording.shapes[ref.index if isinstance(ref, Ref) else ref]

    def of(self, ref: Ref) -> Labels:
        """Labels of a tensor."""
        return self.labels[ref.index]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        first = next(index for index in self.op.outputs if index is not None)
        return self.recording.shapes[first]

    def tensors(self) -> list[Ref]:
        """All tensor arguments, in order."""
        return [Ref(index) for index in self.op.refs()]

    def constant(self, ref: Ref) -> Any:
        """The values of a tensor that depends on neither inputs nor parameters, or None."""
        value = self.recording.values.get(ref.index, self.recording.constants.get(ref.index))
        return None if value is None else plain_array(value)

    # -- moves -----------------------------------------------------------------------------------------------------

    def freeze(self, labels: Labels, reason: str, axes: Iterable[int] | None = None) -> None:
        """Tell apart every element of the bundles at ``axes`` (default: all), and keep the reason."""
        wanted = None if axes is None else set(axes)
        for bundle in labels.bundles:
            if wanted is None or wanted.intersection(bundle.axes):
                self.freeze_ids(bundle.ids, reason)

    def freeze_ids(self, ids: Ids, reason: str, kind: str = "fixed") -> None:
        """Tell apart all these elements."""
        self.solver.freeze(ids, self.solver.family(kind, self.where, reason))
        if kind == "fixed" and ids.size > 1:
            self.note(reason)

    def note(self, reason: str) -> None:
        """Record why something is frozen, once."""
        if (self.where, reason) not in self.reasons:
            self.reasons.append((self.where, reason))

    def combine(
        self, operands: Sequence[Operand], letters: Sequence[str], sizes: Mapping[str, int], positions: bool = False
    ) -> Labels:
        """Broadcast operands against each other and take them elementwise; axes come in the order of ``letters``.

        Equal axes are united; where an operand lacks part of a bundle's axes its elements become parents; an operand
        whose positions are told apart tells apart the others' elements. Axes all of whose positions are told apart by
        one operand that is computed in the network (pixels, tokens) carry no neurons any more. With ``positions`` what
        meets such axes counts as a table of positions, like a kernel, and not as neurons that had to be frozen.
        """
        parts: list[tuple[Operand, list[tuple[tuple[str, ...], Ids]], set[str]]] = []
        for operand in operands:
            bundles, uniform = [], set()
            for bundle in operand.labels.bundles:
                named = [(operand.letters[a], i) for i, a in enumerate(bundle.axes) if a in operand.letters]
                fits = [(x, i) for x, i in named if bundle.ids.shape[i] == sizes[x]]
                ids: Any = bundle.ids
                for i in reversed(range(len(bundle.axes))):
                    if i not in [j for _, j in fits]:
                        ids = ids.take(0, axis=i)
                if fits:
                    bundles.append((tuple(x for x, _ in fits), ids))
            for axis, letter in operand.letters.items():
                if operand.labels.uniform(axis) and sizes[letter] == operand.labels.shape[axis]:
                    uniform.add(letter)
            parts.append((operand, bundles, uniform))
        order = {letter: i for i, letter in enumerate(letters)}
        result = []
        for component in _components([names for _, bundles, _ in parts for names, _ in bundles]):
            axes = tuple(sorted(component, key=order.__getitem__))
            ids = self._component(axes, tuple(sizes[x] for x in axes), parts, positions)
            if not any(operand.labels.source == "" and component <= uniform for operand, _, uniform in parts):
                result.append(Bundle(tuple(order[x] for x in axes), ids))
        taken = {axis for bundle in result for axis in bundle.axes}
        blank = set()
        for letter, position in order.items():
            having = [p for p in operands if self._has(p, letter, sizes)]
            if position not in taken and all(self._axis(p, letter) in p.labels.blank for p in having):
                blank.add(position)
        source = joint_source(operand.labels.source for operand in operands)
        return Labels(tuple(result), frozenset(blank), source, tuple(sizes[x] for x in letters))

    @staticmethod
    def _axis(operand: Operand, letter: str) -> int:
        return next((axis for axis, name in operand.letters.items() if name == letter), -1)

    def _has(self, operand: Operand, letter: str, sizes: Mapping[str, int]) -> bool:
        axis = self._axis(operand, letter)
        return axis >= 0 and operand.labels.shape[axis] == sizes[letter] and sizes[letter] > 1

    def _component(self, axes: tuple[str, ...], sizes: tuple[int, ...], parts: Sequence[Any], positions: bool) -> Ids:
        """One bundle of :meth:`combine`: unite, relate or freeze what the operands bring to these axes."""
        full: list[Ids] = []
        partial: list[tuple[Operand, set[str], tuple[str, ...], Ids]] = []
        for operand, bundles, uniform in parts:
            for names, ids in bundles:
                if set(names) == set(axes):
                    full.append(ids.transpose([names.index(x) for x in axes]))
                elif set(names) & set(axes):
                    partial.append((operand, uniform & set(axes), names, ids))
        base = full[0] if full else self.solver.fresh(sizes)
        for other in full[1:]:
            self.solver.union(base, other)
        grid = dict(zip(axes, np.indices(sizes, dtype=np.int64), strict=True))
        for _, uniform, names, ids in partial:
            present = [x for x in axes if x in names]
            parents = ids.transpose([names.index(x) for x in present])
            parents = parents.reshape([parents.shape[present.index(x)] if x in present else 1 for x in axes])
            if uniform and set(names) | uniform == set(axes):
                slots, total = self._coordinate(grid, sorted(uniform), axes, sizes)
                self.solver.keyed(base, parents, slots * 2**20 + total)
            else:
                self.solver.member(base, parents, sum(1 << i for i, x in enumerate(axes) if x in names))
        for operand, bundles, uniform in parts:
            touched = uniform & set(axes)
            if not touched or any(set(names) & set(axes) for names, _ in bundles):
                continue
            slots, _ = self._coordinate(grid, sorted(touched), axes, sizes)
            kind = "input" if operand.labels.source == "input" else "fixed"
            if positions and operand.labels.source == "" and touched == set(axes):
                kind = "kernel"
            self.solver.label(base, slots, self._family(kind, operand, touched))
        return base

    @staticmethod
    def _coordinate(
        grid: Mapping[str, Ids], letters: Sequence[str], axes: Sequence[str], sizes: Sequence[int]
    ) -> tuple[Ids, int]:
        slots, total = np.zeros(tuple(sizes), np.int64), 1
        for x in letters:
            size = sizes[axes.index(x)]
            slots, total = slots * size + grid[x], total * size
        return slots, total

    def _family(self, kind: str, operand: Operand, letters: Iterable[str]) -> int:
        axes = sorted(self._axis(operand, letter) for letter in letters)
        place = f"axis {', '.join(map(str, axes))} of tensor {operand.index}"
        if kind == "input":
            reason = "it meets the network's input, whose entries are not interchangeable"
        else:
            reason = "it meets an axis whose positions are not interchangeable"
            if kind == "fixed":
                self.note(reason)
        if (kind, place) not in self._places:
            self._places[kind, place] = self.solver.family(kind, place, reason)
        return self._places[kind, place]

    def reduce(self, labels: Labels, axes: Iterable[int], keepdim: bool = False) -> Labels:
        """Sum, mean, maximum over axes: whole bundles vanish, of a part the blocks remain."""
        gone = set(axes)
        bundles = []
        for bundle in labels.bundles:
            kept = [axis for axis in bundle.axes if axis not in gone]
            if len(kept) == len(bundle.axes):
                bundles.append(bundle)
            elif kept:
                bundles.append(Bundle(tuple(kept), self._blocks(bundle, kept)))
        return self._without(Labels(tuple(bundles), labels.blank, labels.source, labels.shape), gone, keepdim)

    def _blocks(self, bundle: Bundle, kept: Sequence[int]) -> Ids:
        order = [*kept, *(axis for axis in bundle.axes if axis not in kept)]
        ids = bundle.ordered(order)
        table = ids.reshape(int(np.prod(ids.shape[: len(kept)])), -1)
        known = self.solver.known_parents(table)
        if known is not None and (known[0] == known[0][:, :1]).all() and len(np.unique(known[0][:, 0])) == len(table):
            parents = known[0][:, 0]
        else:
            parents = self.solver.fresh(len(table))
            self.solver.member(table, parents[:, None], sum(1 << bundle.axes.index(axis) for axis in kept))
        return parents.reshape(ids.shape[: len(kept)])

    def project(self, labels: Labels, axes: Iterable[int], kind: str, reason: str) -> Labels:
        """Make axes uniform whose positions an operation tells apart (spatial and kernel axes)."""
        fixed = set(axes)
        bundles = []
        for bundle in labels.bundles:
            kept = [axis for axis in bundle.axes if axis not in fixed]
            if len(kept) == len(bundle.axes):
                bundles.append(bundle)
            elif not kept:
                self.freeze_ids(bundle.ids, reason, kind)
            else:
                bundles.append(Bundle(tuple(kept), self._keyed_parents(bundle, kept)))
        return Labels(tuple(bundles), labels.blank - fixed, labels.source, labels.shape)

    def _keyed_parents(self, bundle: Bundle, kept: Sequence[int]) -> Ids:
        order = [*kept, *(axis for axis in bundle.axes if axis not in kept)]
        ids = bundle.ordered(order)
        table = ids.reshape(int(np.prod(ids.shape[: len(kept)])), -1)
        known = self.solver.known_parents(table)
        aligned = known is not None and (known[0] == known[0][:, :1]).all() and (known[1] == known[1][:1]).all()
        if known is not None and aligned and len(np.unique(known[0][:, 0])) == len(table):
            parents = known[0][:, 0]
        else:
            parents = self.solver.fresh(len(table))
            total = table.shape[1]
            self.solver.keyed(table, parents[:, None], np.arange(total, dtype=np.int64)[None] * 2**20 + total)
        return parents.reshape(ids.shape[: len(kept)])

    @staticmethod
    def _without(labels: Labels, gone: set[int], keepdim: bool) -> Labels:
        rank = len(labels.shape)
        if keepdim:
            shape = tuple(1 if axis in gone else size for axis, size in enumerate(labels.shape))
            return labels.move({axis: axis for axis in range(rank) if axis not in gone}, shape)
        left = [axis for axis in range(rank) if axis not in gone]
        return labels.move({axis: i for i, axis in enumerate(left)}, tuple(labels.shape[axis] for axis in left))

    def along(self, ref: Ref, axis: int) -> Ids:
        """Ids of one axis, made and told apart where the axis has none."""
        labels = self.of(ref)
        bundle = labels.bundle_at(axis)
        if bundle is not None and bundle.axes == (axis,):
            return bundle.ids
        size = labels.shape[axis]
        ids = self.solver.fresh(size)
        if bundle is not None:
            self.freeze_ids(bundle.ids, "its neurons are part of a larger set")
            self.freeze_ids(ids, "its neurons are part of a larger set")
        elif axis not in labels.blank:
            bare = Labels((), frozenset(), labels.source, labels.shape)
            named = Labels((Bundle((0,), ids),), frozenset(), "", (size,))
            self.combine([Operand(named, {0: "x"}), Operand(bare, {axis: "x"}, ref.index)], ["x"], {"x": size})
        return ids

    def unsupported(self, reason: str, labels: Iterable[Labels]) -> None:
        """Freeze what an operation without a rule touches; ``strict=True`` raises for these."""
        for each in labels:
            if each.bundles and (self.where, reason) not in self.gaps:
                self.gaps.append((self.where, reason))
            self.freeze(each, reason)


def plain_array(tensor: torch.Tensor) -> Any:
    """The values for numpy, which has no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def joint_source(sources: Iterable[str]) -> str:
    """What a value is computed from, given the same of its operands."""
    every = set(sources)
    if "" in every:
        return ""
    return "input" if "input" in every else "constant"


def _components(groups: Sequence[tuple[str, ...]]) -> list[set[str]]:
    """Letters joined by occurring in one bundle."""
    components: list[set[str]] = []
    for group in groups:
        joined = set(group)
        rest = []
        for component in components:
            if component & joined:
                joined |= component
            else:
                rest.append(component)
        components = [*rest, joined]
    return components
