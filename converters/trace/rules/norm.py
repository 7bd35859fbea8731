"""Normalisations: channels are united with their affine parameters and statistics; coupled ones keep their blocks."""

from __future__ import annotations

from converters.program import Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Labels
from converters.trace.rules.choices import chosen_among
from converters.trace.rules.elementwise import aligned

__all__ = ["RULES"]


def _per_channel(context: Context, parameters: tuple[int, ...]) -> Labels:
    x = context.op.args[0]
    letters = [str(axis) for axis in range(len(context.shape(x)))]
    operands = [Operand(context.of(x), dict(enumerate(letters)), x.index)]
    for position in parameters:
        ref = context.op.args[position] if position < len(context.op.args) else None
        if isinstance(ref, Ref):
            operands.append(Operand(context.of(ref), {0: letters[1]}, ref.index))
    return context.combine(operands, letters, dict(zip(letters, context.shape(x), strict=True)))


def batch_norm(context: Context) -> list[Labels]:
    """``native_batch_norm(x, weight, bias, running_mean, running_var, ...)``."""
    out = _per_channel(context, (1, 2, 3, 4))
    return [out, *[Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs[1:] if i is not None]]


def group_norm(context: Context) -> list[Labels]:
    """``native_group_norm(x, weight, bias, N, C, HxW, groups, eps)``: channels belong to their group, in no order."""
    out = _per_channel(context, (1, 2))
    groups, bundle = context.arg(6), out.bundle_at(1)
    if bundle is not None and bundle.axes == (1,) and groups > 1:
        cells = context.solver.fresh(groups)
        context.solver.member(bundle.ids.reshape(groups, -1), cells[:, None])
    elif bundle is not None and groups > 1:
        context.unsupported("group norm over channels that are part of a larger set of neurons", [out])
    return [out, *[Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs[1:] if i is not None]]


def weight_norm(context: Context) -> list[Labels]:
    """``_weight_norm_interface(v, g, dim)``: as ``v * g / norm(v)``."""
    v, g = context.tensors()[:2]
    out = context.combine(*aligned(context, [v, g], context.shape(v)))
    return [out, context.of(g)]


def layer_norm(context: Context) -> list[Labels]:
    """``native_layer_norm(x, normalized_shape, weight, bias, eps)``: coupled, but in no order."""
    x = context.op.args[0]
    refs = [x, *(ref for ref in context.op.args[2:4] if isinstance(ref, Ref))]
    out = _coupled(context, context.combine(*aligned(context, refs, context.shape(x))), len(context.arg(1)))
    return [out, *[Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs[1:] if i is not None]]


def rms_norm(context: Context) -> list[Labels]:
    """``_fused_rms_norm(x, normalized_shape, weight, eps)``."""
    x = context.op.args[0]
    refs = [x, *(ref for ref in context.op.args[2:3] if isinstance(ref, Ref))]
    out = _coupled(context, context.combine(*aligned(context, refs, context.shape(x))), len(context.arg(1)))
    return [out, *[Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs[1:] if i is not None]]


def _coupled(context: Context, labels: Labels, last: int) -> Labels:
    """A bundle that reaches beyond the normalised axes keeps its blocks."""
    inside = set(range(len(labels.shape) - last, len(labels.shape)))
    for bundle in labels.bundles:
        if inside.intersection(bundle.axes) and not inside.issuperset(bundle.axes):
            context.reduce(labels, inside)
    return labels


def softmax(context: Context) -> list[Labels]:
    """Softmax over one axis: coupled, but in no order."""
    x = context.op.args[0]
    labels = context.of(x)
    axis = context.arg(1) % max(len(labels.shape), 1)
    bundle = labels.bundle_at(axis) if labels.shape else None
    if bundle is not None and len(bundle.axes) > 1:
        context.reduce(labels, [axis])
    return [Labels(labels.bundles, labels.blank, labels.source, labels.shape)]


def reduction(context: Context) -> list[Labels]:
    """Sum, mean, variance, maximum: axes and ``keepdim`` as torch has them."""
    x = context.tensors()[0]
    labels = context.of(x)
    rank = len(labels.shape)
    dims = _dims(context, rank)
    out = context.reduce(labels, dims, keepdim=len(context.out_shape) == rank and rank > 0)
    positions = (
        len(context.op.outputs) > 1 and context.op.name in ("max", "min") and context.op.outputs[1] in context.used
    )
    if context.op.name in INDEXING or positions:
        reason, number = f"{context.op.name} returns positions along it", int(positions)
        if len(dims) != 1 or not chosen_among(context, labels, dims[0], x, number, reason):
            context.freeze(labels, reason, dims)
    return [out] * len(context.op.outputs)


def _dims(context: Context, rank: int) -> list[int]:
    position = 2 if context.op.name == "linalg_vector_norm" or context.op.target == "aten.norm.ScalarOpt_dim" else 1
    overload = context.op.target.rsplit(".", 1)[-1]
    named = dict(context.op.kwargs).get("dim")
    dims = named if named is not None else context.arg(position)
    if overload == "default" and context.op.name in ("sum", "mean", "max", "min", "prod", "any", "all"):
        dims = None
    if dims is None or dims == () or isinstance(dims, bool):
        return list(range(rank))
    return [axis % rank for axis in ((dims,) if isinstance(dims, int) else dims)]


INDEXING = {"argmax", "argmin", "sort", "topk", "kthvalue", "median", "mode"}
REDUCTIONS = (
    "sum mean prod amax amin max min var std var_mean std_mean logsumexp linalg_vector_norm norm any all nansum "
    "argmax argmin aminmax count_nonzero"
).split()

RULES = {
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "_native_batch_norm_legit": batch_norm,
    "cudnn_batch_norm": batch_norm,
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": rms_norm,
    "_softmax": softmax,
    "_log_softmax": softmax,
    "_safe_softmax": softmax,
    **dict.fromkeys(REDUCTIONS, reduction),
}
