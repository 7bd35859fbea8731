"""Images for zoos, each data set split once and for all."""

from __future__ import annotations

from experiments.data.digits import digits
from experiments.data.images import ImageData
from experiments.data.load import LOADERS, load_images

__all__ = ["LOADERS", "ImageData", "digits", "load_images"]
