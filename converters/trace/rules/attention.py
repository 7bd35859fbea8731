"""Fused attention: queries meet keys inside each head, and weights their values."""

from __future__ import annotations

from collections.abc import Sequence

from converters.program import Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Labels
from converters.trace.rules.reshape import reshape_labels

__all__ = ["RULES"]


def attention(context: Context) -> list[Labels]:
    """``softmax(q k' + mask) v`` with ``q [..., H, L, d]``, ``k [..., H, S, d]``, ``v [..., H, S, e]``.

    Where keys have fewer heads, each serves as many consecutive query heads.
    """
    query, key, value = context.tensors()[:3]
    lead = "abcdefg"[: len(context.shape(query)) - 2]
    served = [(query, context.of(query)), *((ref, _served(context, ref, context.shape(query))) for ref in (key, value))]
    weights = _product(context, served[:2], [lead + "id", lead + "jd"], lead + "ij")
    mask = _mask(context)
    if mask is not None:
        weights = _masked(context, weights, mask)
    out = _product(context, [(None, weights), served[2]], [lead + "ij", lead + "je"], lead + "ie")
    rest = [Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs[1:] if i is not None]
    return [out, *rest]


def _product(
    context: Context, operands: Sequence[tuple[Ref | None, Labels]], letters: Sequence[str], out: str
) -> Labels:
    """An einsum of labels; letters not in ``out`` are summed."""
    sizes: dict[str, int] = {}
    named = []
    for (ref, labels), names in zip(operands, letters, strict=True):
        for letter, size in zip(names, labels.shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
        named.append(Operand(labels, dict(enumerate(names)), -1 if ref is None else ref.index))
    order = [*out, *(letter for letter in sizes if letter not in out)]
    return context.reduce(context.combine(named, order, sizes), range(len(out), len(order)))


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


def _masked(context: Context, weights: Labels, mask: Ref) -> Labels:
    rank, own = len(weights.shape), len(context.shape(mask))
    letters = [str(axis) for axis in range(rank)]
    operands = [
        Operand(weights, dict(enumerate(letters))),
        Operand(context.of(mask), {axis: letters[axis + rank - own] for axis in range(own)}, mask.index),
    ]
    return context.combine(operands, letters, dict(zip(letters, weights.shape, strict=True)))


KERNELS = (
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math scaled_dot_product_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention"
).split()

RULES = dict.fromkeys(KERNELS, attention)
