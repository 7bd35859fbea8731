"""Attention between neurons along weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnets.layered import Bundle
from graphnets.message_passing.kernels import (
    at_edges,
    attention_scores,
    edge_sum,
    edge_top,
    gated_sum,
    head_edge_sum,
    head_sum,
    joint_scores,
)
from graphnets.message_passing.passing import PassingLayer

__all__ = ["NeuronAttention"]


class NeuronAttention(PassingLayer):
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

    def step(
        self, x: Tensor, heard: Sequence[tuple[Bundle, Tensor, Tensor]], degree: Tensor, reverse: bool = False
    ) -> Tensor:
        """New states of one layer; see `PassingLayer.step`."""
        if not heard:
            return x
        inputs = [x, self.attend(x, heard, reverse)]
        if self.gates:
            signed = torch.zeros_like(x)
            for bundle, origin, edge in heard:
                value = self.signed_value(origin).unflatten(-1, (self.gates, -1))
                signed = signed + gated_sum(value, self.signed_gate(edge), x.shape[1], bundle, reverse)
            inputs.append(signed / degree.clamp_min(1).to(x.dtype).sqrt())
        out: Tensor = self.node_norm(x + self.update(torch.cat(inputs, -1)))
        hears = degree > 0
        return out if bool(hears.all()) else torch.where(hears, out, x)

    def attend(self, x: Tensor, heard: Sequence[tuple[Bundle, Tensor, Tensor]], reverse: bool = False) -> Tensor:
        """What the neurons of one layer hear, ``m [B, n, node_channels]``; zero where nothing arrives."""
        nodes, bundles = x.shape[1], [bundle for bundle, _, _ in heard]
        scores = self._scores(x, heard, reverse)
        tops = [edge_top(score, nodes, bundle, reverse) for score, bundle in zip(scores, bundles, strict=True)]
        top = torch.stack(tops).amax(0)  # of all bundles, so that their weights can be compared
        weights = [
            (score - at_edges(top, bundle, reverse)).exp() for score, bundle in zip(scores, bundles, strict=True)
        ]
        total, squares = torch.zeros_like(top), torch.zeros_like(top)
        for weight, bundle in zip(weights, bundles, strict=True):
            total = total + edge_sum(weight, nodes, bundle, reverse)
            squares = squares + edge_sum(weight.square(), nodes, bundle, reverse)
        # The largest weight that a neuron hears is 1, so the sums are at least 1 wherever it hears any.
        total, root = total.clamp_min(1), squares.clamp_min(1).sqrt()
        mean, signed = self.gate.bias / total, root.reciprocal()
        out = x.new_zeros(*x.shape[:2], self.heads, self.head_channels)
        edges = x.new_zeros(*x.shape[:2], self.heads, self.edge_channels)
        for weight, (bundle, origin, edge) in zip(weights, heard, strict=True):
            gate = functional.linear(edge, self.gate.weight).view(weight.shape)
            gate = gate * at_edges(signed, bundle, reverse) + at_edges(mean, bundle, reverse)
            value = self.value(origin).unflatten(-1, (self.heads, -1))
            out = out + head_sum(weight * gate, value, nodes, bundle, reverse)
            edges = edges + head_edge_sum(weight, edge, nodes, bundle, reverse)
        carried = torch.einsum("bnhe,hce->bnhc", edges / total.unsqueeze(-1), self._by_head(self.edge_value))
        return (out + carried).flatten(2)

    def _by_head(self, layer: nn.Linear) -> Tensor:
        """A map's matrix, ``[heads, head_channels, in]``."""
        return layer.weight.view(self.heads, -1, layer.in_features)

    def _scores(self, x: Tensor, heard: Sequence[tuple[Bundle, Tensor, Tensor]], reverse: bool) -> list[Tensor]:
        """What the softmax is taken of, for every bundle ``[B, rows, cols, heads]`` or ``[B, E, heads]``."""
        size = self.head_channels**-0.5
        query = self.query(x) * size
        if 2 * self.heads * self.edge_channels > self.node_channels:  # multiplied out, edges would be wider
            return [
                joint_scores(
                    query,
                    self.key(origin),
                    self.edge_query(edge) * size,
                    self.edge_key(edge),
                    self.heads,
                    bundle,
                    reverse,
                )
                for bundle, origin, edge in heard
            ]
        edge_query, edge_key = self._by_head(self.edge_query) * size, self._by_head(self.edge_key)
        square = torch.einsum("hcd,hce->hde", edge_query, edge_key).flatten(0, 1)
        key_map = torch.einsum("hcd,hci->hdi", edge_query, self._by_head(self.key)).flatten(0, 1)
        target = torch.einsum("bnhc,hce->bnhe", query.unflatten(-1, (self.heads, -1)), edge_key).flatten(2)
        scores = []
        for bundle, origin, edge in heard:
            mixed = target, functional.linear(origin, key_map), functional.linear(edge, square)
            scores.append(attention_scores(query, self.key(origin), edge, mixed, self.heads, bundle, reverse))
        return scores
