"""The contrastive loss, and what a model without knowledge would score."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["chance_nt_xent", "nt_xent"]

NEGATIVES = ("all", "across")


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float = 0.1,
    runs: Tensor | None = None,
    negatives: str = "all",
) -> Tensor:
    r"""The normalised temperature-scaled cross-entropy of pairs (Chen et al. 2020; Swanevelder 2025, Eq. 2.7).

    .. math:: \mathcal L_{i,j} = -\log \frac{\exp(\mathrm{sim}(z_i, z_j)/\tau)}
              {\sum_{k \ne i} \exp(\mathrm{sim}(z_i, z_k)/\tau)}

    averaged over both members of all pairs, with the cosine similarity. With ``negatives="across"`` a member is told
    from the other members of the other side alone, as in CLIP (Section 2.4.2), so that how similar two of one side are
    costs nothing.

    Args:
        first, second: the two sides of the pairs.
        temperature: :math:`\tau`.
        runs: what each pair comes from: pairs of the same one (two snapshots of one training run) are no negatives of
            each other; None: all pairs are strangers.
        negatives: ``"all"`` or ``"across"``.

    Shapes:
        - first, second: ``[B, d]``; runs: ``[B]``; result: ``[]``

    Raises:
        ValueError: the shapes differ, or an argument is unknown or not positive.

    >>> z = torch.eye(4)
    >>> float(nt_xent(z, z, temperature=0.1)) < 0.01 < float(nt_xent(z, z.roll(1, 0), temperature=0.1))
    True
    """
    if first.shape != second.shape or first.dim() != 2:
        raise ValueError(f"pairs of shapes {list(first.shape)} and {list(second.shape)}, expected [B, d] twice")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    sides = functional.normalize(torch.cat([first, second]), dim=1)
    allowed = _candidates(len(first), runs, negatives).to(sides.device)
    similarity = (sides @ sides.T / temperature).masked_fill(~allowed, -torch.inf)
    partner = torch.arange(len(sides), device=sides.device).roll(len(first))
    return functional.cross_entropy(similarity, partner)


def chance_nt_xent(pairs: int, runs: Tensor | None = None, negatives: str = "all") -> float:
    r"""What `nt_xent` is where all similarities are alike: :math:`\ln(2B - 1)`, less where negatives are masked.

    A loss means something beside this number alone.

    >>> round(chance_nt_xent(4), 4), round(chance_nt_xent(4, negatives="across"), 4)
    (1.9459, 1.3863)
    """
    return float(_candidates(pairs, runs, negatives).sum(1).double().log().mean())


def _candidates(pairs: int, runs: Tensor | None, negatives: str) -> Tensor:
    """Among whom each of ``2 * pairs`` members looks for its partner, ``[2B, 2B]``."""
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r} is one of {', '.join(NEGATIVES)}")
    number = torch.arange(pairs)
    own = number if runs is None else torch.as_tensor(runs).cpu()
    if own.shape != number.shape:
        raise ValueError(f"{pairs} pairs and {list(own.shape)} runs; there is one for each pair")
    stranger = own.unsqueeze(0) != own.unsqueeze(1)
    partner = torch.eye(pairs, dtype=torch.bool)
    same_side = stranger if negatives == "all" else torch.zeros_like(stranger)
    other_side = stranger | partner
    return torch.cat([torch.cat([same_side, other_side], 1), torch.cat([other_side, same_side], 1)])
