"""Fibres taken out of rows and put back: copies that keep the channels of a head together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphnets.nft.rows import Bundle, Fibres

__all__ = ["gather", "scatter"]


def gather(fibres: Fibres, parts: Sequence[Tensor], mean: bool) -> Tensor:
    """All fibres along a set of neurons: ``[K, B, heads, places within, tokens, members, channels]``.

    Args:
        fibres: which.
        parts: per piece ``[B, *sizes, K, heads, channels]``.
        mean: of what is nested in the members; otherwise the sum.
    """
    first = parts[fibres.bundles[0].piece]
    kinds, heads, channels = first.shape[-3:]
    out = first.new_empty(kinds, len(first), heads, *fibres.shape, channels)
    for bundle in fibres.bundles:
        part = _aligned(bundle, parts[bundle.piece])
        if bundle.inside:
            axes = tuple(range(-1 - len(bundle.inside), -1))
            part = part.mean(axes, keepdim=True) if mean else part.sum(axes, keepdim=True)
        _share(bundle, out).copy_(part)
    return out


def scatter(fibres: Fibres, values: Tensor, parts: Sequence[Tensor], mean: bool, fresh: bool = False) -> None:
    """Add what fibres have to each of their elements: the adjoint of `gather`.

    Args:
        fibres: which.
        values: ``[K, B * heads * places within, tokens, members * channels]``.
        parts: as in `gather`; changed in place.
        mean: divide by the number of elements nested in a member.
        fresh: the parts hold nothing yet: the first bundle of a piece is written, not added.
    """
    first = parts[fibres.bundles[0].piece]
    kinds, heads, channels = first.shape[-3:]
    values = values.view(kinds, len(first), heads, *fibres.shape, channels)
    for bundle in fibres.bundles:
        part, share = _aligned(bundle, parts[bundle.piece]), _share(bundle, values)
        if mean and bundle.nested > 1:
            share = share / bundle.nested
        if fresh and bundle.first:
            part.copy_(share)
        else:
            part.add_(share)


def _aligned(bundle: Bundle, part: Tensor) -> Tensor:
    """A piece as ``[K, B, heads, *within, *across, along, *inside, channels]``."""
    axes = (*bundle.within, *bundle.across, bundle.along, *bundle.inside)
    return part.permute(-3, 0, -2, *(1 + axis for axis in axes), -1)


def _share(bundle: Bundle, values: Tensor) -> Tensor:
    """A bundle's tokens among those of `gather`, seen as `_aligned` sees its piece."""
    tokens = values.narrow(4, bundle.start, bundle.stop - bundle.start)
    return tokens.view(*values.shape[:3], *bundle.shape, values.shape[-1])
