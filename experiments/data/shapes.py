"""Shapes in space, as clouds of points on their surfaces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["ShapeData", "distances", "sample_surface", "unit_sphere"]


@dataclass(frozen=True, eq=False)
class ShapeData:
    """A data set of shapes, split once into a training pool and held-out test shapes.

    Args:
        name: what the data set is called in tables and in ``zoo.json``.
        classes: the number of classes; labels are ``0 .. classes - 1``.
        pool, pool_labels: shapes to learn from, ``[P, N, 3]`` float32 within the unit ball and ``[P]``.
        test, test_labels: held-out shapes, ``[T, N, 3]`` and ``[T]``.

    The points of a shape are in random order, so any first few are a sample of it.
    """

    name: str
    classes: int
    pool: Tensor
    pool_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every point and label: equal fingerprints mean equal data, bit for bit."""
        digest = hashlib.sha256(f"{self.name}:{self.classes}".encode())
        for part in (self.pool, self.pool_labels, self.test, self.test_labels):
            digest.update(str((tuple(part.shape), part.dtype)).encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What a zoo's header says of it."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "classes": self.classes,
            "points": self.pool.shape[1],
            "pool_shapes": len(self.pool),
            "test_shapes": len(self.test),
        }


def sample_surface(vertices: np.ndarray, faces: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Points that are uniform on the triangles of a mesh, ``[count, 3]``.

    Args:
        vertices: ``[V, 3]``.
        faces: three numbers of vertices each, ``[F, 3]``.
        count: how many.
        generator: of the draws.

    Raises:
        ValueError: the triangles have no area.

    >>> square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> points = sample_surface(square, np.array([[0, 1, 2], [0, 2, 3]]), 1000, np.random.default_rng(0))
    >>> points.shape, points.mean(0).round(1).tolist()
    ((1000, 3), [0.5, 0.5, 0.0])
    """
    corner, *others = (vertices[faces[:, place]] for place in range(3))
    sides = [other - corner for other in others]
    areas = np.linalg.norm(np.cross(*sides), axis=1)
    if not areas.sum() > 0:
        raise ValueError("the triangles of the mesh have no area")
    chosen = generator.choice(len(faces), count, p=areas / areas.sum())
    weights = generator.uniform(size=(count, 2))
    outside = weights.sum(1) > 1
    weights[outside] = 1 - weights[outside]
    points: np.ndarray = corner[chosen] + sum(weights[:, [i]] * side[chosen] for i, side in enumerate(sides))
    return points


def unit_sphere(points: np.ndarray) -> np.ndarray:
    """Points ``[N, 3]`` moved to mean 0 and scaled until the farthest one is at distance 1."""
    centred = points - points.mean(0)
    scaled: np.ndarray = centred / max(float(np.linalg.norm(centred, axis=1).max()), 1e-12)
    return scaled


def distances(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The unsigned distance field of a cloud: from each place ``[Q, 3]`` to the nearest point ``[N, 3]``.

    >>> distances(np.array([[0.0, 0, 3]]), np.array([[0.0, 0, 1], [0, 0, -1]]))
    array([2.])
    """
    found: np.ndarray = cKDTree(points).query(places)[0]
    return found
