"""Parts of tensors: ids are taken as the values are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Labels
from converters.trace.rules.convolution import SPATIAL

__all__ = ["RULES", "taken"]


def taken(
    context: Context, labels: Labels, axis: int, where: slice | np.ndarray | int, shape: tuple[int, ...]
) -> Labels:
    """Positions ``where`` of one axis; a proper part of a bundle is a set that is kept."""
    bundle = labels.bundle_at(axis)
    rank = len(labels.shape)
    if isinstance(where, int):
        mapping = {a: a - (a > axis) for a in range(rank) if a != axis}
    else:
        mapping = {a: a for a in range(rank)}
    if bundle is None:
        return labels.move(mapping, shape)
    position = bundle.axes.index(axis)
    ids = bundle.ids[(slice(None),) * position + (where,)]
    if not np.array_equal(np.unique(ids), np.unique(bundle.ids)):
        context.solver.mark(ids, f"{context.where}, {context.op.name} of tensor {context.op.outputs[0]}")
    others = tuple(other for other in labels.bundles if other is not bundle)
    rest = Labels(others, labels.blank, labels.source, labels.shape).move(mapping, shape)
    axes = tuple(mapping[a] for a in bundle.axes if a in mapping)
    mine = (Bundle(axes, ids),) if axes else ()
    return Labels(rest.bundles + mine, rest.blank, labels.source, shape)


def slice_(context: Context) -> list[Labels]:
    """``slice(x, dim, start, end, step)``."""
    labels = context.of(context.tensors()[0])
    axis = context.arg(1, "dim", 0) % len(labels.shape)
    part = slice(context.arg(2, "start"), context.arg(3, "end"), context.arg(4, "step", 1))
    if len(range(*part.indices(labels.shape[axis]))) == labels.shape[axis]:
        return [labels]
    return [taken(context, labels, axis, part, context.out_shape)]


def select(context: Context) -> list[Labels]:
    """``select(x, dim, index)``."""
    labels = context.of(context.tensors()[0])
    axis = context.arg(1) % len(labels.shape)
    return [taken(context, labels, axis, context.arg(2) % labels.shape[axis], context.out_shape)]


def split(context: Context) -> list[Labels]:
    """``split``, ``split_with_sizes``, ``chunk``: consecutive parts."""
    labels = context.of(context.tensors()[0])
    axis = context.arg(2, "dim", 0) % len(labels.shape)
    out, start = [], 0
    for index in context.op.outputs:
        if index is None:
            continue
        shape = context.shape(index)
        part = slice(start, start + shape[axis])
        used = index in context.used
        out.append(taken(context, labels, axis, part, shape) if used else Labels((), frozenset(), "", shape))
        start += shape[axis]
    return out


def unbind(context: Context) -> list[Labels]:
    """One tensor per position of an axis."""
    labels = context.of(context.tensors()[0])
    axis = context.arg(1, "dim", 0) % len(labels.shape)
    return [
        taken(context, labels, axis, i, context.shape(o)) for i, o in enumerate(context.op.outputs) if o is not None
    ]


def flip(context: Context) -> list[Labels]:
    """Axes reversed."""
    labels = context.of(context.tensors()[0])
    for axis in context.arg(1):
        labels = taken(context, labels, axis % len(labels.shape), slice(None, None, -1), labels.shape)
    return [labels]


def rot90(context: Context) -> list[Labels]:
    """``rot90(x, k, dims)``: a reversal and an exchange of two axes."""
    labels = context.of(context.tensors()[0])
    turns = context.arg(1, "k", 1) % 4
    a, b = (axis % len(labels.shape) for axis in context.arg(2, "dims", (0, 1)))
    for axis in {0: (), 1: (b,), 2: (a, b), 3: (a,)}[turns]:
        labels = taken(context, labels, axis, slice(None, None, -1), labels.shape)
    swap = {a: b, b: a} if turns % 2 else {}
    return [labels.move({axis: swap.get(axis, axis) for axis in range(len(labels.shape))}, context.out_shape)]


def roll(context: Context) -> list[Labels]:
    """``roll(x, shifts, dims)``: axes moved round; without ``dims`` the flattened tensor is."""
    labels = context.of(context.tensors()[0])
    shifts, dims = context.arg(1), context.arg(2, "dims", ())
    if not dims:
        return [context.project(labels, range(len(labels.shape)), "fixed", "it is rolled through all its axes")]
    for shift, axis in zip(shifts, dims, strict=True):
        order = np.roll(np.arange(labels.shape[axis]), shift)
        labels = taken(context, labels, axis % len(labels.shape), order, labels.shape)
    return [labels]


def pad(context: Context) -> list[Labels]:
    """``constant_pad_nd``: spatial axes are fixed; padded channels are new neurons that are all alike."""
    labels = context.of(context.tensors()[0])
    amounts, shape = context.arg(1), context.out_shape
    bundles = list(labels.bundles)
    for i in range(0, len(amounts), 2):
        axis = len(shape) - 1 - i // 2
        bundle = labels.bundle_at(axis)
        if bundle is None or (amounts[i] == 0 and amounts[i + 1] == 0):
            continue
        bundles.remove(bundle)
        if len(bundle.axes) > 1 or min(amounts[i], amounts[i + 1]) < 0:
            context.freeze_ids(bundle.ids, SPATIAL)
            continue
        new = context.solver.fresh(amounts[i] + amounts[i + 1])
        before, after = new[: amounts[i]], new[amounts[i] :]
        context.solver.mark(bundle.ids, f"{context.where}, padded into tensor {context.op.outputs[0]}")
        bundles.append(Bundle((axis,), np.concatenate([before, bundle.ids, after])))
    grown = {axis for axis, (a, b) in enumerate(zip(labels.shape, shape, strict=True)) if a != b}
    return [Labels(tuple(bundles), labels.blank - grown, labels.source, shape)]


def glu(context: Context) -> list[Labels]:
    """The first half of an axis gated by the second: the halves are united."""
    x = context.tensors()[0]
    labels = context.of(x)
    rank, shape = len(labels.shape), context.out_shape
    axis = context.arg(1, "dim", -1) % rank
    half = shape[axis]
    parts = [taken(context, labels, axis, slice(i * half, (i + 1) * half), shape) for i in (0, 1)]
    letters = [str(a) for a in range(rank)]
    operands = [Operand(part, dict(enumerate(letters)), x.index) for part in parts]
    return [context.combine(operands, letters, dict(zip(letters, shape, strict=True)))]


PARTS: dict[str, Callable[[Context], list[Labels]]] = {
    "slice": slice_,
    "select": select,
    "split": split,
    "split_with_sizes": split,
    "chunk": split,
    "unsafe_split": split,
    "unsafe_split_with_sizes": split,
    "unsafe_chunk": split,
    "unbind": unbind,
    "flip": flip,
    "rot90": rot90,
    "roll": roll,
    "glu": glu,
    "constant_pad_nd": pad,
}
COPIED = ("slice", "select", "split", "split_with_sizes", "unbind")
RULES = {**PARTS, **{f"{name}_copy": PARTS[name] for name in COPIED}}
