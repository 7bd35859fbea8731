"""Published sets of SIRENs: a file per network, the image's label in the name of its folder.

Two layouts are known. In the first, of the MNIST set that came with DWSNets (Navon et al. 2023), a folder is an image::

    mnist_png_training_5_0/**/*.pth      <set>_png_<part>_<label>_<number>
    mnist_png_testing_7_12/**/*.pth
    *split*.json                         {"train": {"path": [...], "label": [...]}, "val": ..., "test": ...}

In the second, of the sets that came with NFN (Zhou et al. 2023), a folder is a class and a file's number is its image::

    randinit_smaller_5s/net0.pth         <set>_<label>s
    randinit_smaller_aug0_5s/net0.pth    <set>_aug<copy>_<label>s: further networks of the same images

Files are read with ``weights_only=True``. Paths in a split file may begin anywhere above the folder that
names the label.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from converters import WeightsError, load_weights
from experiments.zoo.errors import ZooError
from experiments.zoo.importers.published import Published
from experiments.zoo.sirens.network import SirenArchitecture

__all__ = ["read_siren_set"]

FOLDERS = (
    re.compile(r".+_png_[a-z]+_(?P<label>\d+)_\d+"),
    re.compile(r".+?(?:_aug(?P<copy>\d+))?_(?P<label>\d+)s"),
)
"""Names of folders in the two layouts."""

FILE = re.compile(r"net(?P<image>\d+)\.pth")
SPLITS = ("train", "val", "test")
DEFAULT_W0 = 30.0
SHOWN = 5


def read_siren_set(folder: Path, w0: float | None = None, split_points: Sequence[int] | None = None) -> Published:
    """The networks of a set, with their labels and, where it is known, with their splits.

    Networks that draw one image are one run, and copies of each other. A split file decides splits; else
    ``split_points``; else images are split by the shares of the configuration.

    Args:
        folder: that holds the networks' folders.
        w0: the frequency of the sines, which the files do not tell; None: 30.
        split_points: of sets in the second layout: images before the first number train, those before the second
            validate, the others test. Further networks of an image (``aug``) are used in training alone.

    Raises:
        ZooError: there are no networks, names or splits do not fit together, or a network is damaged or another one;
            the message lists what is wrong.
    """
    files = {key: path for path in sorted(folder.rglob("*.pth")) if (key := _key(path))}
    if not files:
        raise ZooError(
            f"{folder} holds no set of SIRENs: no file like mnist_png_training_5_0/**/*.pth or "
            "randinit_smaller_5s/net0.pth, whose folder names the label"
        )
    names = list(files)
    records = _records(folder, names)
    split_files = sorted(folder.glob("*split*.json"))
    if split_files:
        records["split"] = _splits(split_files, records)
    elif split_points is not None:
        first, second = split_points
        split = pd.cut(records["image"], [-1, first - 1, second - 1, math.inf], labels=SPLITS).astype(str)
        records["split"] = split.where((records["copy"] == 0) | (split == "train"), "none")
    sizes, tensors = _sizes(files[names[0]])
    architecture = SirenArchitecture("siren", sizes, "sine", w0=DEFAULT_W0 if w0 is None else float(w0))
    records["architecture"] = architecture.name

    def weights(_: str, ids: Sequence[int]) -> dict[str, Tensor]:
        networks = [_network(files[names[number]], tensors, architecture) for number in ids]
        return {name: torch.stack([network[name] for network in networks]) for name in architecture.shapes}

    listed = [(key, files[key].stat().st_size) for key in names]
    texts = [path.read_text() for path in split_files]
    options = [architecture.w0, list(split_points or [])]
    fingerprint = hashlib.sha256(json.dumps([listed, texts, options]).encode()).hexdigest()[:16]
    classes = int(records["label"].max()) + 1
    return Published(records, {architecture.name: architecture}, weights, fingerprint, classes)


def _matched(name: str) -> re.Match[str] | None:
    return next((match for pattern in FOLDERS if (match := pattern.fullmatch(name))), None)


def _key(path: str | Path) -> str:
    """The path from the folder that names the label on; empty if there is none."""
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    for number, part in enumerate(parts[:-1]):
        if _matched(part):
            return "/".join(parts[number:])
    return ""


def _records(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """A row per network, with label, image and copy; images and runs are the same."""
    rows: list[dict[str, Any]] = []
    unnamed = list[str]()
    for number, name in enumerate(names):
        place, _, file = name.partition("/")
        match = _matched(place)
        assert match is not None, "keys begin with such a name"
        row = {"id": number, "label": int(match["label"]), "file": name, "activation": "sine"}
        if match.re is FOLDERS[0]:
            row |= {"image": place, "copy": None}
        elif found := FILE.fullmatch(file):
            row |= {"image": int(found["image"]), "copy": 0 if match["copy"] is None else 1 + int(match["copy"])}
        else:
            unnamed.append(name)
        rows.append(row)
    if unnamed:
        raise ZooError(f"{folder}: {_listed('files that name no image, as net0.pth does', unnamed)[0]}")
    records = pd.DataFrame(rows)
    if records["copy"].isna().all():
        records["copy"] = records.groupby("image", sort=False).cumcount()
        records["image"] = pd.factorize(records["image"])[0]
    elif records["copy"].isna().any():
        raise ZooError(f"{folder} mixes two layouts of sets; import one set at a time")
    records["copy"] = records["copy"].astype(int)
    labels = records.groupby("image")["label"].nunique()
    several = labels.index[labels > 1].tolist()
    if several:
        raise ZooError(f"{folder}: {_listed('images with several labels', list(map(str, several)))[0]}")
    records["run"] = records["image"]
    return records


def _splits(paths: Sequence[Path], records: pd.DataFrame) -> pd.Series[str]:
    """The split of every network by the split file."""
    if len(paths) > 1:
        raise ZooError(f"there are several split files, {', '.join(map(str, paths))}; leave one")
    (path,) = paths
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ZooError(f"{path} is damaged: {error}; fetch it again") from error
    lists: dict[str, Any] = {name: content.get(name) for name in SPLITS} if isinstance(content, dict) else {}
    whole = [name for name in SPLITS if _is_split(lists.get(name))]
    if len(whole) < len(SPLITS):
        raise ZooError(
            f"{path} should hold train, val and test, each with lists 'path' and 'label' of one length; "
            f"{', '.join(name for name in SPLITS if name not in whole)} is not so"
        )
    labels = dict(zip(records["file"], records["label"], strict=True))
    splits: dict[str, str] = {}
    absent, wrong, twice = list[str](), list[str](), list[str]()
    for name in SPLITS:
        for place, label in zip(lists[name]["path"], lists[name]["label"], strict=True):
            key = _key(place)
            if key not in labels:
                absent.append(str(place))
            elif labels[key] != int(label):
                wrong.append(f"{place} (label {label}, its folder says {labels[key]})")
            elif splits.setdefault(key, name) != name:
                twice.append(f"{place} ({splits[key]} and {name})")
    faults = _listed("files that are not there", absent) + _listed("other labels than the folders'", wrong)
    faults += _listed("files in two splits", twice)
    if faults:
        raise ZooError("\n  ".join([f"{path} does not fit the networks beside it:", *faults]))
    return records["file"].map(splits).fillna("none")


def _is_split(entry: Any) -> bool:
    lists: list[Any] = [entry.get(key) for key in ("path", "label")] if isinstance(entry, dict) else []
    return len(lists) == 2 and all(isinstance(each, list) for each in lists) and len(lists[0]) == len(lists[1])


def _listed(what: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"] if names else []


def _in_order(names: Iterable[str]) -> list[str]:
    """Names by the numbers in them: ``seq.10`` comes after ``seq.9``."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def _sizes(path: Path) -> tuple[tuple[int, ...], tuple[tuple[str, tuple[int, ...]], ...]]:
    """Neurons of every layer, and names and shapes of the tensors in the order of the layers."""
    state = _load(path)
    layers = _in_order({name.rpartition(".")[0] for name in state})
    ordered = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    chain = [shapes.get(f"{layer}.weight", ()) for layer in layers]
    fits = (
        set(ordered) == set(shapes)
        and len(layers) > 1
        and all(len(shape) == 2 for shape in chain)
        and all(shapes[f"{layer}.bias"] == shape[:1] for layer, shape in zip(layers, chain, strict=True))
        and all(one[0] == other[1] for one, other in pairwise(chain))
        and chain[0][1] == 2
    )
    if not fits:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ZooError(
            f"{path} is no SIREN of images: it should hold a weight and a bias per linear layer, from 2 coordinates "
            f"on; it holds {listed}"
        )
    return (2, *(shape[0] for shape in chain)), tuple((name, shapes[name]) for name in ordered)


def _network(
    path: Path, tensors: tuple[tuple[str, tuple[int, ...]], ...], architecture: SirenArchitecture
) -> dict[str, Tensor]:
    state = _load(path)
    if {name: tuple(tensor.shape) for name, tensor in state.items()} != dict(tensors):
        raise ZooError(f"{path} has not the tensors of the first network, {', '.join(name for name, _ in tensors)}")
    pairs = zip(architecture.shapes, tensors, strict=True)
    return {name: state[theirs].float() for name, (theirs, _) in pairs}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_weights(path, allow_nonfinite=True)
    except WeightsError as error:
        raise ZooError(f"{path} cannot be read: {error}") from error
