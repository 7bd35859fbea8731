"""Attention as layers: scores per head, their softmax, and the values they weigh."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.program import Op, Ref
from converters.trace.context import plain_array
from converters.trace.kinds import ELEMENTWISE, VIEWS, causal, signature
from converters.trace.labels import Ids
from converters.trace.matching import equal_pairs
from converters.trace.parameter_layers import ParameterLayers
from converters.trace.tables import distinct

__all__ = ["PRODUCTS", "AttentionLayers"]

PRODUCTS = frozenset("bmm baddbmm matmul mm".split())
"""Matrix products; of two tensors that depend on the inputs, they are a step of some attention."""

SOFTMAX = frozenset("_softmax _safe_softmax softmax".split())

DEPTH = 24
"""How many operations between scores and their softmax are looked through."""


class AttentionLayers(ParameterLayers):
    """Places products of two moving tensors and fused attention."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scores: set[int] = set()
        self.weights: set[int] = set()

    # -- products --------------------------------------------------------------------------------------------------

    def product(self, op: Op, left: int, right: int, out: int) -> None:
        """One layer per product: query and key meet in scores per head, attention and value in what is read."""
        if left in self.weights:
            types = ("attention", "value")
        elif right in self.weights:
            types = ("value", "attention")
        elif self._ahead(out):
            types = ("query", "key")
            self.scores.add(out)
        else:
            types = ("gate", "second_operand")
        sources = [(self.operand(i, out), edge_type) for i, edge_type in zip((left, right), types, strict=True)]
        near = [layer for layer, _ in sources if layer is not None]
        ids = self.neurons(out, near)
        heads = self._heads(left if "query" in types or "attention" in types[:1] else right)
        layer = self.add_layer("attention", np.full(1, -1, np.int64) if ids is None else ids, out, heads=heads)
        for source, edge_type in sources:
            if source is not None:
                self.join(source, layer, edge_type)
        scale = [n for n in op.kwargs if isinstance(n[1], (int, float)) and n[1] != 1]
        steps = [self.path.get(i, ()) for i in (left, right)]
        if any(steps) or scale:
            self.layers[layer].attributes["signature"] = signature(op.name, scale, steps)

    def operand(self, index: int, out: int) -> int | None:
        """The layer of an operand, made for parameters and for inputs that have neurons."""
        if index in self.layer_of:
            return self.layer_of[index]
        return self.parameter_layer(index, ()) if self.origin.get(index) and index not in self.dynamic else None

    def _ahead(self, out: int) -> bool:
        """Whether a softmax follows before any other product."""
        queue, seen = [out], {out}
        for index in queue:
            if len(seen) > DEPTH:
                return False
            for user in self.users.get(index, ()):
                if user.name in SOFTMAX:
                    return True
                if user.name in VIEWS or user.name in ELEMENTWISE or user.name in ("cat", "slice_scatter"):
                    new = [i for i in user.outputs if i is not None and i not in seen]
                    queue += new
                    seen.update(new)
        return False

    def spread(self, op: Op, moving: list[int], out: int) -> None:
        """Views and functions of attention weights are attention weights."""
        passes = op.name in VIEWS or op.name in ELEMENTWISE or op.name in ("select", "cat")
        if any(i in self.scores for i in moving) and passes:
            self.scores.add(out)
        if (op.name in SOFTMAX and any(i in self.scores for i in moving)) or (
            passes and any(i in self.weights for i in moving)
        ):
            self.weights.add(out)

    def _heads(self, index: int) -> float:
        """Heads by the shape an operand had before its leading axes were joined: ``[batch, heads, length, width]``."""
        batch, seen = max(self.context.batch, 1), index
        while len(self.context.shape(seen)) < 4:
            maker = self.maker.get(seen)
            moved = [] if maker is None or maker.name not in VIEWS | ELEMENTWISE else self._moving(maker)
            if len(moved) != 1:
                shape = self.context.shape(index)
                return float(max(int(np.prod(shape[:-2])) // batch, 1)) if len(shape) > 2 else 1.0
            seen = moved[0]
        return float(self.context.shape(seen)[-3])

    def _moving(self, op: Op) -> list[int]:
        return [i for i in op.refs() if i in self.dynamic]

    # -- masks -----------------------------------------------------------------------------------------------------

    def masked(self, layer: int, op: Op, constants: list[int]) -> bool:
        """Note a causal mask on the scores it is applied to; False for any other mask."""
        recording = self.context.recording
        values = [recording.values.get(i, recording.constants.get(i)) for i in constants]
        arrays = [plain_array(value) for value in values if value is not None and value.dim() >= 2]
        if not arrays or not all(causal(array) for array in arrays):
            return False
        self.layers[layer].attributes["causal"] = 1.0
        return True

    # -- fused attention -------------------------------------------------------------------------------------------

    def fused(self, op: Op, out: int) -> bool:
        """``scaled_dot_product_attention`` in any of its forms as scores, softmax and values."""
        refs = [arg.index for arg in op.args[:3] if isinstance(arg, Ref)]
        if len(refs) != 3 or len(self.context.shape(refs[0])) < 3:
            return False
        q = refs[0]
        sources = [self.operand(i, out) for i in refs]
        shape = self.context.shape(q)
        heads = shape[-3] if len(shape) > 3 else 1
        ids = self._head_ids(q, heads)
        scale = dict(op.kwargs).get("scale")
        scores = self.add_layer("attention", ids, None, heads=float(heads))
        self.layers[scores].activations.append(("mul", (shape[-1] ** -0.5 if scale is None else scale,), (), True))
        paths = [self.path.get(i, ()) for i in refs]
        if any(paths[:2]):
            self.layers[scores].attributes["signature"] = signature("bmm", [], paths[:2])
        for index, source, edge_type in zip(refs[:2], sources[:2], ("query", "key"), strict=True):
            if source is not None:
                self._join_heads(index, source, heads, scores, edge_type)
        if any(arg is True for arg in op.args[3:]) or dict(op.kwargs).get("is_causal"):
            self.layers[scores].attributes["causal"] = 1.0
        self._mask(op, scores)
        softmax = self.add_layer("softmax", ids, None)
        self.join(scores, softmax, "identity")
        near = [layer for layer in sources[2:] if layer is not None]
        mine = self.neurons(out, near)
        if mine is None:
            mine = self.layers[near[0]].ids if near else np.full(1, -1, np.int64)
        target = self.add_layer("attention", mine, out, heads=float(heads))
        if paths[2]:
            self.layers[target].attributes["signature"] = signature("bmm", [], [(), paths[2]])
        self._join_heads(out, target, heads, softmax, "attention")
        for source in near:
            self.join(source, target, "value")
        return True

    def _mask(self, op: Op, scores: int) -> None:
        given = [*op.args[3:4], *(value for key, value in op.kwargs if key in ("attn_mask", "attn_bias"))]
        for mask in (arg.index for arg in given if isinstance(arg, Ref)):
            if mask in self.layer_of:
                self.join(self.layer_of[mask], scores, "residual")
            elif mask in self.dynamic:
                self.layers[scores].attributes["signature"] = signature("mask", *self.path.get(mask, ()))
            elif self.origin.get(mask):
                bias = self.parameter_layer(mask, [scores])
                if bias is not None:
                    self.join(bias, scores, "residual")
            elif not self.masked(scores, op, [mask]):
                self.layers[scores].activations.append(("add", (self.value(mask),), (), True))

    def _table(self, index: int) -> Ids | None:
        """The neurons of ``[..., heads, length, width]`` as ``[heads, width]``; None where the heads have none."""
        labels = self.context.labels[index]
        axis = len(labels.shape) - 3
        bundle = labels.bundle_at(axis) if axis >= 0 else None
        if bundle is None:
            return None
        return bundle.ordered([axis, *(a for a in bundle.axes if a != axis)]).reshape(labels.shape[axis], -1)

    def _head_ids(self, query: int, heads: int) -> Ids:
        """The elements that all neurons of a head belong to; anonymous nodes where no neuron may move."""
        table = self._table(query)
        if table is None or heads == 1:
            return np.full(1 if table is None else heads, -1, np.int64)
        if table.shape[1] == 1:
            return table[:, 0]
        child, parent = self.context.solver.relation_pairs()
        pairs = equal_pairs(self._root(table.ravel()), self._root(child))
        part, whole = distinct(pairs[:, 0], self._root(parent[pairs[:, 1]]))
        shared, counts = np.unique(np.stack([part // table.shape[1], whole], axis=1), axis=0, return_counts=True)
        shared = shared[counts == table.shape[1]]
        if len(shared) == len(np.unique(shared[:, 1])) == heads and np.array_equal(shared[:, 0], np.arange(heads)):
            roots = self._root(parent)
            order = np.argsort(roots, kind="stable")
            heads_of: Ids = parent[order[np.searchsorted(roots[order], shared[:, 1])]]
            return heads_of
        return np.full(1 if self.movable[table].any() else heads, -1, np.int64)

    def _by_head(self, index: int, layer: int, heads: int, head_layer: int) -> Ids | None:
        """Pairs (node of ``layer``, head) of a tensor; heads of keys serve several heads of queries."""
        ids, table = self.layers[layer].ids, self._table(index)
        if len(self.layers[head_layer].ids) != heads:
            return None
        if table is None:
            return None
        found = equal_pairs(self._root(ids), self._root(table.ravel()))
        copies = max(heads // len(table), 1)
        rows = found[:, 1] // table.shape[1] * copies
        pairs = np.stack([np.repeat(found[:, 0], copies), (rows[:, None] + np.arange(copies)).ravel()], axis=1)
        return np.stack(distinct(pairs[:, 1], pairs[:, 0])[::-1], axis=1)

    def _join_heads(self, index: int, layer: int, heads: int, head_layer: int, edge_type: str) -> None:
        """Join neurons with their heads (or heads with their neurons where ``layer`` comes after)."""
        into = layer < head_layer
        pairs = self._by_head(index, layer, heads, head_layer)
        if pairs is None or not len(pairs):
            self.join(*((layer, head_layer) if into else (head_layer, layer)), edge_type)
        elif into:
            self.edges(layer, head_layer, edge_type, pairs)
        else:
            turned = pairs[:, ::-1]
            self.edges(head_layer, layer, edge_type, turned[np.lexsort((turned[:, 0], turned[:, 1]))])
