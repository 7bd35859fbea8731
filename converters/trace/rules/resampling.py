"""Pooling, unpooling and sampling of images beyond the plain ones: channels pass, places count."""

from __future__ import annotations

from collections.abc import Callable

from converters.trace.context import Context, Operand
from converters.trace.labels import Labels
from converters.trace.rules.convolution import SPATIAL, spatial

__all__ = ["RULES"]


def _with_places(context: Context, names: dict[int, str]) -> list[Labels]:
    """``op(image, places, ...)``: what ``places`` says holds for the axes it shares with the image."""
    image, places = context.tensors()[:2]
    shape = context.out_shape
    rank = len(shape)
    free = _spatial(context.op.name)
    letters = [str(a) for a in range(rank)]
    sizes = dict(zip(letters, shape, strict=True))
    first = context.project(context.of(image), range(rank - free, rank), "fixed", SPATIAL)
    own = context.of(places)
    second = context.project(own, [a for a in range(len(own.shape)) if a not in names], "fixed", SPATIAL)
    operands = [
        Operand(first, {a: letters[a] for a in range(rank - free)}, image.index),
        Operand(second, names, places.index),
    ]
    out = context.combine(operands, letters, sizes)
    every = Labels(out.bundles, out.blank - set(range(rank - free, rank)), out.source, shape)
    return [every] * len(context.op.outputs)


def _spatial(name: str) -> int:
    return 3 if "3d" in name else 2


def grid_sampler(context: Context) -> list[Labels]:
    """``grid_sampler_2d(image, grid, ...)``: one grid for all channels."""
    return _with_places(context, {0: "0"})


def unpool(context: Context) -> list[Labels]:
    """``max_unpool2d(image, indices, size)``: every channel has its own places; ``fractional_max_pool2d`` too."""
    rank = len(context.out_shape)
    return _with_places(context, {a: str(a) for a in range(rank - _spatial(context.op.name))})


def affine_grid(context: Context) -> list[Labels]:
    """``affine_grid_generator(theta, size, align)``: one grid for each matrix."""
    labels = context.of(context.tensors()[0])
    fixed = context.project(labels, [1, 2], "fixed", "it is an affine map of the plane or space")
    return [fixed.move({0: 0}, context.out_shape)]


MORE_POOLS = """
    _upsample_nearest_exact1d _upsample_nearest_exact3d _upsample_lanczos2d_aa lp_pool1d lp_pool2d lp_pool3d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices
""".split()

RULES: dict[str, Callable[[Context], list[Labels]]] = {
    **dict.fromkeys(MORE_POOLS, spatial),
    "grid_sampler_2d": grid_sampler,
    "grid_sampler_3d": grid_sampler,
    "_grid_sampler_2d_cpu_fallback": grid_sampler,
    "affine_grid_generator": affine_grid,
    "max_unpool2d": unpool,
    "max_unpool3d": unpool,
    "fractional_max_pool2d": unpool,
    "fractional_max_pool3d": unpool,
}
