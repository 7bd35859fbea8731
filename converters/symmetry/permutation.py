"""True permutation symmetries of a network, and false ones to test against."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric.data import Batch

from converters.errors import StructureMismatch
from converters.neuron_graph import NeuronGraph, StackedExtras
from converters.structure import Axis, Parameter, Structure
from converters.to_graph import features, to_graph
from converters.to_state_dict import stacked_weights, to_state_dict
from converters.weight_space import WeightSpaceFeatures

__all__ = ["Permutation", "draw_order", "paired_orders", "permute", "relabelling", "sample_permutation"]


class Permutation(Mapping[int, Tensor]):
    """One reordering per group, ``new[i] = old[permutation[g][i]]``; groups that stay are left out.

    A *coupled* permutation moves a group's neurons alike on every axis they occur on: a true symmetry. An uncoupled
    one draws a new order for each axis, which changes the function: the negative control.
    """

    def __init__(self, structure: Structure, orders: Mapping[int, Tensor], seed: int | None = None) -> None:
        self.structure, self._seed = structure, seed
        self._orders = {g: order for g, order in orders.items() if not structure.groups[g].factors}
        self._orders.update(paired_orders(structure, self._orders))

    def __getitem__(self, group: int) -> Tensor:
        return self._orders[group]

    def __iter__(self) -> Iterator[int]:
        return iter(self._orders)

    def __len__(self) -> int:
        return len(self._orders)

    def __repr__(self) -> str:
        names = ", ".join(self.structure.groups[g].name for g in self)
        return f"Permutation({'uncoupled, ' if not self.coupled else ''}{names})"

    @property
    def coupled(self) -> bool:
        """Whether it is a true symmetry."""
        return self._seed is None

    def inverse(self) -> Permutation:
        """The permutation that undoes this one."""
        if not self.coupled:
            raise StructureMismatch("an uncoupled permutation has one order per axis and no inverse as a permutation")
        return Permutation(self.structure, {g: torch.argsort(order) for g, order in self.items()})

    def then(self, other: Permutation) -> Permutation:
        """First this one, then ``other``."""
        both = {g: torch.arange(self.structure.groups[g].size) for g in {*self, *other}}
        for step in (self, other):
            both.update({g: both[g][order] for g, order in step.items()})
        return Permutation(self.structure, both)

    def index(self, axis: Axis, place: int) -> Tensor | None:
        """Positions to read from along ``axis``; ``place`` tells the axes of an uncoupled permutation apart."""
        if self.coupled:
            return axis.source_index(self._orders)
        generator = torch.Generator().manual_seed(cast(int, self._seed) + place)
        groups = self.structure.groups
        orders = {g: draw_order(groups[g].size, 1, generator) for g in self._orders}
        return axis.source_index(orders)

    def apply(self, name: str, tensor: Tensor, first_axis: int) -> Tensor:
        """Permute a tensor whose axes from ``first_axis`` on are those of the parameter ``name``."""
        parameter = self.structure.parameter[name]
        place = [p.name for p in self.structure.parameters].index(parameter.alias_of or name) * 8
        if parameter.grouped is not None:
            return self._apply_grouped(parameter, tensor, first_axis, place)
        for number, axis in enumerate(parameter.axes):
            index = self.index(axis, place + number)
            if index is not None:
                tensor = tensor.index_select(first_axis + number, index.to(tensor.device))
        return tensor

    def _apply_grouped(self, parameter: Parameter, tensor: Tensor, first_axis: int, place: int) -> Tensor:
        """Rows move as axis 0 says; within a row, the inputs of its cell move as ``grouped`` says."""
        rows, width = parameter.shape[:2]
        full = cast(Axis, parameter.grouped)
        height = rows // (len(full) // width)
        row, column = self.index(parameter.axes[0], place), self.index(full, place + 1)
        row = torch.arange(rows) if row is None else row
        column = torch.arange(len(full)) if column is None else column
        cell = torch.arange(rows) // height
        columns = column[cell[:, None] * width + torch.arange(width)]
        if self.coupled:
            columns = columns - (row // height)[:, None] * width
        flat = (row[:, None] * width + columns % width).flatten().to(tensor.device)
        return tensor.flatten(first_axis, first_axis + 1).index_select(first_axis, flat).view_as(tensor)


def draw_order(size: int, cells: int, generator: torch.Generator | None) -> Tensor:
    """A uniformly random order of ``size`` members that stay within their cells."""
    width = size // cells
    orders = torch.rand(cells, width, generator=generator).argsort(1)
    return (orders + torch.arange(cells)[:, None] * width).flatten()


def sample_permutation(
    structure: Structure,
    generator: torch.Generator | None = None,
    coupled: bool = True,
    groups: Collection[int] | None = None,
) -> Permutation:
    """A random element of the structure's symmetry group; ``coupled=False`` gives a false symmetry.

    Nested groups are permuted within their cells, and whole cells follow their parent; pairs follow both.

    Args:
        groups: the groups to permute (default: all); others only follow.

    >>> import torch.nn as nn
    >>> from converters import execute, trace
    >>> net, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 4)
    >>> structure = trace(net)
    >>> permuted = permute(net.state_dict(), sample_permutation(structure))
    >>> torch.allclose(execute(permuted, x, structure=structure), net(x), atol=1e-6)
    True
    """
    orders: dict[int, Tensor] = {}
    for g in sorted(range(len(structure.groups)), key=lambda g: _depth(structure, g)):
        group = structure.groups[g]
        if group.role != "hidden" or group.factors or (group.size < 2 and group.parent is None):
            continue
        if groups is None or g in groups:
            inside = draw_order(group.size, group.cells, generator)
        elif group.parent in orders:
            inside = torch.arange(group.size)
        else:
            continue
        if group.parent is not None and group.parent in orders:
            width = group.size // group.cells
            inside = inside.view(group.cells, width)[orders[group.parent]].flatten()
        orders[g] = inside
    seed = None if coupled else int(torch.randint(2**31, (1,), generator=generator))
    return Permutation(structure, orders, seed)


def paired_orders(structure: Structure, orders: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The orders of groups of pairs that follow from those of their factors; ``[size]`` or ``[n, size]`` alike.

    A pair ``(i, j)`` is read from where ``(a[i], b[j])`` was.
    """
    known = dict(orders)
    out: dict[int, Tensor] = {}
    for g in sorted(range(len(structure.groups)), key=lambda g: _depth(structure, g)):
        group = structure.groups[g]
        if not group.factors or not any(f in known for f in group.factors):
            continue
        columns = [torch.from_numpy(column.values.copy()) for column in group.table]
        key, wanted = torch.zeros(group.size, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        for factor, column in zip(group.factors, columns, strict=True):
            size = structure.groups[factor].size
            image = known[factor][..., column.to(known[factor].device)] if factor in known else column
            key, wanted = key * size + column, wanted.to(image.device) * size + image
        place = torch.argsort(key)
        found = torch.searchsorted(key[place].to(wanted.device), wanted.contiguous())
        known[g] = out[g] = place.to(wanted.device)[found]
    return out


def _depth(structure: Structure, g: int) -> int:
    group = structure.groups[g]
    above = [*group.factors, *([] if group.parent is None else [group.parent])]
    return 1 + max(_depth(structure, h) for h in above) if above else 0


def permute(source: Any, permutation: Permutation) -> Any:
    """Apply a permutation to a state_dict, stacked weights, weight-space features, a graph or a batch.

    Args:
        source: what to permute; a new object of the same kind is returned.
        permutation: from :func:`sample_permutation` or :func:`~converters.align`.

    Raises:
        StructureMismatch: the source is of another structure.
    """
    structure = permutation.structure
    if isinstance(source, (NeuronGraph, Batch)):
        return _permute_graph(cast(NeuronGraph, source), permutation)
    if isinstance(source, WeightSpaceFeatures):
        return WeightSpaceFeatures({name: permutation.apply(name, tensor, 1) for name, tensor in source.items()})
    unknown = [name for name in source if name not in structure.parameter]
    if unknown:
        raise StructureMismatch(f"{', '.join(unknown)}: not parameters of {structure.name}")
    first = next((name for name in source if structure.parameter[name].shape), None)
    batched = first is not None and source[first].dim() == len(structure.parameter[first].shape) + 1
    return {name: permutation.apply(name, tensor, int(batched)) for name, tensor in source.items()}


def _permute_graph(graph: NeuronGraph, permutation: Permutation) -> Any:
    structure = permutation.structure
    if not isinstance(graph, Batch):
        if graph.structure != structure:
            raise StructureMismatch(f"the graph is of {graph.structure!r}, the permutation of {structure!r}")
        return to_graph(permute(to_state_dict(graph), permutation), structure=structure, kernel_size=graph.kernel_size)
    return with_weights(graph, structure, permute(stacked_weights(graph, structure), permutation))


def with_weights(graph: NeuronGraph, structure: Structure, weights: Mapping[str, Tensor]) -> Any:
    """The same graph or batch with the values of stacked weights ``{name: [B, *shape]}``."""
    if not isinstance(graph, Batch):
        single = {name: tensor[0] for name, tensor in weights.items()}
        return to_graph(single, structure=structure, kernel_size=graph.kernel_size)
    count = len(graph.structure)
    x, edge_attr, extras = features(weights, structure, graph.kernel_size[0], count)
    out = copy.copy(graph)
    out.x, out.edge_attr = x.view_as(graph.x), edge_attr.view_as(graph.edge_attr)
    out.extras = StackedExtras(extras, count)
    return out


def relabelling(structure: Structure, permutation: Permutation) -> Tensor:
    """Where each node of the permuted graph was in the old one, ``[N]``."""
    parts = []
    for offset, layer in zip(structure.node_offsets, structure.layers, strict=False):
        index = permutation.index(layer.axis, 0)
        parts.append((torch.arange(layer.size) if index is None else index) + offset)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
