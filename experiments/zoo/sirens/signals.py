"""What a SIREN is fitted to: an image's pixels, or a shape's distances at places around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import ImageData, ShapeData
from experiments.data.shapes import distances
from experiments.zoo.sampling import stream
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.network import grid

__all__ = ["PEAK", "Signals", "distance_field", "psnr", "quality", "signals_of", "targets_of"]

PEAK = 2.0
"""The range of pixel values, -1 to 1."""


@dataclass(frozen=True)
class Signals:
    """Values at places, for networks from one to the other.

    Args:
        coordinates: the places, ``[N, d]`` if all signals share them, else ``[n, N, d]``.
        values: ``[n, C, N]``.
    """

    coordinates: Tensor
    values: Tensor


def psnr(error: float, peak: float = PEAK) -> float:
    """Peak signal-to-noise ratio in decibels of a mean squared error, at most 100.

    >>> round(psnr(0.04), 3)
    20.0
    """
    return min(100.0, 10 * math.log10(peak**2 / max(error, 1e-30)))


def quality(config: SirenConfig, drawn: Tensor, signals: Signals) -> list[float]:
    """What ``config.quality`` names, of each network: the PSNR, or the mean absolute error of distances.

    Args:
        config: of the zoo.
        drawn: what the networks say at the places, ``[n, C, N]``.
        signals: what is true there.
    """
    missed = (drawn - signals.values).flatten(1)
    if config.distances is None:
        return [psnr(error) for error in missed.square().mean(1).tolist()]
    errors: list[float] = missed.abs().mean(1).tolist()
    return errors


def targets_of(data: ImageData) -> tuple[Tensor, Tensor]:
    """All images, pool first, with the pool's smallest and largest pixel moved to -1 and 1, and their labels.

    Shapes:
        - result: ``[P + T, C, H, W]`` and ``[P + T]``
    """
    low, high = data.pool.min(), data.pool.max()
    images = torch.cat([data.pool, data.test])
    return (images - low) * (PEAK / (high - low)) - 1, torch.cat([data.pool_labels, data.test_labels])


def distance_field(
    points: np.ndarray, about: Mapping[str, Any], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places around a shape, and their distances to it.

    As in De Luigi et al. 2023 (arXiv:2302.05438), most places are points of the shape moved by Gaussian noise, and
    some lie anywhere.

    Args:
        points: of the shape, ``[N, 3]``.
        about: ``deviations`` of the noise, ``queries``: so many places for each of them, and as the last number so many
            anywhere from -1 to 1; ``truncation``: larger distances are cut to this, None: none are.
        generator: of the places.

    Shapes:
        - result: ``[Q, 3]`` and ``[Q]``
    """
    *near, anywhere = about["queries"]
    places = [generator.uniform(-1, 1, (anywhere, 3))]
    for count, deviation in zip(near, about["deviations"], strict=True):
        chosen = points[generator.integers(len(points), size=count)]
        places.append(chosen + deviation * generator.standard_normal((count, 3)))
    found = np.concatenate(places)
    away = distances(found, points)
    return found, away if about["truncation"] is None else np.minimum(away, about["truncation"])


def signals_of(config: SirenConfig, data: ImageData | ShapeData, chosen: Tensor, *, unseen: bool = False) -> Signals:
    """What SIRENs are fitted to.

    Args:
        config: of their zoo.
        data: its images or shapes.
        chosen: numbers of images or shapes, the pool's first.
        unseen: distances at places that nothing was fitted to; pixels are the same ones.
    """
    if isinstance(data, ImageData):
        images = targets_of(data)[0]
        return Signals(grid(*data.image_shape[1:]), images[chosen].flatten(2))
    purpose = "unseen_places" if unseen else "places"
    fields = []
    for number in chosen.tolist():
        pool = len(data.pool)
        points = data.pool[number] if number < pool else data.test[number - pool]
        fields.append(distance_field(points.numpy(), config.distances or {}, stream(config.seed, number, purpose)))
    places, away = (torch.from_numpy(np.stack(part)).float() for part in zip(*fields, strict=True))
    return Signals(places, away.unsqueeze(1))
