"""How far two networks do the same: per network, from what both compute on the same images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["behaviour"]


def behaviour(
    original: Tensor, rebuilt: Tensor, labels: Tensor | None = None, counted: Tensor | None = None
) -> dict[str, Tensor]:
    r"""Metrics of rebuilt networks beside the original ones (Swanevelder 2025, Section 4.1, Table 4.1).

    - ``agreement``: the share of images to which both give the same class. Between networks that give one class to all
      images it is 1 and means nothing: ``class_entropy`` tells.
    - ``correlation``: of all class scores, Pearson's.
    - ``cosine``: of the class scores of an image, mean over images.
    - ``class_entropy``: of the classes that the rebuilt network gives, over :math:`\ln C`: 0 if it is always the same.
    - ``accuracy_drop``: accuracy of the original network minus that of the rebuilt one; with labels alone.

    Scores of a rebuilt network that are not finite count as 0: it gives the first class.

    Args:
        original, rebuilt: class scores.
        labels: the classes of the images, for each network in the order of its outputs.
        counted: which images count for a network (those of its own classes); None: all.

    Shapes:
        - original, rebuilt: ``[n, B, C]``; labels, counted: ``[n, B]``; result: ``[n]`` each

    Raises:
        ValueError: the shapes differ, or a network has no image that counts.
    """
    if original.shape != rebuilt.shape or original.dim() != 3:
        raise ValueError(f"class scores of shapes {list(original.shape)} and {list(rebuilt.shape)}, expected [n, B, C]")
    own = torch.ones(original.shape[:2], dtype=torch.bool) if counted is None else counted
    if not bool(own.any(1).all()):
        raise ValueError("a network has no image that counts")
    original, rebuilt, share = (
        original.double(),
        rebuilt.double().nan_to_num(0.0, 0.0, 0.0),
        own.double() / own.sum(1, keepdim=True),
    )
    ours, theirs = rebuilt.argmax(2), original.argmax(2)

    def mean(values: Tensor) -> Tensor:
        return (values * share).sum(1)

    given = (functional.one_hot(ours, original.shape[2]) * share.unsqueeze(2)).sum(1)
    entropy = -(given * given.clamp_min(1e-300).log()).sum(1) / math.log(original.shape[2])
    found = {
        "agreement": mean((ours == theirs).double()),
        "correlation": _correlation(original, rebuilt, share.unsqueeze(2) / original.shape[2]),
        "cosine": mean(functional.cosine_similarity(original, rebuilt, 2)),
        "class_entropy": entropy,
    }
    if labels is not None:
        found["accuracy_drop"] = mean((theirs == labels).double()) - mean((ours == labels).double())
    return found


def _correlation(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Weighted by shares that add up to 1 over images and classes; 0 where one of both is constant."""
    a, b = (x - (x * share).sum((1, 2), keepdim=True) for x in (a, b))
    together, alone = (a * b * share).sum((1, 2)), [(x.square() * share).sum((1, 2)) for x in (a, b)]
    scale = (alone[0] * alone[1]).sqrt()
    return torch.where(scale > 1e-12, together / scale.clamp_min(1e-12), torch.zeros_like(scale))
