"""The neuron graph: a PyTorch Geometric ``Data`` whose nodes are neurons and whose edges are weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from converters.errors import GraphTooLarge, StructureMismatch
from converters.structure import Block, Structure
from converters.vocabulary import ACTIVATIONS, EDGE_TYPES, LAYER_ATTRIBUTES, LAYER_KINDS, NODE_SLOTS

__all__ = [
    "MAX_EDGES",
    "Extras",
    "NeuronGraph",
    "NeuronGraphs",
    "Topology",
    "check_size",
    "kernel_columns",
    "same_structure",
    "topology",
]

MAX_EDGES = 50_000_000
"""Edges up to which a graph is written out unasked: a few gigabytes."""


def check_size(structure: Structure, kernel: Sequence[int], max_edges: int | None) -> None:
    """Refuse to write out a graph with more edges than wanted.

    Raises:
        GraphTooLarge: with an estimate of the memory, and what to do instead.
    """
    edges, nodes = structure.num_edges, structure.num_nodes
    if max_edges is None or edges <= max_edges:
        return
    width = getattr(torch, structure.dtype).itemsize
    per_edge = int(np.prod(kernel, dtype=np.int64)) * width + 4 * 8  # weights; two ends, type and layer
    per_node = len(NODE_SLOTS) * (width + 1) + len(LAYER_ATTRIBUTES) * 4 + 6 * 8
    raise GraphTooLarge(
        f"the graph of {structure.name} has {edges:,} edges and {nodes:,} nodes, about "
        f"{(edges * per_edge + nodes * per_node) / 1e9:.1f} GB; the limit is {max_edges:,} edges. "
        "Keep views instead with to_graph(..., materialize=False) and work block by block on graph.blocks, "
        "or write it out all the same with max_edges=None."
    )


class Extras:
    """Tensors that no float column can hold bit for bit: integers, other dtypes, tensors without a neuron axis.

    Deliberately not a mapping: PyTorch Geometric would collate its entries key by key.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.tensors = dict(tensors or {})

    def __repr__(self) -> str:
        return f"Extras({', '.join(self.tensors)})"

    def to(self, *args: Any, **kwargs: Any) -> Extras:
        """Move to another device; dtypes stay, they carry meaning here."""
        kwargs.pop("dtype", None)
        devices = [a for a in args if not isinstance(a, torch.dtype)]
        return Extras({name: tensor.to(*devices, **kwargs) for name, tensor in self.tensors.items()})

    def clone(self) -> Extras:
        """Copies of all tensors."""
        return Extras({name: tensor.clone() for name, tensor in self.tensors.items()})


class StackedExtras:
    """The extras of a stack of networks, cut up only where somebody looks; like Extras no container to PyG."""

    def __init__(self, tensors: Mapping[str, Tensor], length: int) -> None:
        self.tensors, self.length = dict(tensors), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(f"network {index} of a stack of {self.length}")
        return Extras({name: tensor[index] for name, tensor in self.tensors.items()})

    def to(self, *args: Any, **kwargs: Any) -> StackedExtras:
        """Move to another device."""
        return StackedExtras(Extras(self.tensors).to(*args, **kwargs).tensors, self.length)

    def clone(self) -> StackedExtras:
        """Copies of all tensors."""
        return StackedExtras(Extras(self.tensors).clone().tensors, self.length)


@dataclass(frozen=True)
class Kernel:
    """The kernel size of a graph's edges, wrapped because PyG turns tuples into lists."""

    size: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The tensors of a neuron graph that hold no weight: one set for all networks of a structure."""

    edge_index: Tensor
    edge_type: Tensor
    edge_layer: Tensor
    node_type: Tensor
    node_layer: Tensor
    node_group: Tensor
    node_slot: Tensor
    node_position: Tensor
    activation: Tensor
    node_attributes: Tensor
    node_mask: Tensor


@lru_cache(maxsize=256)
def topology(structure: Structure) -> Topology:
    """All weight-free tensors of the graph of ``structure``, cached."""
    nodes, sizes = structure.node_offsets, [layer.size for layer in structure.layers]
    ends = [_ends(block, nodes) for block in structure.blocks]
    edge_index = np.concatenate(ends, axis=1) if ends else np.zeros((2, 0), np.int64)
    counts = [block.num_edges for block in structure.blocks]
    permutable = np.array([group.permutable for group in structure.groups] + [False])
    none = [np.zeros(0, np.int64)]
    group = np.concatenate(none + [layer.axis.group.values for layer in structure.layers])
    member = np.concatenate(none + [layer.axis.member.values for layer in structure.layers])
    slot = np.concatenate(none + [layer.axis.slot.values for layer in structure.layers])
    mask = torch.zeros(structure.num_nodes, len(NODE_SLOTS), dtype=torch.bool)
    attributes = torch.zeros(len(structure.layers), len(LAYER_ATTRIBUTES))
    for i, layer in enumerate(structure.layers):
        for name, _ in layer.slots:
            mask[nodes[i] : nodes[i + 1], NODE_SLOTS.index(name)] = True
        for key, value in layer.attributes:
            attributes[i, LAYER_ATTRIBUTES.index(key)] = value

    def per_layer(values: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, np.int64), sizes))

    def per_block(values: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, np.int64), counts))

    return Topology(
        edge_index=torch.from_numpy(edge_index),
        edge_type=per_block([EDGE_TYPES.index(block.edge_type) for block in structure.blocks]),
        edge_layer=per_block(range(len(structure.blocks))),
        node_type=per_layer([LAYER_KINDS.index(layer.kind) for layer in structure.layers]),
        node_layer=per_layer(range(len(structure.layers))),
        node_group=torch.from_numpy(group.copy()),
        node_slot=torch.from_numpy(slot.copy()),
        node_position=torch.from_numpy(np.where(permutable[group], -1, member)),
        activation=per_layer([ACTIVATIONS.index(layer.activation) for layer in structure.layers]),
        node_attributes=attributes[per_layer(range(len(structure.layers)))],
        node_mask=mask,
    )


def _ends(block: Block, nodes: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Source and target node of every edge of a block, in the block's row-major order."""
    if block.pattern == "diagonal":
        row = block.targets.values if block.targets else np.arange(block.rows, dtype=np.int64)
        column = block.sources.values if block.sources else np.arange(block.rows, dtype=np.int64)
    else:
        groups, rows, columns = block.groups, block.rows // block.groups, block.cols // block.groups
        grid = np.indices((groups, rows, columns), dtype=np.int64).reshape(3, -1)
        row, column = grid[0] * rows + grid[1], grid[0] * columns + grid[2]
    return np.stack([column + nodes[block.source], row + nodes[block.target]])


@lru_cache(maxsize=1024)
def kernel_columns(kernel: tuple[int, ...], full: tuple[int, ...]) -> Tensor | None:
    """Columns of the flattened ``full`` kernel that a centred smaller one fills; None if it fills all, in order.

    >>> kernel_columns((1, 3), (3, 3))
    tensor([3, 4, 5])
    """
    small = (1,) * (len(full) - len(kernel)) + kernel
    if small == full:
        return None
    if len(kernel) > len(full) or any(a > b for a, b in zip(small, full, strict=True)):
        raise StructureMismatch(f"a kernel of {kernel} does not fit in kernel_size={full}; pass a larger kernel_size")
    grid = np.arange(int(np.prod(full))).reshape(full)
    centre = tuple(slice((b - a) // 2, (b - a) // 2 + a) for a, b in zip(small, full, strict=True))
    return torch.from_numpy(grid[centre].reshape(-1).copy())


class NeuronGraph(Data):
    """One network, or a batch of them, as a graph of its neurons.

    With N nodes, E edges, K kernel positions and F = ``len(NODE_SLOTS)``, its tensors are:

    - ``x [N, F]``: parameters each neuron owns; ``node_mask [N, F]`` tells absent from zero.
    - ``edge_index [2, E]``: source and target node; block by block, row-major.
    - ``edge_attr [E, K]``: weight kernels, flattened, centre-padded to ``kernel_size``.
    - ``node_type, node_layer, node_group, node_slot, node_position, activation [N]``: see ``converters.vocabulary``;
      the position is -1 wherever the neuron may be permuted.
    - ``edge_type, edge_layer [E]``; ``node_attributes [N, len(LAYER_ATTRIBUTES)]``.
    - ``structure``: the :class:`~converters.Structure` (a list of them in a batch); ``extras``: tensors that fit no
      column.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return self.num_nodes if key == "edge_index" else 0

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return -1 if key == "edge_index" else 0

    def __getattr__(self, key: str) -> Any:
        if key in ("x", "edge_attr", "edge_index") and "views" in self.__dict__.get("_store", {}):
            raise AttributeError(
                f"this graph holds views of its weights only; call .materialize() before reading {key!r}"
            )
        return super().__getattr__(key)

    @property
    def is_materialized(self) -> bool:
        """False while only views of the weights are held (``to_graph(..., materialize=False)``)."""
        return "views" not in self._store

    @property
    def num_nodes(self) -> int:
        """Number of nodes; known without materialising."""
        if not self.is_materialized:
            return cast(Structure, self.structure).num_nodes
        return int(self.node_type.shape[0]) if "node_type" in self._store else 0

    @num_nodes.setter
    def num_nodes(self, value: int | None) -> None:
        raise AttributeError("the number of nodes of a neuron graph follows from its structure and cannot be set")

    @property
    def kernel_size(self) -> Any:
        """The kernel to which edges are padded; in a batch, a list with one per network."""
        kernel = self._store["kernel"]
        return [one.size for one in kernel] if isinstance(kernel, list) else kernel.size

    @kernel_size.setter
    def kernel_size(self, value: Any) -> None:
        wrap = isinstance(value, list)
        self._store["kernel"] = [Kernel(tuple(v)) for v in value] if wrap else Kernel(tuple(value))

    @property
    def blocks(self) -> list[Tensor]:
        """Every block's weights as a view ``[n_out, n_in, K]``, ``[groups, ., ., K]`` or ``[n, K]``; no copy.

        Parameter-free blocks are views of zeros. Before materialising the kernels are not padded.
        """
        structure = same_structure(self)
        if structure is None or isinstance(self.structure, list):
            raise StructureMismatch("blocks belong to one network; take graph = batch[i] first")
        if not self.is_materialized:
            return list(_view_blocks(self.views, structure))
        bounds = structure.edge_offsets
        return [
            self.edge_attr[lo:hi].view(*block.shape, -1)
            for block, lo, hi in zip(structure.blocks, bounds[:-1], bounds[1:], strict=True)
        ]

    def materialize(self, max_edges: int | None = MAX_EDGES) -> NeuronGraph:
        """Fill ``x``, ``edge_attr`` and the topology in from the views; returns self.

        Raises:
            GraphTooLarge: more than ``max_edges`` edges (None: any number), with an estimate of the memory.
        """
        if not self.is_materialized:
            from converters.to_graph import fill
            from converters.weights import check_finite

            check_size(self.structure, self.kernel_size, max_edges)
            check_finite(self.views, self.structure.name)
            views = self._store.pop("views")
            fill(self, views, self.structure, self.kernel_size)
        return self

    def map_floats(self, function: Callable[[Tensor], Tensor]) -> NeuronGraph:
        """A copy with ``function`` applied to the floating-point tensors (``graph.map_floats(Tensor.double)``)."""
        out = self.clone() if not isinstance(self, Batch) else self
        return cast(NeuronGraph, out.apply(lambda t: function(t) if t.is_floating_point() else t))

    def __repr__(self) -> str:
        structure = self._store.get("structure")
        if isinstance(structure, list):
            return f"NeuronGraphs({len(structure)} networks, {self.num_nodes} nodes, {self.num_edges} edges)"
        name = structure.name if isinstance(structure, Structure) else "?"
        edges = structure.num_edges if isinstance(structure, Structure) else 0
        state = "" if self.is_materialized else ", views only"
        return f"NeuronGraph({name}: {self.num_nodes} nodes, {edges} edges{state})"


def _view_blocks(views: Mapping[str, Tensor], structure: Structure) -> Iterator[Tensor]:
    like = next(iter(views.values()))
    for block in structure.blocks:
        if block.parameter is None:
            yield torch.zeros((), dtype=like.dtype, device=like.device).expand(*block.shape, 1)
        else:
            yield block_view(views[block.parameter].unsqueeze(0), block)[0]


def block_view(stacked: Tensor, block: Block) -> Tensor:
    """A parameter ``[B, *shape]`` as the block's ``[B, *block.shape, k]``; a view wherever strides allow."""
    for axis, start, stop in block.span:
        stacked = stacked.narrow(axis + 1, start, stop - start)
    for axis, position in sorted(block.index, reverse=True):
        stacked = stacked.select(axis + 1, position)
    kept = [axis - sum(outer < axis for outer, _ in block.index) for axis in block.axes]
    grid = stacked.permute(0, *(axis + 1 for axis in kept))
    if block.groups > 1 and kept[0] > kept[1]:  # a transposed convolution: its columns are split into groups
        grid = grid.unflatten(2, (block.groups, -1)).movedim(2, 1)
    return grid.reshape(stacked.shape[0], *block.shape, -1)


class NeuronGraphs(Batch):
    """A batch of neuron graphs. Kernels are padded to one width; un-batching gives each its own width back."""

    def get_example(self, idx: int) -> NeuronGraph:
        """The ``idx``-th network's graph, bit for bit as it went in."""
        graph = cast(NeuronGraph, super().get_example(idx))
        kernels = self._store.get("own_kernel")
        if kernels is not None and kernels[idx].size != graph.kernel_size:
            columns = kernel_columns(kernels[idx].size, graph.kernel_size)
            graph.edge_attr = graph.edge_attr if columns is None else graph.edge_attr[:, columns]
            graph.kernel_size = kernels[idx].size
        graph._store.pop("own_kernel", None)
        return graph


def same_structure(graph: NeuronGraph | Batch) -> Structure | None:
    """The structure that all networks of a batch share, or None if there are several."""
    structure = graph.structure
    if isinstance(structure, Structure):
        return structure
    first = structure[0]
    alike = all(other is first for other in structure) or len(set(structure)) == 1
    return cast(Structure, first) if alike else None
