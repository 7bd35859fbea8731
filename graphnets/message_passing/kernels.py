"""Sums over edges in plain operations, each in a dense and an indexed form, and the layers' naive references.

What runs through every message, and not once per bundle, is in `graphnets.message_passing.fused`. The identities are
the same: a linear map of ``[x_source, x_target, e]`` splits into products per node and per edge, and linear maps
commute with weighted sums over edges, so that they run once per node instead of once per edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from graphnets.layered import Bundle
from graphnets.links import Grid, Links

if TYPE_CHECKING:
    from graphnets.message_passing.attention import NeuronAttention
    from graphnets.message_passing.layer import NeuronMessagePassing

__all__ = [
    "at_edges",
    "edge_sum",
    "gated_sum",
    "pair_terms",
    "reference_attention",
    "reference_message_passing",
]


def pair_terms(source: Tensor, target: Tensor, edge: Tensor, bundle: Bundle, reverse: bool = False) -> Tensor:
    """``source_j + target_i + edge_ij`` of every edge.

    Shapes:
        - source: ``[B, m, H]``, target: ``[B, n, H]``, edge: ``[B, E, H]``
        - result: ``[B, rows, cols, H]`` for a dense bundle, else ``[B, E, H]``
    """
    if bundle.shape is not None:
        rows = source.unsqueeze(2) if reverse else target.unsqueeze(2)
        cols = target.unsqueeze(1) if reverse else source.unsqueeze(1)
        grid: Tensor = edge.unflatten(1, bundle.shape)
        return grid.add(cols).add_(rows)
    origin, end = bundle.ends(reverse)
    return edge.add(source[:, origin]).add_(target[:, end])


def gated_sum(values: Tensor, weight: Tensor, edges: Sequence[Tensor], links: Links) -> Tensor:
    """``sum_j sum_r (weight_r . edge_ij) value_jr``, ``[B, N, C]``: a matrix product per dense bundle.

    Shapes:
        - values: ``[B, N, R C]``, weight: ``[R, D]``, edges: per bundle ``[B, E, D]``
    """
    gates = len(weight)
    total = values.new_zeros(*values.shape[:2], values.shape[2] // gates)
    for tile, edge in zip(links.whole, links.join(edges), strict=True):
        gate = functional.linear(edge, weight)
        if isinstance(tile, Grid):
            matrix, value = tile.spread(gate), tile.at_source(values).flatten(1, 2)
            matrix = matrix.transpose(1, 2) if tile.reverse else matrix
            heard = torch.bmm(matrix.flatten(2), value.unflatten(-1, (gates, -1)).flatten(1, 2))
            total[:, tile.cols if tile.reverse else tile.rows] += heard
        else:
            value = tile.at_source(values).unflatten(-1, (gates, -1))
            tile.to_target((gate.unsqueeze(-1) * value).sum(1), total)
    return total


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``[B, E, K]`` of ``values [B, n, K]``; quicker than indexing where B is 1, above all to differentiate."""
    if len(values) > 1:
        return values.index_select(1, index)
    return values[0].gather(0, index.unsqueeze(1).expand(-1, values.shape[-1])).unsqueeze(0)


def at_edges(values: Tensor, bundle: Bundle, reverse: bool = False) -> Tensor:
    """Values of receiving nodes ``[B, n, K]`` at their edges: ``[B, E, K]``, or what broadcasts to the dense grid."""
    if bundle.shape is not None:
        return values.unsqueeze(1 if reverse else 2)
    return _take(values, bundle.ends(reverse)[1])


def edge_sum(values: Tensor, nodes: int, bundle: Bundle, reverse: bool = False) -> Tensor:
    """Sum over the edges that arrive at each node, ``[B, n, K]``, of ``[B, rows, cols, K]`` or ``[B, E, K]``."""
    if bundle.shape is not None:
        return values.sum(1 if reverse else 2)
    end, total = bundle.ends(reverse)[1], values.new_zeros(len(values), nodes, values.shape[-1])
    if len(values) > 1:
        return total.index_add(1, end, values)
    return total[0].scatter_add(0, end.unsqueeze(1).expand_as(values[0]), values[0]).unsqueeze(0)


def reference_message_passing(
    layer: NeuronMessagePassing, x: Tensor, edge_index: Tensor, edge_attr: Tensor
) -> tuple[Tensor, Tensor]:
    """What `NeuronMessagePassing` computes, as a textbook writes it: one concatenation and two maps per edge.

    Slow; the fast paths are tested against it.
    """
    source, target = edge_index
    count = torch.bincount(target, minlength=len(x)).unsqueeze(1).to(x.dtype)

    def aggregate(messages: Tensor) -> Tensor:
        return messages.new_zeros(len(x), messages.shape[1]).index_add(0, target, messages)

    inputs = [x]
    if layer.hidden_channels:
        weight = torch.cat([layer.source.weight, layer.target.weight, layer.edge.weight], 1)
        hidden = functional.linear(torch.cat([x[source], x[target], edge_attr], 1), weight, layer.source.bias).relu()
        messages = functional.linear(hidden, layer.message.weight, layer.message_bias)
        inputs.append(aggregate(messages) / (count.clamp_min(1) if layer.aggr == "mean" else 1))
    if layer.gates:
        values = layer.value(x[source]).unflatten(-1, (layer.gates, -1))
        gated = aggregate((layer.gate(edge_attr).unsqueeze(-1) * values).sum(1))
        inputs.append(gated / (count.clamp_min(1).sqrt() if layer.aggr == "mean" else 1))
    x = torch.where(count > 0, layer.node_norm(x + layer.update(torch.cat(inputs, 1))), x)
    if layer.update_edges:
        weight = torch.cat([layer.edge_source.weight, layer.edge_target.weight, layer.edge_edge.weight], 1)
        hidden = functional.linear(torch.cat([x[source], x[target], edge_attr], 1), weight, layer.edge_source.bias)
        edge_attr = layer.edge_norm(edge_attr + layer.edge_message(hidden.relu()))
    return x, edge_attr


def reference_attention(
    layer: NeuronAttention, x: Tensor, edge_index: Tensor, edge_attr: Tensor
) -> tuple[Tensor, Tensor]:
    """What `NeuronAttention` computes, as a textbook writes it: query, key and value per edge, and node by node.

    Slow; the fast paths are tested against it.
    """
    source, target = edge_index

    def split(values: Tensor) -> Tensor:
        return values.view(*values.shape[:-1], layer.heads, -1)

    query = split(layer.query(x)[target] + layer.edge_query(edge_attr))
    key = split(layer.key(x)[source] + layer.edge_key(edge_attr))
    score = (query * key).sum(-1) / layer.head_channels**0.5
    value, gate = split(layer.value(x)[source]), functional.linear(edge_attr, layer.gate.weight)
    plain = layer.gate.bias.unsqueeze(-1) * value + split(layer.edge_value(edge_attr))
    new = []
    for node in range(len(x)):
        here = target == node
        if not bool(here.any()):
            new.append(x[node])
            continue
        attention = score[here].softmax(0).unsqueeze(-1)
        mean = (attention * plain[here]).sum(0)
        signed = (attention * gate[here].unsqueeze(-1) * value[here]).sum(0) / attention.square().sum(0).sqrt()
        heard = [x[node], (mean + signed).flatten()]
        if layer.gates:
            values = layer.signed_value(x[source[here]]).unflatten(-1, (layer.gates, -1))
            gated = layer.signed_gate(edge_attr[here]).unsqueeze(-1) * values
            heard.append(gated.sum((0, 1)) / int(here.sum()) ** 0.5)
        new.append(layer.node_norm(x[node] + layer.update(torch.cat(heard))))
    x = torch.stack(new)
    if layer.update_edges:
        weight = torch.cat([layer.edge_source.weight, layer.edge_target.weight, layer.edge_edge.weight], 1)
        hidden = functional.linear(torch.cat([x[source], x[target], edge_attr], 1), weight, layer.edge_source.bias)
        edge_attr = layer.edge_norm(edge_attr + layer.edge_message(hidden.relu()))
    return x, edge_attr
