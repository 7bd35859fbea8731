"""From a configuration to images."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from experiments.data.cifar import cifar10
from experiments.data.digits import digits
from experiments.data.idx import idx_images
from experiments.data.images import ImageData
from experiments.data.pictures import image_folder, photographs
from experiments.data.source import DATA_VARIABLE

__all__ = ["LOADERS", "load_images"]

LOADERS: dict[str, Callable[..., ImageData]] = {
    "digits": digits,
    "idx": idx_images,
    "cifar10": cifar10,
    "folder": image_folder,
    "photographs": photographs,
}


def load_images(config: Mapping[str, Any]) -> ImageData:
    """Loads the data set that ``config["name"]`` names; the other keys are its loader's arguments.

    >>> load_images({"name": "digits", "pooling": 2}).image_shape
    (1, 4, 4)

    Raises:
        ValueError: the name or an argument is unknown; the message lists the known ones.
        DataError: files are missing or damaged.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in LOADERS:
        raise ValueError(f"data.name={name!r} is not a known data set; known are {', '.join(LOADERS)}")
    known = inspect.signature(LOADERS[name]).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"data set {name!r} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    return _load(name, tuple(sorted(options.items())), os.environ.get(DATA_VARIABLE))


@lru_cache(maxsize=4)
def _load(name: str, options: tuple[tuple[str, Any], ...], root: str | None) -> ImageData:
    return LOADERS[name](**dict(options))
