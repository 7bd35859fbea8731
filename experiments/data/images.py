"""The images that a zoo's networks are trained and measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ImageData", "assemble", "average_pool", "split_images", "stratified_split", "translate"]

SHIFT_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set, split once into a training pool and held-out test images.

    Args:
        name: what the data set is called in tables and in ``zoo.json``.
        classes: the number of classes; labels are ``0 .. classes - 1``.
        pool, pool_labels: images that networks may be trained on, ``[P, C, H, W]`` and ``[P]``.
        test, test_labels: held-out images, ``[T, C, H, W]`` and ``[T]``; no network is trained on them.
        shifted, shifted_labels: the test images moved off centre, ``[S, C, H, W]`` and ``[S]``.

    Images are float32 and standardised by the mean and the deviation of the training pool, so noise
    of deviation one is as large as the images' own variation.
    """

    name: str
    classes: int
    pool: Tensor
    pool_labels: Tensor
    test: Tensor
    test_labels: Tensor
    shifted: Tensor
    shifted_labels: Tensor

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one image."""
        channels, height, width = self.pool.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every image and label: equal fingerprints mean equal data, bit for bit."""
        digest = hashlib.sha256(f"{self.name}:{self.classes}".encode())
        for part in (
            self.pool,
            self.pool_labels,
            self.test,
            self.test_labels,
            self.shifted,
            self.shifted_labels,
        ):
            digest.update(str((tuple(part.shape), part.dtype)).encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What a zoo's header says of it."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "classes": self.classes,
            "image_shape": list(self.image_shape),
            "pool_images": len(self.pool),
            "test_images": len(self.test),
        }


def average_pool(images: Tensor, size: int) -> Tensor:
    """Mean over ``size x size`` squares: ``[N, C, H, W] -> [N, C, H / size, W / size]``.

    >>> average_pool(torch.tensor([[[[0.0, 4.0], [4.0, 8.0]]]]), 2)
    tensor([[[[4.]]]])
    """
    if images.shape[-1] % size or images.shape[-2] % size:
        raise ValueError(
            f"average_pool: images of {images.shape[-2]}x{images.shape[-1]} pixels cannot be cut into "
            f"{size}x{size} squares; choose a pooling that divides both sides"
        )
    return images if size == 1 else F.avg_pool2d(images, size)


def translate(images: Tensor, rows: int, columns: int) -> Tensor:
    """Moves ``[N, C, H, W]`` images down by ``rows`` and right by ``columns`` pixels, filling with zeros.

    >>> translate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 0, 1)
    tensor([[[[0., 1.],
              [0., 3.]]]])
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (abs(columns), abs(columns), abs(rows), abs(rows)))
    top, left = abs(rows) - rows, abs(columns) - columns
    return padded[..., top : top + height, left : left + width]


def stratified_split(labels: np.ndarray, test_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training pool and of the test images, every class in its own proportion.

    Each class is shuffled by ``seed`` and its images are spread evenly over ``[0, 1)``; the
    ``test_images`` images that come first are the test set. Deterministic, disjoint, exhaustive.

    >>> pool, test = stratified_split(np.array([0, 1] * 6), test_images=4, seed=0)
    >>> len(pool), len(test), sorted(np.array([0, 1] * 6)[test].tolist())
    (8, 4, [0, 0, 1, 1])
    """
    if not 0 < test_images < len(labels):
        raise ValueError(
            f"stratified_split: test_images={test_images} leaves no training pool or no test set of "
            f"{len(labels)} images; choose a number between 1 and {len(labels) - 1}"
        )
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    order = np.argsort(place, kind="stable")
    return np.sort(order[test_images:]), np.sort(order[:test_images])


def split_images(
    name: str, images: Tensor, labels: np.ndarray, *, pooling: int, test_images: int, seed: int, shift: int
) -> ImageData:
    """Splits, shifts, pools and standardises ``[N, C, H, W]`` images with ``[N]`` labels.

    The shifted test set holds every test image translated by ``shift`` pixels in each of four
    directions, before pooling.
    """
    pool, test = stratified_split(labels, test_images, seed)
    return assemble(name, images[pool], labels[pool], images[test], labels[test], pooling=pooling, shift=shift)


def assemble(
    name: str,
    pool: Tensor,
    pool_labels: np.ndarray,
    test: Tensor,
    test_labels: np.ndarray,
    *,
    pooling: int,
    shift: int,
) -> ImageData:
    """Shifts, pools and standardises a training pool and test images, ``[N, C, H, W]`` with ``[N]`` labels."""
    pool = average_pool(pool, pooling)
    mean, deviation = pool.mean(), pool.std()
    shifted = torch.cat([translate(test, shift * down, shift * right) for down, right in SHIFT_DIRECTIONS])

    def standardise(part: Tensor) -> Tensor:
        return ((part - mean) / deviation).contiguous()

    targets = torch.from_numpy(test_labels.astype(np.int64))
    return ImageData(
        name=name,
        classes=int(max(pool_labels.max(), test_labels.max())) + 1,
        pool=standardise(pool),
        pool_labels=torch.from_numpy(pool_labels.astype(np.int64)),
        test=standardise(average_pool(test, pooling)),
        test_labels=targets,
        shifted=standardise(average_pool(shifted, pooling)),
        shifted_labels=targets.repeat(len(SHIFT_DIRECTIONS)),
    )
