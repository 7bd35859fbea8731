"""Random true permutations of many networks at once, as positions in their rows of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from converters import Axis, Structure
from converters.symmetry.permutation import paired_orders

__all__ = ["draw_orders", "permuted_positions"]


def draw_orders(structure: Structure, count: int) -> dict[int, Tensor]:
    """``count`` elements of the symmetry group, each like one of `converters.sample_permutation`.

    Draws from torch's global generator on the CPU, so the same on every device.

    Returns:
        per group that moves, its orders ``[count, size]``, with ``new[i] = old[order[i]]``.
    """
    orders: dict[int, Tensor] = {}
    for g in _moving(structure):
        group = structure.groups[g]
        width = group.size // group.cells
        order = torch.rand(count, group.cells, width).argsort(2)
        order += torch.arange(0, group.size, width).view(-1, 1)
        if group.parent in orders:
            cells = orders[group.parent].unsqueeze(2).expand_as(order)
            order = order.gather(1, cells)
        orders[g] = order.flatten(1)
    orders.update(paired_orders(structure, orders))
    return orders


def permuted_positions(structure: Structure, orders: Mapping[int, Tensor], buffers: bool = False) -> Tensor:
    """Where each number of a permuted network's row of parameters was in the old row, ``[count, num_parameters]``.

    With ``row`` the trainable tensors flattened side by side (tied ones once) and ``positions`` from ``orders``,
    ``row[positions[b]]`` is the row of ``converters.permute(weights, permutation)`` for the b-th permutation.

    Args:
        structure: of the networks.
        orders: from `draw_orders`, on any device.
        buffers: whether rows hold the buffers too, each where it is in the structure.

    >>> from converters import trace
    >>> structure = trace(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)))
    >>> permuted_positions(structure, {1: torch.tensor([[1, 0], [0, 1]])})
    tensor([[1, 0, 3, 2, 5, 4, 6],
            [0, 1, 2, 3, 4, 5, 6]])
    """
    if not orders:
        held = (p for p in structure.parameters if p.alias_of is None and (buffers or not p.buffer))
        return torch.arange(sum(p.numel for p in held)).unsqueeze(0)
    first = next(iter(orders.values()))
    parts, offset = [], 0
    for plan in _plans(structure, first.device, buffers):
        inside = plan.grouped_positions(orders) if plan.full is not None else plan.positions(orders)
        parts.append(inside.reshape(len(inside), -1).expand(len(first), -1) + offset)
        offset += parts[-1].shape[1]
    return torch.cat(parts, 1)


@lru_cache(maxsize=256)
def _moving(structure: Structure) -> tuple[int, ...]:
    """Groups that permutations move, parents first."""

    def depth(g: int) -> int:
        parent = structure.groups[g].parent
        return 0 if parent is None else 1 + depth(parent)

    groups = structure.groups
    hidden = [g for g, group in enumerate(groups) if group.role == "hidden" and not group.factors]
    return tuple(sorted((g for g in hidden if groups[g].size > 1 or groups[g].parent is not None), key=depth))


@dataclass(frozen=True, eq=False)
class _Members:
    """The positions ``here [n]`` of an axis that hold a group; ``table [size, slots]`` says where each member is."""

    group: int
    here: Tensor
    member: Tensor
    slot: Tensor
    table: Tensor


@dataclass(frozen=True, eq=False)
class _AxisPlan:
    """How an axis moves: by one group, exactly and in order, or piece by piece, or not at all."""

    still: Tensor
    sole: int | None
    pieces: tuple[_Members, ...]

    def source(self, orders: Mapping[int, Tensor]) -> Tensor:
        """Positions to read from, ``[count or 1, length]``."""
        if self.sole is not None and self.sole in orders:
            return orders[self.sole]
        pieces = [piece for piece in self.pieces if piece.group in orders]
        if not pieces:
            return self.still
        source = self.still.repeat(len(orders[pieces[0].group]), 1)
        for piece in pieces:
            source[:, piece.here] = piece.table[orders[piece.group][:, piece.member], piece.slot]
        return source


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a parameter moves; ``full`` is the axis of a grouped convolution's inputs (see `converters.Parameter`)."""

    shape: tuple[int, ...]
    axes: tuple[_AxisPlan, ...]
    full: _AxisPlan | None

    def positions(self, orders: Mapping[int, Tensor]) -> Tensor:
        """In the flattened parameter, ``[count or 1, *shape]``."""
        inside = torch.zeros((1, *self.shape), dtype=torch.int64, device=self._device(orders))
        for number, axis in enumerate(self.axes):
            stride = int(np.prod(self.shape[number + 1 :], dtype=np.int64))
            source = axis.source(orders) * stride
            inside = inside + source.view(len(source), *self._place(number))
        return inside

    def grouped_positions(self, orders: Mapping[int, Tensor]) -> Tensor:
        """As `positions`, where axis 1 lists the inputs of each row's cell."""
        assert self.full is not None
        rows, width = self.shape[:2]
        height = rows // (self.full.still.shape[1] // width)
        device = self._device(orders)
        row, column = self.axes[0].source(orders), self.full.source(orders)
        cell = torch.arange(rows, device=device) // height
        columns = column[:, cell.unsqueeze(1) * width + torch.arange(width, device=device)]
        columns = (columns - (row // height).unsqueeze(2) * width) % width
        kernel = int(np.prod(self.shape[2:], dtype=np.int64))
        start = (row.unsqueeze(2) * width + columns).unsqueeze(3) * kernel
        return start + torch.arange(kernel, device=device)

    def _place(self, number: int) -> list[int]:
        return [size if axis == number else 1 for axis, size in enumerate(self.shape)]

    @staticmethod
    def _device(orders: Mapping[int, Tensor]) -> torch.device:
        return next(iter(orders.values())).device


@lru_cache(maxsize=256)
def _plans(structure: Structure, device: torch.device, buffers: bool = False) -> tuple[_Plan, ...]:
    """One per trainable tensor, or per tensor, in the order of the structure."""
    moving = set(_moving(structure))
    sizes = [group.size for group in structure.groups]

    def plan(axis: Axis) -> _AxisPlan:
        pieces = tuple(_members(axis, g, sizes[g], device) for g in axis.groups if g in moving)
        sole = axis.sole_group if axis.sole_group is not None and sizes[axis.sole_group] == len(axis) else None
        return _AxisPlan(torch.arange(len(axis), device=device).unsqueeze(0), sole, pieces)

    return tuple(
        _Plan(p.shape, tuple(plan(axis) for axis in p.axes), None if p.grouped is None else plan(p.grouped))
        for p in structure.parameters
        if p.alias_of is None and (buffers or not p.buffer)
    )


def _members(axis: Axis, group: int, size: int, device: torch.device) -> _Members:
    here = np.flatnonzero(axis.group.values == group)
    member, slot = axis.member.values[here], axis.slot.values[here]
    table = np.zeros((size, int(slot.max(initial=0)) + 1), np.int64)
    table[member, slot] = here
    return _Members(group, *(torch.from_numpy(each).to(device) for each in (here, member, slot, table)))
