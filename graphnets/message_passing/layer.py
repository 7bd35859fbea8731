"""Message passing between neurons along weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnets.links import Links
from graphnets.message_passing.fused import hidden_sum
from graphnets.message_passing.kernels import gated_sum
from graphnets.message_passing.passing import FusedLayer, both_ends

__all__ = ["NeuronMessagePassing"]


class NeuronMessagePassing(FusedLayer):
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
        super().__init__(node_channels, edge_channels, update_edges)
        if aggr not in ("mean", "sum"):
            raise ValueError(f"aggr={aggr!r} is unknown; the messages' second map commutes with 'mean' and 'sum' only")
        hidden = node_channels if hidden_channels is None else hidden_channels
        if not hidden and not gates:
            raise ValueError("hidden_channels=0 and gates=0 leave no messages; set one of them")
        self.hidden_channels, self.aggr, self.gates = hidden, aggr, gates
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
        self._build_edge_update(hidden or node_channels)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return (
            f"nodes={self.node_channels}, edges={self.edge_channels}, hidden={self.hidden_channels}, "
            f"aggr={self.aggr}, update_edges={self.update_edges}, gates={self.gates}"
        )

    def hear(self, x: Tensor, edges: list[Tensor], links: Links, degree: Tensor) -> tuple[Tensor, list[Tensor]]:
        """New states; see `FusedLayer.hear`."""
        count, mean = degree.clamp_min(1).to(x.dtype), self.aggr == "mean"
        own = x[:, links.heard]
        parts, heard = [own], edges
        if self.hidden_channels:
            total, heard = hidden_sum(both_ends(x, self.source, self.target), self.edge.weight, edges, links)
            total = total[:, links.heard]
            sent = self.message(total / count) if mean else self.message(total)
            parts.append(sent + self.message_bias if mean else sent + self.message_bias * count)
        if self.gates:
            gated = gated_sum(self.value(x), self.gate.weight, edges, links)[:, links.heard]
            parts.append(gated / count.sqrt() if mean else gated)
        return self._settle(own, parts, degree), heard
