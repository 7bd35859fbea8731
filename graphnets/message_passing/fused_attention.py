r"""Relational attention along edges as one autograd node; see `graphnets.message_passing.fused`.

The softmax of a node's incoming edges is done in two passes: scores with their maxima and sums, then weighted values.
The backward pass needs of the forward one but three numbers per node and head, and what each node heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphnets.links import Links, Tile
from graphnets.message_passing.fused import Outputs, again, edge_grads, fused_or_plain, longest

__all__ = ["attend"]


def attend(
    query: Tensor, sources: Tensor, weight: Tensor, heads: int, edges: Sequence[Tensor], links: Links
) -> tuple[Tensor, Tensor, list[Tensor]]:
    r"""What every node hears by attention, in its two parts, and the edges anew (see `hidden_sum`).

    With key, plain value and signed value :math:`k_j, p_j, v_j` of a source, the maps :math:`A, B, U, G` of edges side
    by side in ``weight``, and per head

    .. math::
        a_{ij} &= \operatorname{softmax}_{j \to i}\ (q_i + A e_{ij}) \cdot (k_j + B e_{ij}) \\
        m_i &= \sum_{j \to i} a_{ij}\, (p_j + U e_{ij}), \qquad
        s_i = \frac{\sum_{j \to i} a_{ij}\, (G \cdot e_{ij})\, v_j}{\sqrt{\sum_{j \to i} a_{ij}^2}}

    Both are zero where nothing arrives.

    Shapes:
        - query: ``[B, N, C]``, sources: ``[B, N, 3 C]``, weight: ``[3 C + heads, D]``, edges: per bundle ``[B, E, D]``
        - results: ``[B, N, C]`` each
    """
    plain, signed, *handed = fused_or_plain(_Attention, _plain, (links, heads), query, sources, weight, *edges)
    return plain, signed, [new if old.requires_grad else old for old, new in zip(edges, handed, strict=True)]


def _plain(about: tuple[Links, int], query: Tensor, sources: Tensor, weight: Tensor, *edges: Tensor) -> Outputs:
    (links, heads), width = about, query.shape[2]
    found, top = [], query.new_full((*query.shape[:2], heads), -torch.inf)
    for tile, edge in zip(links.whole, links.join(edges), strict=True):
        maps = tile.spread(functional.linear(edge, weight)).split([width, width, width, heads], -1)
        key, value, signed = tile.at_source(sources).split(width, -1)
        product = (tile.at_target(query) + maps[0]) * (key + maps[1])
        score = product.unflatten(-1, (heads, -1)).sum(-1)
        with torch.no_grad():
            tile.top(score.reshape(len(edge), heads), top)
        found.append((tile, score, value + maps[2], maps[3], signed.expand_as(product)))
    total = query.new_zeros(2, *top.shape)
    mean, other = torch.zeros_like(query), torch.zeros_like(query)
    for tile, score, value, gate, signed in found:
        part = (score - tile.at_target(top)).exp()
        count = tile.place.stop
        for own, values in zip((mean, other), (value, signed * _widen(gate, width)), strict=True):
            tile.to_target((_widen(part, width) * values).reshape(count, width), own)
        sums = total.clone()
        tile.to_target(part.reshape(count, heads), sums[0])
        tile.to_target(part.square().reshape(count, heads), sums[1])
        total = sums
    mean = mean / _widen(total[0].clamp_min(1), width)
    return mean, other / _widen(total[1].clamp_min(1).sqrt(), width), *edges


def _widen(values: Tensor, width: int) -> Tensor:
    """A number per head at each of the head's channels."""
    return values.repeat_interleave(width // values.shape[-1], -1)


class _Scratch:
    """Room for what is built per edge of a tile, and how heads lie in channels."""

    def __init__(self, like: Tensor, heads: int, tiles: Sequence[Sequence[Tile]]) -> None:
        self.width, self.heads, length = like.shape[2], heads, longest(tiles)
        self.by_head = torch.eye(heads, dtype=like.dtype, device=like.device)
        self.by_head = self.by_head.repeat_interleave(self.width // heads, 0)
        self.maps = like.new_empty(length, 3 * self.width)
        self.grads = like.new_empty(length, 3 * self.width + heads)
        self.one, self.other = like.new_empty(2, length, self.width)

    def columns(self, values: Tensor, number: int) -> Tensor:
        """Query, key or value of every edge among all three."""
        return values[:, number * self.width : (number + 1) * self.width]

    def put(self, tile: Tile, maps: Tensor, number: int, nodes: Tensor) -> None:
        """Write the nodes' part of queries (0), keys (1) or values (2), given at the edges."""
        shaped = tile.spread(self.columns(maps, number))
        shaped.copy_(nodes.expand_as(shaped))

    def summed(self, first: Tensor, second: Tensor, tile: Tile) -> Tensor:
        """Sums over each head's channels of a product ``[E, C]``, ``[E, heads]``; either may be spread."""
        out = self.one[: tile.place.stop - tile.place.start]
        shaped = tile.spread(out)
        torch.mul(first, second, out=shaped)
        return torch.mm(out, self.by_head)

    def widened(self, values: Tensor) -> Tensor:
        """Numbers per head ``[E, heads]`` at each of the head's channels, ``[E, C]``."""
        return torch.mm(values, self.by_head.t(), out=self.other[: len(values)])

    def at(self, table: Tensor, tile: Tile, like: Tensor) -> Tensor:
        """Numbers per node and head at their edges, ``[E, heads]``."""
        shaped = tile.spread(like)
        return tile.at_target(table).expand_as(shaped).reshape(like.shape)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, about: tuple[Links, int], query: Tensor, sources: Tensor, weight: Tensor, *edges: Tensor
    ) -> Outputs:
        ctx.set_materialize_grads(False)
        (links, heads), width = about, query.shape[2]
        parts, tiles = links.join(edges), links.tiles(3 * width, query)
        room, (key, plain, signed) = _Scratch(query, heads, tiles), sources.split(width, -1)
        scores = [query.new_empty(len(values), heads) for values in parts]
        top = query.new_full((*query.shape[:2], heads), -torch.inf)
        for part, values, score in zip(tiles, parts, scores, strict=True):
            for tile in part:
                maps = room.maps[: tile.place.stop - tile.place.start, : 2 * width]
                room.put(tile, maps, 0, tile.at_target(query))
                room.put(tile, maps, 1, tile.at_source(key))
                maps.addmm_(values[tile.place], weight[: 2 * width].t())
                product = torch.mul(room.columns(maps, 0), room.columns(maps, 1), out=room.one[: len(maps)])
                torch.mm(product, room.by_head, out=score[tile.place])
                tile.top(score[tile.place], top)
        total, squares = torch.zeros_like(top), torch.zeros_like(top)
        mean, other = torch.zeros_like(query), torch.zeros_like(query)
        for part, values, score in zip(tiles, parts, scores, strict=True):
            for tile in part:
                edge, shares = values[tile.place], score[tile.place]
                tile.spread(shares).sub_(tile.at_target(top)).exp_()
                tile.to_target(shares, total)
                tile.to_target(shares.square(), squares)
                maps = room.maps[: len(edge), :width]
                shaped = tile.spread(maps)
                shaped.copy_(tile.at_source(plain).expand_as(shaped))
                maps.addmm_(edge, weight[2 * width : 3 * width].t())
                tile.to_target(maps.mul_(room.widened(shares)), mean)
                carried = room.widened(torch.mm(edge, weight[3 * width :].t()).mul_(shares))
                tile.spread(carried).mul_(tile.at_source(signed))
                tile.to_target(carried, other)
        inverse, root = total.clamp_min_(1).reciprocal_(), squares.clamp_min_(1).rsqrt_()
        mean.mul_(inverse @ room.by_head.t())
        other.mul_(root @ room.by_head.t())
        ctx.about = about
        ctx.save_for_backward(query, sources, weight, *edges, top, inverse, root, mean, other)
        return mean, other, *edges

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_other: Tensor | None, *handed: Tensor | None) -> Any:
        (links, heads), saved = ctx.about, ctx.saved_tensors
        inputs, (top, inverse, root, mean, other) = saved[:-5], saved[-5:]
        if torch.is_grad_enabled():
            return again(_plain, ctx.about, inputs, (grad, grad_other, *handed))
        if grad is None and grad_other is None:
            return None, None, None, None, *handed
        query, sources, weight, *edges = inputs
        grad = torch.zeros_like(mean) if grad is None else grad
        grad_other = torch.zeros_like(other) if grad_other is None else grad_other
        width, parts, wanted = query.shape[2], links.join(edges), any(ctx.needs_input_grad[4:])
        into, filled = edge_grads(links, parts, handed) if wanted else ([], [])
        tiles = links.tiles(3 * width, query)
        room = _Scratch(query, heads, tiles)
        wide = room.by_head.t()
        outer, outer_signed = grad * (inverse @ wide), grad_other * (root @ wide)
        # What the softmax takes off each score's gradient, per node and head.
        level = ((grad * mean) @ room.by_head) * inverse
        level_signed = ((grad_other * other) @ room.by_head) * root.square()
        to_query, to_sources, to_weight = map(torch.zeros_like, (query, sources, weight))
        to_key_value, to_signed = to_sources[..., : 2 * width], to_sources[..., 2 * width :]
        for number, (part, values) in enumerate(zip(tiles, parts, strict=True)):
            for tile in part:
                edge, maps = values[tile.place], room.maps[: tile.place.stop - tile.place.start]
                key, plain, signed = tile.at_source(sources).split(width, -1)
                told, told_signed = tile.at_target(outer), tile.at_target(outer_signed)
                for column, nodes in enumerate((tile.at_target(query), key, plain)):
                    room.put(tile, maps, column, nodes)
                maps.addmm_(edge, weight[: 3 * width].t())
                asked, answer, value = (tile.spread(room.columns(maps, n)) for n in range(3))
                shares = room.summed(asked, answer, tile)
                shares.sub_(room.at(top, tile, shares)).exp_()
                back = room.grads[: len(edge)]
                from_other = room.summed(told_signed, signed, tile)
                gate = torch.mm(edge, weight[3 * width :].t())
                score = room.summed(told, value, tile)
                score.sub_(room.at(level, tile, shares)).addcmul_(gate, from_other)
                score.addcmul_(shares, room.at(level_signed, tile, shares), value=-1).mul_(shares)
                torch.mul(shares, from_other, out=back[:, 3 * width :])
                spread = room.widened(score)
                torch.mul(spread, room.columns(maps, 1), out=room.columns(back, 0))
                torch.mul(spread, room.columns(maps, 0), out=room.columns(back, 1))
                wide_shares = tile.spread(room.widened(shares))
                torch.mul(wide_shares, told, out=tile.spread(room.columns(back, 2)))
                tile.to_target(room.columns(back, 0), to_query)
                tile.to_source(back[:, width : 3 * width], to_key_value)
                carried = room.widened(gate.mul_(shares))
                tile.spread(carried).mul_(told_signed)
                tile.to_source(carried, to_signed)
                to_weight.addmm_(back.t(), edge)
                if wanted and filled[number]:
                    into[number][tile.place].addmm_(back, weight)
                elif wanted:
                    torch.mm(back, weight, out=into[number][tile.place])
        to_edges = links.part(into) if wanted else [None] * len(edges)
        return None, to_query, to_sources, to_weight, *to_edges
