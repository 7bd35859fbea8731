"""Reading at places that are chosen by number or by mask: the places count, everything beside them passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from converters.program import Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Ids, Labels
from converters.trace.rules.indexing import taken

__all__ = ["RULES", "Selection", "chosen", "known_places", "known_row", "selection"]

CHOSEN = "it is indexed by values that are not known before running"
NUMBERS = "its entries are positions on another axis"
MASKS = (torch.bool, torch.uint8)


def chosen(context: Context, ref: Ref, labels: Labels, axes: Iterable[int]) -> Labels:
    """Make axes uniform whose positions are addressed by number; rows of a stored table are no neurons."""
    table = ref.index in context.recording.named.values()
    return context.project(labels, axes, "kernel" if table else "fixed", CHOSEN)


def known_places(context: Context, ref: Ref, size: int) -> Ids | None:
    """The positions of an axis of ``size`` that a one-dimensional constant (numbers or mask) addresses."""
    value = context.constant(ref)
    if value is None or value.ndim != 1:
        return None
    if context.recording.dtypes[ref.index] in MASKS:
        return np.flatnonzero(value).astype(np.int64)
    return np.asarray(value.astype(np.int64) % max(size, 1))


def known_row(context: Context, ref: Ref, axis: int) -> Ids | None:
    """The positions a constant addresses along ``axis``, where they are the same everywhere else."""
    value = context.constant(ref)
    if value is None or not value.size:
        return None
    rows: Ids = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]).astype(np.int64)
    return rows[0] if (rows == rows[:1]).all() else None


@dataclass(frozen=True)
class Selection:
    """What ``x[..., i, j, ...]`` addresses.

    Args:
        axes: of the indexed tensor, those addressed.
        names: its other axes by letter.
        operands: the index tensors; masks are left out, their bundles are frozen.
        letters: axes of the selected part, in order; those of the index tensors start with ``i``.
        masked: whether a mask addresses anything.
    """

    axes: tuple[int, ...]
    names: dict[int, str]
    operands: tuple[Operand, ...]
    letters: tuple[str, ...]
    masked: bool


def selection(context: Context, rank: int, indices: Sequence[Ref | None]) -> Selection:
    """Read the list of index tensors as torch does: masks take as many axes as they have, neighbours stay in place."""
    axes: list[int] = []
    axis, depth, masked = 0, 0, False
    numbers: list[Ref] = []
    for ref in indices:
        if ref is None:
            axis += 1
            continue
        own = context.shape(ref)
        if context.recording.dtypes[ref.index] in MASKS:
            axes += range(axis, axis + len(own))
            axis, depth, masked = axis + len(own), max(depth, 1), True
            context.freeze(context.of(ref), "it decides which positions of another tensor are read or written")
        else:
            axes.append(axis)
            axis, depth = axis + 1, max(depth, len(own))
            numbers.append(ref)
    places = [f"i{k}" for k in range(depth)]
    names = {a: str(a) for a in range(rank) if a not in axes}
    start = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    letters = [*[x for a, x in names.items() if a < start], *places, *[x for a, x in names.items() if a >= start]]
    operands = tuple(
        Operand(context.of(ref), dict(enumerate(places[depth - len(context.shape(ref)) :])), ref.index)
        for ref in numbers
    )
    return Selection(tuple(axes), names, operands, tuple(letters), masked)


def index(context: Context) -> list[Labels]:
    """``x[i, :, j]`` and ``x[mask]``: addressed axes are fixed, unless by one list of known positions."""
    x, indices = context.op.args[0], context.op.args[1]
    labels, shape = context.of(x), context.out_shape
    given = [(axis, ref) for axis, ref in enumerate(indices) if ref is not None]
    if len(given) == 1 and (places := known_places(context, given[0][1], labels.shape[given[0][0]])) is not None:
        return [taken(context, labels, given[0][0], places, shape)]
    if not all(context.shape(ref) or context.recording.dtypes[ref.index] not in MASKS for _, ref in given):
        context.freeze(labels, CHOSEN)
        return [Labels((), frozenset(), labels.source, shape)]
    part = selection(context, len(labels.shape), indices)
    labels = chosen(context, x, labels, part.axes)
    operands = [Operand(labels, part.names, x.index), *part.operands]
    out = context.combine(operands, part.letters, dict(zip(part.letters, shape, strict=True)))
    bare = {i for i, letter in enumerate(part.letters) if part.masked and letter.startswith("i")}
    return [Labels(out.bundles, out.blank - bare, out.source, shape)]


def index_select(context: Context) -> list[Labels]:
    """``index_select(x, dim, index)``."""
    x, ref = context.tensors()[:2]
    labels, shape = context.of(x), context.out_shape
    if not labels.shape:
        return [labels]
    axis = context.arg(1) % len(labels.shape)
    places = known_places(context, ref, labels.shape[axis])
    if places is not None:
        return [taken(context, labels, axis, places, shape)]
    letters = [str(a) for a in range(len(shape))]
    operands = [
        Operand(chosen(context, x, labels, [axis]), {a: s for a, s in enumerate(letters) if a != axis}, x.index),
        Operand(context.of(ref), {0: str(axis)}, ref.index),
    ]
    return [context.combine(operands, letters, dict(zip(letters, shape, strict=True)))]


def gather(context: Context) -> list[Labels]:
    """``gather(x, dim, index)``: ``x`` at the place ``index`` names, position by position on all other axes."""
    x, ref = context.tensors()[:2]
    labels, numbers, shape = context.of(x), context.of(ref), context.out_shape
    if not shape or not labels.shape:
        context.freeze(labels, CHOSEN)
        return [Labels((), frozenset(), labels.source, shape)]
    axis = context.arg(1) % len(shape)
    for a, size in enumerate(shape):
        if a != axis and size != labels.shape[a]:
            cut = tuple(size if b == a else old for b, old in enumerate(labels.shape))
            labels = taken(context, labels, a, slice(0, size), cut)
    row = known_row(context, ref, axis)
    if row is not None:
        return [taken(context, labels, axis, row, shape)]
    letters = [str(a) for a in range(len(shape))]
    operands = [
        Operand(chosen(context, x, labels, [axis]), {a: s for a, s in enumerate(letters) if a != axis}, x.index),
        Operand(numbers, dict(enumerate(letters)), ref.index),
    ]
    return [context.combine(operands, letters, dict(zip(letters, shape, strict=True)))]


def flattened(context: Context) -> list[Labels]:
    """``take``, ``masked_select``, ``nonzero``: by places in the flattened tensor, or these places."""
    source = [context.of(ref) for ref in context.tensors()]
    for labels in source:
        context.freeze(labels, f"{context.op.name} goes by its positions")
    return [Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs if i is not None]


def repeat_interleave(context: Context) -> list[Labels]:
    """Positions, each as often as told."""
    context.freeze(context.of(context.tensors()[0]), NUMBERS)
    return [Labels((), frozenset(), "", context.out_shape)]


def searchsorted(context: Context) -> list[Labels]:
    """``searchsorted(sorted, values)``, ``bucketize(values, boundaries)``: places among sorted numbers, elementwise."""
    refs = context.tensors()
    values, bounds = (refs[0], refs[1]) if context.op.name == "bucketize" else (refs[-1], refs[0])
    if len(refs) < 2:
        context.freeze(context.of(refs[0]), "it is searched")
        return [Labels((), frozenset(), "", context.out_shape)]
    shape = context.out_shape
    sorted_shape, letters = context.shape(bounds), [str(a) for a in range(len(shape))]
    row = context.project(context.of(bounds), [len(sorted_shape) - 1], "fixed", "it is searched")
    operands = [Operand(context.of(values), dict(enumerate(letters)), values.index)]
    if len(sorted_shape) > 1:
        operands.append(Operand(row, dict(enumerate(letters[:-1])), bounds.index))
    return [context.combine(operands, letters, dict(zip(letters, shape, strict=True)))]


RULES = {
    "index": index,
    "_unsafe_index": index,
    "index_select": index_select,
    "gather": gather,
    "take": flattened,
    "masked_select": flattened,
    "nonzero": flattened,
    "nonzero_static": flattened,
    "unique_dim": flattened,
    "unique_consecutive": flattened,
    "repeat_interleave": repeat_interleave,
    "searchsorted": searchsorted,
    "bucketize": searchsorted,
}
