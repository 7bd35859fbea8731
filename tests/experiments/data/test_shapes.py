"""Shapes are what they are called, and files of points are read in their own formats; damaged ones are named."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from experiments.data import DataError, ShapeData, load_data, load_images, load_shapes
from experiments.data.point_files import point_folders, read_points
from experiments.data.shapes import distances, sample_surface
from experiments.data.solids import SOLIDS, solids

CORNERS = np.array([[x, y, z] for x in (0.0, 2.0) for y in (0.0, 1.0) for z in (0.0, 4.0)])
SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_solids_are_drawn_once_and_for_all() -> None:
    data, more = solids(pool_shapes=30, test_shapes=10, points=64), solids(pool_shapes=40, test_shapes=10, points=64)
    assert data.fingerprint == solids(pool_shapes=30, test_shapes=10, points=64).fingerprint
    assert torch.equal(data.pool, more.pool[:30])
    assert not torch.equal(data.pool[:10], data.test)
    others = [more, solids(pool_shapes=30, test_shapes=10, points=64, seed=1)]
    assert data.fingerprint not in [other.fingerprint for other in others]
    assert data.classes == len(SOLIDS) == 10
    assert torch.bincount(data.pool_labels).tolist() == [3] * 10
    radius = data.pool.norm(dim=2).amax(1)
    assert 0.6 - 1e-3 < float(radius.min()) < float(radius.max()) < 0.9 + 1e-3
    assert radius.unique().numel() == 30
    assert float(data.pool.mean(1).abs().max()) < 1e-5


@pytest.mark.parametrize("name", SOLIDS)
def test_every_class_varies_and_no_triangle_is_lost(name: str) -> None:
    extents = []
    for seed in range(5):
        vertices, faces = SOLIDS[name](np.random.default_rng(seed))
        assert 0 <= faces.min() < faces.max() < len(vertices)
        assert set(faces.ravel()) == set(range(len(vertices)))
        extents.append(sample_surface(vertices, faces, 500, draw()).std(0))
    assert np.ptp(np.stack(extents), axis=0).max() > 0.02


def test_points_lie_on_the_surfaces_that_classes_are_called_after() -> None:
    def points(name: str) -> np.ndarray:
        return sample_surface(*SOLIDS[name](draw()), 400, draw())

    ring, half = points("torus"), np.abs(SOLIDS["cuboid"](draw())[0]).max(0)
    across = np.hypot(np.linalg.norm(ring[:, :2], axis=1) - 1, ring[:, 2])
    assert across.max() - across.min() < 0.02
    assert np.isclose(np.abs(points("cuboid")) / half, 1).any(1).all()
    tube = points("cylinder")
    radius = np.linalg.norm(tube[:, :2], axis=1)
    assert ((radius > 0.98) | np.isclose(np.abs(tube[:, 2]), np.abs(tube[:, 2]).max())).all()
    cone = points("cone")
    slope = np.linalg.norm(cone[:, :2], axis=1) + cone[:, 2] / cone[:, 2].max()
    assert ((np.abs(slope - 1) < 0.05) | np.isclose(cone[:, 2], 0)).all()


def test_without_a_lean_what_is_level_stays_level() -> None:
    shares = []
    for tilt in (0.0, 0.5):
        clouds = solids(pool_shapes=100, test_shapes=10, tilt=tilt).pool[3::10]  # cylinders
        heights = clouds[..., 0]
        shares.append(((heights.amax(1, keepdim=True) - heights) < 1e-4).float().mean(1))
    assert float(shares[0].min()) > 0.05 > 0.03 > float(shares[1].max())


def test_points_are_spread_by_area() -> None:
    faces = np.array([part for a, b, c, d in SIDES for part in ((a, b, c), (a, c, d))])
    points = sample_surface(CORNERS, faces, 20000, draw())
    for axis, area in ((0, 4.0), (1, 8.0), (2, 2.0)):
        for value in (0.0, CORNERS[:, axis].max()):
            assert np.isclose(points[:, axis], value).mean() == pytest.approx(area / 28, abs=0.015)
    with pytest.raises(ValueError, match="have no area"):
        sample_surface(np.zeros((3, 3)), np.array([[0, 1, 2]]), 5, draw())


def test_distances_are_those_to_the_nearest_point() -> None:
    places, points = draw().normal(size=(50, 3)), np.random.default_rng(1).normal(size=(40, 3))
    assert np.allclose(distances(places, points), cdist(places, points).min(1))


def write_ply(path: Path, points: np.ndarray, form: str) -> None:
    number = "float" if form == "ascii" else "double"
    head = f"ply\nformat {form} 1.0\ncomment made here\nelement vertex {len(points)}\n"
    head += "".join(f"property {number} {axis}\n" for axis in "xyz") + "property uchar red\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if form == "ascii":
        body = "".join(" ".join(map(repr, row.tolist())) + " 7\n" for row in points).encode() + b"3 0 1 2\n"
    else:
        order = "<" if "little" in form else ">"
        body = b"".join(struct.pack(f"{order}3dB", *row, 7) for row in points)
        body += struct.pack(f"{order}B3i", 3, 0, 1, 2)
    path.write_bytes(head.encode() + body)


def write_off(path: Path, header: str) -> None:
    rows = [" ".join(map(str, corner)) for corner in CORNERS] + [" ".join(map(str, (4, *side))) for side in SIDES]
    path.write_text(header + "\n".join(rows) + "\n")


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "a.npy": lambda path, points: np.save(path, np.hstack([points, points])),
    "one.npz": lambda path, points: np.savez(path, cloud=points),
    "named.npz": lambda path, points: np.savez(path, points=points, normals=-points),
    "ascii.ply": lambda path, points: write_ply(path, points, "ascii"),
    "little.ply": lambda path, points: write_ply(path, points, "binary_little_endian"),
    "big.PLY": lambda path, points: write_ply(path, points, "binary_big_endian"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_clouds_are_read_from_every_format(name: str, tmp_path: Path) -> None:
    points = draw().normal(size=(30, 3))
    WRITERS[name](tmp_path / name, points)
    centred = points - points.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1).max()
    found = read_points(tmp_path / name, 30, draw())
    assert found.dtype == np.float32
    order = cdist(found, expected).argmin(1)
    assert sorted(order) == list(range(30))
    assert order.tolist() != list(range(30))
    assert np.allclose(found, expected[order], atol=1e-6)
    assert np.linalg.norm(read_points(tmp_path / name, 100, draw()), axis=1).max() == pytest.approx(1)


@pytest.mark.parametrize("header", ["OFF\n# a box\n8 6 0\n", "OFF8 6 0\n"])
def test_meshes_are_sampled_on_their_faces(header: str, tmp_path: Path) -> None:
    write_off(tmp_path / "box.off", header)
    points = read_points(tmp_path / "box.off", 4000, draw())
    sides = np.ptp(points, axis=0)
    assert np.allclose(sides / sides[0], [1, 0.5, 2], atol=1e-2)
    level = np.isclose(points[:, 1], points[:, 1].min(), atol=1e-3).mean()
    assert level == pytest.approx(8 / 28, abs=0.03)


@pytest.mark.parametrize("layout", ["{name}/{split}", "{split}/{name}"])
def test_folders_of_classes_are_read_in_both_layouts(layout: str, tmp_path: Path) -> None:
    clouds = {}
    for place, (name, split) in enumerate(
        [("lamp", "train"), ("bed", "train"), ("bed", "validation"), ("lamp", "test"), ("bed", "test")]
    ):
        folder = tmp_path / "sets" / layout.format(name=name, split=split)
        folder.mkdir(parents=True)
        for number in range(2):
            clouds[name, split, number] = np.random.default_rng(10 * place + number).normal(size=(20, 3))
            np.save(folder / f"{number}.npy", clouds[name, split, number])
    (tmp_path / "sets" / "readme.txt").write_text("")
    data = point_folders(dataset="two", folder=str(tmp_path / "sets"), points=20)
    assert (data.name, data.classes) == ("two", 2)
    assert sorted(data.pool_labels.tolist()) == [0, 0, 0, 0, 1, 1]
    assert sorted(data.test_labels.tolist()) == [0, 0, 1, 1]
    bed = clouds["bed", "test", 0] - clouds["bed", "test", 0].mean(0)
    bed = torch.from_numpy(bed / np.linalg.norm(bed, axis=1).max()).float()
    apart = [float(torch.cdist(bed, cloud).amin(1).max()) for cloud in data.test]
    assert min(apart) < 1e-5
    assert int(data.test_labels[int(np.argmin(apart))]) == 0
    some = load_data({"name": "points", "dataset": "two", "folder": str(tmp_path / "sets"), "pool_shapes": 3})
    assert isinstance(some, ShapeData)
    assert (len(some.pool), len(some.test), some.pool.shape[1]) == (3, 4, 2048)


DAMAGED: dict[str, Callable[[Path], object]] = {
    "object.npy": lambda path: np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True),
    "flat.npy": lambda path: np.save(path, np.zeros(9)),
    "words.npy": lambda path: np.save(path, np.array([["a", "b", "c"]])),
    "infinite.npy": lambda path: np.save(path, np.full((4, 3), np.inf)),
    "two.npz": lambda path: np.savez(path, a=np.zeros((4, 3)), b=np.zeros((4, 3))),
    "no.ply": lambda path: path.write_bytes(b"plymouth"),
    "short.ply": lambda path: path.write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n" + bytes(40)
    ),
    "cut.ply": lambda path: path.write_bytes(
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        b"end_header\n1 2 3\n"
    ),
    "no.off": lambda path: path.write_text("COFF\n0 0 0\n"),
    "short.off": lambda path: path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1\n"),
    "missing.npy": lambda path: None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    DAMAGED[name](tmp_path / name)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name} is damaged or holds no shape: ")):
        read_points(tmp_path / name, 10, draw())


def test_a_folder_of_something_else_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 0 classes and 0 shapes in train; it needs <class>/train/\*"):
        point_folders(folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"data.name='solids' is not a known data set; known are digits, idx"):
        load_images({"name": "solids"})
    with pytest.raises(ValueError, match=r"data.name='digits' is not a known data set; known are solids, points"):
        load_shapes({"name": "digits"})
