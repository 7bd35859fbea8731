"""Sorting and counting: values forget the order they came in, positions that are returned do not."""

from __future__ import annotations

from converters.trace.context import Context, Operand
from converters.trace.labels import Labels
from converters.trace.rules.choices import chosen_among
from converters.trace.rules.elementwise import aligned

__all__ = ["RULES"]


def _read(context: Context, output: int) -> bool:
    """Whether anybody reads this output."""
    outputs = context.op.outputs
    return len(outputs) > output and outputs[output] in context.used


def ranked(context: Context) -> list[Labels]:
    """``sort``, ``topk``: sorted values keep no neurons; the axis that holds them is fixed, ranks are."""
    labels = context.of(context.tensors()[0])
    rank, shape = len(labels.shape), context.out_shape
    if not rank:
        return [labels, labels]
    axis = context.arg(2 if context.op.name == "topk" else 1, "dim", -1) % rank
    if context.op.target == "aten.sort.stable":
        axis = context.arg(2, "dim", -1) % rank
    reason = f"{context.op.name} returns positions along it"
    if _read(context, 1) and not chosen_among(context, labels, axis, context.tensors()[0], 1, reason):
        context.freeze(labels, reason, [axis])
    left = context.reduce(labels, [axis], keepdim=True)
    values = Labels(left.bundles, left.blank | (labels.blank & {axis}), labels.source, shape)
    return [values, Labels(left.bundles, left.blank - {axis}, labels.source, shape)]


def ranked_one(context: Context) -> list[Labels]:
    """``median``, ``kthvalue``, ``mode``: one value along an axis, and its position."""
    labels = context.of(context.tensors()[0])
    rank, name = len(labels.shape), context.op.name
    if not rank:
        return [labels] * len(context.op.outputs)
    if context.op.target in ("aten.median.default", "aten.nanmedian.default"):
        return [context.reduce(labels, range(rank))]
    axis = context.arg(2 if name == "kthvalue" else 1, "dim", -1) % rank
    if _read(context, 1):
        context.freeze(labels, f"{name} returns positions along it", [axis])
    out = context.reduce(labels, [axis], keepdim=len(context.out_shape) == rank)
    return [out, out]


def counted(context: Context) -> list[Labels]:
    """``histc``, ``bincount``: how many of each, in the order of the values."""
    refs = context.tensors()
    shape = context.shape(refs[0])
    same = [ref for ref in refs if context.shape(ref) == shape]
    for ref in refs:
        if context.shape(ref) != shape:
            context.freeze(context.of(ref), "its entries are bounds of bins")
    both = context.combine(*aligned(context, same, shape))
    left = context.reduce(both, range(len(shape)))
    return [
        Labels(left.bundles, frozenset(), both.source, context.shape(i)) for i in context.op.outputs if i is not None
    ]


def unique(context: Context) -> list[Labels]:
    """``_unique2(x, sorted, inverse, counts)``: the sorted set of values, and the rank of each entry."""
    labels = context.of(context.tensors()[0])
    if not context.arg(1, "sorted", True):
        context.freeze(labels, "its values are listed in the order of a hash table")
    left = context.reduce(labels, range(len(labels.shape)))
    alone = [
        Labels(left.bundles, frozenset(), labels.source, context.shape(i)) for i in context.op.outputs if i is not None
    ]
    ranks = Labels(labels.bundles, labels.blank, labels.source, labels.shape)
    return [each if each.shape != labels.shape or k != 1 else ranks for k, each in enumerate(alone)]


def isin(context: Context) -> list[Labels]:
    """``isin(elements, test)``: elementwise in the first, a set of the second."""
    labels = context.of(context.tensors()[0])
    if not isinstance(context.op.args[0], type(context.tensors()[0])):
        return [Labels((), frozenset(), labels.source, context.out_shape)]
    return [Labels(labels.bundles, labels.blank, labels.source, context.out_shape)]


def renorm(context: Context) -> list[Labels]:
    """``renorm(x, p, dim, bound)``: each slice scaled by its own norm; coupled, in no order."""
    labels = context.of(context.tensors()[0])
    axis = context.arg(2) % len(labels.shape)
    context.reduce(labels, [a for a in range(len(labels.shape)) if a != axis])
    return [labels]


def distance(context: Context) -> list[Labels]:
    """``_cdist_forward(a, b)``: rows against rows, columns united and summed."""
    a, b = context.tensors()[:2]
    shape = context.out_shape
    lead = [str(axis) for axis in range(len(shape) - 2)]
    left, right = context.of(a), context.of(b)
    first = [*lead[len(lead) - len(left.shape) + 2 :], "p", "k"]
    second = [*lead[len(lead) - len(right.shape) + 2 :], "r", "k"]
    sizes = dict(zip([*lead, "p", "r"], shape, strict=True)) | {"k": left.shape[-1]}
    operands = [Operand(left, dict(enumerate(first)), a.index), Operand(right, dict(enumerate(second)), b.index)]
    return [context.reduce(context.combine(operands, [*lead, "p", "r", "k"], sizes), [len(shape)])]


def pairs(context: Context) -> list[Labels]:
    """``_pdist_forward(x)``: rows against later rows."""
    labels = context.project(context.of(context.tensors()[0]), [0], "fixed", "its rows are paired in order")
    context.reduce(labels, [1])
    return [Labels((), frozenset(), labels.source, context.out_shape)]


RULES = {
    **dict.fromkeys(("sort", "topk"), ranked),
    **dict.fromkeys(("median", "nanmedian", "kthvalue", "mode"), ranked_one),
    **dict.fromkeys(("histc", "bincount", "histogram"), counted),
    "_unique2": unique,
    "isin": isin,
    "renorm": renorm,
    "_cdist_forward": distance,
    "_euclidean_dist": distance,
    "_pdist_forward": pairs,
}
