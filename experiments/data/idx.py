"""MNIST's idx files, plain or compressed with gzip: MNIST, Fashion-MNIST and their kin."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from experiments.data.images import ImageData, assemble, stratified_split
from experiments.data.source import DataError, data_folder

__all__ = ["idx_images", "read_idx", "some_of"]

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
REMEDY = (
    "it needs the files {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or as .gz; "
    "Debian's package dataset-fashion-mnist brings those of fashion-mnist"
)


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an idx file, plain or (by its first bytes) compressed with gzip.

    Raises:
        DataError: the file is missing, is no idx file, or is shorter or longer than it says.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {REMEDY}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: {error}; fetch it again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in DTYPES:
        raise DataError(f"{path} is no idx file: it starts with {data[:4].hex() or 'nothing'}; fetch it again")
    kind, axes = np.dtype(DTYPES[data[2]]), data[3]
    start = 4 + 4 * axes
    if len(data) < start:
        raise DataError(f"{path} is truncated: it ends within its header; fetch it again")
    shape = struct.unpack(f">{axes}I", data[4:start])
    expected = start + int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(data) != expected:
        fault = "truncated" if len(data) < expected else "too long"
        raise DataError(
            f"{path} is {fault}: {len(data)} bytes, an array of shape {shape} needs {expected}; fetch it again"
        )
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def _pair(folder: Path, part: str) -> tuple[torch.Tensor, np.ndarray]:
    """Images ``[N, 1, H, W]`` in 0 to 1 and labels ``[N]``."""
    found = []
    for kind in ("images-idx3", "labels-idx1"):
        plain = folder / f"{part}-{kind}-ubyte"
        packed = plain.with_name(plain.name + ".gz")
        if not plain.exists() and not packed.exists():
            raise DataError(f"{plain} is missing, and so is {packed.name}; {REMEDY}")
        found.append(read_idx(plain if plain.exists() else packed))
    images, labels = found
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: the {part} images have shape {images.shape} and the labels {labels.shape}; "
            "they should be [N, height, width] and [N]: fetch them again"
        )
    return torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1), labels


def idx_images(
    *,
    dataset: str = "fashion-mnist",
    folder: str | None = None,
    pooling: int = 1,
    pool_images: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
    shift: int = 1,
) -> ImageData:
    """Images of idx files: the training pool from the ``train`` files, the held-out images from ``t10k``.

    Args:
        dataset: its name, and its folder in the environment's ``GRAPHNETS_DATA``.
        folder: where the four files lie, if not there.
        pooling: images are averaged over squares of this side; 2 gives 14 x 14 pixels.
        pool_images, test_images: how many images are used, drawn in proportion to the classes; None for all.
        seed: decides which.
        shift: pixels (before pooling) by which the shifted test set is translated.

    Raises:
        DataError: the folder or a file is missing or damaged.
    """
    root = data_folder(folder, dataset, REMEDY)
    pool, test = (
        some_of(*_pair(root, part), count, seed) for part, count in (("train", pool_images), ("t10k", test_images))
    )
    name = dataset if pooling == 1 else f"{dataset} pooled {pooling}x{pooling}"
    return assemble(name, *pool, *test, pooling=pooling, shift=shift)


def some_of(images: torch.Tensor, labels: np.ndarray, count: int | None, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """``count`` images ``[N, C, H, W]`` and their labels ``[N]``, every class in its own proportion; all if None."""
    if count is None or count == len(labels):
        return images, labels
    _, chosen = stratified_split(labels, count, seed)
    return images[chosen], labels[chosen]
