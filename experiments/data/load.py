"""From a configuration to images or shapes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from experiments.data.cifar import cifar10
from experiments.data.digits import digits
from experiments.data.idx import idx_images
from experiments.data.images import ImageData
from experiments.data.pictures import image_folder, photographs
from experiments.data.point_files import point_folders
from experiments.data.shapes import ShapeData
from experiments.data.solids import solids
from experiments.data.source import DATA_VARIABLE

__all__ = ["LOADERS", "SHAPE_LOADERS", "load_data", "load_images", "load_shapes"]

LOADERS: dict[str, Callable[..., ImageData]] = {
    "digits": digits,
    "idx": idx_images,
    "cifar10": cifar10,
    "folder": image_folder,
    "photographs": photographs,
}
"""Loaders of images by name."""

SHAPE_LOADERS: dict[str, Callable[..., ShapeData]] = {"solids": solids, "points": point_folders}
"""Loaders of shapes by name."""

Data = TypeVar("Data")


def load_images(config: Mapping[str, Any]) -> ImageData:
    """Loads the data set that ``config["name"]`` names; the other keys are its loader's arguments.

    >>> load_images({"name": "digits", "pooling": 2}).image_shape
    (1, 4, 4)

    Raises:
        ValueError: the name or an argument is unknown; the message lists the known ones.
        DataError: files are missing or damaged.
    """
    return _load(config, LOADERS)


def load_shapes(config: Mapping[str, Any]) -> ShapeData:
    """As `load_images`, of shapes in space.

    >>> load_shapes({"name": "solids", "pool_shapes": 20, "test_shapes": 10, "points": 64}).classes
    10

    Raises:
        ValueError: the name or an argument is unknown; the message lists the known ones.
        DataError: files are missing or damaged.
    """
    return _load(config, SHAPE_LOADERS)


def load_data(config: Mapping[str, Any]) -> ImageData | ShapeData:
    """Shapes where ``config["name"]`` names a data set of shapes, else images; see `load_shapes` and `load_images`."""
    return load_shapes(config) if config.get("name") in SHAPE_LOADERS else load_images(config)


def _load(config: Mapping[str, Any], loaders: Mapping[str, Callable[..., Data]]) -> Data:
    options = dict(config)
    name = options.pop("name", None)
    if name not in loaders:
        raise ValueError(f"data.name={name!r} is not a known data set; known are {', '.join(loaders)}")
    known = inspect.signature(loaders[name]).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"data set {name!r} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    found: Data = _kept(loaders[name], tuple(sorted(options.items())), os.environ.get(DATA_VARIABLE))
    return found


@lru_cache(maxsize=4)
def _kept(loader: Callable[..., Data], options: tuple[tuple[str, Any], ...], root: str | None) -> Data:
    """What was loaded last; another ``root`` is another data set."""
    return loader(**dict(options))
