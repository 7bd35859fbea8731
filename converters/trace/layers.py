"""From a labelled program to layers and blocks: the form each operation takes in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.program import Op, Ref
from converters.trace.activations import step
from converters.trace.attention_layers import PRODUCTS
from converters.trace.kinds import (
    COMMUTATIVE,
    EDGE_OF,
    ELEMENTWISE,
    KIND_OF,
    RESHAPES,
    VIEWS,
    attributes_of,
    numbers_of,
    signature,
)
from converters.trace.labels import Ids
from converters.trace.weight_layers import WeightLayers

__all__ = ["LayerBuilder"]

MATRICES = frozenset("addmm mm linear mv addmv bmm baddbmm matmul".split())
PARTS = frozenset("select unbind split split_with_sizes unsafe_split chunk".split())
"""Operations that take positions of one axis; where it is not the neurons', they make no layer."""

EMBEDDINGS = frozenset("embedding _embedding_bag _embedding_bag_forward_only".split())


class LayerBuilder(WeightLayers):
    """Walks the program, operation by operation."""

    # -- walking ---------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Place every operation, then the parameters that are left."""
        self._states()
        for op in self.ops:
            self.context.op = op
            moving = [i for i in op.refs() if i in self.dynamic]
            if not moving:
                names = tuple(dict.fromkeys(n for i in op.refs() for n in self.origin.get(i, ())))
                self.origin.update({i: names for i in op.outputs if i is not None})
                continue
            self.dynamic.update(i for i in op.outputs if i is not None)
            self.place(op, moving)
            out = next(i for i in op.outputs if i is not None)
            self.spread(op, moving, out)
            self.note_consumer(op, moving, out)
        self._close_states()
        self.place_rest()
        self.arrange()

    def _states(self) -> None:
        """A layer for every tensor that is handed from step to step."""
        for state in self.states:
            self.dynamic.add(state.index)
            ids = self.neurons(state.index)
            layer = self.add_layer("recurrent", np.full(1, -1, np.int64) if ids is None else ids, state.index)
            self.layers[layer].name = "state"

    def _close_states(self) -> None:
        """Recurrent edges from what a step leaves behind, and edges from what the first one starts with."""
        for state in self.states:
            layer = self.layer_of[state.index]
            words: list[Any] = [state.direction] if state.direction != (1,) else []
            if state.produced in self.layer_of:
                self.join(self.layer_of[state.produced], layer, "recurrent")
            if self.origin.get(state.initial) and state.initial not in self.dynamic:
                self.parameter_layer(state.initial, [layer])
            if state.initial in self.layer_of:
                if self.layer_of[state.initial] != layer:
                    self.join(self.layer_of[state.initial], layer, "identity")
            elif state.initial in self.dynamic:
                words.append(("input", *self.path.get(state.initial, ())))
            elif (value := self.value(state.initial)) is not None and not _zero(value):
                words.append(value)
            if words:
                self.layers[layer].attributes["signature"] = signature(*words)

    def place(self, op: Op, moving: list[int]) -> None:
        """Find the form this operation takes in the graph."""
        out = next(i for i in op.outputs if i is not None)
        if op.name in MATRICES and len(moving) == 1 and self.matrix(op, moving[0], out):
            return
        if op.name in PRODUCTS and len(moving) > 1 and len(tensors := _factors(op)) == 2:
            self.product(op, tensors[0], tensors[1], out)
        elif "scaled_dot_product" in op.name and self.fused(op, out):
            return
        elif op.name in ("convolution", "_convolution") and moving == [op.args[0].index]:
            if not self.convolution(op, out):
                self.generic(op, moving, out)
        elif op.name in EMBEDDINGS and self.origin.get(op.refs()[0]) and self.embedding(op, moving, out):
            return
        elif "norm" in op.name and KIND_OF.get(op.name, "").endswith("_norm"):
            self.norm(op, out)
        elif self._passes(op, moving):
            return
        elif self._before_layers(op, moving, out):
            self.feeds[out] = frozenset(i for j in moving for i in self.feeds.get(j, ()))
            self.path[out] = (*(p for i in moving for p in self.path.get(i, ())), (op.target, *numbers_of(op)))
        elif len(set(moving)) == 1 and self._function(op, moving[0], out):
            return
        else:
            self.generic(op, moving, out)

    def _passes(self, op: Op, moving: list[int]) -> bool:
        """Views that leave the neurons as they are, parts along other axes, all steps of a loop side by side."""
        x, outs = moving[0], [i for i in op.outputs if i is not None and (i in self.uses or i in self.outputs)]
        if x not in self.layer_of or not (op.name in VIEWS | PARTS or self._steps(op, moving)) or not outs:
            return False
        layer, before = self.layer_of[x], self.path.get(x, ())
        if not all(self._same_neurons(out, layer) for out in outs):
            return False
        for out in outs:
            self.layer_of[out] = layer
            plain = op.name in RESHAPES or op.name in ("unsqueeze", "squeeze")
            plain = plain or (op.name not in ("slice", *PARTS) and len(self.context.shape(out)) <= 2)
            number, count = op.outputs.index(out), len(op.outputs)
            which = () if count == 1 else (number if 2 * number < count else number - count,)
            self.path[out] = before if plain else (*before, (op.target, *numbers_of(op), *which))
        return True

    def _same_neurons(self, out: int, layer: int) -> bool:
        own = self.layers[layer].ids
        ids = self.neurons(out, [layer])
        if ids is None:
            return not self.context.labels[out].bundles and bool((own < 0).all())
        return self._equal(ids, own)

    def _steps(self, op: Op, moving: list[int]) -> bool:
        if op.name not in ("stack", "cat") or len(set(moving)) > 1:
            return False
        return moving[0] in self.alias.values() or (op.name == "stack" and op.refs() == moving)

    def _before_layers(self, op: Op, moving: list[int], out: int) -> bool:
        """Whether the value is still a function of the inputs alone, with no neuron axis."""
        labels = self.context.labels[out]
        return not labels.bundles and not any(i in self.layer_of for i in moving) and labels.source == "input"

    # -- functions -------------------------------------------------------------------------------------------------

    def _function(self, op: Op, x: int, out: int) -> bool:
        """Elementwise functions of one tensor, with numbers, constants or a parameter along its neurons."""
        if x not in self.layer_of and not self.context.labels[out].bundles:
            return False
        others = [i for i in op.refs() if i != x]
        if op.name in ELEMENTWISE and all(self.constant(i) for i in others) and op.refs().count(x) == 1:
            return self._activate(op, x, others, out)
        parameters = [i for i in others if self.origin.get(i)]
        if len(parameters) != 1 or len(others) != 1 or op.name not in ("add", "mul", "_prelu_kernel"):
            return False
        names = self.origin[parameters[0]]
        slot = {"add": "bias", "mul": "scale", "_prelu_kernel": "slope"}[op.name]
        kind = {"add": "bias", "mul": "scale", "_prelu_kernel": "prelu"}[op.name]
        flat = self.neurons(out, [self.layer_of[x]] if x in self.layer_of else ())
        if flat is None or len(names) != 1 or self.expression(parameters[0]) != "parameter":
            return False
        current = self.layer_of.get(x)
        if current is not None and op.name == "add" and self._sole(x) and not self.layers[current].activations:
            plain = self.layers[current].kind in ("linear", "convolution") and not self.path.get(x)
            if plain and self.node_parameter(current, slot, parameters[0]):
                self.layer_of[out] = current
                return True
        probe = self.add_layer(kind, flat, None)
        fitting = self.fits(probe, slot, names[0])
        self.layers.pop()
        if not fitting:
            return False
        source = self.source_of(x, flat, self._axis_of(out))
        target = self.add_layer(kind, flat, out)
        self.join(source, target, "identity")
        self.carry(x, target)
        return self.node_parameter(target, slot, parameters[0])

    def _activate(self, op: Op, x: int, others: list[int], out: int) -> bool:
        """A function of each neuron by itself, part of the layer it follows."""
        current = self.layer_of.get(x)
        if current is None:
            return False
        ids = self.neurons(out, [current])
        if others and not (ids is not None and self._equal(ids, self.layers[current].ids)):
            return False
        layer = self._tip(x, out, "activation")
        if layer is None:
            return False
        if (out in self.scores or x in self.scores) and others and self.masked(layer, op, others):
            return True
        self.layers[layer].activations.append(step(op, tuple(self.value(i) for i in others)))
        return True

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
        self.carry(x, target)
        return target

    def generic(self, op: Op, moving: list[int], out: int) -> None:
        """Any other operation: nodes for its neurons, edges from every operand that has some."""
        kind = KIND_OF.get(op.name, "upsample" if "upsample" in op.name else "pad" if "_pad" in op.name else "other")
        near = [self.layer_of[i] for i in moving if i in self.layer_of]
        for index in (i for i in op.outputs if i is not None):
            labels = self.context.labels[index]
            unread = index not in self.uses and index not in self.outputs
            if (index != out and not labels.bundles) or (unread and len(op.outputs) > 1):
                continue
            flat = self.neurons(index, near)
            sources: list[tuple[int, str]] = []
            for place, i in enumerate(i for i in op.refs() if not self.constant(i)):
                edge_type = EDGE_OF.get(kind, "identity")
                if place and op.name not in COMMUTATIVE:
                    edge_type = ("second_operand", "third_operand")[min(place, 2) - 1]
                if i in self.layer_of:
                    sources.append((self.layer_of[i], edge_type))
                elif i not in self.dynamic:
                    own = self.parameter_layer(i, near)
                    sources += [(own, edge_type)] if own is not None else []
                elif flat is not None and self.context.labels[i].source == "input":
                    sources += [(number, edge_type) for number in self._input_sources(i, index, flat)]
            target = self.add_layer(kind, flat if flat is not None else np.full(1, -1, np.int64), index)
            for source, edge_type in sources:
                self.join(source, target, edge_type)
            steps: list[Any] = [self.path[i] for i in moving if i in self.layer_of and self.path.get(i)]
            self.layers[target].attributes.update(attributes_of(op, kind))
            fixed = [self.value(i) for i in op.refs() if self.constant(i)]
            if steps or fixed:
                self.layers[target].attributes["signature"] = signature(op.target, numbers_of(op), steps, fixed)

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


def _factors(op: Op) -> list[int]:
    """The two factors of a matrix product."""
    data = op.args[1:3] if op.name == "baddbmm" else op.args[:2]
    return [arg.index for arg in data if isinstance(arg, Ref)]


def _zero(value: Any) -> bool:
    return isinstance(value, tuple) and value[0] == "full" and not value[2]
