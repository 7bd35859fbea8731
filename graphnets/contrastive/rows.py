"""All numbers of a network in a row, buffers too, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from converters import Parameter, Structure
from converters.weights import checked_weights

__all__ = ["from_rows", "held", "to_rows"]


def held(structure: Structure) -> list[Parameter]:
    """The tensors that a row holds, in their order: tied ones once, none without entries."""
    return [p for p in structure.parameters if p.alias_of is None and p.numel]


def to_rows(weights: Mapping[str, Tensor], structure: Structure, dtype: torch.dtype | None = None) -> Tensor:
    """A stack ``{name: [n, *shape]}`` as rows ``[n, numbers]``, in the structure's dtype or another one.

    Raises:
        StructureMismatch: weights are of another structure.
        WeightsError: weights are not finite.
    """
    checked = checked_weights(weights, structure, stacked=True)
    tensors = [checked[p.name].flatten(1) if p.shape else checked[p.name].unsqueeze(1) for p in held(structure)]
    kept = next((t.dtype for p, t in zip(held(structure), tensors, strict=True) if p.dtype == structure.dtype), None)
    return torch.cat([tensor.to(dtype or kept or torch.float32) for tensor in tensors], 1)


def from_rows(rows: Tensor, structure: Structure) -> dict[str, Tensor]:
    """The inverse of `to_rows`: integer tensors are rounded, tied ones are one, running variances are not negative.

    Raises:
        ValueError: rows of another length.
    """
    sizes = [p.numel for p in held(structure)]
    if rows.dim() != 2 or rows.shape[1] != sum(sizes):
        raise ValueError(f"rows of shape {list(rows.shape)}, expected [n, {sum(sizes)}]")
    parts = dict(zip((p.name for p in held(structure)), rows.split(sizes, 1), strict=True))
    variances = {name for layer in structure.layers for slot, name in layer.slots if slot == "running_var"}
    out: dict[str, Tensor] = {}
    for p in structure.parameters:
        if p.alias_of is not None:
            out[p.name] = out[p.alias_of]
            continue
        dtype: Any = getattr(torch, p.dtype)
        value = parts[p.name] if p.numel else rows.new_zeros(len(rows), 0)
        value = value.clamp_min(0) if p.name in variances else value
        value = value if dtype.is_floating_point else value.round()
        value = value if p.dtype == structure.dtype else value.to(dtype)
        out[p.name] = value.reshape(len(rows), *p.shape)
    return out
