"""Images for zoos, each data set split once and for all."""

from __future__ import annotations

from experiments.data.cifar import cifar10
from experiments.data.digits import digits
from experiments.data.idx import idx_images
from experiments.data.images import ImageData
from experiments.data.load import LOADERS, load_images
from experiments.data.operations import OPERATIONS, edited
from experiments.data.pictures import image_folder, photographs
from experiments.data.probes import probe_examples
from experiments.data.source import DATA_VARIABLE, DataError

__all__ = [
    "DATA_VARIABLE",
    "LOADERS",
    "OPERATIONS",
    "DataError",
    "ImageData",
    "cifar10",
    "digits",
    "edited",
    "idx_images",
    "image_folder",
    "load_images",
    "photographs",
    "probe_examples",
]
