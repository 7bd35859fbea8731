"""Writing at places that are chosen by number or by mask: the places count, everything beside them is united."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converters.program import Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Ids, Labels
from converters.trace.rules.gather import CHOSEN, MASKS, known_places, known_row, selection
from converters.trace.rules.indexing import taken
from converters.trace.rules.joining import written

__all__ = ["RULES"]

ADDED = {"scatter_add", "scatter_reduce", "index_add", "index_reduce"}


def scatter(context: Context) -> list[Labels]:
    """``scatter``, ``index_add`` and their kin: ``(base, dim, index, source or value)``.

    Sums, means and extremes do not mind the order of what they gather; where one value replaces another, it counts.
    """
    base, index = context.op.args[0], context.op.args[2]
    source = context.op.args[3] if len(context.op.args) > 3 and isinstance(context.op.args[3], Ref) else None
    source = source if source is None or context.shape(source) else None
    shape = context.out_shape
    if not shape:
        return [context.of(base)]
    axis = context.arg(1) % len(shape)
    listed = context.op.name.startswith("index")
    reduced = context.op.name == "scatter" and len(context.op.args) + len(context.op.kwargs) > 4
    added = reduced or context.op.name in ADDED
    places = known_places(context, index, shape[axis]) if listed else known_row(context, index, axis)
    if not listed and not _alike(context, base, index, source, axis):
        places = None
    if places is not None and len(np.unique(places)) == len(places):
        inner = _inner(context, source, shape, axis, len(places))
        if context.of(base).bundle_at(axis) is not None or inner.bundle_at(axis) is not None:
            return [_written(context, base, inner, source or base, axis, places, added)]
    members = [index] if source is None else [index, source]
    count = context.shape(index)[0 if listed else axis] if context.shape(index) else 1
    full = [ref for ref in members if not (listed and ref is index)]
    cut = {a for a in range(len(shape)) if a != axis and any(context.shape(r)[a] != shape[a] for r in full)}
    cut |= {axis} if any(context.shape(ref)[axis] != count for ref in full) else set()
    labels = context.project(context.of(base), {axis, *cut}, "fixed", CHOSEN)
    operands = []
    for ref in members:
        if ref in full:
            own = context.project(context.of(ref), cut, "fixed", "it is written to positions chosen by number")
            names = {a: "s" if a == axis else str(a) for a in range(len(shape)) if a not in cut}
        else:
            own, names = context.of(ref), {0: "s"} if context.shape(ref) else {}
        operands.append(Operand(own, names, ref.index))
    kept = [str(a) for a in range(len(shape)) if a != axis and a not in cut]
    sizes = {str(a): size for a, size in enumerate(shape)} | {"s": count}
    moved = context.combine(operands, [*kept, "s"], sizes)
    return [_into(context, base, labels, _gone(context, moved, kept, added), kept, {axis, *cut})]


def _written(context: Context, base: Ref, inner: Labels, piece: Ref, axis: int, places: Ids, added: bool) -> Labels:
    """Written to places that are known; what is added is united with what is there."""
    if added:
        part = taken(context, context.of(base), axis, places, inner.shape)
        letters = [str(a) for a in range(len(inner.shape))]
        operands = [Operand(part, dict(enumerate(letters)), base.index), Operand(inner, dict(enumerate(letters)))]
        inner = context.combine(operands, letters, dict(zip(letters, inner.shape, strict=True)))
    return written(context, base, inner, piece, axis, places)


def _alike(context: Context, base: Ref, index: Ref, source: Ref | None, axis: int) -> bool:
    """Whether index and source reach as far as each other, and as the base on all other axes."""
    shape, own = context.shape(base), context.shape(index)
    fits = all(a == axis or size == shape[a] for a, size in enumerate(own))
    return fits and (source is None or context.shape(source) == own)


def _inner(context: Context, source: Ref | None, shape: Sequence[int], axis: int, count: int) -> Labels:
    """What is written, its axes aligned with the base; one value is blank everywhere."""
    part = tuple(count if a == axis else size for a, size in enumerate(shape))
    if source is None:
        return Labels((), frozenset(range(len(part))), "constant", part)
    own = context.of(source)
    shift = len(part) - len(own.shape)
    stays = {a: a + shift for a, size in enumerate(own.shape) if size == part[a + shift] or size == 1}
    grown = {a for a in range(len(part)) if a < shift or own.shape[a - shift] != part[a]}
    return own.move({a: b for a, b in stays.items() if b not in grown}, part, grown)


def _gone(context: Context, moved: Labels, kept: Sequence[str], added: bool) -> Labels:
    """What is written, without the axes along which places are listed."""
    listed = range(len(kept), len(moved.shape))
    if added:
        return context.reduce(moved, listed)
    labels = context.project(moved, listed, "fixed", "a later entry replaces an earlier one")
    return labels.move({a: a for a in range(len(kept))}, moved.shape[: len(kept)])


def _into(
    context: Context, base: Ref, labels: Labels, moved: Labels, kept: Sequence[str], addressed: set[int]
) -> Labels:
    letters = [str(a) for a in range(len(labels.shape))]
    operands = [Operand(labels, dict(enumerate(letters)), base.index), Operand(moved, dict(enumerate(kept)))]
    out = context.combine(operands, letters, dict(zip(letters, labels.shape, strict=True)))
    return Labels(out.bundles, out.blank - addressed, out.source, out.shape)


def index_put(context: Context) -> list[Labels]:
    """``x[i, :, j] = values``, ``x[mask] = values``; one value under a mask is elementwise."""
    base, indices, values = context.op.args[0], context.op.args[1], context.op.args[2]
    added, shape = bool(context.arg(3, "accumulate", False)), context.out_shape
    given = [(axis, ref) for axis, ref in enumerate(indices) if ref is not None]
    own = context.shape(values)
    if len(given) == 1:
        (axis, ref) = given[0]
        places = known_places(context, ref, shape[axis])
        source = values if any(size > 1 for size in own) else None
        if places is not None and len(np.unique(places)) == len(places):
            inner = _inner(context, source, shape, axis, len(places))
            if context.of(base).bundle_at(axis) is not None or inner.bundle_at(axis) is not None:
                return [_written(context, base, inner, values, axis, places, added)]
        if context.recording.dtypes[ref.index] in MASKS and all(size == 1 for size in own):
            letters = [str(a) for a in range(len(shape))]
            mask = {a: letters[axis + a] for a in range(len(context.shape(ref)))}
            operands = [
                Operand(context.of(base), dict(enumerate(letters)), base.index),
                Operand(context.of(ref), mask, ref.index),
            ]
            return [context.combine(operands, letters, dict(zip(letters, shape, strict=True)))]
    if not all(context.shape(ref) or context.recording.dtypes[ref.index] not in MASKS for _, ref in given):
        context.freeze(context.of(base), CHOSEN)
        context.freeze(context.of(values), CHOSEN)
        return [Labels((), frozenset(), "", shape)]
    part = selection(context, len(shape), indices)
    labels = context.project(context.of(base), part.axes, "fixed", CHOSEN)
    shift = len(part.letters) - len(own)
    names = {a: part.letters[a + shift] for a in range(len(own)) if a + shift >= 0}
    listed = [letter for letter in part.letters if letter.startswith("i")]
    sizes = {str(a): size for a, size in enumerate(shape)}
    for letter in listed:
        lengths = [o.labels.shape[a] for o in part.operands for a, x in o.letters.items() if x == letter]
        sizes[letter] = max([*lengths, *(own[a] for a, x in names.items() if x == letter)], default=1)
    kept = list(part.names.values())
    operands = [Operand(context.of(values), names, values.index), *part.operands]
    moved = context.combine(operands, [*kept, *listed], sizes)
    return [_into(context, base, labels, _gone(context, moved, kept, added), kept, set(part.axes))]


def masked_scatter(context: Context) -> list[Labels]:
    """``masked_scatter(x, mask, source)``: entries of the source in order; trailing axes the mask does not see pass."""
    x, mask, source = context.tensors()[:3]
    shape, own = context.out_shape, context.shape(source)
    shift = len(shape) - len(context.shape(mask))
    blind = 0
    for axis in reversed(range(len(shape))):
        seen = axis >= shift and context.shape(mask)[axis - shift] > 1 and axis - shift not in context.of(mask).blank
        if seen or blind == len(own) or own[len(own) - 1 - blind] != shape[axis]:
            break
        blind += 1
    context.freeze(context.of(mask), "it decides which positions of another tensor are read or written")
    order = "its entries are taken in order"
    labels = context.project(context.of(x), range(len(shape) - blind), "fixed", order)
    taken_from = context.project(context.of(source), range(len(own) - blind), "fixed", order)
    letters = [str(a) for a in range(len(shape))]
    names = {len(own) - blind + k: letters[len(shape) - blind + k] for k in range(blind)}
    operands = [Operand(labels, dict(enumerate(letters)), x.index), Operand(taken_from, names, source.index)]
    out = context.combine(operands, letters, dict(zip(letters, shape, strict=True)))
    return [Labels(out.bundles, out.blank - set(range(len(shape) - blind)), out.source, shape)]


def diagonal_scatter(context: Context) -> list[Labels]:
    """``diagonal_scatter(x, source, offset, dim1, dim2)``: off the main diagonal of a square, positions count."""
    base, source = context.tensors()[:2]
    labels, inner = context.of(base), context.of(source)
    rank = len(labels.shape)
    rows, columns = context.arg(3, "dim1", 0) % rank, context.arg(4, "dim2", 1) % rank
    last = len(inner.shape) - 1
    reason = "it is written to a diagonal"
    bundle = inner.bundle_at(last)
    square = labels.shape[rows] == labels.shape[columns] and not context.arg(2, "offset", 0)
    alone = all(labels.bundle_at(a) is None for a in (rows, columns)) and {rows, columns} <= labels.blank
    if square and alone and bundle is not None and bundle.axes == (last,):
        pair = (Bundle((rows,), bundle.ids), Bundle((columns,), bundle.ids))
        labels = Labels((*labels.bundles, *pair), labels.blank - {rows, columns}, labels.source, labels.shape)
    else:
        labels = context.project(labels, [rows, columns], "fixed", reason)
        inner = context.project(inner, [last], "fixed", reason)
    rest = [a for a in range(rank) if a not in (rows, columns)]
    letters = [str(a) for a in range(rank)]
    operands = [
        Operand(labels, dict(enumerate(letters)), base.index),
        Operand(inner, {i: letters[a] for i, a in enumerate(rest)}, source.index),
    ]
    out = context.combine(operands, letters, dict(zip(letters, labels.shape, strict=True)))
    return [Labels(out.bundles, out.blank - {rows, columns}, out.source, out.shape)]


def as_strided_scatter(context: Context) -> list[Labels]:
    """By places in memory."""
    for ref in context.tensors():
        context.freeze(context.of(ref), "it is written by its places in memory")
    return [Labels((), frozenset(), "", context.out_shape)]


SCATTERS = "scatter scatter_add scatter_reduce index_add index_copy index_fill index_reduce".split()

RULES = {
    **dict.fromkeys(SCATTERS, scatter),
    "index_put": index_put,
    "_unsafe_index_put": index_put,
    "masked_scatter": masked_scatter,
    "diagonal_scatter": diagonal_scatter,
    "as_strided_scatter": as_strided_scatter,
}
