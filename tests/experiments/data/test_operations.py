"""Operations on images, beside naive loops and their laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from experiments.data import OPERATIONS, edited
from experiments.data.operations import contrast, dilate, erode, gradient


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 2, 7, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_morphology_is_that_of_scipy(size: int, images: Tensor) -> None:
    # At the border, the nearest pixels again add no other value.
    square: dict[str, Any] = {"size": (1, 1, size, size), "mode": "nearest"}
    largest = ndimage.maximum_filter(images.numpy(), **square)
    smallest = ndimage.minimum_filter(images.numpy(), **square)
    assert np.array_equal(dilate(images, size).numpy(), largest)
    assert np.array_equal(erode(images, size).numpy(), smallest)
    assert torch.equal(gradient(images, size), dilate(images, size) - erode(images, size))


def test_a_square_of_even_side_reaches_up_and_left_like_that_of_opencv() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 1] = 1.0
    assert dilate(image, 2)[0, 0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert (1 - erode(1 - image, 2))[0, 0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def naive_contrast(image: np.ndarray, clip: float, tiles: int) -> np.ndarray:
    """One grey image ``[H, W]``, pixel by pixel."""
    height, width = image.shape
    tall, wide = -(-height // tiles), -(-width // tiles)
    levels = np.rint(image * 255).astype(int)
    padded = np.pad(levels, ((0, tall * tiles - height), (0, wide * tiles - width)), mode="reflect")
    curves = np.zeros((tiles, tiles, 256))
    for i in range(tiles):
        for j in range(tiles):
            square = padded[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
            counts = np.bincount(square.ravel(), minlength=256).astype(float)
            limit = max(int(clip * square.size / 256), 1)
            cut = np.minimum(counts, limit)
            curves[i, j] = np.cumsum(cut + (counts - cut).sum() / 256) / square.size
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            v, u = y / tall - 0.5, x / wide - 0.5
            for i, a in ((np.floor(v), 1 - v % 1), (np.floor(v) + 1, v % 1)):
                for j, b in ((np.floor(u), 1 - u % 1), (np.floor(u) + 1, u % 1)):
                    row, column = np.clip([i, j], 0, tiles - 1).astype(int)
                    out[y, x] += a * b * curves[row, column, levels[y, x]]
    return out


@pytest.mark.parametrize(("clip", "tiles"), [(1.0, 3), (40.0, 2), (100.0, 4)])
def test_contrast_is_the_equalisation_of_a_naive_loop(clip: float, tiles: int) -> None:
    images = torch.rand(2, 1, 8, 11, generator=torch.Generator().manual_seed(1)).double() ** 2
    found = contrast(images, clip, tiles)
    for image, after in zip(images[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        assert np.allclose(after, naive_contrast(image, clip, tiles), atol=1e-6)
    assert float((found - images).abs().mean()) > 0.05


def test_contrast_leaves_differences_of_colour() -> None:
    image = torch.full((1, 3, 6, 6), 0.4)
    image[:, 0] += 0.1 * torch.arange(6.0) / 6
    after = contrast(image, 2.0, 2)
    inside = ((after > 0) & (after < 1)).all(1)[0]
    assert inside.any()
    shift = (after - image)[0]
    assert torch.allclose(shift[0][inside], shift[2][inside], atol=1e-6)


def test_images_between_minus_one_and_one_stay_there(images: Tensor) -> None:
    grey = images[:, :1] * 2 - 1
    for name, function in OPERATIONS.items():
        after = edited(grey, name, {})
        assert after.shape == grey.shape
        assert after.min() >= -1
        assert after.max() <= 1
        assert torch.allclose(after, function(grey / 2 + 0.5) * 2 - 1)
        assert not torch.allclose(after, grey)


def test_what_is_unknown_is_named(images: Tensor) -> None:
    with pytest.raises(ValueError, match="operation 'blur' is unknown; known are dilate, erode, gradient, contrast"):
        edited(images, "blur", {})
    with pytest.raises(ValueError, match="operation 'dilate' has no option clip; it has size"):
        edited(images, "dilate", {"clip": 1.0})
