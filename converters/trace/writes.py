"""Writes in place below functionalisation: which tensors see the memory, and how they read what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.program import Ref
from converters.trace.labels import Ids

__all__ = ["Box", "Writes", "follow", "inside", "overlap"]

MAX_LISTED = 2**22
Note = Callable[[Any, tuple[Any, ...], Tensor], int]


class Writes:
    """What was written to which storage, in order, and how much of that each tensor has seen."""

    def __init__(self) -> None:
        self._log: dict[int, list[tuple[int, Tensor, str]]] = {}
        self._seen: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._log)

    def add(self, number: int, target: Tensor, name: str) -> None:
        """``target``, now known as ``number``, was written to by ``name``; its storage lives as long as the log."""
        self._log.setdefault(target.untyped_storage()._cdata, []).append((number, target, name))
        self.saw(target)

    def saw(self, tensor: Tensor) -> None:
        """A tensor is up to date."""
        if self._log:
            self._seen[id(tensor)] = len(self._log.get(tensor.untyped_storage()._cdata, ()))

    def since(self, tensor: Tensor) -> list[tuple[int, Tensor, str]]:
        """Writes to elements of a tensor since it was up to date: number, target and name of each."""
        if not self._log:
            return []
        log = self._log.get(tensor.untyped_storage()._cdata, [])
        return [write for write in log[self._seen.get(id(tensor), 0) :] if overlap(write[1], tensor)]


@dataclass(frozen=True)
class Box:
    """A part of a tensor: per axis ``(start, end, step)``, None where the axis is whole; ``shape`` keeps all axes."""

    cuts: tuple[tuple[int, int, int] | None, ...]
    shape: tuple[int, ...]


Place = tuple[tuple[int, ...], tuple[int, ...], int]


def place(tensor: Tensor) -> Place:
    """Shape, strides and offset: where in its storage a tensor lies."""
    strides = tuple(int(stride) for stride in tensor.stride())
    return tuple(tensor.shape), strides, int(tensor.storage_offset())


def offsets(where: Place) -> Ids:
    """Where in the storage each element lies."""
    shape, strides, start = where
    grid = np.zeros(shape, np.int64) + start
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        grid = grid + (np.arange(size) * stride).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.asarray(grid, dtype=np.int64)


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage have an element in common; yes where there are too many to list."""
    return max(a.numel(), b.numel()) > MAX_LISTED or _overlap(place(a), place(b))


@lru_cache(maxsize=4096)
def _overlap(a: Place, b: Place) -> bool:
    first, second = offsets(a).ravel(), offsets(b).ravel()
    taken = np.zeros(max(first.max(initial=0), second.max(initial=0)) + 1, np.bool_)
    taken[first] = True
    return bool(taken[second].any())


def inside(part: Tensor, whole: Tensor) -> Box | None:
    """``part`` as a box of ``whole``, whose axes it keeps in order, or None."""
    if part.dtype != whole.dtype or max(part.numel(), whole.numel()) > MAX_LISTED or not part.numel():
        return None
    left = int(part.storage_offset() - whole.storage_offset())
    if left < 0 or any(stride < 0 for stride in whole.stride()):
        return None
    starts = [0] * whole.dim()
    for axis in sorted(range(whole.dim()), key=lambda a: -int(whole.stride()[a])):
        if whole.shape[axis] > 1 and whole.stride(axis):
            starts[axis], left = divmod(left, int(whole.stride(axis)))
    if left:
        return None
    cuts: list[tuple[int, int, int] | None] = []
    shape = []
    own = [axis for axis, size in enumerate(part.shape) if size > 1]
    for axis, size in enumerate(whole.shape):
        length, step = 1, 1
        if own and size > 1 and whole.stride(axis) and part.stride(own[0]) % whole.stride(axis) == 0:
            steps = part.stride(own[0]) // whole.stride(axis)
            if starts[axis] + (part.shape[own[0]] - 1) * steps < size:
                length, step = part.shape[own.pop(0)], steps
        end = starts[axis] + (length - 1) * step + 1
        cuts.append(None if length == size else (starts[axis], end, step))
        shape.append(length)
    if own:
        return None
    box = Box(tuple(cuts), tuple(shape))
    return box if np.array_equal(offsets(place(cut(whole, box))).ravel(), offsets(place(part)).ravel()) else None


def axes(box: Box) -> list[int]:
    """The axes that are cut."""
    return [axis for axis, where in enumerate(box.cuts) if where is not None]


def cut(whole: Tensor, box: Box) -> Tensor:
    """The part itself."""
    for axis in axes(box):
        whole = torch.ops.aten.slice.Tensor(whole, axis, *(box.cuts[axis] or ()))
    return whole


def follow(note: Note, target: tuple[int, Tensor], other: tuple[int, Tensor]) -> int | None:
    """The number under which ``other`` goes on after ``target``, in the same memory, was written to.

    A box of the target is cut from it; of a tensor that has the target as a box the rest stays; else None.

    Args:
        note: records ``operation(*arguments)`` with its result, and numbers it.
        target, other: tensors with their numbers, that of the target being new.
    """
    box = inside(other[1], target[1])
    if box is not None:
        return _shaped(note, _parts(note, target, box)[-1], other[1])
    box = inside(target[1], other[1])
    if box is None:
        return None
    index = _shaped(note, target, target[1].reshape(box.shape))
    parts = _parts(note, other, box)
    for axis, (base, whole) in reversed(list(zip(axes(box), parts[:-1], strict=True))):
        arguments = (Ref(base), Ref(index), axis, *(box.cuts[axis] or ()))
        index = note(torch.ops.aten.slice_scatter.default, arguments, whole)
    return index


def _parts(note: Note, whole: tuple[int, Tensor], box: Box) -> list[tuple[int, Tensor]]:
    """``whole``, cut along one axis after the other."""
    parts = [whole]
    for axis in axes(box):
        where = (axis, *(box.cuts[axis] or ()))
        piece = torch.ops.aten.slice.Tensor(parts[-1][1], *where)
        parts.append((note(torch.ops.aten.slice.Tensor, (Ref(parts[-1][0]), *where), piece), piece))
    return parts


def _shaped(note: Note, part: tuple[int, Tensor], like: Tensor) -> int:
    if part[1].shape == like.shape:
        return part[0]
    return note(torch.ops.aten.reshape.default, (Ref(part[0]), tuple(like.shape)), like)
