"""What layers that pass messages along edges share: the ways to run through a network, and the update of edges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnets.layered import Bundle, Layered
from graphnets.links import Links
from graphnets.message_passing.fused import update_edges

__all__ = ["EdgeLayer", "FusedLayer", "PassingLayer", "both_ends"]


class EdgeLayer(nn.Module, ABC):
    r"""A layer that gives nodes, and then edges, new states from what their neighbours hold.

    Edges follow with

    .. math:: e'_{ij} = \mathrm{LN}(e_{ij} + U_2\, \mathrm{relu}(U_1 [x'_j, x'_i, e_{ij}] + c_1) + c_2)

    whose first map runs once per node and once per edge feature.

    Args:
        node_channels, edge_channels: feature channels of nodes and edges.
        update_edges: whether edges get new features; otherwise they are handed back as they came.
    """

    def __init__(self, node_channels: int, edge_channels: int, update_edges: bool) -> None:
        super().__init__()
        self.node_channels, self.edge_channels, self.update_edges = node_channels, edge_channels, update_edges

    def _build_edge_update(self, inner: int) -> None:
        """The parameters of the edges' update; a subclass calls it last."""
        if self.update_edges:
            self.edge_source = nn.Linear(self.node_channels, inner)
            self.edge_target = nn.Linear(self.node_channels, inner, bias=False)
            self.edge_edge = nn.Linear(self.edge_channels, inner, bias=False)
            self.edge_message = nn.Linear(inner, self.edge_channels)
            self.edge_norm = nn.LayerNorm(self.edge_channels)

    @abstractmethod
    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """All nodes at once, as any PyTorch Geometric layer."""

    @abstractmethod
    def sweep(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Layer by layer in the networks' own order, or against all edges in the opposite order.

        Every layer hears the new states of the layers before it, so one sweep carries a signal through the network.

        Shapes:
            - states: per layer ``[B, n, node_channels]``; edges: per bundle ``[B, E, edge_channels]``
        """

    @abstractmethod
    def parallel(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers at once, as :meth:`forward`; arguments as in :meth:`sweep`."""

    @abstractmethod
    def step_edges(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], bundles: Sequence[Bundle], reverse: bool = False
    ) -> list[Tensor]:
        """New states of all edges, per bundle ``[B, E, edge_channels]``; ``reverse`` swaps their ends."""


class FusedLayer(EdgeLayer):
    """An `EdgeLayer` whose sums over edges run along `Links`, all bundles together.

    A subclass says in :meth:`hear` what nodes make of their messages, with a network ``update`` and a ``node_norm``.
    """

    update: nn.Sequential
    node_norm: nn.LayerNorm

    @abstractmethod
    def hear(self, x: Tensor, edges: list[Tensor], links: Links, degree: Tensor) -> tuple[Tensor, list[Tensor]]:
        """New states of the nodes at ``links.heard``, and the edges for their update (see `hidden_sum`).

        Args:
            x: the states of ``links.layers``, side by side, ``[B, N, node_channels]``.
            edges: per bundle ``[B, E, edge_channels]``.
            links: who hears whom.
            degree: messages that arrive at each node of ``links.heard``, ``[n, 1]``.
        """

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """All nodes at once, as any PyTorch Geometric layer."""
        links = Links([Bundle(0, 0, 0, edge_index.shape[1], None, edge_index[0], edge_index[1])], [len(x)], 1)
        degree = torch.bincount(edge_index[1], minlength=len(x)).unsqueeze(1)
        states, edges = self._listen([x.unsqueeze(0)], [edge_attr.unsqueeze(0)], links, [degree])
        return states[0].squeeze(0), self._relink(states, edges, links)[0].squeeze(0)

    def sweep(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Layer by layer; see `EdgeLayer.sweep`."""
        states, edges = list(states), list(edges)
        for layer in range(batch.layers - 1, -1, -1) if reverse else range(batch.layers):
            numbers = (batch.outgoing if reverse else batch.incoming)[layer]
            links, heard = batch.links(numbers, reverse), [edges[number] for number in numbers]
            states, heard = self._listen(states, heard, links, batch.degrees[1 if reverse else 0])
            for number, edge in zip(numbers, heard, strict=True):
                edges[number] = edge
        return states, self._relink(states, edges, batch.links(range(len(edges)), reverse))

    def parallel(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers at once; see `EdgeLayer.parallel`."""
        links = batch.links(range(len(edges)), reverse)
        new, heard = self._listen(states, list(edges), links, batch.degrees[1 if reverse else 0])
        return new, self._relink(new, heard, links)

    def step_edges(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], bundles: Sequence[Bundle], reverse: bool = False
    ) -> list[Tensor]:
        """New states of all edges; see `EdgeLayer.step_edges`."""
        links = Links(bundles, [state.shape[1] for state in states], len(states[0]), reverse)
        return self._relink(states, list(edges), links)

    def _settle(self, own: Tensor, parts: Sequence[Tensor], degree: Tensor) -> Tensor:
        """New states of nodes from what they know and hear; those that hear nothing keep theirs."""
        out: Tensor = self.node_norm(own + self.update(torch.cat(list(parts), -1)))
        hears = degree > 0
        return out if bool(hears.all()) else torch.where(hears, out, own)

    def _listen(
        self, states: Sequence[Tensor], edges: list[Tensor], links: Links, degrees: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """New states of all layers, and the edges for their update."""
        new = list(states)
        if not links.edges:
            return new, edges
        degree = torch.cat([degrees[layer] for layer in links.heard_layers])
        out, heard = self.hear(_join(states, links.layers), edges, links, degree)
        sizes = [states[layer].shape[1] for layer in links.heard_layers]
        for layer, state in zip(links.heard_layers, out.split(sizes, dim=1), strict=True):
            new[layer] = state
        return new, heard if self.update_edges else edges

    def _relink(self, states: Sequence[Tensor], edges: list[Tensor], links: Links) -> list[Tensor]:
        """New states of all edges, per bundle ``[B, E, edge_channels]``."""
        if not self.update_edges or not edges:
            return edges
        table = both_ends(_join(states, links.layers), self.edge_source, self.edge_target)
        return update_edges(table, self.edge_edge.weight, self.edge_message, self.edge_norm, edges, links)


def both_ends(x: Tensor, source: nn.Linear, target: nn.Linear) -> Tensor:
    """What nodes say as sources (with bias) and as targets, ``[B, N, 2 H]``, in one product."""
    assert source.bias is not None
    weight, bias = torch.cat([source.weight, target.weight]), torch.cat([source.bias, torch.zeros_like(source.bias)])
    return functional.linear(x, weight, bias)


class PassingLayer(EdgeLayer):
    """An `EdgeLayer` that runs layer by layer in plain operations.

    A subclass says in :meth:`step` what nodes make of their messages.
    """

    @abstractmethod
    def step(
        self, x: Tensor, heard: Sequence[tuple[Bundle, Tensor, Tensor]], degree: Tensor, reverse: bool = False
    ) -> Tensor:
        """New states of one layer ``x [B, n, node_channels]``.

        Args:
            heard: the bundles whose messages arrive here, each with its senders' states and its edges' features.
            degree: messages that arrive at each node, ``[n, 1]``.
            reverse: messages run against the edges.
        """

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """All nodes at once, as any PyTorch Geometric layer."""
        bundle = Bundle(0, 0, 0, edge_index.shape[1], None, edge_index[0], edge_index[1])
        degree = torch.bincount(edge_index[1], minlength=len(x)).unsqueeze(1)
        states, edges = [x.unsqueeze(0)], [edge_attr.unsqueeze(0)]
        states = [self.step(states[0], [(bundle, states[0], edges[0])], degree)]
        if self.update_edges:
            edges = self.step_edges(states, edges, [bundle])
        return states[0].squeeze(0), edges[0].squeeze(0)

    def sweep(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Layer by layer; see `EdgeLayer.sweep`."""
        states = list(states)
        order = range(batch.layers - 1, -1, -1) if reverse else range(batch.layers)
        for layer in order:
            states[layer] = self._layer_step(layer, states, edges, batch, reverse)
        return states, self._edges(states, edges, batch, reverse)

    def parallel(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers at once; see `EdgeLayer.parallel`."""
        new = [self._layer_step(layer, states, edges, batch, reverse) for layer in range(batch.layers)]
        return new, self._edges(new, edges, batch, reverse)

    def _layer_step(
        self, layer: int, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, reverse: bool
    ) -> Tensor:
        heard = []
        for number in (batch.outgoing if reverse else batch.incoming)[layer]:
            bundle = batch.bundles[number]
            heard.append((bundle, states[bundle.target if reverse else bundle.source], edges[number]))
        return self.step(states[layer], heard, batch.degrees[1 if reverse else 0][layer], reverse)

    def _edges(self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, reverse: bool) -> list[Tensor]:
        return self.step_edges(states, edges, batch.bundles, reverse) if self.update_edges else list(edges)


def _join(states: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """The states of some layers side by side, ``[B, N, K]``."""
    return states[layers[0]] if len(layers) == 1 else torch.cat([states[layer] for layer in layers], 1)
