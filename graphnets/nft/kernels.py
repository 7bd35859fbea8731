"""The two halves of an NFT block, each as one autograd node that works on what fits into a processor's cache.

Values and first derivatives are those of the textbook formulas; the tests compare them with these in float64. Both are
computed in the parameters' precision, under autocast too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from graphnets.nft.fibres import gather, scatter
from graphnets.nft.rows import Rows

__all__ = ["AttentionPlan", "attend", "feed_forward"]

CHUNK = 2**21
"""Bytes of features that are worked on at a time, on CPUs."""

EPS = 1e-5

Step = TypeVar("Step", bound=Callable[..., Any])


def _without_autocast(step: Step) -> Step:
    """A step of an autograd node whose products keep the precision of what they are given."""

    @wraps(step)
    def run(ctx: Any, first: Tensor, *rest: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return step(ctx, first, *rest)

    return cast(Step, run)


class AttentionPlan(NamedTuple):
    """What `attend` does.

    Args:
        rows: where the fibres are.
        heads: of the channels.
        fibres: whether fibres attend to each other (Eq. 4 and 5).
        pooled: ``"mean"`` or ``"sum"`` of the tensors that attend to each other (Eq. 6); None: they do not.
        residual: whether the input is added to the result.
        dropout: of the fibres' attention weights.
    """

    rows: Rows
    heads: int
    fibres: bool = True
    pooled: str | None = "mean"
    residual: bool = False
    dropout: float = 0.0


def attend(
    rows: Tensor, weight: Tensor, bias: Tensor | None, norm: tuple[Tensor, Tensor] | None, plan: AttentionPlan
) -> Tensor:
    """Weight-space self-attention of rows, normalised first if there is a ``norm``.

    Args:
        rows: ``[B, N, C]``.
        weight, bias: theta_Q, theta_K and theta_V, ``[3 C, C]`` and ``[3 C]``.
        norm: scale and shift of a LayerNorm, ``[C]`` each.
        plan: the rest.

    Shapes:
        - result: ``[B, N, C]``
    """
    scale, shift = (None, None) if norm is None else norm
    rows = rows.to(weight.dtype)
    apply: Callable[..., Tensor] = _Attend.apply
    return apply(rows, weight, bias, scale, shift, plan)


class _Attend(torch.autograd.Function):
    """Keeps the input and the attention weights."""

    @staticmethod
    @_without_autocast
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        plan: AttentionPlan,
    ) -> Tensor:
        rows = rows.contiguous()
        out = torch.empty_like(rows)
        kept: list[Tensor] = []
        chunks = list(_chunks(len(rows), rows.shape[1:].numel() * rows.element_size(), rows))
        heard = pooled = None
        if plan.pooled is not None:
            normals = (_normalise(rows[part], scale, shift)[0] for part in chunks)
            pooled = torch.cat([plan.rows.pool(normal, plan.pooled == "mean") for normal in normals])
            heard = _pooled_attention(pooled, weight, bias, plan.heads)
        for part in chunks:
            x, y = rows[part], out[part]
            _start(x, y, None if heard is None else heard[part], plan)
            if plan.fibres:
                normal = _normalise(x, scale, shift)[0]
                kept += _attend_fibres(_linear(normal, weight, bias), y, plan)
        ctx.plan = plan
        ctx.save_for_backward(rows, weight, bias, scale, shift, pooled, *kept)
        return out

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: AttentionPlan = ctx.plan
        rows, weight, bias, scale, shift, pooled, *rest = ctx.saved_tensors
        kept, grad = iter(rest), grad.contiguous()
        into = torch.empty_like(rows)
        grads = [None if t is None else torch.zeros_like(t) for t in (weight, bias, scale, shift)]
        to_pooled = None if pooled is None else _pooled_backward(pooled, grad, weight, bias, grads, plan)
        for part in _chunks(len(rows), rows.shape[1:].numel() * rows.element_size(), rows):
            x, above = rows[part], grad[part]
            normal, mean, deviation = _normalise(x, scale, shift)
            if plan.fibres:
                below = _fibres_backward(_linear(normal, weight, bias), above, kept, plan).flatten(0, 1)
                below_normal = (below @ weight).view_as(x)
                _add_linear(grads, below, normal.flatten(0, 1))
            else:
                below_normal = torch.zeros_like(x)
            if to_pooled is not None:
                for target, one in zip(plan.rows.flat(below_normal), to_pooled[part].split(1, 1), strict=True):
                    target.add_(one, alpha=1 / target.shape[1] if plan.pooled == "mean" else 1)
            result = _normalise_backward(below_normal, x, mean, deviation, scale, shift, grads)
            torch.add(result, above, out=into[part]) if plan.residual else into[part].copy_(result)
        return (into, *grads, None)


def _chunks(count: int, size: int, like: Tensor) -> Iterator[slice]:
    """Ranges of ``count`` things of ``size`` bytes each."""
    step = max(1, CHUNK // max(size, 1)) if like.device.type == "cpu" else max(count, 1)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _normalise(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if scale is None:
        return x, x, x
    return torch.native_layer_norm(x, x.shape[-1:], scale, shift, EPS)


def _normalise_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    deviation: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    grads: list[Tensor | None],
) -> Tensor:
    """The gradient of `_normalise`; those of its parameters are added to the last two of ``grads``."""
    if scale is None:
        return grad
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        grad, x, x.shape[-1:], mean, deviation, scale, shift, [True, True, True]
    )
    for total, value in zip(grads[-2:], found[1:], strict=True):
        assert total is not None
        total += value
    return found[0]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = x @ weight.T
    return out if bias is None else out.add_(bias)


def _add_linear(grads: list[Tensor | None], above: Tensor, x: Tensor) -> None:
    """Gradients of a linear map's weight and bias, added to the first two of ``grads``."""
    weight, bias = grads[:2]
    assert weight is not None
    weight.addmm_(above.T, x)
    if bias is not None:
        bias += above.sum(0)


def _start(x: Tensor, y: Tensor, heard: Tensor | None, plan: AttentionPlan) -> None:
    """Write the residual and what each piece hears from the others, ``[B, pieces, C]``, to ``y``."""
    if heard is None:
        y.copy_(x) if plan.residual else y.zero_()
        return
    for source, target, one in zip(plan.rows.flat(x), plan.rows.flat(y), heard.split(1, 1), strict=True):
        torch.add(source, one, out=target) if plan.residual else target.copy_(one.expand_as(target))


def _pooled_attention(pooled: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Attention among the tensors of a network, ``[B, pieces, C]`` to the same."""
    qkv = functional.linear(pooled, weight, bias).unflatten(-1, (3, heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    out: Tensor = (weights @ value).transpose(1, 2).flatten(2)
    return out


def _pooled_backward(
    pooled: Tensor, above: Tensor, weight: Tensor, bias: Tensor | None, grads: list[Tensor | None], plan: AttentionPlan
) -> Tensor:
    """The gradient for ``pooled``, from that of the rows; those of the parameters are added to the first ``grads``."""
    inputs = [t.detach().requires_grad_() for t in (pooled, weight, bias) if t is not None]
    with torch.enable_grad():
        out = _pooled_attention(inputs[0], inputs[1], None if bias is None else inputs[2], plan.heads)
    below, *others = torch.autograd.grad(out, inputs, plan.rows.pool(above, mean=False))
    for total, value in zip(grads, others, strict=False):
        if total is not None:
            total += value
    return below


def _attend_fibres(qkv: Tensor, out: Tensor, plan: AttentionPlan) -> list[Tensor]:
    """Add what fibres hear to ``out``; the attention weights, with masks of dropout behind them."""
    parts = plan.rows.split(qkv, 3, plan.heads, qkv.shape[-1] // plan.heads // 3)
    outs = plan.rows.split(out, 1, plan.heads, out.shape[-1] // plan.heads)
    kept = []
    for fibres in plan.rows.fibres:
        query, key, value = gather(fibres, parts, mean=True).flatten(1, 3).flatten(3)
        weights = torch.bmm(query, key.mT).mul_(query.shape[-1] ** -0.5).softmax(-1)
        kept.append(weights)
        if plan.dropout:
            weights, mask = torch.native_dropout(weights, plan.dropout, True)
            kept.append(mask)
        scatter(fibres, torch.bmm(weights, value), outs, mean=False)
    return kept


def _fibres_backward(qkv: Tensor, grad: Tensor, kept: Iterator[Tensor], plan: AttentionPlan) -> Tensor:
    """The gradient for ``qkv`` of `_attend_fibres`."""
    parts = plan.rows.split(qkv, 3, plan.heads, qkv.shape[-1] // plan.heads // 3)
    grads = plan.rows.split(grad, 1, plan.heads, grad.shape[-1] // plan.heads)
    total = torch.empty_like(qkv)
    totals = plan.rows.split(total, 3, plan.heads, qkv.shape[-1] // plan.heads // 3)
    for fibres in plan.rows.fibres:
        query, key, value = gather(fibres, parts, mean=True).flatten(1, 3).flatten(3)
        (above,) = gather(fibres, grads, mean=False).flatten(1, 3).flatten(3)
        weights = used = next(kept)
        into = torch.bmm(above, value.mT)
        if plan.dropout:
            mask = next(kept) / (1 - plan.dropout)
            used, into = weights * mask, into * mask
        scores = torch._softmax_backward_data(into, weights, -1, weights.dtype).mul_(query.shape[-1] ** -0.5)
        three = torch.empty(3, *query.shape, dtype=query.dtype, device=query.device)
        torch.bmm(scores, key, out=three[0])
        torch.bmm(scores.mT, query, out=three[1])
        torch.bmm(used.mT, above, out=three[2])
        scatter(fibres, three, totals, mean=True, fresh=True)
    for piece in plan.rows.bare:
        totals[piece].zero_()
    return total


def feed_forward(
    rows: Tensor, inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor], norm: tuple[Tensor, Tensor]
) -> Tensor:
    r"""``x + W_2 gelu(W_1 LN(x) + b_1) + b_2`` of every element.

    Args:
        rows: ``[B, N, C]``.
        inner, outer: weights and biases of the maps C to H and H to C.
        norm: scale and shift of the LayerNorm.
    """
    rows = rows.to(norm[0].dtype)
    apply: Callable[..., Tensor] = _FeedForward.apply
    return apply(rows, *inner, *outer, *norm)


class _FeedForward(torch.autograd.Function):
    """Keeps the input alone."""

    @staticmethod
    @_without_autocast
    def forward(
        ctx: Any, rows: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor:
        x = rows.flatten(0, -2).contiguous()
        out = torch.empty_like(x)
        for part in _chunks(len(x), len(w1) * x.element_size(), x):
            hidden = torch.mm(_normalise(x[part], scale, shift)[0], w1.T).add_(b1)
            torch.addmm(x[part], functional.gelu(hidden), w2.T, out=out[part]).add_(b2)
        ctx.save_for_backward(x, w1, b1, w2, scale, shift)
        return out.view_as(rows)

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2, scale, shift = ctx.saved_tensors
        flat = grad.reshape(x.shape)
        into = torch.empty_like(x)
        first: list[Any] = [torch.zeros_like(parameter) for parameter in (w1, b1, scale, shift)]
        second: list[Any] = [torch.zeros_like(w2), x.new_zeros(len(w2))]
        for part in _chunks(len(x), len(w1) * x.element_size(), x):
            above = flat[part]
            normal, mean, deviation = _normalise(x[part], scale, shift)
            hidden = torch.mm(normal, w1.T).add_(b1)
            _add_linear(second, above, functional.gelu(hidden))
            inner = torch.ops.aten.gelu_backward(above @ w2, hidden)
            _add_linear(first, inner, normal)
            below = _normalise_backward(inner @ w1, x[part], mean, deviation, scale, shift, first)
            torch.add(below, above, out=into[part])
        return (into.view_as(grad), *first[:2], *second, *first[2:])
