"""Convolutions act on channels as linear maps do; their kernel and spatial axes are fixed."""

from __future__ import annotations

from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Labels

__all__ = ["RULES", "SPATIAL"]

SPATIAL = "its spatial positions are not interchangeable"


def convolution(context: Context) -> list[Labels]:
    """``convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)``."""
    x, weight = context.tensors()[:2]
    transposed, groups = context.arg(6), context.arg(8)
    rank = len(context.shape(x))
    image = context.project(context.of(x), range(2, rank), "fixed", SPATIAL)
    kernel = context.project(
        context.of(weight), range(2, rank), "kernel", "its kernel positions are not interchangeable"
    )
    if groups > 1:
        kernel = context.project(kernel, [1], "kernel", "it lists the inputs of one group")
    channels, shape = context.shape(x)[1], context.out_shape
    if groups == 1:
        names = {0: "c", 1: "o"} if transposed else {0: "o", 1: "c"}
        sizes = {"n": shape[0], "o": shape[1], "c": channels}
        operands = [Operand(image, {0: "n", 1: "c"}, x.index), Operand(kernel, names, weight.index)]
        out = context.reduce(context.combine(operands, ["n", "o", "c"], sizes), [2])
    elif groups == channels == shape[1]:
        sizes = {"n": shape[0], "o": channels}
        operands = [Operand(image, {0: "n", 1: "o"}, x.index), Operand(kernel, {0: "o"}, weight.index)]
        out = context.combine(operands, ["n", "o"], sizes)
    else:
        reason = f"a convolution with {groups} groups of {channels // groups} channels has no rule"
        context.unsupported(reason, [image, kernel])
        own = kernel.bundle_at(0)
        bundles = (Bundle((1,), own.ids),) if own is not None and not transposed else ()
        out = Labels(bundles, frozenset(), "", (shape[0], shape[1]))
    bias = context.op.args[2]
    if bias is not None:
        operands = [Operand(out, {0: "n", 1: "o"}), Operand(context.of(bias), {0: "o"}, bias.index)]
        out = context.combine(operands, ["n", "o"], {"n": shape[0], "o": shape[1]})
    return [Labels(out.bundles, frozenset(), "", shape)]


def spatial(context: Context) -> list[Labels]:
    """Pooling and resampling: channels pass, spatial axes are fixed."""
    x = context.tensors()[0]
    labels = context.of(x)
    shape = context.out_shape
    moved = [axis for axis, (a, b) in enumerate(zip(labels.shape, shape, strict=True)) if a != b]
    first = min([*moved, max(len(shape) - _spatial_rank(context.op.name), 1)])
    labels = context.project(labels, range(first, len(shape)), "fixed", SPATIAL)
    out = Labels(labels.bundles, labels.blank - set(range(first, len(shape))), labels.source, shape)
    return [out] * len(context.op.outputs)


def _spatial_rank(name: str) -> int:
    return next((rank for rank in (1, 2, 3) if f"{rank}d" in name), 1)


POOLS = (
    "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d "
    "upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"
).split()

RULES = {"convolution": convolution, "_convolution": convolution, **dict.fromkeys(POOLS, spatial)}
