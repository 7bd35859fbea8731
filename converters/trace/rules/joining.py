"""Tensors from parts: pieces keep their ids; pieces without any get fixed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from converters.program import Ref
from converters.trace.context import Context, Operand, joint_source
from converters.trace.labels import Bundle, Ids, Labels
from converters.trace.rules.indexing import taken

__all__ = ["RULES", "written"]

PICKS = {"select", "slice", "split", "split_with_sizes", "unbind", "index_select"}
VIEWS = {"view", "_unsafe_view", "reshape"}


def cat(context: Context) -> list[Labels]:
    """Pieces keep their ids; pieces without any get fixed ones, pieces of one value interchangeable ones."""
    refs = [ref for ref in context.tensors() if 0 not in context.shape(ref)] or context.tensors()[:1]
    rank = len(context.out_shape)
    axis = context.arg(1, "dim", 0) % rank
    return [_joined(context, [context.of(ref) for ref in refs], refs, axis, context.out_shape)]


def _joined(
    context: Context, labels: Sequence[Labels], refs: Sequence[Ref], axis: int, shape: tuple[int, ...]
) -> Labels:
    reach = _reach(labels, axis)
    letters = [str(a) for a in range(len(shape))]
    others = [x for a, x in enumerate(letters) if a not in reach]
    names = {a: x for a, x in enumerate(letters) if a not in reach}
    alone = [_apart(piece, reach) for piece in labels]
    sizes = {x: shape[a] for a, x in names.items()}
    rest = context.combine([Operand(p, names, r.index) for p, r in zip(alone, refs, strict=True)], others, sizes)
    rest = rest.move(dict(enumerate(names)), shape)
    source = joint_source(piece.source for piece in labels)
    known = any(piece.bundle_at(axis) for piece in labels) or _state_beside_input(labels, axis)
    if reach == (axis,) and not known:
        return Labels(rest.bundles, rest.blank, source, shape)
    ids, start = [], 0
    for piece, ref in zip(labels, refs, strict=True):
        here = _grid(context, piece, ref, reach, axis, start, shape[axis])
        if piece.bundle_at(axis) is not None:
            context.solver.mark(here, f"{context.where}, piece {ref.index} of tensor {context.op.outputs[0]}")
        ids.append(here)
        start += piece.shape[axis]
    for number in range(1, len(ids)):
        before = np.concatenate([part.ravel() for part in ids[:number]])
        if np.isin(ids[number], before).any():
            copied = context.solver.fresh(ids[number].shape)
            context.solver.union(copied, ids[number])
            context.solver.mark(copied, f"{context.where}, copy {number} in tensor {context.op.outputs[0]}")
            ids[number] = copied
    whole = Bundle(reach, np.concatenate(ids, axis=reach.index(axis)))
    return Labels((*rest.bundles, whole), rest.blank, source, shape)


def _state_beside_input(labels: Sequence[Labels], axis: int) -> bool:
    """Features joined with a state of one value (zeros before the first step): the state's entries are alike."""
    return axis == len(labels[0].shape) - 1 and any(axis in p.blank for p in labels if p.shape[axis] > 1)


def _reach(labels: Sequence[Labels], axis: int) -> tuple[int, ...]:
    """All axes that hang together with ``axis`` in some piece, through bundles that share axes."""
    reach = {axis}
    while True:
        more = {a for piece in labels for bundle in piece.bundles if reach & set(bundle.axes) for a in bundle.axes}
        if more <= reach:
            return tuple(sorted(reach))
        reach |= more


def _apart(piece: Labels, reach: Sequence[int]) -> Labels:
    """What a piece is along the other axes."""
    bundles = tuple(bundle for bundle in piece.bundles if not set(bundle.axes) & set(reach))
    rest = Labels(bundles, piece.blank - set(reach), piece.source, piece.shape)
    return rest.move({a: a for a in range(len(piece.shape)) if a not in reach}, piece.shape)


def _grid(context: Context, piece: Labels, ref: Ref, reach: tuple[int, ...], axis: int, start: int, total: int) -> Ids:
    """The ids of one piece over ``reach``; neurons of fewer axes have one piece of themselves at each position."""
    inside = [bundle for bundle in piece.bundles if set(bundle.axes) & set(reach)]
    sizes = tuple(piece.shape[a] for a in reach)
    if len(inside) == 1 and set(inside[0].axes) == set(reach):
        return inside[0].ordered(reach)
    if len(inside) == 1:
        bundle = inside[0]
        own = [a for a in reach if a in bundle.axes]
        parents = bundle.ordered(own).reshape([piece.shape[a] if a in own else 1 for a in reach])
        slots, count = np.zeros([1] * len(reach), np.int64), 1
        for i, a in enumerate(reach):
            if a in own:
                continue
            length, offset = (total, start) if a == axis else (sizes[i], 0)
            step = np.arange(sizes[i]).reshape([-1 if j == i else 1 for j in range(len(reach))])
            slots, count = slots * length + step + offset, count * length
        return context.solver.children(np.broadcast_to(parents, sizes), np.broadcast_to(slots, sizes), count)
    ids = context.solver.fresh(sizes)
    if inside:
        reason = "tensors are joined along an axis on which two sets of neurons meet"
        for bundle in inside:
            context.freeze_ids(bundle.ids, reason)
        context.freeze_ids(ids, reason)
        return ids
    letters = {a: str(i) for i, a in enumerate(reach)}
    bare = Labels((), piece.blank, piece.source, piece.shape)
    named = Labels((Bundle(tuple(range(len(reach))), ids),), frozenset(), "", sizes)
    order = [str(i) for i in range(len(reach))]
    pair = [Operand(named, dict(enumerate(order))), Operand(bare, letters, ref.index)]
    context.combine(pair, order, dict(zip(order, sizes, strict=True)))
    return ids


def stack(context: Context) -> list[Labels]:
    """A new uniform axis; the others are united, unless the pieces are only picked out or laid end to end again."""
    refs = context.tensors()
    rank = len(context.out_shape)
    axis = context.arg(1, "dim", 0) % rank
    if len(refs) > 1 and axis < rank - 1 and _unlike([context.of(ref) for ref in refs]):
        index = next(i for i in context.op.outputs if i is not None)
        if index is not None and _kept_apart(context, index):
            return [_stacked(context, refs, axis)]
    rest = [a for a in range(rank) if a != axis]
    letters = [str(a) for a in rest]
    operands = [Operand(context.of(ref), dict(enumerate(letters)), ref.index) for ref in refs]
    out = context.combine(operands, letters, {str(a): context.out_shape[a] for a in rest})
    return [out.move(dict(enumerate(rest)), context.out_shape)]


def slice_scatter(context: Context) -> list[Labels]:
    """Writing into a part of an axis: what is left of it and the new part, joined and put in order."""
    base, piece = context.tensors()[:2]
    labels, inner = context.of(base), context.of(piece)
    rank = len(labels.shape)
    places: Ids
    if context.op.name == "select_scatter":
        axis = context.arg(2) % rank
        places = np.array([context.arg(3) % labels.shape[axis]])
        inner = inner.move({a: a + (a >= axis) for a in range(rank - 1)}, _with_axis(inner.shape, axis))
    else:
        axis = context.arg(2, "dim", 0) % rank
        part = slice(context.arg(3, "start"), context.arg(4, "end"), context.arg(5, "step", 1))
        places = np.arange(*part.indices(labels.shape[axis]), dtype=np.int64)
    return [written(context, base, inner, piece, axis, places)]


def written(context: Context, base: Ref, inner: Labels, piece: Ref, axis: int, places: Ids) -> Labels:
    """``base`` with ``inner`` (read from ``piece``) at different ``places`` of an axis: joined and put in order."""
    labels = context.of(base)
    left = np.setdiff1d(np.arange(labels.shape[axis]), places)
    if not len(left):
        order = np.argsort(places)
        return taken(context, inner, axis, order, context.out_shape)
    if not len(places):
        return labels
    rest = taken(context, labels, axis, left, _resized(labels.shape, axis, len(left)))
    whole = _joined(context, [rest, inner], [base, piece], axis, context.out_shape)
    bundle = whole.bundle_at(axis)
    if bundle is None:
        return whole
    order = np.argsort(np.concatenate([left, places]))
    ids = bundle.ids.take(order, axis=bundle.axes.index(axis))
    others = tuple(other for other in whole.bundles if other is not bundle)
    return Labels((*others, Bundle(bundle.axes, ids)), whole.blank, whole.source, whole.shape)


def _unlike(labels: Sequence[Labels]) -> bool:
    """Whether pieces have one set of neurons each, along the same axes, but not the same neurons."""
    if any(len(piece.bundles) != 1 for piece in labels):
        return False
    first = {bundle.axes: bundle.ids for bundle in labels[0].bundles}
    if any({bundle.axes for bundle in piece.bundles} != set(first) for piece in labels):
        return False
    return any(not np.array_equal(bundle.ids, first[bundle.axes]) for piece in labels for bundle in piece.bundles)


def _kept_apart(context: Context, index: int) -> bool:
    """Whether all that happens to a tensor is that parts are picked out or axes are joined into one."""
    users = [op for op in context.recording.ops if index in op.refs() and context.used.intersection(op.outputs)]
    for op in users:
        result = next(i for i in op.outputs if i is not None)
        if op.name in PICKS or (op.name in VIEWS and len(context.shape(result)) < len(context.shape(index))):
            continue
        if op.name not in (*VIEWS, "permute", "transpose", "clone", "unsqueeze") or not _kept_apart(context, result):
            return False
    return bool(users)


def _stacked(context: Context, refs: Sequence[Ref], axis: int) -> Labels:
    """Every piece keeps its neurons; the new axis is part of their set."""
    rank = len(context.out_shape)
    mapping = {a: a + (a >= axis) for a in range(rank - 1)}
    pieces = [context.of(ref).move(mapping, _with_axis(context.shape(ref), axis)) for ref in refs]
    wide = [
        Labels(
            tuple(Bundle((axis, *bundle.axes), bundle.ids[None]) for bundle in piece.bundles),
            piece.blank - {axis},
            piece.source,
            piece.shape,
        )
        for piece in pieces
    ]
    return _joined(context, wide, refs, axis, context.out_shape)


def _with_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis:])


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


RULES: dict[str, Callable[[Context], list[Labels]]] = {
    "cat": cat,
    "stack": stack,
    "slice_scatter": slice_scatter,
    "select_scatter": slice_scatter,
}
