"""Nodes and edges in the making: how layers are joined, and how each parameter finds its one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from converters.program import Program, Ref, map_leaves
from converters.structure import IndexArray
from converters.trace.context import Context
from converters.trace.kinds import signature
from converters.trace.labels import Ids
from converters.trace.matching import flat_ids, match
from converters.trace.solver import Solution

__all__ = ["Draft", "DraftBlock", "DraftLayer"]


@dataclass
class DraftLayer:
    """A node set in the making; ``ids`` are element ids, -1 for a node that is no neuron."""

    name: str
    kind: str
    ids: Ids
    attributes: dict[str, float] = field(default_factory=dict)
    slots: dict[str, str] = field(default_factory=dict)
    activations: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass
class DraftBlock:
    """Edges in the making; the fields are those of :class:`~converters.structure.Block`."""

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
    sources: IndexArray | None = None
    targets: IndexArray | None = None


class Draft:
    """A graph in the making; parameters that are not in ``placed`` at the end become extras."""

    def __init__(self, program: Program, context: Context, solution: Solution) -> None:
        self.program, self.context, self.solution = program, context, solution
        self.layers: list[DraftLayer] = []
        self.blocks: list[DraftBlock] = []
        self.placed: set[str] = set()
        self.layer_of: dict[int, int] = {}
        self.path: dict[int, tuple[Any, ...]] = {}
        self.made: dict[tuple[int, int], int] = {}
        self.index_of = dict(program.named_refs)
        self.dtype = _main_dtype(program, context)
        self.origin: dict[int, tuple[str, ...]] = {index: (name,) for name, index in program.named_refs}
        self.dynamic: set[int] = set(program.input_refs)
        self.uses: dict[int, int] = {}
        self.maker = {index: op for op in program.ops for index in op.outputs if index is not None}
        self.outputs: set[int] = set()
        map_leaves(program.outputs, lambda leaf: self.outputs.add(leaf.index) if isinstance(leaf, Ref) else None)
        for op in program.ops:
            for index in op.refs():
                self.uses[index] = self.uses.get(index, 0) + 1
        self._relatives: tuple[Ids, Ids] | None = None

    # -- nodes -----------------------------------------------------------------------------------------------------

    def add_layer(self, kind: str, ids: Ids, out: int | None, **attributes: float) -> int:
        """A new node set; ``out`` is the tensor whose neurons it holds."""
        layer = DraftLayer(self.context.op.scope, kind, ids.reshape(-1), dict(attributes))
        self.layers.append(layer)
        if out is not None:
            self.layer_of[out] = len(self.layers) - 1
        return len(self.layers) - 1

    def source_of(self, index: int, ids: Ids, axis: int) -> int:
        """The layer whose nodes lie on ``axis`` of a tensor; made where the tensor comes from no neurons."""
        if index in self.layer_of and self._equal(self.layers[self.layer_of[index]].ids, ids):
            return self.layer_of[index]
        if (index, axis) not in self.made:
            labels = self.context.labels[index]
            kind = "input" if labels.source == "input" else "fixed"
            number = self.add_layer(kind, ids, None)
            self.layers[number].name = kind
            steps = self.path.get(index, ())
            if steps:
                self.layers[number].attributes["signature"] = signature(*steps)
            self.made[index, axis] = number
            if index in self.layer_of:
                self.join(self.layer_of[index], number, "identity")
        return self.made[index, axis]

    def join(self, source: int, target: int, edge_type: str) -> None:
        """Parameter-free edges between the nodes that are the same neuron, piece and whole, or all and one."""
        a, b = self.layers[source].ids, self.layers[target].ids
        if self._equal(a, b):
            self.blocks.append(DraftBlock(source, target, "diagonal", edge_type, len(a), 1))
            return
        pairs = self._matching(a, b)
        if not len(pairs):
            short, long = np.arange(min(len(a), len(b))), np.arange(max(len(a), len(b)))
            if len(short) == 1:
                pairs = np.stack([long, 0 * long] if len(b) == 1 else [0 * long, long], axis=1)
            elif len(a) * len(b) <= 2**16:
                pairs = np.indices((len(b), len(a))).reshape(2, -1)[::-1].T
            else:
                return
        sources, targets = IndexArray.of(pairs[:, 0]), IndexArray.of(pairs[:, 1])
        self.blocks.append(
            DraftBlock(source, target, "diagonal", edge_type, len(pairs), 1, sources=sources, targets=targets)
        )

    def _matching(self, a: Ids, b: Ids) -> Ids:
        return match(self._root(a), self._root(b), *self._relations())

    def _relations(self) -> tuple[Ids, Ids]:
        if self._relatives is None:
            child, parent = self.context.solver.relation_pairs()
            self._relatives = self._root(child), self._root(parent)
        return self._relatives

    def _root(self, ids: Ids) -> Ids:
        """Who each node is: an element's root; input, output and fixed ones by their place; -1 nobody else's."""
        out: Ids = np.where(ids < 0, -1 - np.arange(len(ids)), self.solution.identity[np.maximum(ids, 0)])
        return out

    def _equal(self, a: Ids, b: Ids) -> bool:
        return len(a) == len(b) and bool(np.array_equal(self._root(a.ravel()), self._root(b.ravel())))

    # -- parameters ------------------------------------------------------------------------------------------------

    def node_parameter(self, layer: int, slot: str, index: int) -> bool:
        """Put a vector along a layer's neurons into a node column; False where it does not fit."""
        names = self.origin.get(index, ())
        if len(names) != 1 or slot in self.layers[layer].slots or names[0] in self.placed:
            return False
        name = names[0]
        size = int(np.prod(self.context.recording.shapes[self.index_of[name]]))
        if size != len(self.layers[layer].ids) or not self._is_float(name):
            return False
        flat = flat_ids(self.context.labels[self.index_of[name]], sole=True)
        if flat is None or not self._equal(flat, self.layers[layer].ids):
            return False
        self.layers[layer].slots[slot] = name
        self.placed.add(name)
        return True

    def _is_float(self, name: str) -> bool:
        return self.context.recording.dtypes[self.index_of[name]] == self.dtype

    def weight_block(
        self, source: int, target: int, weight: int, ends: tuple[Ids, Ids], edge_type: str, groups: int
    ) -> None:
        """The dense (or block-diagonal) edges of a weight, its axes found by the neurons that lie on them."""
        rows, cols = len(self.layers[target].ids), len(self.layers[source].ids)
        candidates = [name for name in self.origin.get(weight, ()) if name not in self.placed and self._is_float(name)]
        for name in candidates:
            axes = self._axes(name, *ends)
            if axes is None:
                continue
            shape = self.context.recording.shapes[self.index_of[name]]
            rest = tuple(a for a in range(len(shape)) if a not in axes)
            sizes = [shape[axis] * (groups if axis == 1 else 1) for axis in axes]  # axis 1 lists one group
            if sizes != [rows, cols] or (groups > 1 and sorted(axes) != [0, 1]):
                continue
            kernel = tuple(shape[a] for a in rest)
            if len(kernel) > 3:
                continue
            pattern = "dense" if groups == 1 else "diagonal" if groups == rows == cols else "block_diagonal"
            block = DraftBlock(source, target, pattern, edge_type, rows, 1 if pattern == "diagonal" else cols)
            block.groups = groups if pattern == "block_diagonal" else 1
            block.parameter, block.axes, block.kernel = name, (*axes, *rest), kernel
            self.blocks.append(block)
            self.placed.add(name)
            self._companions(candidates, source, target)
            return
        tied = any(name in self.placed for name in self.origin.get(weight, ()))
        block = DraftBlock(source, target, "dense", "tied" if tied else edge_type, rows, cols)
        if groups == 1:
            self.blocks.append(block)
        else:
            pattern = "diagonal" if groups == rows == cols else "block_diagonal"
            block.pattern, block.groups = pattern, groups if pattern == "block_diagonal" else 1
            block.cols = 1 if pattern == "diagonal" else cols
            self.blocks.append(block)

    def _companions(self, names: list[str], source: int, target: int) -> None:
        """Vectors that a weight is computed with (weight norm, spectral norm) belong to its ends' neurons."""
        for name in names:
            for layer, slot in ((target, "scale"), (target, "value"), (source, "value")):
                if self.node_parameter(layer, slot, self.index_of[name]):
                    break

    def _axes(self, name: str, target: Ids, source: Ids) -> tuple[int, int] | None:
        """Which axes of a parameter are the target's and the source's neurons."""
        labels = self.context.labels[self.index_of[name]]
        own = [labels.bundle_at(axis) for axis in range(len(labels.shape))]
        for equal in (lambda a, b: np.array_equal(a, b), self._equal):
            to = [a for a, bundle in enumerate(own) if bundle is not None and equal(bundle.ids, target)]
            rest = [a for a in range(len(own)) if a not in to[:1]]
            back = [a for a in rest if (bundle := own[a]) is not None and equal(bundle.ids, source)]
            if to and back:
                return to[0], back[0]
        return None


def _main_dtype(program: Program, context: Context) -> torch.dtype:
    """The dtype of the graph's columns: that of most elements of the state_dict."""
    count: dict[torch.dtype, int] = {}
    for _, index in program.named_refs:
        dtype, shape = context.recording.dtypes[index], context.recording.shapes[index]
        if dtype.is_floating_point:
            count[dtype] = count.get(dtype, 0) + int(np.prod(shape))
    return max(count, key=lambda key: count[key]) if count else torch.float32
