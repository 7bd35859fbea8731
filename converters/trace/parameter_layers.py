"""Layers for values that depend on parameters alone, and places for parameters that nothing else has placed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.program import Op
from converters.trace.drafts import DraftBlock
from converters.trace.kinds import numbers_of, signature
from converters.trace.labels import Ids
from converters.trace.parameters import MAX_BLOCKS, Pieces, Placement
from converters.vocabulary import NODE_SLOTS

__all__ = ["ParameterLayers"]


class ParameterLayers(Placement):
    """A draft in which every parameter ends up somewhere."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.consumer: dict[str, tuple[int, int]] = {}
        self.made_of: dict[tuple[str, int], int] = {}

    # -- values computed from parameters alone ---------------------------------------------------------------------

    def parameter_layer(self, index: int, near: Sequence[int]) -> int | None:
        """The nodes of a tensor that depends on parameters alone, holding those that have no place yet.

        Vectors become columns of its nodes, tables (embeddings, positions, class tokens) edges from nodes that stand
        for the rows. None for a tensor that has no neurons or whose parameters are no floats of the graph.
        """
        if index in self.layer_of:
            return self.layer_of[index]
        names = [name for name in self.origin.get(index, ()) if self.is_float(name) and self.shape_of(name)]
        ids = self.neurons(index, near)
        if ids is None or not names:
            return None
        if len(names) == 1 and names[0] in self.home and self._same_layer(names[0], ids, index):
            self.layer_of[index] = self.home[names[0]]
            return self.layer_of[index]
        table = any(len(self.long_axes(name)) > 1 for name in names)
        layer = self.add_layer("embedding" if table else "parameter", ids, index)
        self.layers[layer].name = names[0].rpartition(".")[0] or names[0]
        steps = self.expression(index)
        if steps != "parameter":
            self.layers[layer].attributes["signature"] = signature(steps)
        for name in names:
            if name in self.home and self.home[name] != layer:
                self.join(self.home[name], layer, "tied")
            elif name not in self.placed and name not in self.pieces:
                self.place_on(layer, name)
        return layer

    def _same_layer(self, name: str, ids: Ids, index: int) -> bool:
        layer = self.layers[self.home[name]]
        steps = self.expression(index)
        mine = 0.0 if steps == "parameter" else signature(steps)
        kind = layer.kind in ("embedding", "parameter")
        return kind and layer.attributes.get("signature", 0.0) == mine and self._equal(layer.ids, ids)

    def expression(self, index: int) -> Any:
        """How a tensor comes from parameters and constants, sizes left out."""
        if self.origin.get(index) and index in self.index_of.values():
            return "parameter"
        maker = self.maker.get(index)
        if self.constant(index) or maker is None:
            return self.value(index)
        if maker.name in ("clone", "alias", "_to_copy", "expand", "view", "_unsafe_view", "unsqueeze", "t"):
            return self.expression(maker.refs()[0])
        inner = tuple(self.expression(i) for i in maker.refs())
        out = maker.outputs.index(index) if len(maker.outputs) > 1 else 0
        return (maker.target, numbers_of(maker), out, *inner)

    def place_on(self, layer: int, name: str) -> bool:
        """Give a parameter its place on the nodes of a layer or on edges into them; False if no axis is theirs."""
        suffix = {"weight": "scale"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
        for slot in (*((suffix,) if suffix in NODE_SLOTS else ()), "value", *NODE_SLOTS):
            if self.fits(layer, slot, name):
                self.own(layer, slot, name)
                return True
        long = self.long_axes(name)
        if len(long) < 2:
            return False
        ids = self.layers[layer].ids
        mine = next((axis for axis in long if self._equal(self.axis_ids(name, axis), ids)), None)
        if mine is None:
            return False
        return self.table(layer, name, mine, [axis for axis in long if axis != mine])

    def table(self, layer: int, name: str, mine: int, rest: Sequence[int]) -> bool:
        """Edges from nodes for the other axes of a parameter; one block per position of movable outer axes."""
        kind = "embedding" if self.layers[layer].kind == "embedding" else "parameter"
        fixed = [axis for axis in rest if not self.movable[np.maximum(self.axis_ids(name, axis), 0)].any()]
        free = [axis for axis in rest if axis not in fixed]
        shape = self.shape_of(name)
        if len(free) > 1 or (free and int(np.prod([shape[axis] for axis in fixed])) > MAX_BLOCKS):
            return False
        if not free:
            count = int(np.prod([shape[axis] for axis in rest]))
            ids = self.axis_ids(name, rest[0]) if len(rest) == 1 else np.full(count, -1, np.int64)
            source = self.rows_layer(name, ids)
            ones = [axis for axis in range(len(shape)) if axis != mine and axis not in rest]
            block = DraftBlock(source, layer, "dense", kind, shape[mine], count)
            block.parameter, block.axes = name, (mine, *rest, *ones)
            self.blocks.append(block)
            self.placed.add(name)
            self.home[name] = layer
            return True
        source = self.rows_layer(name, self.axis_ids(name, free[0]))
        for at in itertools.product(*(range(shape[axis]) for axis in fixed)):
            block = DraftBlock(source, layer, "dense", kind, shape[mine], shape[free[0]])
            index = tuple(zip(fixed, at, strict=True))
            self.take(block, name, index, (mine, free[0]), mine, (0, shape[mine]))
            self.blocks.append(block)
        return True

    def rows_layer(self, name: str, ids: Ids) -> int:
        """A layer for the positions on an axis of a parameter."""
        source = self.add_layer("fixed", ids, None)
        self.layers[source].name = f"{name.rpartition('.')[0] or name} rows"
        return source

    # -- what is left ----------------------------------------------------------------------------------------------

    def note_consumer(self, op: Op, moving: Sequence[int], out: int) -> None:
        """Remember where a parameter that has no place yet is used."""
        target = self.layer_of.get(out)
        source = next((self.layer_of[i] for i in moving if i in self.layer_of), None)
        if target is None:
            return
        for index in op.refs():
            for name in self.origin.get(index, ()):
                self.consumer.setdefault(name, (target if source is None else source, target))

    def place_rest(self) -> None:
        """Places for all parameters that have none: beside their consumer, or by themselves."""
        for name in self.index_of:
            if name in self.placed or not self.is_float(name) or not int(np.prod(self.shape_of(name))):
                continue
            if name in self.pieces:
                self._rest_of(name)
            elif self.shape_of(name):
                self._place_beside(name)

    def _rest_of(self, name: str) -> None:
        """The positions of a stacked or split parameter that the run did not use."""
        pieces, shape = self.pieces[name], self.shape_of(name)
        outer = [axis for axis, _ in next(iter(pieces.covered))]
        size = shape[pieces.split]
        for at in itertools.product(*(range(shape[axis]) for axis in outer)):
            index, position = tuple(zip(outer, at, strict=True)), 0
            for start, stop in [*sorted(pieces.covered.get(index, ())), (size, size)]:
                if start > position:
                    self._rest_block(name, pieces, index, (position, start))
                position = stop

    def _rest_block(self, name: str, pieces: Pieces, index: tuple[tuple[int, int], ...], span: tuple[int, int]) -> None:
        source, target = pieces.source, pieces.target
        to, back = pieces.axes
        full = span == (0, self.shape_of(name)[pieces.split])
        if not full:
            ids = self.axis_ids(name, pieces.split)[slice(*span)]
            new = self.add_layer("parameter", ids, None)
            self.layers[new].name = name.rpartition(".")[0] or name
            source, target = (source, new) if pieces.split == to else (new, target)
        rows, cols = len(self.layers[target].ids), len(self.layers[source].ids)
        if full and (rows, cols) != (self.shape_of(name)[to], self.shape_of(name)[back]):
            source = self.rows_layer(name, self.axis_ids(name, back))
            target = self.add_layer("parameter", self.axis_ids(name, to), None)
            rows, cols = len(self.layers[target].ids), len(self.layers[source].ids)
        block = DraftBlock(source, target, "dense", "parameter", rows, cols)
        self.take(block, name, index, pieces.axes, pieces.split, span)
        self.blocks.append(block)

    def _place_beside(self, name: str) -> None:
        source, target = self.consumer.get(name, (None, None))
        long = self.long_axes(name)
        if len(long) < 2:
            layer = self._own_layer(name, long[0] if long else 0)
            if self.place_on(layer, name) and target is not None:
                self.join(layer, target, "parameter")
            return
        mine = self._axis_of_layer(name, long, target)
        back = self._axis_of_layer(name, [a for a in long if a != mine], source)
        if mine is None:
            mine = next((a for a in long if a != back), long[0])
            layer = self._own_layer(name, mine)
        else:
            assert target is not None
            layer = target
        rest = [axis for axis in long if axis != mine]
        if back is not None and len(rest) == 1 and source is not None and layer != source:
            first = source
        elif len(rest) == 1:
            first = self.made_of.get(self._key(target, self.axis_ids(name, rest[0])), -1)
            first = first if first >= 0 and first != layer else -1
        else:
            first = -1
        if first < 0:
            self.table(layer, name, mine, rest)
            return
        shape = self.shape_of(name)
        ones = [axis for axis in range(len(shape)) if axis not in (mine, rest[0])]
        block = DraftBlock(first, layer, "dense", "parameter", shape[mine], shape[rest[0]])
        block.parameter, block.axes = name, (mine, rest[0], *ones)
        self.blocks.append(block)
        self.placed.add(name)
        self.home[name] = layer

    def _axis_of_layer(self, name: str, axes: Sequence[int], layer: int | None) -> int | None:
        if layer is None:
            return None
        ids = self.layers[layer].ids
        return next((axis for axis in axes if self._equal(self.axis_ids(name, axis), ids)), None)

    def _own_layer(self, name: str, axis: int) -> int:
        """The layer of parameter neurons on this axis, shared by all leftovers of one consumer."""
        ids = self.axis_ids(name, axis)
        key = self._key(self.consumer.get(name, (None, None))[1], ids)
        full = key in self.made_of and len(self.layers[self.made_of[key]].slots) == len(NODE_SLOTS)
        if full or key not in self.made_of:
            self.made_of[key] = self.add_layer("parameter", ids, None)
            self.layers[self.made_of[key]].name = name.rpartition(".")[0] or name
        return self.made_of[key]

    def _key(self, consumer: int | None, ids: Ids) -> tuple[str, int]:
        return self._root(ids).tobytes().hex(), -1 if consumer is None else consumer
