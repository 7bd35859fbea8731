"""Results whose values nobody reads are zeros: a recording needs their shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["SHORTCUTS", "Zeros", "reads_values", "selects"]

aten = torch.ops.aten


class Zeros:
    """Contiguous tensors of zeros, all in one memory: nobody may write to them."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._storages: dict[int, Tensor] = {}

    def like(self, x: Tensor, *shape: int) -> Tensor:
        """Zeros of the dtype of ``x``."""
        key, count = (x.dtype, x.device), math.prod(shape)
        block = self._blocks.get(key)
        if block is None or block.numel() < count:
            least = 0 if block is None else 2 * block.numel()
            block = self._blocks[key] = torch.zeros(max(count, least), dtype=x.dtype, device=x.device)
            self._storages[block.untyped_storage()._cdata] = block
        return block[:count].view(shape)

    def hold(self, x: Any) -> bool:
        """Whether a tensor lies in this memory."""
        return isinstance(x, Tensor) and x.untyped_storage()._cdata in self._storages


def _mm(zeros: Zeros, a: Tensor, b: Tensor) -> Tensor | None:
    return zeros.like(a, a.shape[0], b.shape[1]) if a.shape[1] == b.shape[0] else None


def _addmm(zeros: Zeros, bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    return _mm(zeros, a, b) if bias.dim() == 1 and bias.shape[0] in (1, b.shape[1]) else None


def _bmm(zeros: Zeros, a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1]
    return zeros.like(a, a.shape[0], a.shape[1], b.shape[2]) if fits else None


def _convolution(
    zeros: Zeros, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, *rest: Any
) -> Tensor | None:
    transposed, _, groups = rest
    rank = weight.dim() - 2
    plain = x.is_contiguous() and weight.is_contiguous() and not transposed and x.dim() == rank + 2
    if not plain or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    each = zip(*(tuple(v) * (rank if len(v) == 1 else 1) for v in (padding, dilation, stride)), strict=True)
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, (p, d, s) in zip(x.shape[2:], weight.shape[2:], each, strict=True)
    ]
    return zeros.like(x, x.shape[0], weight.shape[0], *sizes) if min(sizes) > 0 else None


def _elementwise(zeros: Zeros, x: Tensor, *others: Any, **more: Any) -> Tensor | None:
    tensors = [other for other in others if isinstance(other, Tensor)]
    alike = all(y.is_contiguous() and y.shape == x.shape and y.dtype == x.dtype for y in (x, *tensors))
    real = x.is_floating_point() and not any(isinstance(other, complex) for other in others)
    return zeros.like(x, *x.shape) if alike and real else None


def _attention(
    zeros: Zeros, q: Tensor, k: Tensor, v: Tensor, *rest: Any, attn_mask: Tensor | None = None, scale: Any = None
) -> tuple[Tensor, Tensor] | None:
    batch, heads, length, size = q.shape
    fits = k.shape == v.shape and tuple(k.shape[:2]) == (batch, heads) and k.shape[3] == size
    if not fits or q.dtype != torch.float32 or not q.transpose(1, 2).is_contiguous():
        return None
    out = zeros.like(q, batch, length, heads, size).transpose(1, 2)
    return out, zeros.like(q, batch, length, heads).transpose(1, 2)


def _layer_norm(
    zeros: Zeros, x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...] | None:
    outer = x.dim() - len(shape)
    if not x.is_contiguous() or tuple(x.shape[outer:]) != tuple(shape) or x.dtype != torch.float32:
        return None
    if any(p is not None and tuple(p.shape) != tuple(shape) for p in (weight, bias)):
        return None
    moments = (*x.shape[:outer], *[1] * len(shape))
    return zeros.like(x, *x.shape), zeros.like(x, *moments), zeros.like(x, *moments)


SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    aten.convolution.default: _convolution,
    aten.gelu.default: _elementwise,
    aten.relu.default: _elementwise,
    aten.add.Tensor: _elementwise,
    aten.mul.Tensor: _elementwise,
    aten.roll.default: _elementwise,
    aten.native_layer_norm.default: _layer_norm,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}
"""The costly operations: tensors of zeros with the shape, dtype and strides of what they compute.

None where the arguments are not the usual ones, and the operation itself has to say what comes out or what is wrong.
"""

_UNTAGGED = {"_pack_padded_sequence", "_pad_packed_sequence", "_ctc_loss", "segment_reduce"}


@cache
def _dynamic(func: Any) -> bool:
    return torch.Tag.dynamic_output_shape in func.tags or (func.namespace == "torchvision" and "nms" in func.name())


def selects(func: Any, args: Any) -> bool:
    """Whether the shape of what an operation makes depends on values. An index by numbers does not: only masks do."""
    if func is aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return _dynamic(func)


@cache
def _foreign(func: Any) -> bool:
    if func.namespace not in ("aten", "prims", "prim") or func._opname in _UNTAGGED:
        return True
    return torch.Tag.data_dependent_output in func.tags


def reads_values(func: Any, args: Any) -> bool:
    """Whether what an operation makes may depend on the values of its operands in more than values."""
    return selects(func, args) or _foreign(func)
