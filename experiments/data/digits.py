"""The handwritten digits that are embedded in scikit-learn: 1797 images of 8 x 8 pixels, 10 classes."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from experiments.data.images import ImageData, split_images

__all__ = ["digits"]


def digits(*, pooling: int = 1, test_images: int = 797, seed: int = 0, shift: int = 1) -> ImageData:
    """Digits, split into a training pool and held-out test images; no download is needed.

    Args:
        pooling: images are averaged over squares of this side; 2 gives 4 x 4 pixels.
        test_images: how many images are held out, drawn in proportion to the classes.
        seed: decides which images are held out.
        shift: pixels (of the 8 x 8 image) by which the shifted test set is translated.

    >>> data = digits(pooling=2)
    >>> data.pool.shape, data.test.shape, data.shifted.shape
    (torch.Size([1000, 1, 4, 4]), torch.Size([797, 1, 4, 4]), torch.Size([3188, 1, 4, 4]))
    """
    images, labels = load_digits(return_X_y=True)
    return split_images(
        "digits" if pooling == 1 else f"digits pooled {pooling}x{pooling}",
        torch.from_numpy(images.reshape(-1, 1, 8, 8).astype(np.float32) / 16.0),
        labels,
        pooling=pooling,
        test_images=test_images,
        seed=seed,
        shift=shift,
    )
