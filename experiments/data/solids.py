"""Ten classes of shapes made by rule: every one has proportions, a size and a pose of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from experiments.data.shapes import ShapeData, sample_surface, unit_sphere

__all__ = ["SOLIDS", "solids"]

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices ``[V, 3]`` and triangles ``[F, 3]``."""

TURN = np.linspace(0, 2 * np.pi, 25)
"""Angles of a full turn, first and last alike."""


def _lattice(points: np.ndarray) -> Mesh:
    """The mesh of a surface given at the places of a lattice, ``[A, B, 3]``."""
    rows, columns = points.shape[:2]
    number = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    return points.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def _turned(radius: np.ndarray, height: np.ndarray) -> Mesh:
    """The surface that a profile, radius by height, leaves when it turns about the vertical axis."""
    ring = np.stack([np.cos(TURN), np.sin(TURN), np.zeros_like(TURN)], 1)
    return _lattice(radius[:, None, None] * ring + height[:, None, None] * np.array([0.0, 0.0, 1.0]))


def _joined(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes[:-1])])
    return (
        np.concatenate([vertices for vertices, _ in meshes]),
        np.concatenate([faces + start for (_, faces), start in zip(meshes, starts, strict=True)]),
    )


def _block(low: np.ndarray, high: np.ndarray) -> Mesh:
    """A cuboid between two opposite corners."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = [part for a, b, c, d in sides for part in ((a, b, c), (a, c, d))]
    return low + corners * (high - low), np.array(faces)


def _ellipsoid(draw: np.random.Generator) -> Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 17)
    vertices, faces = _turned(np.cos(angle), np.sin(angle))
    return vertices * draw.uniform(0.6, 1, 3), faces


def _cuboid(draw: np.random.Generator) -> Mesh:
    half = draw.uniform(0.5, 1, 3)
    return _block(-half, half)


def _torus(draw: np.random.Generator) -> Mesh:
    thickness = draw.uniform(0.2, 0.4)
    return _turned(1 + thickness * np.cos(TURN), thickness * np.sin(TURN))


def _cylinder(draw: np.random.Generator) -> Mesh:
    height = draw.uniform(0.6, 1.4)
    return _turned(np.array([0, 1, 1, 0.0]), np.array([-height, -height, height, height]))


def _cone(draw: np.random.Generator) -> Mesh:
    return _turned(np.array([0, 1, 0.0]), np.array([0, 0, draw.uniform(1.2, 2.4)]))


def _capsule(draw: np.random.Generator) -> Mesh:
    angle, half = np.linspace(0, np.pi / 2, 9), draw.uniform(0.5, 1.2)
    radius, height = np.cos(angle), half + np.sin(angle)
    return _turned(np.concatenate([radius[::-1], radius]), np.concatenate([-height[::-1], height]))


def _pyramid(draw: np.random.Generator) -> Mesh:
    side = draw.uniform(0.7, 1.3)
    base = [[-1, -side, 0], [1, -side, 0], [1, side, 0], [-1, side, 0]]
    apex = [*draw.uniform(-0.2, 0.2, 2), draw.uniform(1.2, 2.4)]
    faces = [(0, 1, 2), (0, 2, 3), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]
    return np.array([*base, apex], np.float64), np.array(faces)


def _bowl(draw: np.random.Generator) -> Mesh:
    angle = np.linspace(-np.pi / 2, draw.uniform(-0.2, 0.3), 13)
    return _turned(np.cos(angle), draw.uniform(0.7, 1.2) * np.sin(angle))


def _table(draw: np.random.Generator) -> Mesh:
    half, height, leg = draw.uniform(0.6, 1, 2), draw.uniform(0.7, 1.4), draw.uniform(0.06, 0.14)
    legs = [
        _block(np.array([*(corner * (half - leg) - leg), 0]), np.array([*(corner * (half - leg) + leg), height]))
        for corner in np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    ]
    return _joined(_block(np.array([*-half, height]), np.array([*half, height + 0.12])), *legs)


def _spring(draw: np.random.Generator) -> Mesh:
    turns, rise, thickness = draw.uniform(1.5, 3), draw.uniform(1.2, 2.4), draw.uniform(0.1, 0.2)
    along = np.linspace(0, 1, 65)
    angle = 2 * np.pi * turns * along
    outward = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)[:, None]
    upward = np.array([0.0, 0.0, 1.0])
    circle = np.cos(TURN)[:, None] * outward + np.sin(TURN)[:, None] * upward
    return _lattice(outward + (rise * along)[:, None, None] * upward + thickness * circle)


SOLIDS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "ellipsoid": _ellipsoid,
    "cuboid": _cuboid,
    "torus": _torus,
    "cylinder": _cylinder,
    "cone": _cone,
    "capsule": _capsule,
    "pyramid": _pyramid,
    "bowl": _bowl,
    "table": _table,
    "spring": _spring,
}
"""How the surface of each class is drawn; classes are numbered in this order."""


def _pose(draw: np.random.Generator, tilt: float) -> np.ndarray:
    """A rotation ``[3, 3]``: any angle about the vertical axis, then at most ``tilt`` away from it."""
    yaw, lean, towards = draw.uniform(0, 2 * np.pi), draw.uniform(0, tilt), draw.uniform(0, 2 * np.pi)
    axis = np.array([np.cos(towards), np.sin(towards), 0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    leaning = np.eye(3) + np.sin(lean) * cross + (1 - np.cos(lean)) * cross @ cross
    turning = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    rotation: np.ndarray = leaning @ turning
    return rotation


def solids(
    *, pool_shapes: int = 2000, test_shapes: int = 500, points: int = 1024, tilt: float = 0.3, seed: int = 0
) -> ShapeData:
    """Shapes of the ten classes of `SOLIDS`, equally many of each (up to one); no download is needed.

    Each has its own proportions, a radius of .6 to .9 about its centre of mass, any angle about the vertical axis, and
    a lean. The first coordinate is the vertical one. Shape number n does not depend on how many there are.

    Args:
        pool_shapes, test_shapes: how many to learn from, and how many are held out.
        points: of each shape, uniform on its surface.
        tilt: the largest lean, in radians.
        seed: decides every shape.

    >>> data = solids(pool_shapes=20, test_shapes=10, points=64)
    >>> data.pool.shape, data.test.shape, data.pool_labels[:4].tolist()
    (torch.Size([20, 64, 3]), torch.Size([10, 64, 3]), [0, 1, 2, 3])
    """
    makers = list(SOLIDS.values())

    def cloud(part: int, number: int) -> np.ndarray:
        draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(part, number)))
        vertices, faces = makers[number % len(makers)](draw)
        sampled = unit_sphere(sample_surface(vertices, faces, points, draw)) * draw.uniform(0.6, 0.9)
        placed: np.ndarray = sampled @ _pose(draw, tilt).T
        return np.roll(placed, 1, axis=1).astype(np.float32)

    clouds = [
        torch.from_numpy(np.stack([cloud(part, number) for number in range(count)]))
        for part, count in enumerate((pool_shapes, test_shapes))
    ]
    labels = [torch.arange(count) % len(makers) for count in (pool_shapes, test_shapes)]
    return ShapeData(f"solids of {points} points", len(makers), clouds[0], labels[0], clouds[1], labels[1])
