"""Fused attention: queries meet keys inside each head, and weights their values."""

from __future__ import annotations

from converters.program import Ref
from converters.trace.context import Context
from converters.trace.labels import Labels
from converters.trace.rules.linear import added, product
from converters.trace.rules.reshape import reshape_labels

__all__ = ["RULES"]


def attention(context: Context) -> list[Labels]:
    """``softmax(q k' + mask) v`` with ``q [..., H, L, d]``, ``k [..., H, S, d]``, ``v [..., H, S, e]``.

    Where keys have fewer heads, each serves as many consecutive query heads.
    """
    query, key, value = context.tensors()[:3]
    lead = "abcdefg"[: len(context.shape(query)) - 2]
    keys, values = (_served(context, ref, context.shape(query)) for ref in (key, value))
    weights = product(context, [(query, context.of(query), lead + "id"), (key, keys, lead + "jd")], lead + "ij")
    mask = _mask(context)
    if mask is not None:
        weights = added(context, weights, mask)
    if _causal(context):
        weights = context.project(
            weights, [len(lead), len(lead) + 1], "fixed", "attention is causal: places are ordered"
        )
    out = product(context, [(None, weights, lead + "ij"), (value, values, lead + "je")], lead + "ie")
    rest = [Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs[1:] if i is not None]
    return [out, *rest]


def _served(context: Context, ref: Ref, query: tuple[int, ...]) -> Labels:
    """Keys or values laid out one per query head."""
    labels, shape = context.of(ref), context.shape(ref)
    axis = len(shape) - 3
    if axis < 0 or shape[axis] == query[axis] or shape[axis] == 1:
        return labels
    copies = query[axis] // shape[axis]
    wide = (*shape[: axis + 1], copies, *shape[axis + 1 :])
    spread = labels.move({a: a + (a > axis) for a in range(len(shape))}, wide, [axis + 1])
    return reshape_labels(context, spread, (*shape[:axis], query[axis], *shape[axis + 1 :]))


def _mask(context: Context) -> Ref | None:
    named = dict(context.op.kwargs)
    found = named.get("attn_mask", named.get("attn_bias"))
    if found is None:
        tensors = [argument for argument in context.op.args[3:] if isinstance(argument, Ref)]
        found = tensors[0] if tensors else None
    return found if isinstance(found, Ref) else None


def _causal(context: Context) -> bool:
    """Whether a switch after the three tensors is on; the others that kernels have do not matter here."""
    return any(value is True for value in (*context.op.args[3:], *dict(context.op.kwargs).values()))


KERNELS = (
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math scaled_dot_product_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention"
).split()

RULES = dict.fromkeys(KERNELS, attention)
