"""Contractions: the summed axes are united, then vanish."""

from __future__ import annotations

from collections.abc import Sequence

from converters.program import Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Labels

__all__ = ["RULES", "added", "contract", "product"]


def contract(context: Context, operands: Sequence[tuple[Ref, str]], out: str) -> Labels:
    """An einsum: one letter per axis; letters not in ``out`` are summed."""
    return product(context, [(ref, context.of(ref), letters) for ref, letters in operands], out)


def product(context: Context, operands: Sequence[tuple[Ref | None, Labels, str]], out: str) -> Labels:
    """An einsum of labels, some of them of no tensor."""
    sizes: dict[str, int] = {}
    named = []
    for ref, labels, letters in operands:
        for letter, size in zip(letters, labels.shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
        named.append(Operand(labels, dict(enumerate(letters)), -1 if ref is None else ref.index))
    order = [*out, *(letter for letter in sizes if letter not in out)]
    return context.reduce(context.combine(named, order, sizes), range(len(out), len(order)))


def added(context: Context, labels: Labels, bias: Ref) -> Labels:
    """A bias or a mask, broadcast and added."""
    rank, own = len(labels.shape), len(context.shape(bias))
    letters = [str(axis) for axis in range(rank)]
    operands = [
        Operand(labels, dict(enumerate(letters))),
        Operand(context.of(bias), {axis: letters[axis + rank - own] for axis in range(own)}, bias.index),
    ]
    return context.combine(operands, letters, dict(zip(letters, labels.shape, strict=True)))


def mm(context: Context) -> list[Labels]:
    """Matrix product."""
    a, b = context.tensors()[:2]
    return [contract(context, [(a, "ik"), (b, "kj")], "ij")]


def mv(context: Context) -> list[Labels]:
    """Matrix times vector."""
    a, b = context.tensors()[:2]
    return [contract(context, [(a, "ik"), (b, "k")], "i")]


def dot(context: Context) -> list[Labels]:
    """Inner product."""
    a, b = context.tensors()[:2]
    return [contract(context, [(a, "k"), (b, "k")], "")]


def bmm(context: Context) -> list[Labels]:
    """Batched matrix product."""
    a, b = context.tensors()[:2]
    return [contract(context, [(a, "bik"), (b, "bkj")], "bij")]


def addmm(context: Context) -> list[Labels]:
    """Matrix product plus bias."""
    bias, a, b = context.tensors()[:3]
    return [added(context, contract(context, [(a, "ik"), (b, "kj")], "ij"), bias)]


def baddbmm(context: Context) -> list[Labels]:
    """Batched matrix product plus bias."""
    bias, a, b = context.tensors()[:3]
    return [added(context, contract(context, [(a, "bik"), (b, "bkj")], "bij"), bias)]


def addmv(context: Context) -> list[Labels]:
    """Matrix times vector plus bias."""
    bias, a, b = context.tensors()[:3]
    return [added(context, contract(context, [(a, "ik"), (b, "k")], "i"), bias)]


def linear(context: Context) -> list[Labels]:
    """``x @ weight.T + bias`` where it stays one operation."""
    x, weight, *bias = context.tensors()
    lead = "abcdefgh"[: len(context.shape(x)) - 1]
    mixed = contract(context, [(x, lead + "k"), (weight, "ok")], lead + "o")
    return [added(context, mixed, bias[0]) if bias else mixed]


def grouped_mm(context: Context) -> list[Labels]:
    """``_grouped_mm(x, weight, offs)``: rows of ``x [T, k]`` meet the matrix of their expert, ``weight [E, k, n]``.

    Which expert's is told by the row's number, so experts are fixed; their neurons move alike in all experts.
    """
    x, weight = context.tensors()[:2]
    if (len(context.shape(x)), len(context.shape(weight))) != (2, 3):
        context.unsupported("no rule for aten._grouped_mm in this form", [context.of(r) for r in (x, weight)])
        return [Labels((), frozenset(), "", context.out_shape)]
    for other in context.tensors()[2:3]:
        context.freeze(context.of(other), "it counts the rows of each expert")
    table = context.project(context.of(weight), [0], "fixed", "its experts are chosen by number")
    sizes = {"t": context.shape(x)[0], "k": context.shape(x)[1], "n": context.shape(weight)[2]}
    named = [Operand(context.of(x), {0: "t", 1: "k"}, x.index), Operand(table, {1: "k", 2: "n"}, weight.index)]
    mixed = context.reduce(context.combine(named, ["t", "n", "k"], sizes), [2])
    return [added(context, mixed, r) for r in context.tensors()[3:4]] or [mixed]


RULES = {
    "_grouped_mm": grouped_mm,
    "mm": mm,
    "mv": mv,
    "dot": dot,
    "vdot": dot,
    "bmm": bmm,
    "addmm": addmm,
    "baddbmm": baddbmm,
    "addmv": addmv,
    "linear": linear,
}
