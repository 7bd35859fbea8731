"""What layers that pass messages along edges share: the ways to run through a network, and the update of edges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphnets.layered import Bundle, Layered
from graphnets.message_passing.kernels import pair_terms

__all__ = ["PassingLayer"]


class PassingLayer(nn.Module, ABC):
    r"""A layer that gives nodes, and then edges, new states from what their neighbours hold.

    A subclass says in :meth:`step` what nodes make of their messages. Edges follow with

    .. math:: e'_{ij} = \mathrm{LN}(e_{ij} + U_2\, \mathrm{relu}(U_1 [x'_j, x'_i, e_{ij}] + c_1) + c_2)

    whose first map runs once per node and once per edge feature, see `pair_terms`.

    Args:
        node_channels, edge_channels: feature channels of nodes and edges.
        update_edges: whether edges get new features; otherwise they are handed back as they came.
    """

    def __init__(self, node_channels: int, edge_channels: int, update_edges: bool) -> None:
        super().__init__()
        self.node_channels, self.edge_channels, self.update_edges = node_channels, edge_channels, update_edges

    def _build_edge_update(self, inner: int) -> None:
        """The parameters of :meth:`step_edges`; a subclass calls it last."""
        if self.update_edges:
            self.edge_source = nn.Linear(self.node_channels, inner)
            self.edge_target = nn.Linear(self.node_channels, inner, bias=False)
            self.edge_edge = nn.Linear(self.edge_channels, inner, bias=False)
            self.edge_message = nn.Linear(inner, self.edge_channels)
            self.edge_norm = nn.LayerNorm(self.edge_channels)

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
        """Layer by layer in the networks' own order, or against all edges in the opposite order.

        Every layer hears the new states of the layers before it, so one sweep carries a signal through the network.

        Shapes:
            - states: per layer ``[B, n, node_channels]``; edges: per bundle ``[B, E, edge_channels]``
        """
        states = list(states)
        order = range(batch.layers - 1, -1, -1) if reverse else range(batch.layers)
        for layer in order:
            states[layer] = self._layer_step(layer, states, edges, batch, reverse)
        return states, self._edges(states, edges, batch, reverse)

    def parallel(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, *, reverse: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers at once, as :meth:`forward`; arguments as in :meth:`sweep`."""
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

    def step_edges(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], bundles: Sequence[Bundle], reverse: bool = False
    ) -> list[Tensor]:
        """New states of all edges, per bundle ``[B, E, edge_channels]``; ``reverse`` swaps their ends."""
        new = []
        for bundle, edge in zip(bundles, edges, strict=True):
            start, end = (bundle.target, bundle.source) if reverse else (bundle.source, bundle.target)
            pairs = pair_terms(
                self.edge_source(states[start]), self.edge_target(states[end]), self.edge_edge(edge), bundle, reverse
            )
            hidden = pairs.relu_().view(*edge.shape[:2], pairs.shape[-1])
            new.append(self.edge_norm(edge + self.edge_message(hidden)))
        return new

    def _edges(self, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, reverse: bool) -> list[Tensor]:
        return self.step_edges(states, edges, batch.bundles, reverse) if self.update_edges else list(edges)
