"""Encoders of images, by which a data set becomes a vector: what two data sets have in common shows in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.nn import functional

from experiments.data.images import ImageData
from experiments.data.load import load_images
from experiments.data.source import DataError

__all__ = ["IMAGE_ENCODERS", "ImageEncoder", "clip_features", "encode_images", "pixel_components", "trained_features"]

ImageEncoder = Callable[[Tensor], Tensor]
"""From images ``[N, C, H, W]``, standardised as `ImageData` has them, to features ``[N, channels]``."""

CHUNK = 512
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the images that CLIP was trained on (Radford et al. 2021)."""


def pixel_components(data: ImageData, channels: int = 32) -> ImageEncoder:
    """Principal components of the training pool's pixels, without a look at its labels; each of deviation 1.

    Args:
        data: whose pool.
        channels: how many; at most the number of pixels.

    Raises:
        DataError: there are fewer pixels, or fewer images.
    """
    pixels = data.pool.flatten(1).double()
    limit = min(pixels.shape)
    if not 1 <= channels <= limit:
        raise DataError(f"channels={channels}: {data.name} has {limit} principal components of its pixels")
    mean = pixels.mean(0)
    _, size, ways = torch.linalg.svd(pixels - mean, full_matrices=False)
    ways = ways * ways.gather(1, ways.abs().argmax(1, keepdim=True)).sign()  # one sign, whatever the library's
    kept = (ways[:channels] / (size[:channels, None] / len(pixels) ** 0.5).clamp_min(1e-12)).T
    return lambda images: ((images.flatten(1).double() - mean) @ kept).float()


def trained_features(
    data: ImageData,
    channels: int = 32,
    source: Mapping[str, Any] | None = None,
    hidden: int = 64,
    epochs: int = 30,
    seed: int = 0,
) -> ImageEncoder:
    """What a small perceptron sees that was trained to tell the classes of *another* data set apart.

    Its images are brought to the size of ``data``'s, and one channel is repeated where the other has three.

    Args:
        data: whose images are to be encoded; nothing is learned from them.
        channels: of the layer below the classes, whose outputs are the features.
        source: the config of the other data set, as in a zoo's ``data``; none of the classes should be in ``data``.
        hidden: neurons of the layer before.
        epochs, seed: of the training, by scikit-learn's ``MLPClassifier``.

    Raises:
        DataError: there is no source, or it is ``data`` itself.
    """
    if source is None:
        raise DataError("encoder.source is missing: the data set, not the networks' own, that the encoder learns from")
    other = load_images(dict(source))
    if other.name == data.name:
        raise DataError(f"encoder.source={other.name} is the networks' own data set; its classes must not be known")
    planes, height, width = data.image_shape
    images = _fitted(other.pool, planes, (height, width)).flatten(1)
    classifier = MLPClassifier((hidden, channels), batch_size=min(64, len(images)), max_iter=epochs, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as many epochs as were asked for
        classifier.fit(images.double().numpy(), other.pool_labels.numpy())
    layers = [
        (torch.from_numpy(weight), torch.from_numpy(bias))
        for weight, bias in zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True)
    ]

    def features(images: Tensor) -> Tensor:
        x = images.flatten(1).double()
        for weight, bias in layers:
            x = (x @ weight + bias).relu()
        return x.float()

    return features


def _fitted(images: Tensor, planes: int, size: tuple[int, int]) -> Tensor:
    """Images of another data set in the form of this one's."""
    resized = functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    if resized.shape[1] != planes:
        resized = resized.mean(1, keepdim=True).expand(-1, planes, -1, -1)
    return resized


def clip_features(data: ImageData, channels: int | None = None, folder: str | None = None) -> ImageEncoder:
    """What CLIP's visual encoder sees, as in the paper (Swanevelder 2025, Section 3.2.2); 512 numbers of ViT-B/32.

    Weights are read from disk and never downloaded. Images are brought to the encoder's size, from their own range to
    0 to 1, and standardised by CLIP's statistics.

    Args:
        data: whose images.
        channels: expected; None: as many as there are.
        folder: a Hugging Face folder with a CLIP model (``config.json``, safetensors); `transformers` reads it.

    Raises:
        DataError: there is no folder, it holds no such model, the channels differ, or `transformers` is not installed.
    """
    if folder is None or not Path(folder).is_dir():
        raise DataError(f"encoder.folder={folder!r} is no folder; set it to one with a CLIP model")
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError as error:
        raise DataError("the encoder clip needs transformers: pip install 'graphnets[hub]'") from error
    try:
        read: Any = CLIPVisionModelWithProjection.from_pretrained
        model = read(folder, local_files_only=True, use_safetensors=True).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{folder} holds no CLIP model: {error}") from error
    size = int(model.config.image_size)
    low, high = data.pool.min(), data.pool.max()
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_DEVIATION))

    def features(images: Tensor) -> Tensor:
        shown = ((images - low) / (high - low)).clamp(0, 1)
        shown = shown if shown.shape[1] == 3 else shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        shown = functional.interpolate(shown, (size, size), mode="bicubic", antialias=True, align_corners=False)
        found: Tensor = model(pixel_values=(shown.clamp(0, 1) - mean) / deviation).image_embeds
        return found

    with torch.no_grad():
        width = features(data.pool[:1]).shape[1]
    if channels is not None and channels != width:
        raise DataError(f"channels={channels}, but the encoder in {folder} has {width}")
    return features


IMAGE_ENCODERS: dict[str, Callable[..., ImageEncoder]] = {
    "pixels": pixel_components,
    "trained": trained_features,
    "clip": clip_features,
}
"""Names in configs."""


@torch.no_grad()
def encode_images(encoder: ImageEncoder, images: Tensor) -> Tensor:
    """Features of many images, ``[N, channels]`` float32, without gradients."""
    return torch.cat([encoder(chunk).float() for chunk in images.split(CHUNK)])
