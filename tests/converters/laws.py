"""What the laws are checked with; none of it uses the code under test for what that code claims."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from converters import Axis, Structure, trace
from tests.converters.networks import ALL

__all__ = [
    "Case",
    "Orders",
    "case",
    "difference",
    "double",
    "leaves",
    "outputs",
    "permuted",
    "random_orders",
    "random_state",
    "shared_names",
]

Orders = dict[int, "np.ndarray[Any, np.dtype[np.int64]]"]


@dataclass(frozen=True)
class Case:
    """A network of the table with its structure; do not change the module."""

    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    structure: Structure

    @property
    def inputs(self) -> Any:
        """What ``trace`` takes."""
        return self.kwargs or self.args


@cache
def case(name: str) -> Case:
    """Traced once for all tests."""
    network = ALL[name]
    model = network.make()
    args, kwargs = network.arguments()
    return Case(name, model, args, kwargs, trace(model, kwargs or args))


def double(tree: Any) -> Any:
    """Floating-point tensors in float64."""
    return pytree.tree_map(lambda leaf: leaf.double() if _is_float(leaf) else leaf, tree)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def leaves(tree: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def difference(a: Any, b: Any) -> float:
    """Largest difference between two outputs, relative to the largest value."""
    worst = 0.0
    left, right = leaves(a), leaves(b)
    assert len(left) == len(right) > 0
    for x, y in zip(left, right, strict=True):
        assert x.shape == y.shape
        assert x.isfinite().all()
        assert y.isfinite().all()
        scale = max(float(x.detach().abs().max()), 1e-6)
        worst = max(worst, float((x - y).detach().abs().max()) / scale)
    return worst


def shared_names(model: nn.Module) -> dict[str, str]:
    """Names of the state_dict that hold a tensor another name held before, found by identity."""
    first: dict[int, str] = {}
    out = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            out[name] = first[id(tensor)]
        first.setdefault(id(tensor), name)
    return out


def random_state(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random weights for every floating-point entry; variances positive; tied names share a tensor."""
    generator = torch.Generator().manual_seed(seed)
    tied = shared_names(model)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            state[name] = state[tied[name]]
        elif not tensor.is_floating_point():
            state[name] = tensor.clone()
        elif name.endswith("running_var"):
            state[name] = (torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5).to(dtype)
        else:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 4
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            state[name] = (noise / max(fan_in, 1) ** 0.5 + 0.3 * (tensor.dim() < 2)).to(dtype)
    return state


def outputs(model: nn.Module, state: Mapping[str, Tensor], args: Any, kwargs: Any) -> Any:
    """The network run in float64 with these weights."""
    network = copy.deepcopy(model).double().eval()
    return torch.func.functional_call(network, dict(state), double(args), double(kwargs), tie_weights=False)


def random_orders(structure: Structure, seed: int = 0, only: int | None = None) -> Orders:
    """A random true symmetry read from the groups alone; with ``only``, of one group and the cells in it."""
    rng = np.random.default_rng(seed)
    orders: Orders = {}

    def order_of(g: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        if g in orders:
            return orders[g]
        group = structure.groups[g]
        if group.factors:
            rows = list(zip(*(column.values.tolist() for column in group.table), strict=True))
            images = [tuple(int(order_of(f)[m]) for f, m in zip(group.factors, row, strict=True)) for row in rows]
            orders[g] = np.array([rows.index(image) for image in images])
            return orders[g]
        width = group.size // group.cells
        moves = group.role == "hidden" and (only is None or g == only)
        cells = order_of(group.parent) if group.parent is not None else np.arange(group.cells)
        parts = []
        for cell in range(group.cells):
            inside = rng.permutation(width) if moves else np.arange(width)
            parts.append(cells[cell] * width + inside)
        orders[g] = np.concatenate(parts)
        return orders[g]

    for g in range(len(structure.groups)):
        order_of(g)
    return orders


def axis_positions(axis: Axis, orders: Orders) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each position of an axis reads from: found by looking (group, member, slot) up, one by one."""
    triples = list(zip(axis.group.values.tolist(), axis.member.values.tolist(), axis.slot.values.tolist(), strict=True))
    where = {triple: position for position, triple in enumerate(triples)}
    assert len(where) == len(triples), "two positions of an axis hold the same copy of the same neuron"
    return np.array([where[g, int(orders[g][m]) if g >= 0 else m, s] for g, m, s in triples], dtype=np.int64)


def permuted(structure: Structure, state: Mapping[str, Tensor], orders: Orders) -> dict[str, Tensor]:
    """Weights under a permutation, by numpy's ``take`` along every axis of every parameter."""
    out = {}
    for parameter in structure.parameters:
        tensor = state[parameter.name]
        if parameter.grouped is not None:
            out[parameter.name] = _permuted_cells(parameter.axes[0], parameter.grouped, tensor, orders)
            continue
        for number, axis in enumerate(parameter.axes):
            tensor = tensor[(slice(None),) * number + (torch.from_numpy(axis_positions(axis, orders)),)]
        out[parameter.name] = tensor
    return out


def _permuted_cells(rows: Axis, columns: Axis, tensor: Tensor, orders: Orders) -> Tensor:
    """A grouped convolution's weight: written out block-diagonally, permuted, read back."""
    height, width = len(rows) // (len(columns) // tensor.shape[1]), tensor.shape[1]
    dense = torch.full((len(rows), len(columns), *tensor.shape[2:]), float("nan"), dtype=tensor.dtype)
    where = [(row, row // height * width) for row in range(len(rows))]
    for row, start in where:
        dense[row, start : start + width] = tensor[row]
    moved = dense[axis_positions(rows, orders)][:, axis_positions(columns, orders)]
    out = torch.stack([moved[row, start : start + width] for row, start in where])
    assert not out.isnan().any(), "a row moved to another cell than its inputs"
    return out
