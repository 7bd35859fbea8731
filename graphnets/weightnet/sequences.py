"""The paper's tokens: incoming weights in the order of their sources, as stored or sorted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from converters import Structure
from converters.neuron_graph import kernel_columns, topology
from graphnets.layered import Layered, Networks, networks_of, structures_of
from graphnets.message_passing.encodings import InputScaling, NodeEncoding, kernel_size_of, squash
from graphnets.weightnet.order import POSITIONS, NeuronTable, PlaceEncoding, sorted_nodes

__all__ = ["SequenceTokens", "incoming_rows", "widest_input"]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Where each of E edges' weights stand in the row of their target; nodes are in the order of the graph.

    ``offset`` is the place of an edge's first number, ``column`` that of each number of its padded kernel from there
    (-1: padding, or an edge without weights), ``order`` sorts edges by source, target and block.
    """

    source: Tensor
    target: Tensor
    block: Tensor
    offset: Tensor
    column: Tensor
    order: Tensor


@lru_cache(maxsize=256)
def _offsets(structure: Structure) -> tuple[Tensor, Tensor, int]:
    """Offset of every edge, edges sorted by source, target and block, and the widest row."""
    top = topology(structure)
    (source, target), block = top.edge_index.numpy(), top.edge_layer.numpy()
    numbers = [int(np.prod(b.kernel)) if b.parameter is not None else 0 for b in structure.blocks]
    width = np.array([*numbers, 0], np.int64)[block]
    order = np.lexsort((source, block, target))
    stop = np.cumsum(width[order])
    begins = np.searchsorted(target[order], target[order])  # each target's first edge
    before = np.concatenate([np.zeros(1, np.int64), stop])
    offset = np.zeros(len(block), np.int64)
    offset[order] = before[:-1] - before[begins]
    widest = int((stop - before[begins]).max(initial=0))
    return torch.from_numpy(offset), torch.from_numpy(np.lexsort((block, target, source))), widest


def widest_input(structure: Structure) -> int:
    """The most incoming numbers that a neuron has: its kernels' own numbers, over all sources.

    >>> from converters import trace
    >>> widest_input(trace(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))))
    8
    >>> convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    >>> widest_input(trace(convolutions, torch.zeros(1, 1, 6, 6)))
    36
    """
    return _offsets(structure)[2]


@lru_cache(maxsize=256)
def _columns(structure: Structure, kernel_size: tuple[int, ...]) -> Tensor:
    """The place of every number of a padded kernel in its own one, ``[blocks, K]``; -1 where it is padding."""
    table = torch.full((len(structure.blocks), int(np.prod(kernel_size))), -1)
    for row, block in zip(table, structure.blocks, strict=True):
        if block.parameter is not None:
            own = kernel_columns(block.kernel, kernel_size)
            own = torch.arange(len(row)) if own is None else own
            row[own] = torch.arange(len(own))
    return table


@lru_cache(maxsize=256)
def _inputs(structure: Structure, kernel_size: tuple[int, ...]) -> _Inputs:
    top, (offset, order, _) = topology(structure), _offsets(structure)
    column = _columns(structure, kernel_size)[top.edge_layer]
    return _Inputs(top.edge_index[0], top.edge_index[1], top.edge_layer, offset, column, order)


def _inputs_of(batch: Networks, view: Layered) -> _Inputs:
    """The table of a batch, its edges in the order of `Layered.edges`."""
    tables = [_inputs(structure, kernel_size_of(batch)) for structure in view.structures]
    if view.dense:
        names = ("source", "target", "block", "offset", "column", "order")
        return _Inputs(*(getattr(tables[0], name).to(view.device) for name in names))
    tables = [tables[i] for i in view.which.tolist()]
    first = np.cumsum([0] + [len(table.block) for table in tables]).tolist()

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(table, name) for table in tables]).to(view.device)[view.edge_order]

    source, target = batch.edge_index[:, view.edge_order].unbind(0)
    order = torch.cat([t.order + e for t, e in zip(tables, first, strict=False)]).to(view.device)
    place = torch.empty_like(view.edge_order)
    place[view.edge_order] = torch.arange(len(place), device=view.device)
    return _Inputs(source, target, joined("block"), joined("offset"), joined("column"), place[order])


def _energies(nodes: Tensor, weights: Tensor, inputs: _Inputs, view: Layered) -> Tensor:
    """Per node the sum of squares of its own parameters and of all weights into and out of it, ``[rows, N]``.

    In float64, so that rounding does not decide the order.
    """
    own = nodes.detach().double().square().sum(-1)
    if not view.dense:
        own = torch.empty_like(own).index_copy_(1, view.node_order, own)
    energy = weights.detach().double().square().sum(-1)
    ends = torch.cat([inputs.source, inputs.target])
    return own.index_add_(1, ends, energy.repeat(1, 2))


def _offsets_at(node: Tensor, inputs: _Inputs) -> Tensor:
    """Each edge's offset once its ends stand in the places ``node [rows, N]``: ``[rows, E]``."""
    nodes, blocks = node.shape[1], int(inputs.block.max()) + 1 if len(inputs.block) else 1
    known = ((inputs.source * nodes + inputs.target) * blocks + inputs.block)[inputs.order]
    wanted = (node[:, inputs.source] * nodes + node[:, inputs.target]) * blocks + inputs.block
    return inputs.offset[inputs.order][torch.searchsorted(known, wanted)]


def incoming_rows(weights: Tensor, offset: Tensor, inputs: _Inputs, view: Layered, width: int) -> Tensor:
    """Every neuron's incoming numbers in a row, zeros behind, ``[rows, N, width]`` in the order of `Layered.nodes`.

    Args:
        weights: ``[rows, E, K]``.
        offset: of every edge, ``[rows, E]`` or one row for all.
        inputs: the table of the batch; view: the batch.
        width: numbers beyond are cut off.
    """
    nodes = sum(view.sizes)
    target = inputs.target
    if not view.dense:
        place = torch.empty_like(view.node_order)
        place[view.node_order] = torch.arange(nodes, device=view.device)
        target = place[target]
    kept = (inputs.column.flatten() >= 0).nonzero().squeeze(1)
    edge = kept // weights.shape[-1]
    place = (offset[:, edge] + inputs.column.flatten()[kept]).clamp_max(width)  # the last column is thrown away
    index = (place + target[edge] * (width + 1)).expand(view.rows, -1)
    out = weights.new_zeros(view.rows, nodes * (width + 1)).scatter(1, index, weights.flatten(1)[:, kept])
    return out.view(view.rows, nodes, width + 1)[..., :width]


class SequenceTokens(nn.Module):
    r"""One token per neuron as the paper has it: incoming weights and bias side by side, projected.

    .. math:: t_{l,j} = P\,[W_l[j, :],\ 0, \dots, 0,\ b_l[j], \dots] + p(j)

    The row lists the weights in the order of their source neurons (several weight matrices one after the other, a
    kernel's numbers in a row), filled up with zeros to one width for all layers and architectures; every number enters
    in two views (see `squash`). Behind it come the neuron's own parameters (bias, BatchNorm's numbers, ...) and which
    of them it has. One linear map serves all neurons. Edges without weights (residual sums, pooling, flattening) have
    no place in the row. To this are added encodings of what the neuron is, and of its place.

    As stored (``sort=False``) tokens are not invariant, and meant not to be: a permutation of the layer before moves
    the row's numbers to other columns of :math:`P`, and one of the layer itself moves the places.

    With ``sort=True``, the paper's alternative, the neurons of every permutable group are put in canonical order
    first: by the sum of squares of their (scaled) weights, incoming and outgoing, and own parameters, taken over all
    nodes that are permuted together, so that layers joined by residual sums, BatchNorm or depthwise convolutions are
    sorted as one. Rows then list sources in that order and places count in it. The tokens become invariant, at the
    price of continuity: where two neurons' sums meet, a small change of one weight swaps them, and with them columns
    and places. At an exact tie the stored order decides and invariance is lost, unless the neurons are copies.

    Args:
        structure: networks that share its layout, whose widest row is the width; None for any architecture.
        channels: of the tokens.
        encodings: of neurons, see `NodeEncoding`.
        positions: see `PlaceEncoding`.
        sort: see above.
        max_inputs: width of the row, in numbers. If None and without a structure, the widest row among the networks
            of `fit_statistics`; the layer is made then, or when a state_dict is loaded. Of a neuron with more
            inputs the numbers beyond are cut off: the naive rule that goes with naive padding.
        weight_noise: relative Gaussian noise on weights while training; it does not change the order.

    Raises:
        ValueError: ``max_inputs`` is not positive.
        RuntimeError: the width is not known yet.

    Shapes:
        - result: per layer ``[B, n, channels]``, neurons in stored order
    """

    def __init__(
        self,
        structure: Structure | None,
        channels: int,
        encodings: Iterable[str] = ("layer_type", "activation", "attributes"),
        positions: Sequence[str] = POSITIONS,
        sort: bool = False,
        max_inputs: int | None = None,
        weight_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if max_inputs is not None and max_inputs < 1:
            raise ValueError(f"max_inputs={max_inputs} leaves no room for weights; use at least 1")
        self.channels, self.sort, self.weight_noise = channels, sort, weight_noise
        self.scaling = InputScaling(structure)
        self.node_encoding = NodeEncoding(structure, channels, encodings)
        self.places = PlaceEncoding(positions, channels)
        self.max_inputs: int | None = None
        if max_inputs is None and structure is not None:
            max_inputs = widest_input(structure)
        if max_inputs is not None:
            self._build(max_inputs)

    def _build(self, max_inputs: int) -> None:
        self.max_inputs = max(max_inputs, 1)
        like = self.node_encoding.parameters_of.weight
        self.projection = nn.Linear(2 * self.max_inputs, self.channels, bias=False).to(like.device, like.dtype)

    def extra_repr(self) -> str:
        """Order, width and noise while training."""
        width = "unknown yet" if self.max_inputs is None else self.max_inputs
        order = "sorted" if self.sort else "as stored"
        return f"{order}, max_inputs={width}, weight_noise={self.weight_noise}"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights (see `InputScaling`) and, where it is not known, the widest row."""
        widest: int | None = None

        def looked_at() -> Iterator[Any]:
            nonlocal widest
            for item in batches:
                distinct = {id(structure): structure for structure in structures_of(networks_of(item))}
                widest = max([widest or 0, *map(widest_input, distinct.values())])
                yield item

        self.scaling.fit(looked_at())
        if self.max_inputs is None and widest is not None:
            self._build(widest)

    def forward(self, batch: Networks, view: Layered) -> list[Tensor]:
        """Make the tokens."""
        if self.max_inputs is None:
            raise RuntimeError(
                "SequenceTokens was made with structure=None and without max_inputs and has not seen networks; "
                "call fit_statistics or load a state_dict first, or pass one of the two"
            )
        nodes, weights = self.scaling(batch, view)
        inputs, table = _inputs_of(batch, view), NeuronTable.of(view)
        node = torch.arange(nodes.shape[1], device=view.device).unsqueeze(0)
        offset = inputs.offset.unsqueeze(0)
        if self.sort:
            node = sorted_nodes(_energies(nodes, weights, inputs, view), table)
            offset = _offsets_at(node, inputs)
        if self.training and self.weight_noise:
            weights = weights * (1 + self.weight_noise * torch.randn_like(weights))
        rows = incoming_rows(weights, offset, inputs, view, self.max_inputs)
        tokens = self.node_encoding(nodes, view) + self.projection(squash(rows))
        if self.places.kinds:
            tokens = tokens + self.places(node, table, view, tokens.dtype)
        return view.split(tokens)

    def get_extra_state(self) -> str:
        """The width of a row, as JSON."""
        return json.dumps(self.max_inputs)

    def set_extra_state(self, state: str) -> None:
        """Make the layer for the stored width, where it is not made yet."""
        width = json.loads(state)
        if width is not None and self.max_inputs is None:
            self._build(width)
