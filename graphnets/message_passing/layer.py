"""Message passing between neurons along weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphnets.layered import Bundle, Layered
from graphnets.message_passing.kernels import gated_sum, hidden_sum, pair_terms

__all__ = ["NeuronMessagePassing"]


class NeuronMessagePassing(nn.Module):
    r"""A message passing layer with edge features, edge updates and gated messages.

    .. math::
        m_i &= \operatorname{mean}_{j \to i} W_2\, \mathrm{relu}(W_1 [x_j, x_i, e_{ij}] + b_1) + b_2 \\
        g_i &= \tfrac{1}{\sqrt{d_i}} \sum_{j \to i} \sum_r (w_r \cdot e_{ij})\, V_r x_j \\
        x'_i &= \mathrm{LN}(x_i + \mathrm{MLP}[x_i, m_i, g_i]) \\
        e'_{ij} &= \mathrm{LN}(e_{ij} + U_2\, \mathrm{relu}(U_1 [x'_j, x'_i, e_{ij}] + c_1) + c_2)

    The gated term :math:`g` is linear in the edge features, as a neuron's own input is linear in its weights; it
    costs one small matrix product per weight matrix. Normalisation is per neuron and per edge, never over a batch.
    A neuron that no message reaches keeps its state.

    Args:
        node_channels, edge_channels: feature channels of nodes and edges.
        hidden_channels: of the messages; ``node_channels`` if None, and 0 leaves :math:`m` out.
        aggr: ``"mean"`` or ``"sum"`` (then :math:`g` is not divided by the root of the degree either).
        update_edges: whether edges get new features; otherwise they are handed back as they came.
        gates: number of gates R; 0 leaves :math:`g` out.
        dropout: inside the node update.

    Shapes:
        - x: ``[N, node_channels]``, edge_index: ``[2, E]`` (source, target), edge_attr: ``[E, edge_channels]``
        - result: the new ``x`` and ``edge_attr``, of the same shapes

    Raises:
        ValueError: ``aggr`` is unknown, or the layer would pass no messages.

    >>> layer = NeuronMessagePassing(8, 4)
    >>> x, edge_attr = layer(torch.randn(3, 8), torch.tensor([[0, 1], [2, 2]]), torch.randn(2, 4))
    >>> x.shape, edge_attr.shape
    (torch.Size([3, 8]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        node_channels: int,
        edge_channels: int,
        hidden_channels: int | None = None,
        aggr: str = "mean",
        update_edges: bool = True,
        gates: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if aggr not in ("mean", "sum"):
            raise ValueError(f"aggr={aggr!r} is unknown; the messages' second map commutes with 'mean' and 'sum' only")
        hidden = node_channels if hidden_channels is None else hidden_channels
        if not hidden and not gates:
            raise ValueError("hidden_channels=0 and gates=0 leave no messages; set one of them")
        self.node_channels, self.edge_channels, self.hidden_channels = node_channels, edge_channels, hidden
        self.aggr, self.update_edges, self.gates = aggr, update_edges, gates
        width = node_channels
        if hidden:
            self.source = nn.Linear(node_channels, hidden)
            self.target = nn.Linear(node_channels, hidden, bias=False)
            self.edge = nn.Linear(edge_channels, hidden, bias=False)
            self.message = nn.Linear(hidden, node_channels, bias=False)
            self.message_bias = nn.Parameter(torch.zeros(node_channels))
            width += node_channels
        if gates:
            self.gate = nn.Linear(edge_channels, gates, bias=False)
            nn.init.eye_(self.gate.weight)
            self.value = nn.Linear(node_channels, gates * node_channels, bias=False)
            width += node_channels
        self.update = nn.Sequential(
            nn.Linear(width, 2 * node_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * node_channels, node_channels),
        )
        self.node_norm = nn.LayerNorm(node_channels)
        if update_edges:
            inner = hidden or node_channels
            self.edge_source = nn.Linear(node_channels, inner)
            self.edge_target = nn.Linear(node_channels, inner, bias=False)
            self.edge_edge = nn.Linear(edge_channels, inner, bias=False)
            self.edge_message = nn.Linear(inner, edge_channels)
            self.edge_norm = nn.LayerNorm(edge_channels)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return (
            f"nodes={self.node_channels}, edges={self.edge_channels}, hidden={self.hidden_channels}, "
            f"aggr={self.aggr}, update_edges={self.update_edges}, gates={self.gates}"
        )

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

    def step(
        self, x: Tensor, heard: Sequence[tuple[Bundle, Tensor, Tensor]], degree: Tensor, reverse: bool = False
    ) -> Tensor:
        """New states of one layer ``x [B, n, node_channels]``.

        Args:
            heard: the bundles whose messages arrive here, each with its senders' states and its edges' features.
            degree: messages that arrive at each node, ``[n, 1]``.
            reverse: messages run against the edges.
        """
        if not heard:
            return x
        inputs, count = [x], degree.clamp_min(1).to(x.dtype)
        if self.hidden_channels:
            target = self.target(x)
            total = torch.zeros_like(target)
            for bundle, origin, edge in heard:
                total = total + hidden_sum(self.source(origin), target, self.edge(edge), bundle, reverse)
            if self.aggr == "mean":
                inputs.append(self.message(total / count) + self.message_bias)
            else:
                inputs.append(self.message(total) + self.message_bias * count)
        if self.gates:
            gated = torch.zeros_like(x)
            for bundle, origin, edge in heard:
                value = self.value(origin).unflatten(-1, (self.gates, -1))
                gated = gated + gated_sum(value, self.gate(edge), x.shape[1], bundle, reverse)
            inputs.append(gated / count.sqrt() if self.aggr == "mean" else gated)
        out: Tensor = self.node_norm(x + self.update(torch.cat(inputs, -1)))
        hears = degree > 0
        return out if bool(hears.all()) else torch.where(hears, out, x)

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
