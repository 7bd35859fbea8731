"""Images and shapes for zoos, each data set split once and for all."""

from __future__ import annotations

from experiments.data.cifar import cifar10
from experiments.data.digits import digits
from experiments.data.idx import idx_images
from experiments.data.image_encoders import IMAGE_ENCODERS, ImageEncoder, encode_images
from experiments.data.images import ImageData
from experiments.data.load import LOADERS, SHAPE_LOADERS, load_data, load_images, load_shapes
from experiments.data.operations import OPERATIONS, edited
from experiments.data.pictures import image_folder, photographs
from experiments.data.point_files import point_folders
from experiments.data.probes import probe_examples
from experiments.data.shapes import ShapeData
from experiments.data.solids import solids
from experiments.data.source import DATA_VARIABLE, DataError

__all__ = [
    "DATA_VARIABLE",
    "IMAGE_ENCODERS",
    "LOADERS",
    "OPERATIONS",
    "SHAPE_LOADERS",
    "DataError",
    "ImageData",
    "ImageEncoder",
    "ShapeData",
    "cifar10",
    "digits",
    "edited",
    "encode_images",
    "idx_images",
    "image_folder",
    "load_data",
    "load_images",
    "load_shapes",
    "photographs",
    "point_folders",
    "probe_examples",
    "solids",
]
