"""Convolutions act on channels as linear maps do; their kernel and spatial axes are fixed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from converters.program import Op
from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Labels
from converters.trace.rules.reshape import reshape_labels

__all__ = ["RULES", "SPATIAL"]

ENTRYWISE = frozenset(("_weight_norm_interface", "mul", "div", "neg", "clone", "alias", "_to_copy", "detach"))

LAID_OUT = frozenset(("view", "reshape", "_unsafe_view"))
NORMED = frozenset(("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"))
STATISTICS = frozenset(("var_mean", "mean", "sum", "var", "std"))

SPATIAL = "its spatial positions are not interchangeable"


def convolution(context: Context) -> list[Labels]:
    """``convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)``.

    Spatial axes on which the kernel is a point that moves by one are those of a product with a matrix: they pass.
    """
    x, weight = context.tensors()[:2]
    transposed, groups = context.arg(6), context.arg(8)
    rank = len(context.shape(x))
    channels, shape = context.shape(x)[1], context.out_shape
    apart = 1 < groups < max(channels, shape[1])
    points = {axis for axis in range(2, rank) if _is_point(context, axis - 2) and not apart}
    passing = [axis for axis in points if (own := context.of(x).bundle_at(axis)) is None or points.issuperset(own.axes)]
    fixed = [axis for axis in range(2, rank) if axis not in passing]
    image = context.project(context.of(x), fixed, "fixed", SPATIAL)
    kernel = context.project(
        context.of(weight), range(2, rank), "kernel", "its kernel positions are not interchangeable"
    )
    if groups > 1:
        listed = "outputs" if transposed else "inputs"
        kernel = context.project(kernel, [1], "kernel", f"it lists the {listed} of one group")
    spatial = {axis: f"x{axis}" for axis in range(2, rank)}
    through = {axis: spatial[axis] for axis in passing}
    letters = ["n", "o", *spatial.values()]
    sizes = {"n": shape[0], "o": shape[1], "c": channels, **dict(zip(spatial.values(), shape[2:], strict=True))}
    if apart:
        out = _grouped(context, image, kernel, groups, transposed)
    elif groups == 1:
        names = {0: "c", 1: "o"} if transposed else {0: "o", 1: "c"}
        operands = [Operand(image, {0: "n", 1: "c", **through}, x.index), Operand(kernel, names, weight.index)]
        out = context.reduce(context.combine(operands, [*letters, "c"], sizes), [rank])
    else:
        operands = [Operand(image, {0: "n", 1: "o", **through}, x.index), Operand(kernel, {0: "o"}, weight.index)]
        out = context.combine(operands, letters, sizes)
    bias = context.op.args[2]
    if bias is not None:
        every = {0: "n", 1: "o", **spatial}
        operands = [Operand(out, every), Operand(context.of(bias), {0: "o"}, bias.index)]
        out = context.combine(operands, letters, sizes)
    return [Labels(out.bundles, frozenset(), "", shape)]


def _is_point(context: Context, axis: int) -> bool:
    """Whether the kernel sees one position of a spatial axis, and each in its turn."""
    stride, padding, more = (context.arg(position) for position in (3, 4, 7))
    here = [value[axis] if len(value) > 1 else value[0] for value in (stride, padding, more)]
    weight = context.tensors()[1]
    return context.shape(weight)[2 + axis] == 1 and here == [1, 0, 0]


def _grouped(context: Context, image: Labels, kernel: Labels, groups: int, transposed: bool) -> Labels:
    """Groups of channels: inputs and outputs belong to the cell of their group; cells move as wholes.

    The rows of the weight are the outputs (of a transposed convolution: the inputs); what its second axis lists, the
    other channels of a row's group, is told to the context.
    """
    x, weight = context.tensors()[:2]
    context.labels[x.index], saved = image, context.labels[x.index]
    inputs = context.along(x, 1)
    context.labels[x.index] = saved
    own = kernel.bundle_at(0)
    rows = own.ids if own is not None and own.axes == (0,) else context.solver.fresh(context.shape(weight)[0])
    if own is not None and own.axes != (0,):
        context.unsupported("the weight of a grouped convolution is computed from other neurons", [image, kernel])
        context.freeze_ids(rows, "the weight of a grouped convolution is computed from other neurons")
    outputs = rows
    if transposed:
        context.solver.union(inputs, rows)
        outputs = context.solver.fresh(context.out_shape[1])
    width, listed = len(inputs) // groups, outputs if transposed else inputs
    cells = inputs if width == 1 else context.solver.fresh(groups)
    if width > 1:
        context.solver.member(inputs.reshape(groups, -1), cells[:, None])
    if len(listed) > groups:
        stored = _stored(context, weight.index)
        if stored is None:
            context.freeze_ids(listed, "the weight of a grouped convolution is computed from other values")
        else:
            context.grouped[stored] = listed
    context.solver.member(outputs.reshape(groups, -1), cells[:, None])
    return Labels((Bundle((1,), outputs),), frozenset(), "", context.out_shape)


def _stored(context: Context, index: int) -> int | None:
    """The parameter that a weight is, or is computed from entry by entry (weight norm, standardised rows).

    What enters beside it, gains and statistics, has to be the same for all that a row lists: the row's entries change
    places with the channels of its group. Nothing else reads the weight.
    """
    recording = context.recording
    makers = {i: op for op in recording.ops for i in op.outputs if i is not None}
    named, rows = set(recording.named.values()), recording.shapes[index][0]
    readers = _readers(context)
    if len(readers[index]) != 1:
        return None
    while index not in named:
        op, shape = makers.get(index), recording.shapes[index]
        axis = 0 if shape[0] == rows else 1
        if op is None or shape[: axis + 1] not in ((rows,), (1, rows)) or (op.name in NORMED and axis != 1):
            return None
        if op.name not in ENTRYWISE | LAID_OUT | NORMED:
            return None
        laid = op.name in LAID_OUT
        shapes = [(i, recording.shapes[i]) for i in op.refs()]
        sources = [i for i, own in shapes if own == shape or (laid and math.prod(own) == math.prod(shape))]
        beside = [own for _, own in shapes if own != shape]
        if len(sources) != 1 or (op.name in ENTRYWISE and any(_along(own, shape, axis + 1) > 1 for own in beside)):
            return None
        others = [other for other in readers[sources[0]] if other is not op]
        if not all(_forgets(other, recording.shapes[sources[0]], rows) for other in others):
            return None
        index = sources[0]
    return index


def _readers(context: Context) -> dict[int, list[Op]]:
    """The operations that read each tensor."""
    readers: dict[int, list[Op]] = defaultdict(list)
    for op in context.recording.ops:
        for index in set(op.refs()):
            readers[index].append(op)
    return readers


def _along(own: Sequence[int], shape: Sequence[int], axis: int) -> int:
    """How long an operand is on an axis of what it is broadcast to."""
    place = axis - len(shape) + len(own)
    return own[place] if place >= 0 else 1


def _forgets(op: Op, shape: Sequence[int], rows: int) -> bool:
    """Whether an operation takes sums, means or norms over all that a row lists."""
    dims = op.args[1] if len(op.args) > 1 else None
    if op.name not in STATISTICS or not isinstance(dims, tuple) or shape[0] != rows:
        return False
    return 1 in {axis % len(shape) for axis in dims if isinstance(axis, int)}


def pixel_shuffle(context: Context) -> list[Labels]:
    """Pieces of a channel become its pixels: the channel remains."""
    labels = context.of(context.tensors()[0])
    rank, factor = len(labels.shape), context.arg(1)
    axis = rank - 3
    labels = context.project(labels, range(rank - 2, rank), "fixed", SPATIAL)
    split = (*labels.shape[:axis], labels.shape[axis] // factor**2, factor**2, *labels.shape[axis + 1 :])
    parted = context.project(reshape_labels(context, labels, split), [axis + 1], "fixed", SPATIAL)
    kept = {a: a - (a > axis) for a in range(rank + 1) if a != axis + 1}
    return [parted.move(kept, context.out_shape)]


def pixel_unshuffle(context: Context) -> list[Labels]:
    """Pixels become pieces of their channel."""
    labels = context.of(context.tensors()[0])
    rank, factor = len(labels.shape), context.arg(1)
    axis = rank - 3
    labels = context.project(labels, range(rank - 2, rank), "fixed", SPATIAL)
    shape = (*labels.shape[:axis], labels.shape[axis], factor**2, *context.out_shape[axis + 1 :])
    kept = {a: a + (a > axis) for a in range(rank)}
    return [reshape_labels(context, labels.move(kept, shape), context.out_shape)]


def channel_shuffle(context: Context) -> list[Labels]:
    """Channels in another, known order."""
    labels = context.of(context.tensors()[0])
    groups, channels = context.arg(1), labels.shape[1]
    split = (labels.shape[0], groups, channels // groups, *labels.shape[2:])
    parted = reshape_labels(context, labels, split)
    swap = {1: 2, 2: 1} | {a: a for a in range(len(split)) if a not in (1, 2)}
    swapped = tuple(split[{v: k for k, v in swap.items()}[a]] for a in range(len(split)))
    return [reshape_labels(context, parted.move(swap, swapped), context.out_shape)]


def spatial(context: Context) -> list[Labels]:
    """Pooling and resampling: channels pass, spatial axes are fixed."""
    x = context.tensors()[0]
    labels = context.of(x)
    shape = context.out_shape
    moved = [axis for axis, (a, b) in enumerate(zip(labels.shape, shape, strict=True)) if a != b]
    first = min([*moved, max(len(shape) - _spatial_rank(context.op.name), 1)])
    axes = [axis for axis in range(first, len(shape)) if axis in moved or not _passes(context, axis - len(shape))]
    labels = context.project(labels, axes, "fixed", SPATIAL)
    out = Labels(labels.bundles, labels.blank - set(axes), labels.source, shape)
    return [out] * len(context.op.outputs)


def _passes(context: Context, axis: int) -> bool:
    """Whether a pool with a window of one leaves an axis (counted from the end) as it is."""
    name = context.op.name
    if "_pool" not in name or "adaptive" in name:
        return False
    rank = _spatial_rank(name)
    window, step, padding = (context.arg(i) or default for i, default in ((1, None), (2, context.arg(1)), (3, 0)))
    widths = [(value if isinstance(value, tuple) else (value,)) for value in (window, step, padding)]
    here = [value[axis] if len(value) == rank else value[0] for value in widths]
    return here == [1, 1, 0]


def _spatial_rank(name: str) -> int:
    return next((rank for rank in (1, 2, 3) if f"{rank}d" in name), 1)


POOLS = (
    "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d "
    "upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"
).split()

RULES = {
    "convolution": convolution,
    "_convolution": convolution,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    **dict.fromkeys(POOLS, spatial),
}
