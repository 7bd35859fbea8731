"""Reads a program once, operation by operation, and lets its rule label each result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from converters.program import Program, Ref, map_leaves
from converters.structure import UNUSED
from converters.trace.context import Context, joint_source, plain_array
from converters.trace.labels import Bundle, Ids, Labels
from converters.trace.recorder import READ, Recording
from converters.trace.rules import DEFAULT_RULES
from converters.trace.rules.choices import follow

__all__ = ["Rule", "propagate"]

Rule = Callable[[Context], list[Labels]]


def propagate(recording: Recording, program: Program, rules: Mapping[str, Rule]) -> Context:
    """Label every tensor of ``program``; the constraints are in ``context.solver`` afterwards."""
    context = Context(recording, program.batch)
    context.standard = frozenset(name for name, rule in rules.items() if DEFAULT_RULES.get(name) is rule)
    solver = context.solver
    outputs: list[int] = []
    map_leaves(program.outputs, lambda leaf: outputs.append(leaf.index) if isinstance(leaf, Ref) else None)
    context.used = {index for op in program.ops for index in op.refs()} | set(outputs)
    for index in program.input_refs:
        context.labels[index] = Labels((), frozenset(), "input", recording.shapes[index])
    for name, index in program.named_refs:
        shape = recording.shapes[index]
        bundles = tuple(Bundle((axis,), solver.fresh(size)) for axis, size in enumerate(shape))
        context.labels[index] = Labels(bundles, frozenset(), "", shape)
        family = solver.family("fixed", name, "one of its neurons occurs twice on this axis")
        for bundle in bundles:
            solver.freeze_repeats(bundle.ids, family)
        if index not in context.used:
            unused = solver.family("fixed", name, UNUSED)
            for bundle in bundles:
                solver.freeze(bundle.ids, unused)
            if max(shape, default=1) > 1:
                context.reasons.append((name, UNUSED))
    for index, _ in program.constants:
        context.labels[index] = _constant(recording.constants[index])
    for op in program.ops:
        context.op = op
        rule = rules.get(op.target, rules.get(op.name))
        if rule is None:
            operands = [context.of(ref) for ref in context.tensors()]
            context.unsupported(f"no rule for {op.target.rsplit('.', 1)[0]}", operands)
            for ref in op.refs():
                if ref in context.choices:
                    context.freeze_ids(context.choices[ref].ids, context.choices[ref].reason)
            source = joint_source(labels.source for labels in operands)
            out = [Labels((), frozenset(), source, recording.shapes[i]) for i in op.outputs if i is not None]
        elif any(ref in context.choices for ref in op.refs()):
            out = follow(context, rule)
        else:
            out = rule(context)
        for index, labels in zip((i for i in op.outputs if i is not None), out, strict=False):
            context.labels[index] = (
                labels if labels.shape == recording.shapes[index] else _fitted(recording, index, labels)
            )
            if index in recording.values:
                context.labels[index] = _constant(recording.values[index])
            family = solver.family("fixed", context.where, "one of its neurons occurs twice on an axis")
            for bundle in context.labels[index].bundles:
                solver.freeze_repeats(bundle.ids, family)
    read = [
        *recording.baked,
        *((index, f"{place} {READ}") for index, value, place in recording.guards if value is not None),
    ]
    for index, reason in dict.fromkeys(read):
        for ids in _carried(context, index):
            context.solver.freeze(ids, context.solver.family("fixed", f"tensor {index}", reason))
            context.reasons.append((f"tensor {index}", reason))
    for number, index in enumerate(outputs):
        for ids in _carried(context, index):
            solver.freeze(ids, solver.family("output", f"output {number}", "it is an output of the network"))
    return context


def _carried(context: Context, index: int) -> list[Ids]:
    """The neurons that a tensor's positions or values tell."""
    chosen = [context.choices[index].ids] if index in context.choices else []
    return [*(bundle.ids for bundle in context.labels[index].bundles), *chosen]


def _constant(tensor: torch.Tensor) -> Labels:
    """Constants are blank along an axis where all positions agree."""
    values: Any = plain_array(tensor)
    blank = {axis for axis in range(values.ndim) if values.size and (values == values.take([0], axis=axis)).all()}
    return Labels((), frozenset(blank), "constant", tuple(values.shape))


def _fitted(recording: Recording, index: int, labels: Labels) -> Labels:
    """Secondary outputs of another shape carry no labels; axes of equal position and size keep theirs."""
    shape = recording.shapes[index]
    if len(shape) != len(labels.shape):
        return Labels((), frozenset(), labels.source, shape)
    same = {axis: axis for axis, (a, b) in enumerate(zip(labels.shape, shape, strict=True)) if a == b}
    kept = tuple(bundle for bundle in labels.bundles if all(axis in same for axis in bundle.axes))
    kept = tuple(bundle for bundle in kept if np.array_equal(bundle.ids.shape, [shape[axis] for axis in bundle.axes]))
    return Labels(kept, frozenset(axis for axis in labels.blank if axis in same), labels.source, shape)
