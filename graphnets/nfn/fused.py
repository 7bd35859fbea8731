"""An equivariant linear layer as one autograd node, whose backward pass is the transposed layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphnets.nfn.patterns import Pattern
from graphnets.nfn.plan import Plan
from graphnets.nfn.reading import Reader, written

__all__ = ["fused_layer"]


def fused_layer(
    plan: Plan, aggr: str, parts: Sequence[Tensor], matrices: Sequence[Tensor], bias: Tensor | None
) -> list[Tensor]:
    """What `PermutationLinear.reference` computes, for ``aggr`` mean or sum, all terms, and no learned columns.

    Reading and writing are each other's transposes (up to the sizes that means are divided by), so the gradient runs
    through the same few passes over the weights as the layer itself: autograd would write a tensor of full size for
    every mean and add them up. It keeps the parts and the pooled features; the largest products are added in place. It
    cannot be differentiated twice; `PermutationLinear.reference` can.

    Shapes:
        - parts: ``[B, *unit sizes, F * in_channels]`` per piece; matrices: one per exchange ``[results, features]``
    """
    apply: Callable[..., tuple[Tensor, ...]] = _Layer.apply
    return list(apply(plan, aggr, bias, len(parts), *parts, *matrices))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, aggr: str, bias: Tensor | None, count: int, *tensors: Tensor) -> Any:
        parts, matrices = tensors[:count], tensors[count:]
        read = Reader(plan.pieces, parts, aggr, {})
        features = [_joined([read(p) for p in e.read]) for e in plan.exchanges]
        patterns = [e.written for e in plan.exchanges]
        out = _written(plan, patterns, features, matrices, plan.out_channels, bias)
        ctx.plan, ctx.aggr, ctx.count = plan, aggr, count
        ctx.save_for_backward(*features, *matrices)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        plan: Plan = ctx.plan
        exchanges = plan.exchanges
        features, matrices = ctx.saved_tensors[: len(exchanges)], ctx.saved_tensors[len(exchanges) :]
        read = Reader(plan.pieces, [g.contiguous() for g in gradients], "sum", {})
        results = [_joined([read(p) for p in e.written]) for e in exchanges]
        needed = ctx.needs_input_grad
        bias = None
        if needed[2]:
            bias = next(r.sum(0) for r, e in zip(results, exchanges, strict=True) if not e.key)
        to_matrices = [
            _rows(r).T @ _rows(f) if need else None
            for r, f, need in zip(results, features, needed[4 + ctx.count :], strict=True)
        ]
        to_parts: list[Tensor | None] = [None] * ctx.count
        if any(needed[4 : 4 + ctx.count]):
            transposed = [m.T for m in matrices]
            patterns = [e.read for e in exchanges]
            scales = None if ctx.aggr == "sum" else [[_members(plan, p) for p in e.read] for e in exchanges]
            to_parts = list(_written(plan, patterns, results, transposed, plan.in_channels, None, scales))
        return None, None, bias, None, *to_parts, *to_matrices


def _written(
    plan: Plan,
    patterns: Sequence[Sequence[Pattern]],
    features: Sequence[Tensor],
    matrices: Sequence[Tensor],
    channels: int,
    bias: Tensor | None,
    divisors: Sequence[Sequence[int]] | None = None,
) -> list[Tensor]:
    """Multiply, cut, divide, write; a product that fills a whole piece by itself is added to it in place."""
    results: list[list[tuple[Pattern, Tensor]]] = [[] for _ in plan.pieces]
    last: dict[int, tuple[Tensor, Tensor]] = {}
    for number, (each, x, matrix) in enumerate(zip(patterns, features, matrices, strict=True)):
        if len(each) == 1 and each[0].whole and each[0].kept:
            last[each[0].piece] = (x, matrix)
            continue
        values = torch.nn.functional.linear(x, matrix, None if plan.exchanges[number].key else bias)
        start = 0
        for place, pattern in enumerate(each):
            width = plan.width(pattern, channels)
            part = values.narrow(-1, start, width)
            if divisors is not None and divisors[number][place] != 1:
                part = part / divisors[number][place]
            results[pattern.piece].append((pattern, part))
            start += width
    out = []
    for number, (piece, those) in enumerate(zip(plan.pieces, results, strict=True)):
        total = written(piece, those, {}, new=number in last)
        if number in last:
            x, matrix = last[number]
            _rows(total).addmm_(_rows(x), matrix.T)
        out.append(total)
    return out


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].contiguous() if len(tensors) == 1 else torch.cat(list(tensors), -1)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1])


def _members(plan: Plan, pattern: Pattern) -> int:
    """How many neurons one number of a pattern is the mean of."""
    piece, count = plan.pieces[pattern.piece], 1
    for b in pattern.left:
        count *= piece.units[pattern.blocks[b][0]].size
    return count
