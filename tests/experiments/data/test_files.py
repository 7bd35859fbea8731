"""Loaders are tested on small files in the very format, made here; damaged files are named."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import DataError, load_images
from experiments.data.cifar import read_batch
from experiments.data.idx import read_idx

GENERATOR = np.random.default_rng(0)
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, packed: bool = False) -> list[np.ndarray]:
    folder.mkdir(parents=True)
    arrays = []
    for name, count in zip(FILES, (40, 40, 20, 20), strict=True):
        labels = np.arange(count) % 4
        arrays.append(labels if "labels" in name else GENERATOR.integers(0, 256, (count, 28, 28)))
        data = idx_bytes(arrays[-1])
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return arrays


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_become_a_pool_and_test_images(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, test, test_labels = write_idx(tmp_path / "fashion-mnist", packed)
    spec = {"name": "idx", "folder": str(tmp_path / "fashion-mnist")}
    data = load_images(spec)
    assert data.name == "fashion-mnist"
    assert data.classes == 4
    assert data.pool_labels.tolist() == labels.tolist()
    assert data.test_labels.tolist() == test_labels.tolist()
    scaled = torch.from_numpy(images).float() / 255
    assert torch.allclose(data.pool[:, 0], (scaled - scaled.mean()) / scaled.std(), atol=1e-5)
    test_scaled = torch.from_numpy(test).float() / 255
    assert torch.allclose(data.test[:, 0], (test_scaled - scaled.mean()) / scaled.std(), atol=1e-5)

    fewer = load_images(spec | {"pooling": 2, "pool_images": 16, "test_images": 8})
    assert fewer.pool.shape == (16, 1, 14, 14)
    assert fewer.test.shape == (8, 1, 14, 14)
    assert fewer.shifted.shape == (32, 1, 14, 14)
    assert np.bincount(fewer.pool_labels).tolist() == [4] * 4
    monkeypatch.setenv("GRAPHNETS_DATA", str(tmp_path))
    assert load_images({"name": "idx"}).fingerprint == data.fingerprint


def test_idx_arrays_of_every_type_and_shape(tmp_path: Path) -> None:
    path = tmp_path / "array"
    for code, kind in ((0x08, ">u1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")):
        array = np.arange(6).reshape(2, 3).astype(kind)
        path.write_bytes(struct.pack(">BBBBII", 0, 0, code, 2, 2, 3) + array.tobytes())
        assert np.array_equal(read_idx(path), array)
        assert read_idx(path).dtype.isnative


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-5], "is truncated: .* bytes, an array of shape"),
        (lambda data: data + b"x", "is too long"),
        (lambda data: data[:10], "ends within its header"),
        (lambda data: b"PNG!" + data[4:], "is no idx file: it starts with 504e4721"),
        (lambda data: b"", "is no idx file: it starts with nothing"),
        (lambda data: gzip.compress(data)[:-20], "is truncated or damaged"),
        (lambda data: b"\x1f\x8bnothing of the kind", "is truncated or damaged"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    write_idx(tmp_path / "data")
    path = tmp_path / "data" / FILES[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=re.escape(str(path)) + " .*" + message):
        load_images({"name": "idx", "folder": str(tmp_path / "data")})


def test_missing_folders_and_files_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHNETS_DATA", raising=False)
    with pytest.raises(DataError, match=r"fashion-mnist has no folder: set data.folder, or .*GRAPHNETS_DATA.*package"):
        load_images({"name": "idx"})
    with pytest.raises(DataError, match=r"mnist should be in .*nowhere, which is not a folder"):
        load_images({"name": "idx", "dataset": "mnist", "folder": str(tmp_path / "nowhere")})
    write_idx(tmp_path / "data")
    (tmp_path / "data" / FILES[3]).unlink()
    with pytest.raises(DataError, match=f"{FILES[3]} is missing, and so is {FILES[3]}.gz; it needs the files"):
        load_images({"name": "idx", "folder": str(tmp_path / "data")})
    (tmp_path / "data" / FILES[3]).write_bytes(idx_bytes(np.zeros(3)))
    with pytest.raises(DataError, match=r"t10k images have shape \(20, 28, 28\) and the labels \(3,\)"):
        load_images({"name": "idx", "folder": str(tmp_path / "data")})


def write_cifar(folder: Path, protocol: int = 2) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    pixels = {}
    for name in (*[f"data_batch_{number}" for number in range(1, 6)], "test_batch"):
        pixels[name] = GENERATOR.integers(0, 256, (10, 3072)).astype(np.uint8)
        content = {b"batch_label": b"a batch", b"labels": [k % 5 for k in range(10)], b"data": pixels[name]}
        content[b"filenames"] = [b"a.png"] * 10
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    return pixels


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_cifar_batches_become_a_pool_and_test_images(tmp_path: Path, protocol: int) -> None:
    pixels = write_cifar(tmp_path / "cifar", protocol)
    images, labels = read_batch(tmp_path / "cifar" / "data_batch_2")
    assert np.array_equal(images, pixels["data_batch_2"].reshape(10, 3, 32, 32))
    assert labels.tolist() == [0, 1, 2, 3, 4] * 2
    data = load_images({"name": "cifar10", "folder": str(tmp_path / "cifar")})
    assert data.pool.shape == (50, 3, 32, 32)
    assert data.test.shape == (10, 3, 32, 32)
    raw = torch.from_numpy(np.concatenate(list(pixels.values())[:5])).float().view(50, 3, 32, 32) / 255
    assert torch.allclose(data.pool, (raw - raw.mean()) / raw.std(), atol=1e-5)
    gray = load_images({"name": "cifar10", "folder": str(tmp_path / "cifar"), "grayscale": True, "pooling": 4})
    assert gray.image_shape == (1, 8, 8)


def test_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    """Protocol 2 with str as bytes: every string is a SHORT_BINSTRING, as in the published files."""
    data = bytes(range(256)) * 12

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + text(b"b")
        + b"\x87R(K\x01K\x01M\x00\x0c\x86"
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", len(data)) + data + b"tb"
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"]K\x07au.")
    images, labels = read_batch(path)
    assert images.tobytes() == data
    assert labels.tolist() == [7]


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Hostile(tmp_path / "made"), b"labels": []}, protocol))
    with pytest.raises(DataError, match=r"data_batch_1 is refused or damaged: it asks for \w+\.mkdir"):
        read_batch(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())  # the pickle would have run its command
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        {b"data": np.array([{}], dtype=object), b"labels": [0]},
        {b"data": np.zeros((1, 3072), "c8"), b"labels": [0]},
        {b"data": np.zeros((1, 3072), "f4"), b"labels": [0]},
        {b"data": np.zeros((2, 3072), "u1"), b"labels": [0]},
        {b"data": np.zeros((1, 3000), "u1"), b"labels": [0]},
        {b"labels": [0]},
        [1, 2],
    ],
)
def test_pickles_that_are_no_batches_are_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_batch(path)


def test_missing_and_truncated_batches_are_named(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar")
    path = tmp_path / "cifar" / "data_batch_4"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="data_batch_4 is refused or damaged"):
        load_images({"name": "cifar10", "folder": str(tmp_path / "cifar")})
    path.unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing; it needs data_batch_1 to data_batch_5"):
        load_images({"name": "cifar10", "folder": str(tmp_path / "cifar")})


def write_pictures(folder: Path) -> dict[str, np.ndarray]:
    pixels = {}
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            pixels[f"{label}/{number}"] = GENERATOR.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels[f"{label}/{number}"]).save(folder / label / f"{number}.png")
    (folder / "notes").mkdir()
    (folder / "cat" / "readme.txt").write_text("no picture")
    return pixels


def test_a_folder_of_pictures_has_a_class_per_folder(tmp_path: Path) -> None:
    pixels = write_pictures(tmp_path / "pets")
    spec = {"name": "folder", "folder": str(tmp_path / "pets"), "dataset": "pets", "test_images": 4}
    data = load_images(spec)
    assert (data.name, data.classes) == ("pets", 2)
    assert data.pool.shape == (8, 3, 8, 8)
    assert sorted(data.test_labels.tolist()) == [0, 0, 1, 1]
    everything = torch.cat([data.pool, data.test]).flatten()
    slope = (np.stack(list(pixels.values())) / 255).std() / everything.std(correction=0)
    cats = {tuple((value / 255).transpose(2, 0, 1).ravel().round(3)) for key, value in pixels.items() if "cat" in key}
    offset = float(np.min([value.min() for value in pixels.values()])) / 255 - float(everything.min() * slope)
    found = (data.test[data.test_labels == 0] * slope + offset).flatten(1).numpy().astype(float)
    for row in found:
        assert min(np.abs(row - np.array(cat)).max() for cat in cats) < 2e-3
    resized = load_images(spec | {"size": 4, "grayscale": True})
    assert resized.image_shape == (1, 4, 4)


def test_wrong_pictures_are_named(tmp_path: Path) -> None:
    spec = {"name": "folder", "folder": str(tmp_path / "pets"), "test_images": 4}
    write_pictures(tmp_path / "pets")
    bad = tmp_path / "pets" / "dog" / "3.png"
    whole = bad.read_bytes()
    for damage in (whole[:60], b"no picture"):
        bad.write_bytes(damage)
        with pytest.raises(DataError, match=re.escape(str(bad)) + " is truncated or no picture"):
            load_images(spec)
    Image.new("RGB", (9, 8)).save(bad)
    with pytest.raises(DataError, match=re.escape(str(bad)) + " has 9x8 pixels, unlike .*; set data.size"):
        load_images(spec)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has pictures of 0 classes; it needs one folder per class"):
        load_images(spec | {"folder": str(tmp_path / "empty")})


def test_crops_of_the_photographs_tile_them() -> None:
    data = load_images({"name": "photographs", "size": 32, "test_images": 120})
    assert data.pool.shape == (400, 3, 32, 32)
    assert data.classes == 2
    assert np.bincount(data.test_labels).tolist() == [60, 60]
    everything = torch.cat([data.pool, data.test]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == 520
