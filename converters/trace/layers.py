"""From a labelled program to layers and blocks: the form each operation takes in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.program import Op, Ref, Size
from converters.trace.activations import step
from converters.trace.drafts import Draft
from converters.trace.kinds import ACTIVATION_OF, COMMUTATIVE, EDGE_OF, KIND_OF, VIEWS, attributes_of, pair, signature
from converters.trace.labels import Ids, Labels
from converters.trace.matching import flat_ids

__all__ = ["LayerBuilder"]


class LayerBuilder(Draft):
    """Walks the program, operation by operation."""

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
        if ends[0] is None or ends[1] is None:
            self._generic(op, [x], out)
            return
        target_ids = self._outputs(out) if transposed and groups > 1 else ends[0].ids
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
        self.weight_block(source, target, weight, (ends[0].ids, ends[1].ids), edge_type, groups)
        if op.args[2] is not None:
            self.node_parameter(target, "bias", op.args[2].index)

    def _outputs(self, out: int) -> Ids:
        bundle = self.context.labels[out].bundle_at(1)
        return np.full(self.context.shape(out)[1], -1, np.int64) if bundle is None else bundle.ids

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
        kind = "instance_norm" if self._per_sample(x) else KIND_OF[op.name]
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
            "instance_norm": (1, 2, 3, 4),
            "layer_norm": (2, 3),
            "group_norm": (1, 2),
            "rms_norm": (2,),
        }[kind]
        for slot, position in zip(("scale", "bias", "running_mean", "running_var"), positions, strict=False):
            if position < len(op.args) and isinstance(op.args[position], Ref):
                self.node_parameter(target, slot, op.args[position].index)
        numbers = [a for a in op.args if isinstance(a, float)]
        self.layers[target].attributes["eps"] = numbers[-1] if numbers else 0.0
        if op.name == "native_batch_norm" and op.args[5]:
            self.layers[target].attributes["signature"] = signature("statistics of the batch")
        if kind == "group_norm":
            self.layers[target].attributes["groups"] = float(op.args[6])
        if kind == "layer_norm":
            self.layers[target].attributes["axes"] = float(len(op.args[1]))

    def _per_sample(self, x: int) -> bool:
        """Whether samples were folded into channels first, as instance norm does it."""
        maker = self.maker.get(x)
        if maker is None or maker.name not in ("view", "_unsafe_view", "reshape"):
            return False
        return len(maker.args[1]) > 1 and isinstance(maker.args[1][1], Size)

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
            sources: list[tuple[int, str]] = []
            for place, i in enumerate(i for i in op.refs() if i not in self.origin or not self.origin[i]):
                if i not in self.dynamic:
                    continue
                edge_type = EDGE_OF.get(kind, "identity")
                if place and op.name not in COMMUTATIVE:
                    edge_type = ("second_operand", "third_operand")[min(place, 2) - 1]
                if i in self.layer_of:
                    sources.append((self.layer_of[i], edge_type))
                elif flat is not None and self.context.labels[i].source == "input":
                    sources += [(number, edge_type) for number in self._input_sources(i, index, flat)]
            target = self.add_layer(kind, flat if flat is not None else np.full(1, -1, np.int64), index)
            for source, edge_type in sources:
                self.join(source, target, edge_type)
            steps: list[Any] = [self.path[i] for i in moving if i in self.layer_of and self.path.get(i)]
            self.layers[target].attributes.update(attributes_of(op, kind))
            fixed = [self._value(i) for i in op.refs() if i not in self.dynamic and not self.origin.get(i)]
            if steps or fixed:
                numbers = tuple(a for a in op.args if not isinstance(a, Ref))
                self.layers[target].attributes["signature"] = signature(op.target, numbers, op.kwargs, steps, fixed)

    def _value(self, index: int) -> Any:
        """The content of a constant, for signatures."""
        recording = self.context.recording
        value = recording.values.get(index, recording.constants.get(index))
        return None if value is None else (tuple(value.shape), value.flatten().tolist())

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
