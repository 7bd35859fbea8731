"""How well one side of pairs finds the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["recall_at"]


def recall_at(queries: Tensor, gallery: Tensor, k: int = 1, owners: Tensor | None = None) -> float:
    """The share of queries whose partner is among the ``k`` most similar of the whole gallery.

    Query i belongs to entry i of the gallery; by chance the share is about ``k / len(gallery)``. Of entries that are
    equally similar those that are not the partner come first, so that a constant answer finds nothing.

    Args:
        queries, gallery: ``[N, d]``, compared by their cosine.
        k: how many answers are looked at.
        owners: what each entry stands for; any entry of the query's own owner will do. None: its partner alone.

    Raises:
        ValueError: the shapes differ, or ``k`` is not between 1 and N.
    """
    if queries.shape != gallery.shape or queries.dim() != 2:
        raise ValueError(f"queries {list(queries.shape)} and gallery {list(gallery.shape)}, expected [N, d] twice")
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k={k} is not between 1 and {len(gallery)}")
    similarity = functional.normalize(queries, dim=1) @ functional.normalize(gallery, dim=1).T
    own = torch.arange(len(gallery), device=gallery.device) if owners is None else owners.to(gallery.device)
    right = own.unsqueeze(0) == own.unsqueeze(1)
    best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    before = ((similarity >= best) & ~right).sum(1)
    return float((before < k).double().mean())
