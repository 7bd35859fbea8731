"""What message passing does along edges, as one autograd node each: small memory, every edge read once per pass.

Nothing per edge is kept for the backward pass but the edges' own states and two numbers of each normalisation; the
rest is computed again, tile by tile (see `graphnets.links`). Second derivatives come from the plain expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnets.links import Links, Tile

__all__ = ["again", "edge_grads", "fused_or_plain", "hidden_sum", "longest", "update_edges"]

Outputs = tuple[Tensor, ...]


def hidden_sum(table: Tensor, weight: Tensor, edges: Sequence[Tensor], links: Links) -> tuple[Tensor, list[Tensor]]:
    r"""The sum over incoming edges :math:`\sum_{j \to i} \mathrm{relu}(s_j + t_i + W e_{ij})`.

    Returns the sum and the edges anew. Whatever uses the edges next should use those: its gradient is then added to in
    place. They must be used once at most.

    Shapes:
        - table: :math:`s` and :math:`t` of every node ``[B, N, 2 H]``, weight: ``[H, D]``
        - edges: per bundle ``[B, E, D]``; result: ``[B, N, H]``
    """
    total, *handed = fused_or_plain(_HiddenSum, _plain_hidden_sum, links, table, weight, *edges)
    return total, [new if old.requires_grad else old for old, new in zip(edges, handed, strict=True)]


def update_edges(
    table: Tensor,
    weight: Tensor,
    message: nn.Linear,
    norm: nn.LayerNorm,
    edges: Sequence[Tensor],
    links: Links,
) -> list[Tensor]:
    r"""New states of edges, :math:`\mathrm{LN}(e_{ij} + U_2\, \mathrm{relu}(s_j + t_i + W e_{ij}) + c_2)`.

    Shapes:
        - table: as in `hidden_sum`, weight: ``[H, D]``, edges and result: per bundle ``[B, E, D]``
    """
    parameters = (weight, message.weight, message.bias, norm.weight, norm.bias)
    run = fused_or_plain(_EdgeUpdate, _plain_edge_update, (links, norm.eps), table, *parameters, *edges)
    return list(run)


def fused_or_plain(fused: type[torch.autograd.Function], plain: Callable[..., Outputs], *inputs: Any) -> Outputs:
    """The fused form; while a compiler looks, the plain one, which it fuses in its own way.

    Under autocast, nodes' terms may come in lower precision; along edges all is done in the widest type given.
    """
    if torch.compiler.is_compiling():
        return plain(*inputs)
    about, *tensors = inputs
    widest = reduce(torch.promote_types, (value.dtype for value in tensors))
    with torch.autocast(tensors[0].device.type, enabled=False):
        out: Outputs = fused.apply(about, *(value.to(widest) for value in tensors))
    return out


def again(
    plain: Callable[..., Outputs], about: Any, inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated once more, by the plain expression."""
    with torch.enable_grad():
        own = [value.view_as(value) for value in inputs]  # what led to one input is no business of another's gradient
        outs = plain(about, *own)
    pairs = [(out, grad) for out, grad in zip(outs, grads, strict=True) if grad is not None and out.requires_grad]
    wanted = [value for value in own if value.requires_grad]
    starts, given = [out for out, _ in pairs], [grad for _, grad in pairs]
    found = iter(torch.autograd.grad(starts, wanted, given, create_graph=True, allow_unused=True))
    return (None, *(next(found) if value.requires_grad else None for value in own))


def edge_grads(
    links: Links, parts: Sequence[Tensor], given: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[bool]]:
    """Per part the tensor to which edge gradients are to be added, and whether it holds any yet.

    Gradients that came from the one user of the edges are taken over.
    """
    into, filled = [], []
    for part, values in zip(links.parts, parts, strict=True):
        have = [given[number] for number in part.numbers]
        filled.append(any(grad is not None for grad in have))
        if not filled[-1]:
            into.append(torch.empty_like(values))
        elif len(have) == 1 and have[0] is not None:
            into.append(have[0].reshape(values.shape))
        else:
            pieces = zip(have, values.split(part.edges), strict=True)
            into.append(torch.cat([torch.zeros_like(v) if g is None else g.reshape(v.shape) for g, v in pieces]))
    return into, filled


def _hidden(tile: Tile, table: Tensor, weight: Tensor, edge: Tensor, out: Tensor) -> Tensor:
    """``relu(s_j + t_i + W e_ij)`` of a tile, in the first rows of ``out``."""
    hidden = out[: len(edge)]
    tile.pairs(table, hidden)
    return hidden.addmm_(edge, weight.t()).relu_()


def _plain_hidden(tile: Tile, table: Tensor, weight: Tensor, edge: Tensor) -> Tensor:
    sources, targets = table.unflatten(-1, (2, -1)).unbind(2)
    pairs = tile.at_source(sources) + tile.at_target(targets) + tile.spread(functional.linear(edge, weight))
    return pairs.relu().reshape(len(edge), -1)


def _plain_hidden_sum(links: Links, table: Tensor, weight: Tensor, *edges: Tensor) -> Outputs:
    total = table.new_zeros(*table.shape[:2], len(weight))
    for tile, edge in zip(links.whole, links.join(edges), strict=True):
        tile.to_target(_plain_hidden(tile, table, weight, edge), total)
    return total, *edges


def _plain_edge_update(about: tuple[Links, float], table: Tensor, weight: Tensor, *rest: Tensor) -> Outputs:
    (links, eps), (second, bias, scale, shift, *edges), new = about, rest, []
    for tile, edge in zip(links.whole, links.join(edges), strict=True):
        change = functional.linear(_plain_hidden(tile, table, weight, edge), second, bias)
        new.append(functional.layer_norm(edge + change, scale.shape, scale, shift, eps))
    return tuple(links.part(new))


class _HiddenSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, links: Links, table: Tensor, weight: Tensor, *edges: Tensor) -> Outputs:
        ctx.set_materialize_grads(False)
        ctx.links = links
        ctx.save_for_backward(table, weight, *edges)
        ends, width = table.unflatten(-1, (2, -1)), len(weight)
        total, tiles = table.new_zeros(*table.shape[:2], width), links.tiles(width, table)
        scratch = table.new_empty(longest(tiles), width)
        for part, values in zip(tiles, links.join(edges), strict=True):
            for tile in part:
                tile.to_target(_hidden(tile, ends, weight, values[tile.place], scratch), total)
        return total, *edges

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *handed: Tensor | None) -> Any:
        inputs, links = ctx.saved_tensors, ctx.links
        if grad is None:
            return None, None, None, *handed
        if torch.is_grad_enabled():
            return again(_plain_hidden_sum, links, inputs, (grad, *handed))
        table, weight, *edges = inputs
        parts, wanted = links.join(edges), any(ctx.needs_input_grad[3:])
        into, filled = edge_grads(links, parts, handed) if wanted else ([], [])
        to_table, to_weight = torch.zeros_like(table), torch.zeros_like(weight)
        ends, (to_sources, to_targets) = (table.unflatten(-1, (2, -1)), to_table.unflatten(-1, (2, -1)).unbind(2))
        tiles = links.tiles(len(weight), table)
        scratch = table.new_empty(longest(tiles), len(weight))
        for number, (part, values) in enumerate(zip(tiles, parts, strict=True)):
            for tile in part:
                edge = values[tile.place]
                hidden = _hidden(tile, ends, weight, edge, scratch)
                shaped = tile.spread(hidden)
                _gate(tile.at_target(grad).expand_as(shaped), shaped, shaped)
                tile.to_source(hidden, to_sources)
                tile.to_target(hidden, to_targets)
                to_weight.addmm_(hidden.t(), edge)
                if wanted and filled[number]:
                    into[number][tile.place].addmm_(hidden, weight)
                elif wanted:
                    torch.mm(hidden, weight, out=into[number][tile.place])
        to_edges = links.part(into) if wanted else [None] * len(edges)
        return None, to_table, to_weight, *to_edges


class _EdgeUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, about: tuple[Links, float], table: Tensor, weight: Tensor, *rest: Tensor) -> Outputs:
        ctx.set_materialize_grads(False)
        (links, eps), (second, bias, scale, shift, *edges) = about, rest
        (width, channels), parts = weight.shape, links.join(edges)
        out = [torch.empty_like(values) for values in parts]
        moments = [values.new_empty(2, len(values), 1) for values in parts]
        ends, tiles = table.unflatten(-1, (2, -1)), links.tiles(max(width, channels), table)
        scratch = table.new_empty(longest(tiles), width)
        for number, (part, values) in enumerate(zip(tiles, parts, strict=True)):
            for tile in part:
                edge, new = values[tile.place], out[number][tile.place]
                hidden = _hidden(tile, ends, weight, edge, scratch)
                torch.add(edge, bias, out=new).addmm_(hidden, second.t())
                done, mean, inverse = torch.native_layer_norm(new, scale.shape, scale, shift, eps)
                new.copy_(done)
                moments[number][0, tile.place] = mean
                moments[number][1, tile.place] = inverse
        ctx.about = about
        ctx.save_for_backward(table, weight, *rest, *moments)
        return tuple(links.part(out))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        links, _ = ctx.about
        saved, count = ctx.saved_tensors, len(ctx.saved_tensors) - len(links.parts)
        inputs, moments = saved[:count], saved[count:]
        if torch.is_grad_enabled():
            return again(_plain_edge_update, ctx.about, inputs, grads)
        table, weight, second, bias, scale, shift, *edges = inputs
        (width, channels), parts = weight.shape, links.join(edges)
        wanted = any(ctx.needs_input_grad[7:])
        given, used = edge_grads(links, parts, grads)
        to_table, to_weight, to_second, to_bias, to_scale, to_shift = map(torch.zeros_like, inputs[:6])
        ends, (to_sources, to_targets) = (table.unflatten(-1, (2, -1)), to_table.unflatten(-1, (2, -1)).unbind(2))
        into = [
            torch.empty_like(values) if any_grad else torch.zeros_like(values)
            for values, any_grad in zip(parts, used, strict=True)
        ]
        tiles = links.tiles(max(width, channels), table)
        scratch, other = table.new_empty(2, longest(tiles), width)
        for number, (part, values) in enumerate(zip(tiles, parts, strict=True)):
            for tile in part if used[number] else ():
                edge, change = values[tile.place], into[number][tile.place]
                hidden = _hidden(tile, ends, weight, edge, scratch)
                torch.add(edge, bias, out=change).addmm_(hidden, second.t())
                outer, more_scale, more_shift = torch.ops.aten.native_layer_norm_backward(
                    given[number][tile.place],
                    change,
                    scale.shape,
                    *moments[number][:, tile.place],
                    scale,
                    shift,
                    [True, True, True],
                )
                to_scale += more_scale
                to_shift += more_shift
                to_second.addmm_(outer.t(), hidden)
                to_bias += outer.sum(0)
                inner = torch.mm(outer, second, out=other[: len(edge)])
                _gate(inner, hidden, inner)
                tile.to_source(inner, to_sources)
                tile.to_target(inner, to_targets)
                to_weight.addmm_(inner.t(), edge)
                if wanted:
                    torch.addmm(outer, inner, weight, out=change)
        to_edges = links.part(into) if wanted else [None] * len(edges)
        return None, to_table, to_weight, to_second, to_bias, to_scale, to_shift, *to_edges


def _gate(grad: Tensor, hidden: Tensor, out: Tensor) -> None:
    """The gradient before a ReLU whose output is ``hidden``."""
    torch.ops.aten.threshold_backward.grad_input(grad, hidden, 0, grad_input=out)


def longest(tiles: Sequence[Sequence[Tile]]) -> int:
    """Edges of the largest tile."""
    return max((tile.place.stop - tile.place.start for part in tiles for tile in part), default=0)
