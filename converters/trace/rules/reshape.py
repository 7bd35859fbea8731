"""Views: aligned runs of axes keep, join or split their bundles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.trace.context import Context
from converters.trace.labels import Bundle, Ids, Labels

__all__ = ["RULES", "reshape_labels"]

Run = tuple[list[int], list[int]]


def view(context: Context) -> list[Labels]:
    """``view``, ``reshape``, ``_unsafe_view``."""
    return [reshape_labels(context, context.of(context.tensors()[0]), context.out_shape)]


def reshape_labels(context: Context, labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Labels after a reshape.

    A run of axes that become one run of others: a bundle over all of them is reshaped; with uniform axes beside it,
    every position is the piece of its element (channel, pixel); with blank ones, which hold copies (a key for each of
    its query heads), an interchangeable one; with another bundle, a pair.
    """
    if labels.shape == shape:
        return labels
    if not labels.bundles and not labels.blank:
        return Labels((), frozenset(), labels.source, shape)
    labels = Labels(tuple(map(_slim, labels.bundles)), labels.blank, labels.source, labels.shape)
    bundles: list[Bundle] = []
    blank: set[int] = {axis for axis, size in enumerate(shape) if size == 1}
    for before, after in _joined(_runs(labels.shape, shape), labels):
        inside = [bundle for bundle in labels.bundles if set(bundle.axes) & set(before)]
        if not inside:
            if all(axis in labels.blank for axis in before):
                blank.update(after)
            continue
        ids = _ids_over(context, labels, inside, before)
        if ids is not None:
            bundles.append(_simplified(context, tuple(after), ids.reshape([shape[axis] for axis in after])))
    kept = {axis for axis in blank if not any(axis in bundle.axes for bundle in bundles)}
    return Labels(tuple(bundles), frozenset(kept), labels.source, shape)


def _slim(bundle: Bundle) -> Bundle:
    """A bundle without its axes of length one, which take no part in runs."""
    kept = [i for i, size in enumerate(bundle.ids.shape) if size > 1]
    if not kept or len(kept) == bundle.ids.ndim:
        return bundle
    return Bundle(tuple(bundle.axes[i] for i in kept), bundle.ids.reshape([bundle.ids.shape[i] for i in kept]))


def _ids_over(context: Context, labels: Labels, inside: Sequence[Bundle], before: Sequence[int]) -> Ids | None:
    sizes = [labels.shape[axis] for axis in before]
    if len(inside) == 1 and set(inside[0].axes) == set(before):
        return inside[0].ordered(before)
    if len(inside) > 1:
        return _pairs(context, labels, inside, before)
    bundle = inside[0]
    own = [axis for axis in before if axis in bundle.axes]
    parents = bundle.ordered(own).reshape([labels.shape[axis] if axis in own else 1 for axis in before])
    told = [labels.shape[axis] if axis in own or axis not in labels.blank else 1 for axis in before]
    slots, total = np.zeros([1] * len(before), np.int64), 1
    for i, axis in enumerate(before):
        if axis not in own and told[i] > 1:
            step = np.arange(sizes[i]).reshape([-1 if j == i else 1 for j in range(len(before))])
            slots, total = slots * sizes[i] + step, total * sizes[i]
    grid = np.broadcast_to(parents, told)
    if total > 1:
        grid = context.solver.children(grid, np.broadcast_to(slots, told), total)
    if told != sizes:
        ids = context.solver.fresh(tuple(sizes))
        context.solver.member(ids, grid, sum(1 << i for i, size in enumerate(told) if size > 1))
        return ids
    return grid


def _pairs(context: Context, labels: Labels, inside: Sequence[Bundle], before: Sequence[int]) -> Ids:
    """Several sets of neurons in one run: every position belongs to one of each (head, dimension of a shared value)."""
    first, *others = inside
    covered = {axis for other in others for axis in other.axes}
    mine = [axis for axis in before if axis not in covered]
    narrow = Labels((first,), labels.blank, labels.source, labels.shape)
    parts = [(_ids_over(context, narrow, [first], mine), mine), *((other.ids, list(other.axes)) for other in others)]
    ids = context.solver.fresh(tuple(labels.shape[axis] for axis in before))
    for part, axes in parts:
        if part is not None:
            own = [axis for axis in before if axis in axes]
            ordered = part.transpose([axes.index(axis) for axis in own])
            wide = ordered.reshape([labels.shape[a] if a in own else 1 for a in before])
            context.solver.member(ids, wide, sum(1 << i for i, axis in enumerate(before) if axis in own))
    return ids


def _simplified(context: Context, axes: tuple[int, ...], ids: Ids) -> Bundle:
    """Pieces laid out again beside their elements: (channel, pixel) back to channels with uniform pixels."""
    known = context.solver.known_parents(ids) if ids.ndim > 1 else None
    if known is None:
        return Bundle(axes, ids)
    parents, slots = known
    uniform = [i for i in range(ids.ndim) if (parents == parents.take([0], axis=i)).all()]
    moving = [i for i in range(ids.ndim) if i not in uniform]
    if not uniform or not moving or any((slots != slots.take([0], axis=i)).any() for i in moving):
        return Bundle(axes, ids)
    reduced: Any = parents
    for i in reversed(uniform):
        reduced = reduced.take(0, axis=i)
    if len(np.unique(reduced)) != reduced.size:
        return Bundle(axes, ids)
    return Bundle(tuple(axes[i] for i in moving), reduced)


def _runs(before: Sequence[int], after: Sequence[int]) -> list[Run]:
    """Minimal runs of axes with equal numbers of elements; axes of length one take no part."""
    left = [axis for axis, size in enumerate(before) if size != 1]
    right = [axis for axis, size in enumerate(after) if size != 1]
    runs: list[Run] = []
    i = j = 0
    while i < len(left) and j < len(right):
        run: Run = ([left[i]], [right[j]])
        a, b = before[left[i]], after[right[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                run[0].append(left[i])
                a, i = a * before[left[i]], i + 1
            else:
                run[1].append(right[j])
                b, j = b * after[right[j]], j + 1
        runs.append(run)
    return runs


def _joined(runs: Sequence[Run], labels: Labels) -> list[Run]:
    """Runs that one bundle reaches into are treated as one."""
    joined: list[Run] = []
    for before, after in runs:
        touched = {axis for bundle in labels.bundles if set(bundle.axes) & set(before) for axis in bundle.axes}
        mine: Run = (list(before), list(after))
        rest = []
        for other in joined:
            if touched & set(other[0]):
                mine = (sorted([*other[0], *mine[0]]), sorted([*other[1], *mine[1]]))
            else:
                rest.append(other)
        joined = [*rest, mine]
    return joined


def permute(context: Context) -> list[Labels]:
    """Axes in another order."""
    labels = context.of(context.tensors()[0])
    order = [axis % len(labels.shape) for axis in context.arg(1)]
    return [labels.move({axis: i for i, axis in enumerate(order)}, context.out_shape)]


def transpose(context: Context) -> list[Labels]:
    """Two axes exchanged; ``t`` exchanges the only two."""
    labels = context.of(context.tensors()[0])
    rank = len(labels.shape)
    a, b = (context.arg(1) % rank, context.arg(2) % rank) if context.op.name == "transpose" else (0, rank - 1)
    mapping = {axis: axis for axis in range(rank)} | ({a: b, b: a} if rank > 1 else {})
    return [labels.move(mapping, context.out_shape)]


def unsqueeze(context: Context) -> list[Labels]:
    """A new axis of length one."""
    labels = context.of(context.tensors()[0])
    rank = len(labels.shape)
    new = context.arg(1) % (rank + 1)
    return [labels.move({axis: axis + (axis >= new) for axis in range(rank)}, context.out_shape)]


def squeeze(context: Context) -> list[Labels]:
    """Axes of length one removed."""
    labels = context.of(context.tensors()[0])
    rank = len(labels.shape)
    dims = context.arg(1, "dim", tuple(range(rank)))
    chosen = {axis % rank for axis in ((dims,) if isinstance(dims, int) else dims)} if rank else set()
    kept = [axis for axis in range(rank) if axis not in chosen or labels.shape[axis] != 1]
    return [labels.move({axis: i for i, axis in enumerate(kept)}, context.out_shape)]


def expand(context: Context) -> list[Labels]:
    """Broadcast: expanded axes hold one value."""
    labels = context.of(context.tensors()[0])
    shape = context.out_shape
    shift = len(shape) - len(labels.shape)
    stays = [axis for axis, size in enumerate(labels.shape) if shape[axis + shift] == size]
    grown = set(range(len(shape))) - {axis + shift for axis in stays}
    return [labels.move({axis: axis + shift for axis in stays}, shape, grown)]


def repeat(context: Context) -> list[Labels]:
    """Copies along axes: each copy of a neuron is a piece of it."""
    labels = context.of(context.tensors()[0])
    shape = context.out_shape
    shift = len(shape) - len(labels.shape)
    inner = tuple(size for axis, old in enumerate(shape) for size in _copies(axis - shift, old, labels.shape))
    rank = len(shape)
    spread = {axis: 2 * (axis + shift) + 1 for axis in range(len(labels.shape))}
    copies = [2 * axis for axis in range(rank) if inner[2 * axis] > 1]
    return [reshape_labels(context, labels.move(spread, inner, copies), shape)]


def _copies(axis: int, size: int, old: tuple[int, ...]) -> tuple[int, int]:
    return (size // old[axis], old[axis]) if axis >= 0 else (size, 1)


RULES = {
    "repeat": repeat,
    "view": view,
    "_unsafe_view": view,
    "reshape": view,
    "_reshape_alias": view,
    "view_as": view,
    "permute": permute,
    "transpose": transpose,
    "t": transpose,
    "numpy_T": transpose,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
}
