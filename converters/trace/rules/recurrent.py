"""Recurrent networks run as matrix products and gates; what is their own is the packing of sequences."""

from __future__ import annotations

from converters.program import Ref
from converters.trace.context import Context
from converters.trace.labels import Labels
from converters.trace.rules.linear import contract

__all__ = ["RULES"]

ORDER = "its time steps are taken in order"


def pack(context: Context) -> list[Labels]:
    """``_pack_padded_sequence(x, lengths, batch_first)``: (time, batch) becomes one axis, features pass."""
    x, lengths = context.tensors()[:2]
    context.freeze(context.of(lengths), "its entries are lengths of sequences")
    labels = context.project(context.of(x), [0, 1], "fixed", ORDER)
    shape = context.out_shape
    packed = labels.move({a: a - 1 for a in range(2, len(labels.shape))}, shape)
    return [
        packed,
        *[Labels((), frozenset(), "constant", context.shape(i)) for i in context.op.outputs[1:] if i is not None],
    ]


def trilinear(context: Context) -> list[Labels]:
    """``_trilinear(a, b, c, expand_a, expand_b, expand_c, summed)``: three tensors over common axes, some summed."""
    refs = context.tensors()[:3]
    expanded = [context.arg(3 + i) for i in range(3)]
    summed = context.arg(6)
    total = len(context.shape(refs[0])) + len(expanded[0])
    letters = "abcdefghijklmnopq"[:total]
    operands: list[tuple[Ref, str]] = []
    for ref, new in zip(refs, expanded, strict=True):
        operands.append((ref, "".join(x for a, x in enumerate(letters) if a not in new)))
    return [contract(context, operands, "".join(x for a, x in enumerate(letters) if a not in summed))]


def outer(context: Context) -> list[Labels]:
    """``outer``, ``ger``: an axis from each."""
    a, b = context.tensors()[:2]
    return [contract(context, [(a, "i"), (b, "j")], "ij")]


RULES = {"_pack_padded_sequence": pack, "_trilinear": trilinear, "outer": outer, "ger": outer}
