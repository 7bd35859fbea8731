"""The sums over edges that message passing is made of, each in a dense and an indexed form, and their naive reference.

Same parameters and same values as the textbook layer, by two identities: a linear map of ``[x_source, x_target, e]``
splits into products per node and per edge; and for sums and means the messages' second linear map commutes with the
aggregation, so it runs once per node instead of once per edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from graphnets.layered import Bundle

if TYPE_CHECKING:
    from graphnets.message_passing.layer import NeuronMessagePassing

__all__ = ["gated_sum", "hidden_sum", "pair_terms", "reference_message_passing"]


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


def hidden_sum(source: Tensor, target: Tensor, edge: Tensor, bundle: Bundle, reverse: bool = False) -> Tensor:
    """``sum_j relu(source_j + target_i + edge_ij)``, ``[B, n, H]``; shapes as in `pair_terms`."""
    hidden = functional.relu(pair_terms(source, target, edge, bundle, reverse), inplace=True)
    if bundle.shape is not None:
        return hidden.sum(1 if reverse else 2)
    return torch.zeros_like(target).index_add(1, bundle.ends(reverse)[1], hidden)


def gated_sum(value: Tensor, gate: Tensor, nodes: int, bundle: Bundle, reverse: bool = False) -> Tensor:
    """``sum_j sum_r gate_ijr value_jr``, ``[B, n, C]``.

    Shapes:
        - value: ``[B, m, R, C]``, gate: ``[B, E, R]``; ``nodes`` is n
    """
    if bundle.shape is not None:
        matrix = gate.unflatten(1, bundle.shape)
        matrix = matrix.transpose(1, 2) if reverse else matrix
        return torch.bmm(matrix.flatten(2), value.flatten(1, 2))
    origin, end = bundle.ends(reverse)
    messages = (gate.unsqueeze(-1) * value[:, origin]).sum(2)
    return messages.new_zeros(len(messages), nodes, messages.shape[-1]).index_add(1, end, messages)


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
