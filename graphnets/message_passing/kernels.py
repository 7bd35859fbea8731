"""The sums over edges that layers are made of, each in a dense and an indexed form, and the layers' naive references.

Same parameters and same values as the textbook layers, by identities: a linear map of ``[x_source, x_target, e]``
splits into products per node and per edge; linear maps commute with weighted sums over edges, so that they run once per
node instead of once per edge; and the product of two sums of a node's and an edge's term multiplies out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from graphnets.layered import Bundle

if TYPE_CHECKING:
    from graphnets.message_passing.attention import NeuronAttention
    from graphnets.message_passing.layer import NeuronMessagePassing

__all__ = [
    "at_edges",
    "attention_scores",
    "edge_sum",
    "edge_top",
    "gated_sum",
    "head_edge_sum",
    "head_sum",
    "hidden_sum",
    "joint_scores",
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


def edge_top(values: Tensor, nodes: int, bundle: Bundle, reverse: bool = False) -> Tensor:
    """Largest value over the edges that arrive at each node, without gradient; minus infinity where none does."""
    values = values.detach()
    if bundle.shape is not None:
        return values.amax(1 if reverse else 2)
    end = bundle.ends(reverse)[1].view(1, -1, 1).expand_as(values)
    return values.new_full((len(values), nodes, values.shape[-1]), -torch.inf).scatter_reduce(1, end, values, "amax")


def head_sum(weight: Tensor, value: Tensor, nodes: int, bundle: Bundle, reverse: bool = False) -> Tensor:
    """``sum_j weight_ijh value_jh``, ``[B, n, H, c]``: one matrix product per head.

    Shapes:
        - weight: ``[B, rows, cols, H]`` or ``[B, E, H]``, value: ``[B, m, H, c]``
    """
    if bundle.shape is not None:
        return torch.einsum("bijh,bihc->bjhc" if reverse else "bijh,bjhc->bihc", weight, value)
    messages = weight.unsqueeze(-1) * _take(value.flatten(2), bundle.ends(reverse)[0]).unflatten(-1, value.shape[2:])
    return edge_sum(messages.flatten(2), nodes, bundle, reverse).view(len(value), nodes, *value.shape[2:])


def head_edge_sum(weight: Tensor, edge: Tensor, nodes: int, bundle: Bundle, reverse: bool = False) -> Tensor:
    """``sum_j weight_ijh edge_ij``, ``[B, n, H, D]``; weight as in `head_sum`, edge: ``[B, E, D]``."""
    if bundle.shape is not None:
        grid = edge.unflatten(1, bundle.shape)
        return torch.einsum("bijh,bijd->bjhd" if reverse else "bijh,bijd->bihd", weight, grid)
    messages = weight.unsqueeze(-1) * edge.unsqueeze(-2)
    return edge_sum(messages.flatten(2), nodes, bundle, reverse).view(len(edge), nodes, *messages.shape[2:])


def joint_scores(
    query: Tensor, key: Tensor, edge_query: Tensor, edge_key: Tensor, heads: int, bundle: Bundle, reverse: bool = False
) -> Tensor:
    """``(query_i + edge_query_ij) . (key_j + edge_key_ij)`` per head; results as in `attention_scores`.

    Shapes:
        - query: ``[B, n, C]``, key: ``[B, m, C]``, edge_query, edge_key: ``[B, E, C]``
    """
    if bundle.shape is not None:
        edge_query, edge_key = edge_query.unflatten(1, bundle.shape), edge_key.unflatten(1, bundle.shape)
        key = key.unsqueeze(2 if reverse else 1)
    else:
        key = _take(key, bundle.ends(reverse)[0])
    product = (edge_query + at_edges(query, bundle, reverse)) * (edge_key + key)
    scores: Tensor = product.unflatten(-1, (heads, -1)).sum(-1)
    return scores


def attention_scores(
    query: Tensor,
    key: Tensor,
    edge: Tensor,
    mixed: tuple[Tensor, Tensor, Tensor],
    heads: int,
    bundle: Bundle,
    reverse: bool = False,
) -> Tensor:
    r"""`joint_scores`, multiplied out: nothing of the nodes' width is built per edge of a dense bundle.

    With :math:`A` and :math:`B` the maps of edge features,

    .. math:: (q_i + A e) \cdot (k_j + B e) = q_i \cdot k_j + (B^\top q_i + A^\top k_j + A^\top B\, e) \cdot e

    Args:
        mixed: :math:`B^\top q` ``[B, n, H D]``, :math:`A^\top k` ``[B, m, H D]`` and :math:`A^\top B\, e`
            ``[B, E, H D]`` for D edge channels.

    Shapes:
        - query: ``[B, n, C]``, key: ``[B, m, C]``, edge: ``[B, E, D]``
        - result: ``[B, rows, cols, H]`` for a dense bundle, else ``[B, E, H]``
    """
    target, source, square = mixed
    terms: Tensor = pair_terms(source, target, square, bundle, reverse).unflatten(-1, (heads, -1))
    query, key = query.unflatten(-1, (heads, -1)), key.unflatten(-1, (heads, -1))
    if bundle.shape is not None:
        product = torch.einsum("bjhc,bihc->bijh" if reverse else "bihc,bjhc->bijh", query, key)
        edge = edge.unflatten(1, bundle.shape)
    else:
        origin, end = bundle.ends(reverse)
        product = (_take(query.flatten(2), end) * _take(key.flatten(2), origin)).unflatten(-1, key.shape[2:]).sum(-1)
    return (terms * edge.unsqueeze(-2)).sum(-1) + product


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
