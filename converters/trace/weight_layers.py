"""Layers whose operations own weights: matrix products, convolutions, tables and normalisations."""

from __future__ import annotations

import numpy as np

from converters.program import Op, Ref, Size
from converters.trace.attention_layers import AttentionLayers
from converters.trace.kinds import KIND_OF, numbers_of, pair, signature
from converters.trace.labels import Ids

__all__ = ["WeightLayers"]


class WeightLayers(AttentionLayers):
    """Places operations that read a weight and one tensor that depends on the inputs."""

    def matrix(self, op: Op, x: int, out: int) -> bool:
        """A product with a weight: dense edges; False where the weight's axes are no neurons."""
        data = op.args[1:] if op.name in ("addmm", "addmv", "baddbmm") else op.args
        left = isinstance(data[0], Ref) and data[0].index == x
        weight = next((i for i in op.refs() if i != x and len(self.context.shape(i)) >= 2), None)
        if weight is None or self.constant(weight):
            return False
        labels = self.context.labels[weight]
        rank = len(labels.shape)
        contracted, free = (rank - 2, rank - 1) if left and op.name != "linear" else (rank - 1, rank - 2)
        ends = labels.bundle_at(free), labels.bundle_at(contracted)
        if ends[0] is None or ends[1] is None or len(ends[0].axes) > 1 or len(ends[1].axes) > 1:
            return False
        axis = len(self.context.shape(x)) - 1 if left else max(len(self.context.shape(x)) - 2, 0)
        source = self.source_of(x, ends[1].ids, axis)
        target = self.add_layer("linear", ends[0].ids, out)
        self.carry(x, target)
        self.weight_block(source, target, weight, (ends[0].ids, ends[1].ids), "linear")
        for i in op.refs():
            if i not in (x, weight):
                self.bias(target, i)
        return True

    def bias(self, target: int, index: int) -> None:
        """A bias along a layer's neurons, or the nodes of what holds it (one vector for several layers)."""
        if self.node_parameter(target, "bias", index) or not self.origin.get(index):
            return
        names = [name for name in self.origin[index] if self.is_float(name)]
        ids = self.neurons(index, [target])
        if len(names) == 1 and len(self.long_axes(names[0])) == 1 and ids is not None:
            name = names[0]
            part = self._range(name, self.long_axes(name)[0], ids)
            if name not in self.home:
                layer = self.add_layer("parameter", self.axis_ids(name, self.long_axes(name)[0]), None)
                self.layers[layer].name = name.rpartition(".")[0] or name
                if not self.place_on(layer, name):
                    return
                self.layers[layer].slots = {"bias": name}
            if part is None or len(ids) != len(self.layers[target].ids):
                self.join(self.home[name], target, "parameter")
            else:
                pairs = np.stack([np.arange(*part), np.arange(len(ids))], axis=1)
                self.edges(self.home[name], target, "parameter", pairs)
        elif (layer_number := self.parameter_layer(index, [target])) is not None:
            self.join(layer_number, target, "parameter")

    def convolution(self, op: Op, out: int) -> bool:
        """A convolution: an edge per kernel; False where the weight has no axes of neurons, or each sample its own."""
        if isinstance(op.args[8], Size):
            return False
        x, weight = op.args[0].index, op.args[1].index
        transposed, groups = bool(op.args[6]), int(op.args[8])
        labels = self.context.labels[weight]
        to, back = (1, 0) if transposed else (0, 1)
        ends = labels.bundle_at(to), labels.bundle_at(back)
        if ends[0] is None or ends[1] is None:
            return False
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
        self.carry(x, target)
        edge_type = "depthwise" if groups > 1 and groups == len(target_ids) else kind
        self.weight_block(source, target, weight, (ends[0].ids, ends[1].ids), edge_type, groups, kernel=True)
        if op.args[2] is not None:
            self.bias(target, op.args[2].index)
        return True

    def _outputs(self, out: int) -> Ids:
        bundle = self.context.labels[out].bundle_at(1)
        return np.full(self.context.shape(out)[1], -1, np.int64) if bundle is None else bundle.ids

    def _channels(self, x: int, target_ids: Ids, groups: int) -> Ids:
        bundle = self.context.labels[x].bundle_at(1)
        if bundle is not None and bundle.axes == (1,):
            return bundle.ids
        size = self.context.shape(x)[1]
        return target_ids if size == len(target_ids) == groups else np.full(size, -1, np.int64)

    def embedding(self, op: Op, moving: list[int], out: int) -> bool:
        """Rows of a table chosen by number: edges from a node per row."""
        weight, index = op.refs()[:2]
        labels = self.context.labels[weight]
        columns, rows = labels.bundle_at(len(labels.shape) - 1), labels.bundle_at(0)
        if columns is None or weight in moving:
            return False
        kind = "input" if self.context.labels[index].source == "input" else "fixed"
        count = self.context.shape(weight)[0]
        row_ids = np.full(count, -1, np.int64) if rows is None else rows.ids.reshape(-1)
        source = self.add_layer(kind, row_ids, None)
        self.layers[source].name = f"{op.scope or 'embedding'} rows"
        if index in self.layer_of:
            self.join(self.layer_of[index], source, "other")
        target = self.add_layer("embedding", columns.ids.reshape(-1), out)
        words = [self.path.get(index, ()), *(n for n in numbers_of(op)[1:3] if op.name != "embedding")]
        if any(words):
            self.layers[target].attributes["signature"] = signature(op.name, *words)
        self.weight_block(source, target, weight, (columns.ids.reshape(-1), row_ids), "embedding")
        return True

    def carry(self, x: int, target: int) -> None:
        """Rearrangements on the way to a layer are part of what it computes."""
        if x in self.layer_of and self.path.get(x):
            self.layers[target].attributes["signature"] = signature(*self.path[x])

    def norm(self, op: Op, out: int) -> None:
        """A normalisation: its affine parameters and statistics lie on its nodes."""
        x = op.args[0].index
        kind = "instance_norm" if self._per_sample(x) else KIND_OF[op.name]
        flat = self.neurons(out, [self.layer_of[x]] if x in self.layer_of else ())
        target_ids = flat if flat is not None else np.full(1, -1, np.int64)
        previous = self.layer_of.get(x)
        if previous is None and flat is not None:
            previous = self.source_of(x, target_ids, 1)
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
                ref = op.args[position].index
                own = None if self.node_parameter(target, slot, ref) else self.parameter_layer(ref, [target])
                if own is not None:
                    self.join(own, target, "parameter")
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
