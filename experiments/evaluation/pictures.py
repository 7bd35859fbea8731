"""Rows of pictures: what there was, what was wanted, and what every method makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from experiments.evaluation.figures import save, style
from experiments.evaluation.labels import axis_label, method_label
from experiments.files import atomic_path

__all__ = ["picture_grid", "save_pictures", "store_pictures"]

FILE = "pictures.npz"


def store_pictures(folder: Path, pictures: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Keep what `experiments.tasks.task.Picturing` shows of one method in its folder."""
    arrays: dict[str, Any] = {
        f"{setting}/{row}": each.numpy() for setting, rows in pictures.items() for row, each in rows.items()
    }
    with atomic_path(folder / FILE) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _stored(folder: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Setting to row to pictures, in the order in which they were stored."""
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        for name in arrays.files:
            setting, _, row = name.partition("/")
            found.setdefault(setting, {})[row] = arrays[name]
    return found


def save_pictures(folders: Mapping[str, Path], target: Path) -> list[Path]:
    """A figure for every setting, with the last row of every method below the rows that all methods share.

    A method whose pictures are those of a shared row, such as one that changes nothing, has no row of its own.

    Args:
        folders: methods to folders, of which those count in which pictures are stored.
        target: the folder of figures.

    Returns:
        the files.
    """
    settings: dict[str, dict[str, NDArray[np.float32]]] = {}
    for method, folder in folders.items():
        if not (folder / FILE).exists():
            continue
        for setting, found in _stored(folder).items():
            *shared, own = found
            rows = settings.setdefault(setting, {row: found[row] for row in shared})
            if not any(np.allclose(found[own], found[row], atol=1e-6) for row in shared):
                rows[method_label(method)] = found[own]
    return [
        path
        for setting, rows in settings.items()
        for path in save(picture_grid(rows, f"{axis_label(setting)}, test networks"), target / f"pictures_{setting}")
    ]


def picture_grid(rows: Mapping[str, NDArray[np.float32]], title: str) -> Figure:
    """A row of pictures for every label.

    Args:
        rows: label to pictures ``[n, 1 or 3, H, W]`` in -1 to 1; what lies outside is shown as the end of the range.
        title: of the figure.
    """
    count = len(next(iter(rows.values())))
    with style():
        figure = Figure(figsize=(1.6 + 0.8 * count, 0.5 + 0.8 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), count, squeeze=False)
        for line, (label, pictures) in zip(axes, rows.items(), strict=True):
            shown = np.clip(np.moveaxis(pictures, 1, -1) / 2 + 0.5, 0, 1)
            for axis, picture in zip(line, shown, strict=True):
                grey = picture.shape[-1] == 1
                axis.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.grid(visible=False)
                axis.spines[:].set_visible(False)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        figure.suptitle(title, x=0.01, ha="left")
    return figure
