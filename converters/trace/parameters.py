"""How each parameter finds its one place: a column of some layer's nodes, or the edges between two layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.program import Op
from converters.trace.drafts import Draft, DraftBlock
from converters.trace.labels import Ids

__all__ = ["Pieces", "Placement"]

Place = tuple[int, int]

MAX_BLOCKS = 2**16
"""How many blocks a stacked tensor may become."""


@dataclass
class Pieces:
    """What of a parameter already lies on edges."""

    covered: dict[tuple[Place, ...], list[tuple[int, int]]] = field(default_factory=dict)
    source: int = -1
    target: int = -1
    axes: tuple[int, int] = (0, 1)
    split: int = -1

    def count(self) -> int:
        """How many positions of the split axis are placed, over all outer positions."""
        return sum(stop - start for spans in self.covered.values() for start, stop in spans)


class Placement(Draft):
    """A draft that knows where its parameters are; those that are nowhere at the end become extras."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.placed: set[str] = set()
        self.home: dict[str, int] = {}
        self.pieces: dict[str, Pieces] = {}

    def is_float(self, name: str) -> bool:
        """Whether a parameter fits the graph's columns bit for bit."""
        return self.context.recording.dtypes[self.index_of[name]] == self.dtype

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self.context.recording.shapes[self.index_of[name]]

    def axis_ids(self, name: str, axis: int) -> Ids:
        """The elements on one axis of a parameter."""
        bundle = self.context.labels[self.index_of[name]].bundle_at(axis)
        return np.full(self.shape_of(name)[axis], -1, np.int64) if bundle is None else bundle.ids.reshape(-1)

    def long_axes(self, name: str) -> list[int]:
        """The axes of a parameter that have more than one position."""
        return [axis for axis, size in enumerate(self.shape_of(name)) if size > 1]

    # -- columns of nodes ------------------------------------------------------------------------------------------

    def fits(self, layer: int, slot: str, name: str) -> bool:
        """Whether a parameter lies along a layer's neurons and the column is free."""
        if slot in self.layers[layer].slots or name in self.placed or name in self.pieces or not self.is_float(name):
            return False
        long = self.long_axes(name)
        if len(long) > 1 or int(np.prod(self.shape_of(name))) != len(self.layers[layer].ids) or not self.shape_of(name):
            return False
        ids = self.axis_ids(name, long[0] if long else 0)
        return self._equal(ids, self.layers[layer].ids)

    def node_parameter(self, layer: int, slot: str, index: int) -> bool:
        """Put a vector along a layer's neurons into a node column; False where it does not fit."""
        names = self.origin.get(index, ())
        if len(names) != 1 or not self.fits(layer, slot, names[0]):
            return False
        self.own(layer, slot, names[0])
        return True

    def own(self, layer: int, slot: str, name: str) -> None:
        """Put a parameter into a column of a layer's nodes."""
        self.layers[layer].slots[slot] = name
        self.placed.add(name)
        self.home[name] = layer

    # -- edges -----------------------------------------------------------------------------------------------------

    def weight_block(
        self,
        source: int,
        target: int,
        weight: int,
        ends: tuple[Ids, Ids],
        edge_type: str,
        groups: int = 1,
        kernel: bool = False,
    ) -> None:
        """The dense (or block-diagonal) edges of a weight, its axes found by the neurons that lie on them.

        A weight that is a row range or one layer of a larger tensor gives that part of the tensor its place; what is
        placed before becomes a block without parameters, of type ``tied``.
        """
        rows, cols = len(self.layers[target].ids), len(self.layers[source].ids)
        names = [name for name in self.origin.get(weight, ()) if self.is_float(name)]
        known = [name for name in names if name in self.placed]
        for name in (name for name in names if name not in self.placed):
            block = DraftBlock(source, target, "dense", edge_type, rows, cols)
            whole = self._whole(block, name, ends, groups, kernel)
            if whole or (groups == 1 and self._part(block, name, weight, ends)):
                self.blocks.append(block)
                self._companions(names, source, target)
                return
            known += [name] if name in self.pieces else []
        block = DraftBlock(source, target, "dense", "tied" if known else edge_type, rows, cols)
        _grouped(block, groups)
        self.blocks.append(block)

    def _whole(self, block: DraftBlock, name: str, ends: tuple[Ids, Ids], groups: int, kernel: bool) -> bool:
        if name in self.pieces or (axes := self._axes(name, *ends)) is None:
            return False
        shape = self.shape_of(name)
        rest = tuple(a for a in range(len(shape)) if a not in axes and (kernel or shape[a] > 1))
        single = tuple(a for a in range(len(shape)) if a not in axes and a not in rest)
        sizes = [shape[axis] * (groups if axis == 1 else 1) for axis in axes]  # axis 1 lists one group
        if sizes != [block.rows, block.cols] or (groups > 1 and sorted(axes) != [0, 1]):
            return False
        if rest and (not kernel or len(rest) > 3):
            return False
        block.parameter, block.axes = name, (*axes, *rest, *single)
        block.kernel = tuple(shape[a] for a in rest)
        _grouped(block, groups)
        self.placed.add(name)
        self.home[name] = block.target
        return True

    def _part(self, block: DraftBlock, name: str, weight: int, ends: tuple[Ids, Ids]) -> bool:
        """A range of rows, or one position of outer axes."""
        chosen = self._chosen(weight, name)
        if chosen is None:
            return False
        free = [axis for axis in self.long_axes(name) if axis not in chosen]
        if len(free) != 2:
            return self._stack(block, name, free, ends)
        for to, back in (free, free[::-1]):
            rows, cols = self._range(name, to, ends[0]), self._range(name, back, ends[1])
            if rows is None or cols is None:
                continue
            full = [range_ == (0, self.shape_of(name)[axis]) for range_, axis in ((rows, to), (cols, back))]
            if not any(full):
                continue
            split = to if not full[0] else back
            start, stop = rows if split == to else cols
            return self.take(block, name, tuple(sorted(chosen.items())), (to, back), split, (start, stop))
        return False

    def take(
        self,
        block: DraftBlock,
        name: str,
        index: tuple[Place, ...],
        axes: tuple[int, int],
        split: int,
        span: tuple[int, int],
    ) -> bool:
        """Give a part of a parameter its place on a block: ``span`` of the split axis, at ``index`` of outer axes."""
        pieces = self.pieces.setdefault(name, Pieces(source=block.source, target=block.target, axes=axes, split=split))
        spans = pieces.covered.setdefault(index, [])
        if (pieces.axes, pieces.split) != (axes, split) or any(a < span[1] and span[0] < b for a, b in spans):
            return False
        spans.append(span)
        size = self.shape_of(name)[split]
        block.parameter, block.axes, block.index = name, axes, (*index, *self._ones(name, index, axes))
        block.span = () if span == (0, size) else ((split, *span),)
        if pieces.count() == size * int(np.prod([self.shape_of(name)[axis] for axis, _ in index])):
            self.placed.add(name)
        self.home.setdefault(name, block.target)
        return True

    def _ones(self, name: str, index: tuple[Place, ...], axes: tuple[int, int]) -> tuple[Place, ...]:
        taken = {*axes, *(axis for axis, _ in index)}
        return tuple((axis, 0) for axis in range(len(self.shape_of(name))) if axis not in taken)

    def _stack(self, block: DraftBlock, name: str, free: Sequence[int], ends: tuple[Ids, Ids]) -> bool:
        """A stack of matrices used at once: one block per outer position."""
        found = self._axes(name, *ends)
        if found is None or name in self.pieces or len(free) < 3:
            return False
        shape = self.shape_of(name)
        if [shape[axis] for axis in found] != [block.rows, block.cols]:
            return False
        outer = [axis for axis in free if axis not in found]
        if int(np.prod([shape[axis] for axis in outer])) > MAX_BLOCKS:
            return False
        positions = list(itertools.product(*(range(shape[axis]) for axis in outer)))
        for at in positions[:-1]:
            each = DraftBlock(block.source, block.target, "dense", block.edge_type, block.rows, block.cols)
            self.take(each, name, tuple(zip(outer, at, strict=True)), found, found[0], (0, shape[found[0]]))
            self.blocks.append(each)
        last = tuple(zip(outer, positions[-1], strict=True))
        return self.take(block, name, last, found, found[0], (0, shape[found[0]]))

    def _range(self, name: str, axis: int, ids: Ids) -> tuple[int, int] | None:
        """Where on an axis of a parameter these elements lie, in order and without gaps."""
        own, n = self.axis_ids(name, axis), len(ids)
        if not n or ids[0] < 0:
            return None
        for start in np.flatnonzero(own == ids[0]).tolist():
            if np.array_equal(own[start : start + n], ids):
                return start, start + n
        return None

    def _chosen(self, index: int, name: str) -> dict[int, int] | None:
        """Which positions of which axes of a parameter were selected on the way to a tensor; None if unknown."""
        steps: list[Op] = []
        while index != self.index_of[name]:
            maker = self.maker.get(index)
            moved = [] if maker is None else [i for i in maker.refs() if name in self.origin.get(i, ())]
            if maker is None or len(moved) != 1:
                return None
            steps.append(maker)
            index = moved[0]
        axes: list[int | None] = list(range(len(self.shape_of(name))))
        out: dict[int, int] = {}
        for op in reversed(steps):
            if not self._follow(op, axes, out):
                return None
        return out

    def _follow(self, op: Op, axes: list[int | None], out: dict[int, int]) -> bool:
        """Keep track of a parameter's axes through one operation."""
        rank = len(axes)
        if op.name == "select":
            axis = axes.pop(op.args[1] % rank)
            if axis is None:
                return True
            out[axis] = op.args[2] % self.context.shape(op.args[0])[op.args[1] % rank]
        elif op.name == "unbind":
            return False
        elif op.name in ("t", "transpose"):
            a, b = (op.args[1] % rank, op.args[2] % rank) if op.name == "transpose" else (0, rank - 1)
            axes[a], axes[b] = axes[b], axes[a]
        elif op.name == "permute":
            axes[:] = [axes[axis % rank] for axis in op.args[1]]
        elif op.name == "unsqueeze":
            axes.insert(op.args[1] % (rank + 1), None)
        elif op.name == "squeeze":
            shape = self.context.shape(op.args[0])
            dims = op.args[1] if len(op.args) > 1 else tuple(range(rank))
            gone = {d % rank for d in ((dims,) if isinstance(dims, int) else dims) if shape[d % rank] == 1}
            axes[:] = [axis for n, axis in enumerate(axes) if n not in gone]
        elif op.name in ("index", "view", "_unsafe_view", "reshape"):
            first = next(i for i in op.outputs if i is not None)
            return self.context.shape(first) == self.context.shape(op.args[0])
        return True

    def _companions(self, names: Sequence[str], source: int, target: int) -> None:
        """Vectors that a weight is computed with (weight norm, spectral norm) belong to its ends' neurons."""
        for name in names:
            for layer, slot in ((target, "scale"), (target, "value"), (source, "value")):
                if self.fits(layer, slot, name):
                    self.own(layer, slot, name)
                    break

    def _axes(self, name: str, target: Ids, source: Ids) -> tuple[int, int] | None:
        """Which axes of a parameter are the target's and the source's neurons."""
        labels = self.context.labels[self.index_of[name]]
        own = [labels.bundle_at(axis) for axis in range(len(labels.shape))]
        for equal in (np.array_equal, self._equal):
            to = [a for a, bundle in enumerate(own) if bundle is not None and equal(bundle.ids, target)]
            rest = [a for a in range(len(own)) if a not in to[:1]]
            back = [a for a in rest if (bundle := own[a]) is not None and equal(bundle.ids, source)]
            if to and back:
                return to[0], back[0]
        return None


def _grouped(block: DraftBlock, groups: int) -> None:
    """Make a dense block one of a grouped convolution."""
    if groups == 1:
        return
    diagonal = groups == block.rows == block.cols
    block.pattern, block.groups = ("diagonal", 1) if diagonal else ("block_diagonal", groups)
    block.cols = 1 if diagonal else block.cols
