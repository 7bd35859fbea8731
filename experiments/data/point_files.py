"""Point clouds and meshes from files, one folder per class: ShapeNet-10, ScanNet-10, ModelNet and their kin."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.data.shapes import ShapeData, sample_surface, unit_sphere
from experiments.data.source import DataError, data_folder

__all__ = ["READERS", "point_folders", "read_points"]

REMEDY = (
    "it needs <class>/train/* and <class>/test/*, or train/<class>/* and test/<class>/*, "
    "of .npy, .npz, .ply or .off files"
)
POOL, TEST = ("train", "val", "validation"), ("test",)
PLY_NUMBERS = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}

Surface = tuple[np.ndarray, np.ndarray | None]
"""Points ``[N, 3]``, and triangles ``[F, 3]`` between them where there are any."""


def _npy(path: Path) -> Surface:
    return np.load(path, allow_pickle=False), None


def _npz(path: Path) -> Surface:
    with np.load(path, allow_pickle=False) as archive:
        names = ["points"] if "points" in archive else archive.files
        if len(names) != 1:
            raise ValueError(f"it has the arrays {', '.join(names)}, and none is called points")
        return archive[names[0]], None


def _ply(path: Path) -> Surface:
    """The vertices of a file in Stanford's polygon format; faces are not read."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii").splitlines()]
    if lines[:1] != [["ply"]] or len(lines) < 2 or lines[1][1] not in ORDERS:
        raise ValueError("it does not start as a ply file does")
    order = ORDERS[lines[1][1]]
    elements = [place for place, line in enumerate(lines) if line[:1] == ["element"]]
    first, *others = elements
    if lines[first][1] != "vertex":
        raise ValueError("its first element is not vertex")
    rows = [line for line in lines[first:][: others[0] - first if others else None] if line[:1] == ["property"]]
    kind = np.dtype([(name, order + PLY_NUMBERS[number]) for _, number, name in rows])
    count = int(lines[first][2])
    if lines[1][1] == "ascii":
        values = np.array([line.split() for line in body.decode("ascii").splitlines()[:count]], np.float64)
        if values.shape != (count, len(rows)):
            raise ValueError(f"it ends before its {count} vertices do")
        columns = dict(zip(kind.names or (), values.T, strict=True))
        return np.stack([columns[axis] for axis in "xyz"], 1), None
    table = np.frombuffer(body, kind, count)
    return np.stack([table[axis] for axis in "xyz"], 1), None


def _off(path: Path) -> Surface:
    """The vertices and triangles of a file in the object file format; polygons are cut into fans."""
    text = path.read_text("ascii")
    words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    if not words or not words[0].startswith("OFF"):
        raise ValueError("it does not start with OFF")
    numbers = words[1:] if words[0] == "OFF" else [words[0][3:], *words[1:]]  # ModelNet's files lack a line break
    count, polygons = int(numbers[0]), int(numbers[1])
    start = 3 + 3 * count
    vertices = np.array(numbers[3:start], np.float64).reshape(count, 3)
    faces: list[list[int]] = []
    for _ in range(polygons):
        size = int(numbers[start])
        corners = [int(word) for word in numbers[start + 1 : start + 1 + size]]
        if len(corners) < size:
            raise ValueError(f"it ends before its {polygons} faces do")
        faces += [[corners[0], *pair] for pair in itertools.pairwise(corners[1:])]
        start += 1 + size
    return vertices, np.array(faces) if faces else None


READERS: dict[str, Callable[[Path], Surface]] = {".npy": _npy, ".npz": _npz, ".ply": _ply, ".off": _off}
"""The reader of every format by its ending."""


def read_points(path: str | Path, count: int, generator: np.random.Generator) -> np.ndarray:
    """Points of one shape's file, within the unit sphere, ``[count, 3]`` float32.

    A cloud gives points drawn from its own, each at most once where there are enough; a mesh (``.off``) points that are
    uniform on its surface. Columns after the third (normals, colours) are left out.

    Args:
        path: the file; its ending names the format, one of `READERS`.
        count: how many points.
        generator: of the draws.

    Raises:
        DataError: the file is missing, damaged, or holds no points in space.
    """
    path = Path(path)
    try:
        points, faces = READERS[path.suffix.lower()](path)
        if points.ndim != 2 or points.shape[1] < 3 or not len(points) or points.dtype.kind not in "fiu":
            raise ValueError(f"it has shape {list(points.shape)}, points have shape [N, 3]")
        points = points[:, :3].astype(np.float64)
        if not np.isfinite(points).all():
            raise ValueError("some of its points are not finite")
        if faces is None:
            found = points[generator.choice(len(points), count, replace=len(points) < count)]
        else:
            found = sample_surface(points, faces, count, generator)
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DataError(f"{path} is damaged or holds no shape: {error}; repair or remove it") from error
    return unit_sphere(found).astype(np.float32)


def point_folders(
    *,
    dataset: str = "shapenet10",
    folder: str | None = None,
    points: int = 2048,
    pool_shapes: int | None = None,
    test_shapes: int | None = None,
    seed: int = 0,
) -> ShapeData:
    """Shapes in files, in one folder per class; classes are numbered in alphabetical order.

    The layout is that of PointDA-10 (Qin et al. 2019, arXiv:1911.02744) and ModelNet, ``<class>/train/*``, or the other
    way round, ``train/<class>/*``. What lies in ``val`` or ``validation`` belongs to the pool, from which a zoo draws
    its own validation shapes.

    Args:
        dataset: its name, and its folder in the environment's ``GRAPHNETS_DATA``.
        folder: the folder, if not there.
        points: of each shape; see `read_points`.
        pool_shapes, test_shapes: how many shapes are used, drawn at random; None for all.
        seed: decides which shapes and which points.

    Raises:
        DataError: the folder is missing, has not two classes in training and test, or a file is damaged.
    """
    root = data_folder(folder, dataset, REMEDY)
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(root.glob("*/*/*")):
        if path.suffix.lower() in READERS:
            outer, inner = path.parent.parent.name, path.parent.name
            split, name = (outer, inner) if outer in POOL + TEST else (inner, outer)
            found.setdefault((split, name), []).append(path)
    names = sorted({name for split, name in found if split in POOL + TEST})
    labels = {name: label for label, name in enumerate(names)}
    generator = np.random.default_rng(seed)

    def load(splits: tuple[str, ...], count: int | None) -> tuple[Tensor, Tensor]:
        here = [(path, labels[name]) for (split, name), paths in found.items() if split in splits for path in paths]
        if len(labels) < 2 or not here:
            raise DataError(f"{root} has {len(labels)} classes and {len(here)} shapes in {splits[0]}; {REMEDY}")
        chosen = sorted(generator.permutation(len(here))[:count])
        clouds = [read_points(here[row][0], points, generator) for row in chosen]
        return torch.from_numpy(np.stack(clouds)), torch.tensor([here[row][1] for row in chosen])

    return ShapeData(dataset, len(labels), *load(POOL, pool_shapes), *load(TEST, test_shapes))
