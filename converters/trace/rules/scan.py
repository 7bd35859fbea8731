"""Operations along axes whose positions count: scans, Fourier transforms, windows, triangles; all other axes pass."""

from __future__ import annotations

from collections.abc import Sequence

from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Labels
from converters.trace.rules import reshape
from converters.trace.rules.convolution import SPATIAL
from converters.trace.rules.indexing import taken
from converters.trace.rules.reshape import reshape_labels

__all__ = ["RULES"]


def scan(context: Context) -> list[Labels]:
    """``cumsum``, ``cummax``: positions along one axis are taken in order."""
    labels = context.of(context.tensors()[0])
    if not labels.shape:
        return [labels] * len(context.op.outputs)
    axis = context.arg(1, "dim") % len(labels.shape)
    out = context.project(labels, [axis], "fixed", f"{context.op.name} takes its positions in order")
    return [Labels(out.bundles, out.blank, out.source, context.out_shape)] * len(context.op.outputs)


def fourier(context: Context) -> list[Labels]:
    """``_fft_r2c``, ``_fft_c2r``, ``_fft_c2c``: the transformed axes are fixed."""
    labels = context.of(context.tensors()[0])
    axes = [axis % len(labels.shape) for axis in context.arg(1)]
    out = context.project(labels, axes, "fixed", "it is Fourier-transformed")
    return [Labels(out.bundles, out.blank, out.source, context.out_shape)]


def segments(context: Context) -> list[Labels]:
    """``segment_reduce(data, reduce, lengths, indices, offsets, axis)``: runs of one axis."""
    data, *others = context.tensors()
    axis = context.arg(5, "axis", 0)
    for other in others:
        context.freeze(context.of(other), "its entries are lengths of runs")
    out = context.project(context.of(data), range(axis + 1), "fixed", "its runs are reduced")
    return [Labels(out.bundles, out.blank, out.source, context.out_shape)]


def windows(context: Context) -> list[Labels]:
    """``unfold(x, dim, size, step)``: windows along one axis, their positions on a new last one."""
    labels = context.of(context.tensors()[0])
    if not labels.shape:
        return [Labels((), frozenset(), labels.source, context.out_shape)]
    out = context.project(labels, [context.arg(1) % len(labels.shape)], "fixed", SPATIAL)
    return [Labels(out.bundles, out.blank, out.source, context.out_shape)]


def im2col(context: Context) -> list[Labels]:
    """Patches: every channel becomes its kernel positions."""
    labels = context.of(context.tensors()[0])
    shape = context.out_shape
    channel = len(shape) - 2
    out = context.project(labels, range(channel + 1, len(labels.shape)), "fixed", SPATIAL)
    parted = (*shape[:channel], labels.shape[channel], shape[channel] // labels.shape[channel], shape[-1])
    kept = {axis: axis for axis in range(channel + 1)}
    return [reshape_labels(context, out.move(kept, parted), shape)]


def col2im(context: Context) -> list[Labels]:
    """Patches laid back: kernel positions become channels again."""
    labels = context.of(context.tensors()[0])
    shape = context.out_shape
    channel = len(shape) - 3
    parted = (*labels.shape[:channel], shape[channel], labels.shape[channel] // shape[channel], labels.shape[-1])
    split = context.project(reshape_labels(context, labels, parted), [channel + 1, channel + 2], "fixed", SPATIAL)
    return [split.move({axis: axis for axis in range(channel + 1)}, shape)]


def triangle(context: Context) -> list[Labels]:
    """``tril``, ``triu``: a fixed pattern over the last two axes."""
    labels = context.of(context.tensors()[0])
    rank = len(labels.shape)
    return [context.project(labels, [rank - 2, rank - 1], "fixed", "part of it is cut by position")]


def diagonal(context: Context) -> list[Labels]:
    """``diagonal(x, offset, dim1, dim2)``: both axes move as one, which comes last."""
    x = context.tensors()[0]
    labels, shape = context.of(x), context.out_shape
    rank = len(labels.shape)
    offset = context.arg(1, "offset", 0)
    rows, columns = context.arg(2, "dim1", 0) % rank, context.arg(3, "dim2", 1) % rank
    labels = separate(context, labels, (rows, columns))
    starts = {rows: max(-offset, 0), columns: max(offset, 0)}
    for axis, start in starts.items():
        cut = tuple(shape[-1] if a == axis else size for a, size in enumerate(labels.shape))
        labels = taken(context, labels, axis, slice(start, start + shape[-1]), cut)
    rest = [a for a in range(rank) if a not in starts]
    letters = [*map(str, rest), "d"]
    first = {a: str(a) for a in rest} | {rows: "d"}
    operands = [Operand(labels, first, x.index), Operand(labels, {columns: "d"}, x.index)]
    out = context.combine(operands, letters, dict(zip(letters, shape, strict=True)))
    straight = {len(letters) - 1} if {rows, columns} <= labels.blank else set()
    return [Labels(out.bundles, (out.blank - {len(letters) - 1}) | straight, out.source, shape)]


def separate(context: Context, labels: Labels, axes: Sequence[int]) -> Labels:
    """Freeze sets of neurons that lie along one of these axes and any other axis."""
    wide = {
        a for bundle in labels.bundles if len(bundle.axes) > 1 and set(bundle.axes) & set(axes) for a in bundle.axes
    }
    return context.project(labels, wide, "fixed", "its neurons are part of a larger set") if wide else labels


def trace(context: Context) -> list[Labels]:
    """The sum of a diagonal."""
    x = context.tensors()[0]
    labels = separate(context, context.of(x), (0, 1))
    short = min(labels.shape)
    for axis in (0, 1):
        cut = tuple(short if a == axis else size for a, size in enumerate(labels.shape))
        labels = taken(context, labels, axis, slice(0, short), cut)
    context.combine([Operand(labels, {0: "d"}, x.index), Operand(labels, {1: "d"}, x.index)], ["d"], {"d": short})
    return [Labels((), frozenset(), labels.source, ())]


def diag_embed(context: Context) -> list[Labels]:
    """``diag_embed(x, offset, dim1, dim2)``: the same neurons along both axes."""
    labels, shape = context.of(context.tensors()[0]), context.out_shape
    rank = len(shape)
    rows, columns = context.arg(2, "dim1", -2) % rank, context.arg(3, "dim2", -1) % rank
    last = len(labels.shape) - 1
    bundle = labels.bundle_at(last)
    if context.arg(1, "offset", 0) or (bundle is not None and len(bundle.axes) > 1):
        labels = context.project(labels, [last], "fixed", "it is written to a diagonal")
        bundle = None
    rest = [a for a in range(rank) if a not in (rows, columns)]
    out = labels.move(dict(enumerate(rest)), shape)
    pair = () if bundle is None else (Bundle((rows,), bundle.ids), Bundle((columns,), bundle.ids))
    return [Labels((*out.bundles, *pair), out.blank, labels.source, shape)]


def cross(context: Context) -> list[Labels]:
    """``linalg_cross(a, b, dim)``: the three entries of an axis count."""
    a, b = context.tensors()[:2]
    shape = context.out_shape
    axis = context.arg(2, "dim", -1) % len(shape)
    letters = [str(k) for k in range(len(shape))]
    operands = []
    for ref in (a, b):
        labels = context.project(context.of(ref), [axis], "fixed", "it is a vector in space")
        operands.append(Operand(labels, {k: x for k, x in enumerate(letters) if k != axis}, ref.index))
    out = context.combine(operands, letters, dict(zip(letters, shape, strict=True)))
    return [Labels(out.bundles, out.blank - {axis}, out.source, shape)]


def pair_of_reals(context: Context) -> list[Labels]:
    """``view_as_real``: a last axis of real and imaginary part."""
    labels = context.of(context.tensors()[0])
    return [labels.move({a: a for a in range(len(labels.shape))}, context.out_shape)]


def complex_of_pair(context: Context) -> list[Labels]:
    """``view_as_complex``: the last axis holds real and imaginary part."""
    labels = context.of(context.tensors()[0])
    last = len(labels.shape) - 1
    labels = context.project(labels, [last], "fixed", "it holds real and imaginary parts")
    return [labels.move({a: a for a in range(last)}, context.out_shape)]


VIEWS = ("view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "_reshape_alias")

RULES = {
    **{f"{name}_copy": reshape.RULES[name] for name in VIEWS},
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"), scan),
    **dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c"), fourier),
    **dict.fromkeys(("tril", "triu"), triangle),
    "segment_reduce": segments,
    "unfold": windows,
    "unfold_copy": windows,
    "im2col": im2col,
    "col2im": col2im,
    "diagonal": diagonal,
    "diagonal_copy": diagonal,
    "trace": trace,
    "diag_embed": diag_embed,
    "linalg_cross": cross,
    "view_as_real": pair_of_reals,
    "view_as_real_copy": pair_of_reals,
    "view_as_complex": complex_of_pair,
    "view_as_complex_copy": complex_of_pair,
}
