"""What image editors do to images: morphology and contrast."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OPERATIONS", "contrast", "dilate", "edited", "erode", "gradient"]

LEVELS = 256
LUMA = (0.299, 0.587, 0.114)


def dilate(images: Tensor, size: int = 3) -> Tensor:
    """The largest value in a square around every pixel; what lies outside of the image does not count.

    A square of even side reaches further up and left than down and right, as OpenCV's does.

    Shapes:
        - images: ``[N, C, H, W]``; result: the same

    >>> dilate(torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]), size=2)
    tensor([[[[0., 0., 0.],
              [0., 1., 1.],
              [0., 1., 1.]]]])
    """
    before, after = size // 2, (size - 1) // 2
    return F.max_pool2d(F.pad(images, (before, after, before, after), value=-math.inf), size, stride=1)


def erode(images: Tensor, size: int = 2) -> Tensor:
    """The smallest value in a square around every pixel; see `dilate`."""
    return -dilate(-images, size)


def gradient(images: Tensor, size: int = 2) -> Tensor:
    """What `dilate` leaves brighter than `erode`: edges."""
    return dilate(images, size) - erode(images, size)


def contrast(images: Tensor, clip: float = 1.0, tiles: int = 3) -> Tensor:
    r"""Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) of the luma; differences of colour stay.

    The image is cut into ``tiles`` times ``tiles`` squares (mirrored at the right and the lower border where they do
    not fit). Each one's histogram of 256 levels is cut at ``clip`` times its mean, at least at 1, what was cut off is
    spread over all levels, and its distribution function is the square's curve. Every pixel goes through the curves of
    the four squares around it, mixed bilinearly. As OpenCV's, but for what is cut off, which is spread evenly instead
    of in whole counts.

    Shapes:
        - images: ``[N, 1 or 3, H, W]`` in 0 to 1; result: the same
    """
    weights = torch.tensor(LUMA if images.shape[1] == 3 else (1.0,), dtype=images.dtype)
    luma = torch.einsum("nchw,c->nhw", images, weights)
    height, width = luma.shape[1:]
    sides = math.ceil(height / tiles), math.ceil(width / tiles)
    rows, columns = ((torch.arange(side * tiles), length) for side, length in zip(sides, (height, width), strict=True))
    levels = (luma * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)
    mirrored = levels[:, _mirror(*rows)][:, :, _mirror(*columns)]
    squares = mirrored.unfold(1, sides[0], sides[0]).unfold(2, sides[1], sides[1]).flatten(3).flatten(1, 2)
    area = squares.shape[2]
    counts = torch.zeros(*squares.shape[:2], LEVELS, dtype=images.dtype)
    counts.scatter_add_(2, squares, torch.ones((), dtype=images.dtype).expand(squares.shape))
    limit = max(int(clip * area / LEVELS), 1)
    excess = (counts - limit).clamp_min(0).sum(2, keepdim=True)
    curves = ((counts.clamp_max(limit) + excess / LEVELS).cumsum(2) / area).flatten(1)
    places = [_between(length, side, tiles) for length, side in zip((height, width), sides, strict=True)]
    mixed = torch.zeros_like(luma)
    for row, row_share in places[0]:
        for column, column_share in places[1]:
            index = (row.unsqueeze(1) * tiles + column) * LEVELS + levels
            found = curves.gather(1, index.flatten(1)).view_as(luma)
            mixed += row_share.unsqueeze(1) * column_share * found
    return (images + (mixed - luma).unsqueeze(1)).clamp(0, 1)


def _mirror(places: Tensor, length: int) -> Tensor:
    """Places of a row of some length, mirrored about its last pixel where they lie behind it."""
    return torch.where(places < length, places, (2 * (length - 1) - places).clamp_min(0))


def _between(length: int, side: int, tiles: int) -> list[tuple[Tensor, Tensor]]:
    """The two squares whose centres lie around every pixel of an axis, and their shares."""
    place = torch.arange(length) / side - 0.5
    low = place.floor()
    share = place - low
    return [
        (low.long().clamp(0, tiles - 1), 1 - share),
        ((low.long() + 1).clamp(0, tiles - 1), share),
    ]


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "dilate": dilate,
    "erode": erode,
    "gradient": gradient,
    "contrast": contrast,
}
"""Name to function of images ``[N, C, H, W]`` in 0 to 1, and options."""


def edited(images: Tensor, operation: str, options: Mapping[str, Any]) -> Tensor:
    """Images ``[N, C, H, W]`` in -1 to 1 after an operation, in the same range.

    Raises:
        ValueError: the operation or an option is unknown; the message lists the known ones.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation {operation!r} is unknown; known are {', '.join(OPERATIONS)}")
    function = OPERATIONS[operation]
    known = list(inspect.signature(function).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"operation {operation!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    after = [function(part, **options) for part in (images.clamp(-1, 1) / 2 + 0.5).split(1024)]
    return torch.cat(after) * 2 - 1
