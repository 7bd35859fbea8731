"""Nodes and edges in the making, and how layers are joined."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from converters.program import Op, Program, Ref, map_leaves
from converters.structure import IndexArray
from converters.trace.context import Context, plain_array
from converters.trace.kinds import describe, signature
from converters.trace.labels import Ids
from converters.trace.loops import fold
from converters.trace.matching import equal_pairs, match
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
    index: tuple[tuple[int, int], ...] = ()
    span: tuple[tuple[int, int, int], ...] = ()
    sources: IndexArray | None = None
    targets: IndexArray | None = None


class Draft:
    """A graph in the making, over the operations that remain when repeated steps are folded into one.

    ``layer_of`` says which layer's nodes a tensor holds, ``origin`` which parameters a tensor is computed from,
    ``dynamic`` which tensors depend on the inputs.
    """

    def __init__(self, program: Program, context: Context, solution: Solution) -> None:
        self.program, self.context, self.solution = program, context, solution
        self.layers: list[DraftLayer] = []
        self.blocks: list[DraftBlock] = []
        self.joined: set[tuple[int, int, str]] = set()
        self.layer_of: dict[int, int] = {}
        self.path: dict[int, tuple[Any, ...]] = {}
        self.made: dict[tuple[int, int], int] = {}
        self.entries: dict[Any, int] = {}
        self.feeds: dict[int, frozenset[int]] = {index: frozenset([index]) for index in program.input_refs}
        self.index_of = dict(program.named_refs)
        self.dtype = _main_dtype(program, context)
        self.origin: dict[int, tuple[str, ...]] = {index: (name,) for name, index in program.named_refs}
        self.dynamic: set[int] = set(program.input_refs)
        sizes = np.zeros(len(solution.units) + 1, np.int64)
        np.maximum.at(sizes, solution.unit, solution.member + 1)
        self.movable = sizes[solution.unit] > 1
        self._relatives: tuple[Ids, Ids] | None = None
        folded = fold(program, self._alike)
        self.ops, self.states, self.alias = folded.ops, folded.states, folded.alias
        recording = context.recording
        for state in self.states:
            while len(recording.shapes) <= state.index:
                recording.shapes.append(recording.shapes[state.produced])
                recording.dtypes.append(recording.dtypes[state.produced])
            recording.shapes[state.index] = recording.shapes[state.produced]
            context.labels[state.index] = context.labels[state.produced]
        self.uses: dict[int, int] = {}
        self.users: dict[int, list[Op]] = {}
        for op in self.ops:
            for index in op.refs():
                self.uses[index] = self.uses.get(index, 0) + 1
                self.users.setdefault(index, []).append(op)
        for state in self.states:
            self.uses[state.produced] = self.uses.get(state.produced, 0) + 1
        self.maker = {index: op for op in self.ops for index in op.outputs if index is not None}
        self.outputs: set[int] = set()
        ends = folded.resolve(program.outputs)
        map_leaves(ends, lambda leaf: self.outputs.add(leaf.index) if isinstance(leaf, Ref) else None)

    # -- who is who ------------------------------------------------------------------------------------------------

    def _alike(self, a: int, b: int) -> bool:
        """Whether two tensors hold the same neurons on the same axes."""
        one, two = self.context.labels[a], self.context.labels[b]
        if one is two:
            return True
        if len(one.bundles) != len(two.bundles):
            return False
        pairs = zip(one.bundles, two.bundles, strict=True)
        return all(p.axes == q.axes and p.ids.shape == q.ids.shape and self._equal(p.ids, q.ids) for p, q in pairs)

    def _root(self, ids: Ids) -> Ids:
        """Who each node is: an element's root; input, output and fixed ones by their place; -1 nobody else's."""
        out: Ids = np.where(ids < 0, -1 - np.arange(len(ids)), self.solution.identity[np.maximum(ids, 0)])
        return out

    def _equal(self, a: Ids, b: Ids) -> bool:
        if a is b:
            return True
        return a.size == b.size and bool(np.array_equal(self._root(a.ravel()), self._root(b.ravel())))

    def _matching(self, a: Ids, b: Ids) -> Ids:
        return match(self._root(a), self._root(b), *self._relations())

    def _relations(self) -> tuple[Ids, Ids]:
        if self._relatives is None:
            child, parent = self.context.solver.relation_pairs()
            self._relatives = self._root(child), self._root(parent)
        return self._relatives

    def neurons(self, index: int, near: Iterable[int] = ()) -> Ids | None:
        """The neurons of a tensor as one list: of several sets, that of the layers ``near`` or else a movable one."""
        bundles = self.context.labels[index].bundles
        bundles = tuple(b for b in bundles if b.ids.size > 1) or bundles
        if len(bundles) < 2:
            return bundles[0].ids.reshape(-1) if bundles else None
        known = [self.layers[layer].ids for layer in dict.fromkeys(near)]
        roots = np.concatenate([self._root(ids) for ids in known]) if known else np.zeros(0, np.int64)

        def rank(ids: Ids) -> tuple[bool, bool, bool, int]:
            shared = bool(np.isin(self._root(ids), roots).any())
            related = shared or any(len(self._matching(ids, other)) for other in known)
            return shared, related, bool(self.movable[ids].any()), ids.size

        return max((bundle.ids.reshape(-1) for bundle in bundles), key=rank)

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
            fixed = bool((ids >= 0).all()) and not self.movable[ids].any()
            places = self.solution.value[ids.ravel()] if fixed else ids.ravel()
            key = (kind, self.feeds.get(index), self.path.get(index, ()), places.tobytes())
            if index not in self.layer_of and self.feeds.get(index) is not None and key in self.entries:
                self.made[index, axis] = self.entries[key]
                return self.entries[key]
            self.entries[key] = len(self.layers)
            number = self.add_layer(kind, ids, None)
            self.layers[number].name = kind
            steps = self.path.get(index, ())
            if steps:
                self.layers[number].attributes["signature"] = signature(*steps)
            self.made[index, axis] = number
            if index in self.layer_of:
                self.join(self.layer_of[index], number, "identity")
        return self.made[index, axis]

    # -- edges -----------------------------------------------------------------------------------------------------

    def join(self, source: int, target: int, edge_type: str) -> None:
        """Parameter-free edges between the nodes that are the same neuron, piece and whole, or all and one.

        Where nothing is known of who is who, all sources reach all targets through one node between them.
        """
        if (source, target, edge_type) in self.joined:
            return
        self.joined.add((source, target, edge_type))
        a, b = self.layers[source].ids, self.layers[target].ids
        if self._equal(a, b) and len(a):
            self.blocks.append(DraftBlock(source, target, "diagonal", edge_type, len(a), 1))
            return
        pairs = equal_pairs(np.where(a < 0, -1, a), np.where(b < 0, -2, b))
        if not len(pairs) or len(np.unique(pairs[:, int(len(a) >= len(b))])) < min(len(a), len(b)):
            pairs = self._matching(a, b)
        if not len(pairs):
            if len(a) > 1 and len(b) > 1:
                hub = self.add_layer("other", np.full(1, -1, np.int64), None)
                self.join(source, hub, edge_type)
                self.join(hub, target, edge_type)
                return
            long = np.arange(max(len(a), len(b)) if len(a) and len(b) else 0)
            pairs = np.stack([long, 0 * long] if len(b) == 1 else [0 * long, long], axis=1)
        self.edges(source, target, edge_type, pairs)

    def edges(self, source: int, target: int, edge_type: str, pairs: Ids) -> None:
        """Parameter-free edges between listed (source node, target node)."""
        if len(pairs):
            sources, targets = IndexArray.of(pairs[:, 0]), IndexArray.of(pairs[:, 1])
            block = DraftBlock(source, target, "diagonal", edge_type, len(pairs), 1, sources=sources, targets=targets)
            self.blocks.append(block)

    # -- values ----------------------------------------------------------------------------------------------------

    def value(self, index: int) -> Any:
        """A constant in words, for signatures; None for anything else."""
        recording = self.context.recording
        value = recording.values.get(index, recording.constants.get(index))
        return None if value is None else describe(plain_array(value))

    def constant(self, index: int) -> bool:
        """Whether a tensor depends on neither inputs nor parameters."""
        return index not in self.dynamic and not self.origin.get(index)

    # -- order -----------------------------------------------------------------------------------------------------

    def arrange(self) -> None:
        """Put layers behind all their sources, recurrent edges aside, and blocks in the order of their targets."""
        forward = [b for b in self.blocks if b.edge_type != "recurrent"]
        waiting = [0] * len(self.layers)
        out: list[list[int]] = [[] for _ in self.layers]
        for block in forward:
            waiting[block.target] += 1
            out[block.source].append(block.target)
        ready = [n for n, count in enumerate(waiting) if not count]
        heapq.heapify(ready)
        order: list[int] = []
        while ready:
            order.append(heapq.heappop(ready))
            for target in out[order[-1]]:
                waiting[target] -= 1
                if not waiting[target]:
                    heapq.heappush(ready, target)
        self._renumber(order)

    def _renumber(self, order: Sequence[int]) -> None:
        if len(order) != len(self.layers):
            raise RuntimeError("the layers of the graph form a circle; report this network")
        place = {old: new for new, old in enumerate(order)}
        self.layers = [self.layers[old] for old in order]
        for block in self.blocks:
            block.source, block.target = place[block.source], place[block.target]
        self.blocks.sort(key=lambda block: block.target)


def _main_dtype(program: Program, context: Context) -> torch.dtype:
    """The dtype of the graph's columns: that of most elements of the state_dict."""
    count: dict[torch.dtype, int] = {}
    for _, index in program.named_refs:
        dtype, shape = context.recording.dtypes[index], context.recording.shapes[index]
        if dtype.is_floating_point:
            count[dtype] = count.get(dtype, 0) + int(np.prod(shape))
    return max(count, key=lambda key: count[key]) if count else torch.float32
