"""From a batch of neuron graphs to features of neurons and weights that a network can learn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import (
    ACTIVATIONS,
    EDGE_TYPES,
    LAYER_KINDS,
    NODE_SLOTS,
    Structure,
    StructureMismatch,
)
from converters.layout import same_layout
from converters.neuron_graph import kernel_columns, topology
from graphnets.layered import (
    DESCRIPTION_WIDTH,
    Layered,
    Networks,
    describe_nodes,
    networks_of,
    node_roles,
)

__all__ = [
    "EdgeEncoding",
    "InputScaling",
    "NodeEncoding",
    "PositionEncoding",
    "check_structure",
    "kernel_size_of",
    "known_encodings",
    "squash",
]

LINEAR_RANGE = 8.0
MAX_POSITIONS = 4096
SHARED_POSITIONS = 1024


def squash(values: Tensor) -> Tensor:
    """Two views of scaled numbers ``[..., K] -> [..., 2K]`` in which an outlier does no harm.

    The number itself, nearly linear within +-8 and bounded there, and its signed logarithm.
    """
    linear = values * torch.rsqrt(1 + (values / LINEAR_RANGE) ** 2)
    return torch.cat([linear, values.sign() * torch.log1p(3 * values.abs())], -1)


class InputScaling(nn.Module):
    """Divides weights and neuron parameters by their typical size: one number per block, layer or type.

    A number per entry would break the symmetry. Weights are first multiplied by the root of the number of edges
    into their target, so that wide and narrow layers look alike. The typical size is the geometric mean over
    networks of each network's root mean square: one diverged network does not move it.

    Args:
        structure: gives one number per block and per layer and slot; None gives one per edge type and per layer
            kind and slot, for any architecture.
    """

    edge_scale: Tensor
    node_scale: Tensor

    def __init__(self, structure: Structure | None) -> None:
        super().__init__()
        self.by_type = structure is None
        edges, nodes = len(EDGE_TYPES), len(LAYER_KINDS)
        if structure is not None:
            edges, nodes = len(structure.blocks), len(structure.layers)
        self.register_buffer("edge_scale", torch.ones(edges))
        self.register_buffer("node_scale", torch.ones(nodes, len(NODE_SLOTS)))

    def extra_repr(self) -> str:
        """What shares a number."""
        return "per type" if self.by_type else f"per block and layer ({len(self.edge_scale)}, {len(self.node_scale)})"

    def forward(self, batch: Networks, view: Layered) -> tuple[Tensor, Tensor]:
        """Scaled neuron parameters ``[B, n, F]`` and weights ``[B, E, K]``."""
        edge_rows, node_rows = self._rows(view)
        weights = view.edges(batch.edge_attr) * (
            view.fan_in.to(batch.edge_attr.dtype).sqrt() / self.edge_scale[edge_rows]
        ).unsqueeze(-1)
        return view.nodes(batch.x) / self.node_scale[node_rows], weights

    def _rows(self, view: Layered) -> tuple[Tensor, Tensor]:
        if self.by_type:
            return view.edge_field("edge_type"), view.node_field("node_type")
        return view.edge_field("edge_layer"), view.node_field("node_layer")

    @torch.no_grad()
    def fit(self, batches: Iterable[Any]) -> None:
        """Take the typical sizes of the networks in ``batches`` (graphs, or pairs whose first item they are)."""
        device = self.edge_scale.device
        edge_log, edge_count = torch.zeros(2, len(self.edge_scale), dtype=torch.float64, device=device)
        node_log, node_count = torch.zeros(2, self.node_scale.numel(), dtype=torch.float64, device=device)
        for item in batches:
            batch = networks_of(item)
            view = Layered(batch)
            edge_rows, node_rows = self._rows(view)
            weights = view.edges(batch.edge_attr).double() * view.fan_in.double().sqrt().unsqueeze(-1)
            owner = view.edge_owner.expand(view.rows, -1) * len(edge_log) + edge_rows
            carries = (weights != 0).sum(-1)
            _add(edge_log, edge_count, weights.square().sum(-1), carries, owner, view.graphs)
            slots = self.node_scale.shape[1]
            values = view.nodes(batch.x).double()
            owner = view.node_owner.expand(view.rows, -1) * len(self.node_scale) + node_rows
            cell = owner.unsqueeze(-1) * slots + torch.arange(slots, device=device)
            _add(node_log, node_count, values.square(), (values != 0).long(), cell, view.graphs)
        self.edge_scale.copy_(torch.where(edge_count > 0, (edge_log / edge_count.clamp_min(1)).exp(), 1.0))
        scale = torch.where(node_count > 0, (node_log / node_count.clamp_min(1)).exp(), 1.0)
        self.node_scale.copy_(scale.view_as(self.node_scale))


def _add(logs: Tensor, counts: Tensor, squares: Tensor, present: Tensor, cell: Tensor, graphs: int) -> None:
    """Add each network's log root mean square of its non-zero values to its row."""
    total = squares.new_zeros(graphs * len(logs)).index_add(0, cell.reshape(-1), squares.reshape(-1))
    number = squares.new_zeros(graphs * len(logs)).index_add(0, cell.reshape(-1), present.reshape(-1).double())
    seen = (number > 0) & (total > 0)
    size = torch.where(seen, total / number.clamp_min(1), 1.0).log() / 2
    logs += size.view(graphs, -1).sum(0)
    counts += seen.view(graphs, -1).sum(0)


class PositionEncoding(nn.Module):
    """Tells fixed neurons (inputs, outputs, frozen axes) apart; zero for neurons that may be permuted.

    Args:
        structure: with it every fixed neuron has a learned vector (up to 4096 of them). Without, the first 1024
            inputs, outputs and other fixed neurons of a layer have one each, shared by all architectures, and waves of
            16 lengths through a small network, which tell any number of positions apart, are added.
        channels: length of the encoding.

    Shapes:
        - result: ``[N, channels]`` for the N nodes of all structures
    """

    rows: Tensor

    def __init__(self, structure: Structure | None, channels: int) -> None:
        super().__init__()
        fixed = None if structure is None else topology(structure).node_position >= 0
        self.learned = fixed is not None and 0 < int(fixed.sum()) <= MAX_POSITIONS
        if fixed is not None and self.learned:
            self.register_buffer("rows", torch.where(fixed, fixed.cumsum(0) - 1, -1), persistent=False)
            self.table = nn.Embedding(int(fixed.sum()), channels)
        else:
            self.table = nn.Embedding(3 * SHARED_POSITIONS, channels)
            self.waves = nn.Sequential(nn.Linear(35, 64), nn.SiLU(), nn.Linear(64, channels))

    def forward(self, structures: Sequence[Structure]) -> Tensor:
        """One encoding per node of each structure, one structure after the other."""
        if self.learned:
            known: Tensor = self.table(self.rows.clamp_min(0)) * (self.rows >= 0).unsqueeze(1)
            return known.repeat(len(structures), 1)
        weight = cast(nn.Linear, self.waves[0]).weight
        position = torch.cat([topology(s).node_position for s in structures]).to(weight.device)
        lengths = torch.pi / 1.5 ** torch.arange(16, device=weight.device)
        phase = position.unsqueeze(1) * lengths
        role = torch.cat([node_roles(s) for s in structures]).to(weight.device)
        inputs = torch.cat([phase.sin(), phase.cos(), functional.one_hot(role, 3)], 1).to(weight.dtype)
        near = position < SHARED_POSITIONS
        row = role * SHARED_POSITIONS + position.clamp(0, SHARED_POSITIONS - 1)
        encoded: Tensor = self.waves(inputs) + self.table(row) * near.unsqueeze(1)
        return encoded * (position >= 0).unsqueeze(1)


class NodeEncoding(nn.Module):
    """First states of neurons: own parameters, layer kind, activation, attributes, degrees, depth, position.

    Args:
        structure: learned vectors per layer and per fixed neuron; None serves any architecture.
        channels: of the result.
        encodings: which of ``"layer_type"``, ``"activation"``, ``"attributes"`` (degrees, depth, role and the layer's
            numbers such as stride and eps), ``"position"`` to use.

    Shapes:
        - nodes: scaled neuron parameters ``[B, n, F]``; result: ``[B, n, channels]``
    """

    ENCODINGS = ("layer_type", "activation", "attributes", "position")

    def __init__(self, structure: Structure | None, channels: int, encodings: Iterable[str] = ENCODINGS) -> None:
        super().__init__()
        self.encodings = known_encodings(encodings, self.ENCODINGS)
        self.parameters_of = nn.Linear(3 * len(NODE_SLOTS), channels)
        if "layer_type" in self.encodings:
            self.kind = nn.Embedding(len(LAYER_KINDS), channels)
            self.layer = None if structure is None else nn.Embedding(len(structure.layers), channels)
        if "activation" in self.encodings:
            self.activation = nn.Embedding(len(ACTIVATIONS), channels)
        if "attributes" in self.encodings:
            self.attributes = nn.Linear(DESCRIPTION_WIDTH, channels)
        if "position" in self.encodings:
            self.position = PositionEncoding(structure, channels)

    def extra_repr(self) -> str:
        """Which encodings are on."""
        return ", ".join(self.encodings)

    def forward(self, nodes: Tensor, view: Layered) -> Tensor:
        """Encode."""
        mask = view.node_field("node_mask").to(nodes.dtype).expand(*nodes.shape)
        states: Tensor = self.parameters_of(torch.cat([squash(nodes), mask], -1))
        known = self._known(view.structures, nodes)
        return states + view.per_node(known.split([structure.num_nodes for structure in view.structures]))

    def _known(self, structures: Sequence[Structure], like: Tensor) -> Tensor:
        """What does not depend on weights, for the nodes of all structures ``[N, channels]``."""
        device = like.device

        def field(name: str) -> Tensor:
            return torch.cat([getattr(topology(structure), name) for structure in structures]).to(device)

        parts = []
        if "layer_type" in self.encodings:
            parts.append(self.kind(field("node_type")))
            if self.layer is not None:
                parts.append(self.layer(field("node_layer")))
        if "activation" in self.encodings:
            parts.append(self.activation(field("activation")))
        if "attributes" in self.encodings:
            described = torch.cat([describe_nodes(structure) for structure in structures])
            parts.append(self.attributes(described.to(device, like.dtype)))
        if "position" in self.encodings:
            parts.append(self.position(structures))
        nodes = sum(structure.num_nodes for structure in structures)
        return sum(parts, like.new_zeros(nodes, self.parameters_of.out_features))


class EdgeEncoding(nn.Module):
    """First states of edges: a linear map of the kernel's scaled numbers in two views, plus what kind of edge it is.

    Args:
        structure: None serves any architecture whose kernels fit in ``kernel_size``.
        channels: of the result.
        kernel_size: read from the structure where there is one. Smaller kernels use its centre.
        encodings: which of ``"edge_type"`` and ``"kernel"`` (which of the kernel's places the edge has: where it has
            none is not where it has a zero) to use.

    Shapes:
        - weights: scaled kernels ``[B, E, K]``; result: ``[B, E, channels]``
    """

    ENCODINGS = ("edge_type", "kernel")
    WEIGHTED = ("linear", "convolution", "transposed_convolution", "depthwise")

    def __init__(
        self,
        structure: Structure | None,
        channels: int,
        kernel_size: tuple[int, ...] = (3, 3),
        encodings: Iterable[str] = ENCODINGS,
    ) -> None:
        super().__init__()
        self.encodings = known_encodings(encodings, self.ENCODINGS)
        self.kernel_size = tuple(kernel_size) if structure is None else structure.kernel_size
        columns = math.prod(self.kernel_size)
        self.weight = nn.Parameter(torch.randn(channels, 2, columns) / 2)
        with torch.no_grad():  # at first, even channels hold the numbers and odd ones their logarithms
            self.weight[0::2, 1], self.weight[1::2, 0] = 0.0, 0.0
            self.weight[0, 0], self.weight[1:2, 1] = 1.0, 1.0
        if "edge_type" in self.encodings:
            self.kind = nn.Embedding(len(EDGE_TYPES), channels)
            with torch.no_grad():
                self.kind.weight[[EDGE_TYPES.index(kind) for kind in self.WEIGHTED]] = 0.0
        if "kernel" in self.encodings:
            self.present = nn.Parameter(torch.zeros(channels, columns)) if columns > 1 else None

    def extra_repr(self) -> str:
        """Kernel, channels and which encodings are on."""
        return f"kernel_size={self.kernel_size}, channels={len(self.weight)}, {', '.join(self.encodings)}"

    def forward(self, weights: Tensor, kernel_size: tuple[int, ...], view: Layered) -> Tensor:
        """Encode kernels laid out as ``kernel_size`` says."""
        columns = kernel_columns(kernel_size, self.kernel_size)
        matrix = self.weight if columns is None else self.weight[..., columns.to(weights.device)]
        encoded = functional.linear(squash(weights), matrix.flatten(1))
        if "edge_type" in self.encodings:
            encoded = encoded + self.kind(view.edge_field("edge_type"))
        if "kernel" in self.encodings and self.present is not None:
            blocks = [_places(structure, self.kernel_size) for structure in view.structures]
            present = functional.linear(torch.cat(blocks).to(weights.device, weights.dtype), self.present)
            encoded = encoded + present[view.edge_blocks()]
        return encoded


@lru_cache(maxsize=256)
def _places(structure: Structure, kernel_size: tuple[int, ...]) -> Tensor:
    """Which places of the padded kernel each block's own kernel has, ``[blocks, K]``; none without a parameter."""
    places = torch.zeros(len(structure.blocks), math.prod(kernel_size))
    for row, block in zip(places, structure.blocks, strict=True):
        if block.parameter is not None:
            columns = kernel_columns(block.kernel, kernel_size)
            row[slice(None) if columns is None else columns] = 1
    return places


def known_encodings(chosen: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """The chosen encodings.

    Raises:
        ValueError: one of them is not known.
    """
    chosen = tuple(chosen)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"unknown encodings {', '.join(unknown)}; known are {', '.join(known)}")
    return chosen


def check_structure(structure: Structure | None, view: Layered, model: str) -> None:
    """Refuse networks of another layout than a model was built for.

    Raises:
        StructureMismatch: says which.
    """
    if structure is None:
        return
    for other in view.structures:
        if not same_layout(structure, other):
            raise StructureMismatch(
                f"{model} was built for {structure!r} and cannot read {other!r}; "
                "build it with structure=None, or give it networks of one layout"
            )


def kernel_size_of(batch: Networks) -> tuple[int, ...]:
    """The kernel to which a graph's or a batch's edges are padded."""
    size = batch.kernel_size
    return tuple(size[0]) if len(size) and not isinstance(size[0], int) else tuple(size)
