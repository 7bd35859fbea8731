"""From a labelled program to layers and blocks: which nodes there are, what joins them, where each parameter goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from converters.program import Op, Program, Ref, map_leaves
from converters.structure import IndexArray
from converters.trace.activations import step
from converters.trace.context import Context
from converters.trace.kinds import ACTIVATION_OF, EDGE_OF, KIND_OF, VIEWS, attributes_of, pair, signature
from converters.trace.labels import Ids, Labels
from converters.trace.matching import flat_ids, match
from converters.trace.solver import Solution

__all__ = ["DraftBlock", "DraftLayer", "LayerBuilder"]


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


class LayerBuilder:
    """Walks the program and builds layers and blocks; parameters without a place are in ``extras``."""

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
        self.outputs: set[int] = set()
        map_leaves(program.outputs, lambda leaf: self.outputs.add(leaf.index) if isinstance(leaf, Ref) else None)
        for op in program.ops:
            for index in op.refs():
                self.uses[index] = self.uses.get(index, 0) + 1
        self._relatives: tuple[Ids, Ids] | None = None

    # -- walking ---------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Place every operation."""
        for op in self.program.ops:
            self.context.op = op
            moving = [i for i in op.refs() if i in self.dynamic]
            if not moving:
                names = tuple(dict.fromkeys(n for i in op.refs() for n in self.origin.get(i, ())))
                self.origin.update({i: names for i in op.outputs if i is not None})
                continue
            self.dynamic.update(i for i in op.outputs if i is not None)
            self.place(op, moving)

    def place(self, op: Op, moving: list[int]) -> None:
        """Find the form this operation takes in the graph."""
        out = next(i for i in op.outputs if i is not None)
        labels = self.context.labels[out]
        if op.name in ("addmm", "mm", "linear", "mv", "addmv", "bmm", "baddbmm") and len(moving) == 1:
            self._matrix(op, moving[0], out)
        elif op.name in ("convolution", "_convolution") and len(moving) == 1:
            self._convolution(op, out)
        elif "norm" in op.name and KIND_OF.get(op.name, "").endswith("_norm"):
            self._norm(op, out)
        elif self._passes(op, moving, out, labels):
            self.layer_of[out] = self.layer_of[moving[0]]
        elif self._before_layers(moving, labels):
            move = (op.target, tuple(repr(a) for a in op.args), op.kwargs)
            self.path[out] = (*(p for i in moving for p in self.path.get(i, ())), move)
        elif len(moving) == 1 and self._function(op, moving[0], out):
            return
        else:
            self._generic(op, moving, out)

    def _passes(self, op: Op, moving: list[int], out: int, labels: Labels) -> bool:
        """Views that leave the neurons as they are."""
        if op.name not in VIEWS or moving[0] not in self.layer_of:
            return False
        layer = self.layers[self.layer_of[moving[0]]]
        flat = flat_ids(labels)
        same = (flat is None and not labels.bundles) or (flat is not None and self._equal(flat, layer.ids))
        if same and op.name in ("slice", "transpose", "permute", "t") and not self._plain(op, labels):
            self.path[out] = (*self.path.get(moving[0], ()), (op.target, op.args[1:]))
        elif same:
            self.path[out] = self.path.get(moving[0], ())
        return same and len(labels.bundles) <= 1

    @staticmethod
    def _plain(op: Op, labels: Labels) -> bool:
        return op.name != "slice" and len(labels.shape) <= 2

    def _before_layers(self, moving: list[int], labels: Labels) -> bool:
        """Whether the value is still a function of the inputs alone, with no neuron axis."""
        return not labels.bundles and not any(i in self.layer_of for i in moving) and labels.source == "input"

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
            if shape[axes[0]] != rows or shape[axes[1]] * groups != cols or (groups > 1 and axes != (0, 1)):
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

    def _axes(self, name: str, target: Ids, source: Ids) -> tuple[int, int] | None:
        """Which axes of a parameter are the target's and the source's neurons."""
        labels = self.context.labels[self.index_of[name]]
        own = [labels.bundle_at(axis) for axis in range(len(labels.shape))]
        for equal in (lambda a, b: np.array_equal(a, b), self._equal):
            to = [a for a, bundle in enumerate(own) if bundle is not None and equal(bundle.ids, target)]
            rest = [a for a in range(len(own)) if a not in to[:1]]
            back = [a for a in rest if own[a] is not None and equal(own[a].ids, source)]  # type: ignore[union-attr]
            if to and back:
                return to[0], back[0]
        return None

    # -- operations that own weights -------------------------------------------------------------------------------

    def _matrix(self, op: Op, x: int, out: int) -> None:
        refs = op.refs()
        data = op.args[1:] if op.name in ("addmm", "addmv", "baddbmm") else op.args
        left = isinstance(data[0], Ref) and data[0].index == x
        weight = next((i for i in refs if i != x and len(self.context.shape(i)) >= 2), None)
        if weight is None or op.name in ("bmm", "baddbmm"):
            self._generic(op, [x], out)
            return
        labels = self.context.labels[weight]
        rank = len(labels.shape)
        contracted, free = (rank - 2, rank - 1) if left and op.name != "linear" else (rank - 1, rank - 2)
        ends = labels.bundle_at(free), labels.bundle_at(contracted)
        if ends[0] is None or ends[1] is None or len(ends[0].axes) > 1 or len(ends[1].axes) > 1:
            self._generic(op, [x], out)
            return
        axis = len(self.context.shape(x)) - 1 if left else max(len(self.context.shape(x)) - 2, 0)
        source = self.source_of(x, ends[1].ids, axis)
        target = self.add_layer("linear", ends[0].ids, out)
        self._carry(x, target)
        self.weight_block(source, target, weight, (ends[0].ids, ends[1].ids), "linear", 1)
        for i in refs:
            if i not in (x, weight):
                self.node_parameter(target, "bias", i)

    def _convolution(self, op: Op, out: int) -> None:
        x, weight = op.args[0].index, op.args[1].index
        transposed, groups = bool(op.args[6]), int(op.args[8])
        labels = self.context.labels[weight]
        to, back = (1, 0) if transposed else (0, 1)
        ends = labels.bundle_at(to), labels.bundle_at(back)
        if ends[0] is None or ends[1] is None or (transposed and groups > 1):
            self._generic(op, [x], out)
            return
        target_ids = ends[0].ids
        source_ids = ends[1].ids if groups == 1 else self._channels(x, target_ids, groups)
        source = self.source_of(x, source_ids, 1)
        kind = "transposed_convolution" if transposed else "convolution"
        target = self.add_layer(kind, target_ids, out, groups=float(groups), transposed=float(transposed))
        rank = len(self.context.shape(weight)) - 2
        for name, position in (("kernel", None), ("stride", 3), ("padding", 4), ("dilation", 5)):
            sizes = self.context.shape(weight)[2:] if position is None else pair(op.args[position], rank)
            for axis, size in enumerate(sizes[:3]):
                self.layers[target].attributes[f"{name}_{axis}"] = float(size)
        if transposed:
            self.layers[target].attributes["signature"] = signature(op.args[7])
        self._carry(x, target)
        edge_type = "depthwise" if groups > 1 and groups == len(target_ids) else kind
        self.weight_block(source, target, weight, (target_ids, ends[1].ids), edge_type, groups)
        if op.args[2] is not None:
            self.node_parameter(target, "bias", op.args[2].index)

    def _channels(self, x: int, target_ids: Ids, groups: int) -> Ids:
        bundle = self.context.labels[x].bundle_at(1)
        if bundle is not None and bundle.axes == (1,):
            return bundle.ids
        size = self.context.shape(x)[1]
        return target_ids if size == len(target_ids) == groups else np.full(size, -1, np.int64)

    def _carry(self, x: int, target: int) -> None:
        """Rearrangements on the way to a layer are part of what it computes."""
        if x in self.layer_of and self.path.get(x):
            self.layers[target].attributes["signature"] = signature(*self.path[x])

    def _norm(self, op: Op, out: int) -> None:
        x, labels = op.args[0].index, self.context.labels[out]
        kind = KIND_OF[op.name]
        flat = flat_ids(labels)
        target_ids = flat if flat is not None else np.full(1, -1, np.int64)
        previous = (
            self.source_of(x, target_ids, 1) if x not in self.layer_of and flat is not None else self.layer_of.get(x)
        )
        target = self.add_layer(kind, target_ids, out)
        if previous is not None:
            self.join(previous, target, "norm")
        positions = {
            "batch_norm": (1, 2, 3, 4),
            "layer_norm": (2, 3),
            "group_norm": (1, 2),
            "rms_norm": (2,),
        }[kind]
        for slot, position in zip(("scale", "bias", "running_mean", "running_var"), positions, strict=False):
            if position < len(op.args) and isinstance(op.args[position], Ref):
                self.node_parameter(target, slot, op.args[position].index)
        numbers = [a for a in op.args if isinstance(a, float)]
        self.layers[target].attributes["eps"] = numbers[-1] if numbers else 0.0
        if kind == "group_norm":
            self.layers[target].attributes["groups"] = float(op.args[6])
        if kind == "layer_norm":
            self.layers[target].attributes["axes"] = float(len(op.args[1]))

    # -- functions -------------------------------------------------------------------------------------------------

    def _function(self, op: Op, x: int, out: int) -> bool:
        """Elementwise functions of one tensor, with numbers or with a parameter along its neurons."""
        if x not in self.layer_of and not self.context.labels[out].bundles:
            return False
        others = [i for i in op.refs() if i != x]
        if (
            not others
            and op.refs().count(x) == 1
            and (op.name in ACTIVATION_OF or op.name in ("add", "sub", "mul", "div", "pow", "rsub"))
        ):
            layer = self._tip(x, out, "activation")
            if layer is None:
                return False
            self.layers[layer].activations.append(step(op))
            return True
        parameters = [i for i in others if self.origin.get(i)]
        if len(parameters) == 1 and len(others) == 1 and op.name in ("add", "mul", "_prelu_kernel"):
            slot = {"add": "bias", "mul": "scale", "_prelu_kernel": "slope"}[op.name]
            kind = {"add": "bias", "mul": "scale", "_prelu_kernel": "prelu"}[op.name]
            flat = flat_ids(self.context.labels[out])
            if flat is None:
                return False
            current = self.layer_of.get(x)
            open_bias = current is not None and op.name == "add" and not self.layers[current].activations
            if (
                open_bias
                and current is not None
                and self._sole(x)
                and self.layers[current].kind in ("linear", "convolution")
            ) and self.node_parameter(current, slot, parameters[0]):
                self.layer_of[out] = current
                return True
            source = self.source_of(x, flat, self._axis_of(out))
            target = self.add_layer(kind, flat, out)
            self.join(source, target, "identity")
            self._carry(x, target)
            if not self.node_parameter(target, slot, parameters[0]):
                self.layers[target].kind = KIND_OF.get(op.name, "other")
            return True
        return False

    def _axis_of(self, index: int) -> int:
        bundles = self.context.labels[index].bundles
        return bundles[0].axes[0] if bundles else 0

    def _sole(self, index: int) -> bool:
        return self.uses.get(index, 0) == 1 and index not in self.outputs

    def _tip(self, x: int, out: int, kind: str) -> int | None:
        """The layer a function folds into: the producer if nobody else reads it, else one of its own."""
        if x not in self.layer_of:
            return None
        layer = self.layer_of[x]
        if self._sole(x) and not self.path.get(x):
            self.layer_of[out] = layer
            return layer
        target = self.add_layer(kind, self.layers[layer].ids, out)
        self.join(layer, target, "identity")
        self._carry(x, target)
        return target

    def _generic(self, op: Op, moving: list[int], out: int) -> None:
        """Any other operation: nodes for its neurons, edges from every operand that has some."""
        kind = KIND_OF.get(op.name, "upsample" if "upsample" in op.name else "pad" if "_pad" in op.name else "other")
        for index in (i for i in op.outputs if i is not None):
            labels = self.context.labels[index]
            if index != out and (index not in self.context.used or not labels.bundles):
                continue
            flat = flat_ids(labels)
            sources = []
            for i in dict.fromkeys(moving):
                if i in self.layer_of:
                    sources.append(self.layer_of[i])
                elif flat is not None and self.context.labels[i].source == "input":
                    sources += self._input_sources(i, index, flat)
            target = self.add_layer(kind, flat if flat is not None else np.full(1, -1, np.int64), index)
            for source in sources:
                self.join(source, target, EDGE_OF.get(kind, "identity"))
            steps = [self.path[i] for i in moving if i in self.layer_of and self.path.get(i)]
            self.layers[target].attributes.update(attributes_of(op, kind))
            if steps:
                self.layers[target].attributes["signature"] = signature(op.target, op.kwargs, steps)

    def _input_sources(self, index: int, out: int, flat: Ids) -> list[int]:
        axis = self._axis_of(out) - len(self.context.shape(out)) + len(self.context.shape(index))
        size = self.context.shape(index)[axis] if 0 <= axis < len(self.context.shape(index)) else 0
        if size == len(flat):
            return [self.source_of(index, flat, axis)]
        start = self._piece(index, axis)
        if start is None or size <= 1:
            return []
        return [self.source_of(index, flat[start : start + size], axis)]

    def _piece(self, index: int, axis: int) -> int | None:
        """Where a tensor lies within the result of the current ``cat``."""
        if self.context.op.name != "cat":
            return None
        start = 0
        for ref in self.context.tensors():
            if ref.index == index:
                return start
            start += self.context.shape(ref)[axis]
        return None


def _main_dtype(program: Program, context: Context) -> torch.dtype:
    """The dtype of the graph's columns: that of most elements of the state_dict."""
    count: dict[torch.dtype, int] = {}
    for _, index in program.named_refs:
        dtype, shape = context.recording.dtypes[index], context.recording.shapes[index]
        if dtype.is_floating_point:
            count[dtype] = count.get(dtype, 0) + int(np.prod(shape))
    return max(count, key=lambda key: count[key]) if count else torch.float32
