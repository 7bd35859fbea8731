"""The python batches of CIFAR-10, read without running what a pickle may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from experiments.data.batches import arrays_of
from experiments.data.idx import some_of
from experiments.data.images import ImageData, assemble
from experiments.data.source import DataError, data_folder

__all__ = ["cifar10", "read_batch"]

REMEDY = "it needs data_batch_1 to data_batch_5 and test_batch, unpacked from cifar-10-python.tar.gz"
TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))


def read_batch(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 3, 32, 32]`` of bytes and labels ``[N]`` of one batch file.

    Only arrays, bytes, strings, numbers, lists and dicts are read; a pickle that asks for anything else is
    refused before it is run.

    Raises:
        DataError: the file is missing, truncated, no batch, or asks for something else.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} is missing; {REMEDY}")
    try:
        content = arrays_of(path.read_bytes())
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{path} is refused or damaged: {error}; fetch it from a source that you trust") from error
    if isinstance(content, dict):
        pixels, labels = np.asarray(content.get("data")), content.get("labels")
        whole = pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] == 3072
        numbers = labels if isinstance(labels, list) and all(type(label) is int for label in labels) else []
        if whole and len(numbers) == len(pixels):
            return pixels.reshape(-1, 3, 32, 32), np.array(numbers)
    raise DataError(f"{path} is no CIFAR-10 batch: it needs 'data' [N, 3072] of bytes and N 'labels'; fetch it again")


def cifar10(
    *,
    folder: str | None = None,
    pooling: int = 1,
    pool_images: int | None = None,
    test_images: int | None = None,
    grayscale: bool = False,
    seed: int = 0,
    shift: int = 2,
) -> ImageData:
    """CIFAR-10: the training pool from the data batches that are there, the held-out images from ``test_batch``.

    Args:
        folder: where the batches lie; else ``cifar-10-batches-py`` in the environment's ``GRAPHNETS_DATA``.
        pooling: images are averaged over squares of this side.
        pool_images, test_images: how many images are used, drawn in proportion to the classes; None for all.
        grayscale: the mean of the three channels.
        seed: decides which images are used.
        shift: pixels (before pooling) by which the shifted test set is translated.

    Raises:
        DataError: the folder or a file is missing, damaged, or no harmless batch.
    """
    root = data_folder(folder, "cifar-10-batches-py", REMEDY)

    def load(names: tuple[str, ...], count: int | None) -> tuple[torch.Tensor, np.ndarray]:
        parts = [read_batch(root / name) for name in names]
        images = torch.from_numpy(np.concatenate([part[0] for part in parts])).float() / 255
        images = images.mean(1, keepdim=True) if grayscale else images
        return some_of(images, np.concatenate([part[1] for part in parts]), count, seed)

    name = "cifar10" + (" gray" if grayscale else "") + (f" pooled {pooling}x{pooling}" if pooling != 1 else "")
    return assemble(
        name, *load(TRAINING, pool_images), *load(("test_batch",), test_images), pooling=pooling, shift=shift
    )
