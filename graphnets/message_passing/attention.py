"""Attention between neurons along weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnets.links import Links
from graphnets.message_passing.fused_attention import attend
from graphnets.message_passing.kernels import gated_sum
from graphnets.message_passing.passing import FusedLayer

__all__ = ["NeuronAttention"]


class NeuronAttention(FusedLayer):
    r"""Attention along edges whose features enter queries, keys and values (relational attention).

    The transformer of Diao & Loynd 2023 (arXiv:2210.05062) in the form that Kofinas et al. 2024 (arXiv:2403.12143)
    give it for neural graphs. For every edge :math:`j \to i` and head (of width :math:`c`)

    .. math::
        q_{ij} &= W_q x_i + b_q + A e_{ij}, \qquad k_{ij} = W_k x_j + B e_{ij}, \qquad
        a_{ij} = \operatorname{softmax}_{j \to i}\ q_{ij} \cdot k_{ij} / \sqrt{c} \\
        m_i &= \sum_{j \to i} a_{ij}\, (g\, V x_j + U e_{ij})
             + \frac{\sum_{j \to i} a_{ij}\, (G \cdot e_{ij})\, V x_j}{\sqrt{\sum_{j \to i} a_{ij}^2}} \\
        s_i &= \tfrac{1}{\sqrt{d_i}} \sum_{j \to i} \sum_r (w_r \cdot e_{ij})\, V_r x_j \\
        x'_i &= \mathrm{LN}(x_i + \mathrm{MLP}[x_i, m_i, s_i]) \\
        e'_{ij} &= \mathrm{LN}(e_{ij} + U_2\, \mathrm{relu}(U_1 [x'_j, x'_i, e_{ij}] + c_1) + c_2)

    with :math:`m_i` of all heads side by side. The softmax runs over all edges that arrive at a neuron, whichever
    layers they come from, and over nothing else: a weight of zero is an edge like any other, and there is no padding.
    A neuron that no edge reaches keeps its state.

    Deviations from the papers:

    - The gate on values is one number per head, so that the sum over edges is a matrix product.
    - Its part that is linear in the edge features is divided by the root of :math:`\sum_j a_{ij}^2` instead of being a
      mean. Weights have signs, and the mean of :math:`d` of them shrinks as :math:`1/\sqrt{d}`; this way independent
      signed terms add up to the same size for every in-degree and every attention.
    - :math:`s` hears all sources alike, as a neuron does: the gated message of `NeuronMessagePassing`.

    Args:
        node_channels, edge_channels: feature channels of nodes and edges.
        heads: of the attention.
        update_edges: whether edges get new features; otherwise they are handed back as they came.
        dropout: inside the node update.
        gates: number of gates r; 0 leaves :math:`s` out.

    Shapes:
        - x: ``[N, node_channels]``, edge_index: ``[2, E]`` (source, target), edge_attr: ``[E, edge_channels]``
        - result: the new ``x`` and ``edge_attr``, of the same shapes

    Raises:
        ValueError: ``heads`` does not divide ``node_channels``.

    >>> layer = NeuronAttention(8, 4)
    >>> x, edge_attr = layer(torch.randn(3, 8), torch.tensor([[0, 1], [2, 2]]), torch.randn(2, 4))
    >>> x.shape, edge_attr.shape
    (torch.Size([3, 8]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        node_channels: int,
        edge_channels: int,
        heads: int = 4,
        update_edges: bool = True,
        dropout: float = 0.0,
        gates: int = 1,
    ) -> None:
        if heads < 1 or node_channels % heads:
            raise ValueError(f"heads={heads} does not divide node_channels={node_channels}; choose a divisor")
        super().__init__(node_channels, edge_channels, update_edges)
        self.heads, self.head_channels, self.gates = heads, node_channels // heads, gates
        self.query = nn.Linear(node_channels, node_channels)
        self.key = nn.Linear(node_channels, node_channels, bias=False)
        self.edge_query = nn.Linear(edge_channels, node_channels, bias=False)
        self.edge_key = nn.Linear(edge_channels, node_channels, bias=False)
        self.value = nn.Linear(node_channels, node_channels, bias=False)
        self.edge_value = nn.Linear(edge_channels, node_channels, bias=False)
        self.gate = nn.Linear(edge_channels, heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        with torch.no_grad():  # at first, heads read the first two edge channels in turn
            for channel in range(min(2, edge_channels)):
                self.gate.weight[channel::2, channel] = 1
        if gates:
            self.signed_gate = nn.Linear(edge_channels, gates, bias=False)
            nn.init.eye_(self.signed_gate.weight)
            self.signed_value = nn.Linear(node_channels, gates * node_channels, bias=False)
        self.update = nn.Sequential(
            nn.Linear((3 if gates else 2) * node_channels, 2 * node_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * node_channels, node_channels),
        )
        self.node_norm = nn.LayerNorm(node_channels)
        self._build_edge_update(node_channels)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return (
            f"nodes={self.node_channels}, edges={self.edge_channels}, heads={self.heads}, "
            f"update_edges={self.update_edges}, gates={self.gates}"
        )

    def hear(self, x: Tensor, edges: list[Tensor], links: Links, degree: Tensor) -> tuple[Tensor, list[Tensor]]:
        """New states; see `FusedLayer.hear`."""
        own = x[:, links.heard]
        mean, signed, heard = self.attend(x, edges, links)
        parts = [own, (mean + signed)[:, links.heard]]
        if self.gates:
            gated = gated_sum(self.signed_value(x), self.signed_gate.weight, edges, links)[:, links.heard]
            parts.append(gated / degree.clamp_min(1).to(x.dtype).sqrt())
        return self._settle(own, parts, degree), heard

    def attend(self, x: Tensor, edges: list[Tensor], links: Links) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The two parts of what the neurons ``x [B, N, node_channels]`` hear, and the edges; see `attend`."""
        size = self.head_channels**-0.5
        gain = self.gate.bias.repeat_interleave(self.head_channels).unsqueeze(1)
        told = functional.linear(x, torch.cat([self.key.weight, gain * self.value.weight, self.value.weight]))
        maps = [size * self.edge_query.weight, self.edge_key.weight, self.edge_value.weight, self.gate.weight]
        return attend(self.query(x) * size, told, torch.cat(maps), self.heads, edges, links)
