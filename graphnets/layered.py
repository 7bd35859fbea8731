"""A batch of neuron graphs laid out layer by layer, the form in which every model here computes.

Networks that share their layers, blocks and parameters (they may differ in activations) are *dense*: node tensors
are ``[B, n, C]`` per layer and a weight matrix is the view ``[B, rows, cols, C]``. Networks of different
architectures become one large graph with ``B = 1`` whose layer ``l`` holds the nodes of every network's layer ``l``.
Both forms give the same results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from converters import LAYER_ATTRIBUTES, NeuronGraph, NeuronGraphs, Structure
from converters.layout import same_layout
from converters.neuron_graph import topology
from graphnets.links import Links

__all__ = [
    "DESCRIPTION_WIDTH",
    "Bundle",
    "Layered",
    "Networks",
    "describe_nodes",
    "networks_of",
    "node_roles",
    "structures_of",
]

DESCRIPTION_WIDTH = 20 + len(LAYER_ATTRIBUTES)
"""Columns of `describe_nodes`."""

Networks = NeuronGraph | NeuronGraphs
"""One network's graph or a batch of them."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """Edges from one layer to another.

    Args:
        source, target: the layers.
        start, stop: their place in the (ordered) edge tensor.
        shape: ``(rows, cols)`` if every source meets every target, row-major; else None.
        source_index, target_index: without a shape, each edge's ends within their layers, ``[E]``.
    """

    source: int
    target: int
    start: int
    stop: int
    shape: tuple[int, int] | None = None
    source_index: Tensor | None = None
    target_index: Tensor | None = None

    def ends(self, reverse: bool) -> tuple[Tensor, Tensor]:
        """Where messages come from and where they go, ``[E]`` each, against the edges if ``reverse``."""
        if self.source_index is None or self.target_index is None:
            raise ValueError("a dense bundle of edges has no index; use its shape")
        pair = (self.source_index, self.target_index)
        return (pair[1], pair[0]) if reverse else pair


def structures_of(batch: Networks) -> list[Structure]:
    """The structure of each network of a batch; one for a single graph."""
    structure = batch.structure
    return [structure] if isinstance(structure, Structure) else list(structure)


def networks_of(item: Any) -> Networks:
    """The graphs of a loader's item, which may be ``(graphs, targets)``."""
    graphs: Networks = item[0] if isinstance(item, (tuple, list)) else item
    return graphs


@lru_cache(maxsize=256)
def describe_nodes(structure: Structure) -> Tensor:
    """What is known of every neuron but its weights, ``[N, DESCRIPTION_WIDTH]``.

    Degrees, depth, role, slot and the numbers that say what its layer computes.

    They are the same for all neurons that may be permuted with each other.
    """
    top = topology(structure)
    nodes, last = structure.num_nodes, max(len(structure.layers) - 1, 1)
    degrees = [torch.bincount(ends, minlength=nodes).float().log1p() for ends in (top.edge_index[1], top.edge_index[0])]
    depth = top.node_layer.float() / last
    waves = [wave(depth * torch.pi * 2**k) for k in range(3) for wave in (torch.sin, torch.cos)]
    roles = functional.one_hot(node_roles(structure), 3).float()
    turns = [wave(top.node_slot.float() * torch.pi / 3**k) for k in range(4) for wave in (torch.sin, torch.cos)]
    attributes = top.node_attributes.sign() * top.node_attributes.abs().log1p()
    return torch.cat([torch.stack([*degrees, depth, *waves, *turns], 1), roles, attributes.clamp(-20, 20)], 1)


@lru_cache(maxsize=256)
def node_roles(structure: Structure) -> Tensor:
    """0 for hidden neurons, 1 for inputs, 2 for outputs (neurons of layers that nothing leaves), ``[N]``."""
    left = {block.source for block in structure.blocks}
    roles = [1 if layer.kind == "input" else 0 if index in left else 2 for index, layer in enumerate(structure.layers)]
    return torch.tensor(roles)[topology(structure).node_layer]


@lru_cache(maxsize=256)
def _dense_bundles(structure: Structure) -> tuple[Bundle, ...]:
    top, bundles = topology(structure), []
    for i, block in enumerate(structure.blocks):
        start, stop = structure.edge_offsets[i : i + 2]
        if block.pattern == "dense":
            bundles.append(Bundle(block.source, block.target, start, stop, (block.rows, block.cols)))
        else:
            ends = top.edge_index[:, start:stop]
            source = ends[0] - structure.node_offsets[block.source]
            target = ends[1] - structure.node_offsets[block.target]
            bundles.append(Bundle(block.source, block.target, start, stop, None, source, target))
    return tuple(bundles)


class Layered:
    """The layered view of a batch; holds no weights and no learned values.

    Attributes:
        graphs: number of networks.
        dense: whether they share one layout.
        rows: leading size of node and edge tensors: ``graphs`` if dense, else 1.
        sizes: nodes per layer (of one network if dense, of all networks otherwise).
        degrees: incoming edges and outgoing edges of every node, per layer ``[n, 1]``.
        fan_in: incoming edges of every edge's target ``[E]``.
        node_owner, edge_owner: the network of every node and edge, ``[rows, n]`` or ``[rows, 1]``.
        bundles: all edges; ``incoming[layer]`` and ``outgoing[layer]`` say which end and start there.
        structures: the distinct structures; ``which [graphs]`` says whose is which.

    Args:
        batch: a graph or a batch of graphs.
        mixed: treat networks of one layout as if they differed (the results are the same).
    """

    def __init__(self, batch: Networks, *, mixed: bool = False) -> None:
        everyone = structures_of(batch)
        self.graphs = len(everyone)
        self.device: torch.device = batch.x.device
        unique: dict[int, Structure] = {id(structure): structure for structure in everyone}
        self.structures: list[Structure] = list(dict.fromkeys(unique.values()))
        place = {structure: i for i, structure in enumerate(self.structures)}
        number = {key: place[structure] for key, structure in unique.items()}
        self.which = torch.tensor([number[id(structure)] for structure in everyone], device=self.device)
        first = self.structures[0]
        self.dense = not mixed and all(same_layout(first, other) for other in self.structures[1:])
        if self.dense:
            self.rows = self.graphs
            self.sizes = [layer.size for layer in first.layers]
            self.bundles = _on(_dense_bundles(first), self.device)
            self._measure(topology(first).edge_index.to(self.device), first.num_nodes)
            self.edge_owner = self.node_owner = torch.arange(self.graphs, device=self.device).unsqueeze(1)
        else:
            self._lay_out_mixed(batch, everyone)
        self.layers = len(self.sizes)
        self._connect()

    def _connect(self) -> None:
        ends = [(bundle.source, bundle.target) for bundle in self.bundles]
        self.incoming = [[i for i, (_, end) in enumerate(ends) if end == layer] for layer in range(self.layers)]
        self.outgoing = [[i for i, (start, _) in enumerate(ends) if start == layer] for layer in range(self.layers)]
        self._links: dict[tuple[tuple[int, ...], bool], Links] = {}

    def _lay_out_mixed(self, batch: Networks, everyone: Sequence[Structure]) -> None:
        self.rows = 1
        node_layer, edge_index = batch.node_layer, batch.edge_index
        layers = int(node_layer.max()) + 1
        self.sizes = torch.bincount(node_layer, minlength=layers).tolist()
        self.node_order = torch.argsort(node_layer, stable=True)
        ends = self._place()[edge_index]
        self.edge_order, self.bundles = self._bundled(ends)
        nodes = torch.tensor([structure.num_nodes for structure in everyone], device=self.device)
        owner = torch.arange(self.graphs, device=self.device).repeat_interleave(nodes)
        ends = ends[:, self.edge_order]
        self._measure(ends, len(owner))
        self.node_owner = owner[self.node_order].unsqueeze(0)
        self.edge_owner = self.node_owner[:, ends[1]]

    def _place(self) -> Tensor:
        """Where the nodes of a mixed batch lie, layer after layer."""
        place = torch.empty_like(self.node_order)
        place[self.node_order] = torch.arange(len(place), device=self.device)
        return place

    def _bundled(self, ends: Tensor, start: int = 0) -> tuple[Tensor, tuple[Bundle, ...]]:
        """Bundles of edges between places ``[2, E]``, and the order in which their edges follow each other."""
        sizes = torch.tensor(self.sizes, device=self.device)
        layer = torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)
        pair = layer[ends[0]] * len(sizes) + layer[ends[1]]
        order = torch.argsort(pair, stable=True)
        pairs, counts = torch.unique_consecutive(pair[order], return_counts=True)
        ends, bundles = (ends - (sizes.cumsum(0) - sizes)[layer[ends]])[:, order], []
        for key, part in zip(pairs.tolist(), ends.split(counts.tolist(), dim=1), strict=True):
            stop = start + part.shape[1]
            bundles.append(Bundle(key // len(sizes), key % len(sizes), start, stop, None, part[0], part[1]))
            start = stop
        return order, tuple(bundles)

    def with_pairs(self, pairs: Sequence[Tensor]) -> Layered:
        """A view in which further pairs of neurons hear each other, in bundles after those of the weights.

        `edges`, `edge_field` and ``fan_in`` know weights alone, as before.

        Args:
            pairs: source and target ``[2, P]`` of the pairs for each of ``structures``, none of them twice.
        """
        if self.dense:
            ends = pairs[0].to(self.device)
        else:
            nodes, which = [structure.num_nodes for structure in self.structures], self.which.tolist()
            starts = [0, *accumulate(nodes[i] for i in which)]
            everyone = [pairs[i] + start for i, start in zip(which, starts, strict=False)]
            ends = self._place()[torch.cat(everyone, 1).to(self.device)]
        view = copy(self)
        _, added = self._bundled(ends, self.bundles[-1].stop if self.bundles else 0)
        for bundle in added:
            shape = self.sizes[bundle.target], self.sizes[bundle.source]
            complete = bundle.stop - bundle.start == shape[0] * shape[1]
            view.bundles += (replace(bundle, shape=shape if complete else None),)
        view._connect()
        found = [torch.bincount(ends[end], minlength=sum(self.sizes)).unsqueeze(1).split(self.sizes) for end in (1, 0)]
        sides = zip(self.degrees, found, strict=True)
        view.degrees = [[old + new for old, new in zip(*side, strict=True)] for side in sides]
        return view

    def _measure(self, edge_index: Tensor, nodes: int) -> None:
        """Incoming and outgoing edges of every node, per layer ``[n, 1]``, and of every edge's target, ``[E]``."""
        found = [torch.bincount(edge_index[end], minlength=nodes) for end in (1, 0)]
        self.degrees = [list(counts.unsqueeze(1).split(self.sizes)) for counts in found]
        self.fan_in = found[0][edge_index[1]]

    def links(self, bundles: Iterable[int], reverse: bool) -> Links:
        """What fused layers need of some bundles; made once."""
        numbers = tuple(bundles)
        if (numbers, reverse) not in self._links:
            chosen = [self.bundles[number] for number in numbers]
            self._links[numbers, reverse] = Links(chosen, self.sizes, self.rows, reverse)
        return self._links[numbers, reverse]

    def nodes(self, values: Tensor) -> Tensor:
        """A node tensor of the batch ``[N, ...]`` as ``[rows, n, ...]``, layer after layer; see `split`."""
        if not self.dense:
            values = values[self.node_order]
        return values.view(self.rows, -1, *values.shape[1:])

    def split(self, nodes: Tensor) -> list[Tensor]:
        """A node tensor ``[rows, n, ...]`` as one per layer."""
        return list(nodes.split(self.sizes, dim=1))

    def edges(self, values: Tensor) -> Tensor:
        """An edge tensor of the batch ``[E, ...]`` as ``[rows, E, ...]`` in the order of the bundles."""
        if not self.dense:
            values = values[self.edge_order]
        return values.view(self.rows, -1, *values.shape[1:])

    def split_edges(self, edges: Tensor) -> list[Tensor]:
        """An edge tensor ``[rows, E, ...]`` as one per bundle, each contiguous with the networks inside."""
        return [part.contiguous() for part in edges.split([b.stop - b.start for b in self.bundles], dim=1)]

    def edge_field(self, name: str) -> Tensor:
        """``edge_type`` or ``edge_layer`` ``[E]``, in the order of the bundles."""
        fields: list[Tensor] = [getattr(topology(structure), name) for structure in self.structures]
        if self.dense:
            return fields[0].to(self.device)
        return torch.cat([fields[i] for i in self.which.tolist()]).to(self.device)[self.edge_order]

    def edge_blocks(self) -> Tensor:
        """The block of every edge ``[E]``, numbered through all distinct structures one after the other."""
        if self.dense:
            return self.edge_field("edge_layer")
        starts = [0, *accumulate(len(structure.blocks) for structure in self.structures)]
        fields = [topology(s).edge_layer + start for s, start in zip(self.structures, starts, strict=False)]
        return torch.cat([fields[i] for i in self.which.tolist()]).to(self.device)[self.edge_order]

    def node_field(self, name: str) -> Tensor:
        """``node_type`` or ``node_layer`` ``[n]``, or ``node_mask [n, F]``, in the order of `nodes`."""
        fields: list[Tensor] = [getattr(topology(structure), name) for structure in self.structures]
        return fields[0].to(self.device) if self.dense else self.per_node(fields)[0]

    def per_node(self, values: Sequence[Tensor]) -> Tensor:
        """Per distinct structure a tensor ``[N, ...]``, given to its networks: ``[rows, n, ...]``."""
        values = [value.to(self.device) for value in values]
        if self.dense and len(values) == 1:
            return values[0].expand(self.graphs, *values[0].shape)
        if self.dense:
            return torch.stack(values).index_select(0, self.which)
        return torch.cat([values[i] for i in self.which.tolist()])[self.node_order].unsqueeze(0)


def _on(bundles: tuple[Bundle, ...], device: torch.device) -> tuple[Bundle, ...]:
    def move(index: Tensor | None) -> Tensor | None:
        return None if index is None else index.to(device)

    if device.type == "cpu":
        return bundles
    return tuple(
        Bundle(b.source, b.target, b.start, b.stop, b.shape, move(b.source_index), move(b.target_index))
        for b in bundles
    )
