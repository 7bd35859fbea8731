"""Images from folders of picture files, and crops of the two photographs that scikit-learn brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_image

from experiments.data.images import ImageData, split_images
from experiments.data.source import DataError, data_folder

__all__ = ["image_folder", "photographs"]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
REMEDY = "it needs one folder per class, with that class's pictures"


def image_folder(
    *,
    dataset: str = "images",
    folder: str | None = None,
    size: int | None = None,
    grayscale: bool = False,
    pooling: int = 1,
    test_images: int = 1000,
    seed: int = 0,
    shift: int = 1,
) -> ImageData:
    """Pictures in ``folder/<class>/``; classes are numbered in alphabetical order.

    Args:
        dataset: its name, and its folder in the environment's ``GRAPHNETS_DATA``.
        folder: the folder of the classes, if not there.
        size: pictures are resized to this many pixels a side; None if all have one size.
        grayscale: one channel instead of three.
        pooling: images are averaged over squares of this side.
        test_images: how many images are held out, drawn in proportion to the classes.
        seed: decides which.
        shift: pixels (before pooling) by which the shifted test set is translated.

    Raises:
        DataError: the folder is missing, has less than two classes, or a picture is damaged or of another size.
    """
    from PIL import Image

    root = data_folder(folder, dataset, REMEDY)
    classes = sorted(path for path in root.iterdir() if path.is_dir() and _pictures(path))
    if len(classes) < 2:
        raise DataError(f"{root} has pictures of {len(classes)} classes; {REMEDY}, of two classes at least")
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    for label, path in ((label, path) for label, each in enumerate(classes) for path in _pictures(each)):
        try:
            with Image.open(path) as opened:
                picture = opened.convert("L" if grayscale else "RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} is truncated or no picture: {error}; repair or remove it") from error
        if size is not None:
            picture = picture.resize((size, size), Image.Resampling.BOX)
        arrays.append(np.atleast_3d(np.asarray(picture, np.float32) / 255))
        labels.append(label)
        if arrays[-1].shape != arrays[0].shape:
            wide, high = picture.size
            raise DataError(f"{path} has {wide}x{high} pixels, unlike the pictures before it; set data.size")
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return split_images(
        dataset, images, np.array(labels), pooling=pooling, test_images=test_images, seed=seed, shift=shift
    )


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def photographs(
    *, size: int = 32, pooling: int = 1, test_images: int = 200, seed: int = 0, shift: int = 1
) -> ImageData:
    """RGB crops of a temple and of a flower, two classes; no download is needed.

    The crops tile the photographs without overlap, so no pixel is in the pool and in the test images.

    Args:
        size: pixels a side of a crop.
        pooling: crops are averaged over squares of this side.
        test_images: how many crops are held out, half of each photograph.
        seed: decides which.
        shift: pixels (before pooling) by which the shifted test set is translated.

    >>> photographs(size=32, pooling=4).pool.shape
    torch.Size([320, 3, 8, 8])
    """
    crops: list[torch.Tensor] = []
    for name in ("china.jpg", "flower.jpg"):
        picture = torch.from_numpy(load_sample_image(name).astype(np.float32) / 255).permute(2, 0, 1)
        tiles = picture.unfold(1, size, size).unfold(2, size, size)
        crops.append(tiles.permute(1, 2, 0, 3, 4).flatten(0, 1))
    labels = np.repeat([0, 1], [len(each) for each in crops])
    return split_images(
        f"photographs {size}x{size}",
        torch.cat(crops),
        labels,
        pooling=pooling,
        test_images=test_images,
        seed=seed,
        shift=shift,
    )
