"""Encoders of images: what they learn from, that they are the same every time, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import IMAGE_ENCODERS, DataError, ImageData, digits, encode_images


@pytest.fixture(scope="module")
def data() -> ImageData:
    return digits()


def test_components_are_uncorrelated_and_know_no_labels(data: ImageData) -> None:
    encoder = IMAGE_ENCODERS["pixels"](data, channels=16)
    features = encode_images(encoder, data.pool)
    assert features.shape == (len(data.pool), 16)
    covariance = torch.from_numpy(np.cov(features.T.numpy()))
    assert torch.allclose(covariance, torch.eye(16).double(), atol=2e-3)
    other = replace(data, pool_labels=data.pool_labels.flip(0))
    assert torch.equal(encode_images(IMAGE_ENCODERS["pixels"](other, channels=16), data.pool), features)
    assert torch.allclose(encode_images(encoder, data.pool[:1]), features[:1], atol=1e-5), "one by one or together"


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Another data set: stripes across and along."""
    root = tmp_path_factory.mktemp("stripes")
    generator = np.random.default_rng(0)
    for name in ("across", "along"):
        (root / name).mkdir()
        for number in range(40):
            lines = np.zeros((12, 12, 3), np.uint8)
            lines[generator.integers(4) :: 4] = 255
            image = lines if name == "across" else lines.transpose(1, 0, 2)
            Image.fromarray(image).save(root / name / f"{number}.png")
    return {"name": "folder", "folder": str(root), "size": 12, "test_images": 20, "seed": 0, "shift": 1}


def test_features_of_another_data_set(data: ImageData, stripes: dict[str, object]) -> None:
    encoder = IMAGE_ENCODERS["trained"](data, channels=8, source=stripes, hidden=16, epochs=20)
    again = IMAGE_ENCODERS["trained"](data, channels=8, source=stripes, hidden=16, epochs=20)
    other = IMAGE_ENCODERS["trained"](data, channels=8, source=stripes, hidden=16, epochs=20, seed=1)
    features = encode_images(encoder, data.test)
    assert features.shape == (len(data.test), 8)
    assert features.min() >= 0
    assert torch.equal(features, encode_images(again, data.test))
    assert not torch.allclose(features, encode_images(other, data.test))
    across = torch.zeros(1, 1, 8, 8)
    across[:, :, ::3] = 2.0
    both = encode_images(encoder, torch.cat([across, across.transpose(2, 3)]))
    assert (both[0] - both[1]).abs().max() > 0.5, "it learned what tells stripes apart"


def test_clip_from_a_folder(data: ImageData, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    vision.projection_dim = 10
    model = transformers.CLIPVisionModelWithProjection(vision).eval()
    model.save_pretrained(tmp_path)
    encoder = IMAGE_ENCODERS["clip"](data, channels=10, folder=str(tmp_path))
    features = encode_images(encoder, data.test[:5])
    assert features.shape == (5, 10)
    assert not torch.allclose(features[0], features[1])
    shown = (data.test[:5] - data.pool.min()) / (data.pool.max() - data.pool.min())
    shown = torch.nn.functional.interpolate(
        shown.clamp(0, 1).expand(-1, 3, -1, -1), (16, 16), mode="bicubic", antialias=True
    )
    mean, deviation = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    scaled = (shown.clamp(0, 1) - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(features, model(pixel_values=scaled).image_embeds, atol=1e-3)
    with pytest.raises(DataError, match="channels=512, but the encoder"):
        IMAGE_ENCODERS["clip"](data, channels=512, folder=str(tmp_path))


def test_what_is_refused(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="channels=65: digits has 64 principal components"):
        IMAGE_ENCODERS["pixels"](data, channels=65)
    with pytest.raises(DataError, match=r"encoder\.source is missing"):
        IMAGE_ENCODERS["trained"](data)
    with pytest.raises(DataError, match="the networks' own data set"):
        IMAGE_ENCODERS["trained"](data, source={"name": "digits"})
    with pytest.raises(DataError, match="is no folder"):
        IMAGE_ENCODERS["clip"](data, folder=str(tmp_path / "none"))
    with pytest.raises(DataError, match="holds no CLIP model"):
        IMAGE_ENCODERS["clip"](data, folder=str(tmp_path))
