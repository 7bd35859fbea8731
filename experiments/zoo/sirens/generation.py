"""From images to a zoo of SIRENs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import ImageData, load_images
from experiments.zoo.errors import ZooError
from experiments.zoo.folder import Production, finish, one_thread, shard_entry
from experiments.zoo.sampling import stream
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.fitting import fit_stack
from experiments.zoo.sirens.network import initial_siren
from experiments.zoo.splits import split_runs
from experiments.zoo.storage import WEIGHTS, ShardContent, ShardFile, encode_shard, read_shard

__all__ = ["PEAK", "SIRENS", "FitTask", "Portrait", "fit_shards", "plan_portraits", "psnr", "targets_of"]

PEAK = 2.0
"""The range of pixel values, -1 to 1."""


@dataclass(frozen=True)
class Portrait:
    """One SIREN to be: its number, and the image (pool first, then test images) that it is to draw."""

    id: int
    image: int
    copy: int
    split: str


@dataclass(frozen=True)
class FitTask:
    """One unit of work: the SIRENs that are fitted together."""

    config: SirenConfig
    number: int
    portraits: tuple[Portrait, ...]

    @property
    def file(self) -> str:
        """The shard that will hold them."""
        return f"shard-{self.number:04d}-siren.safetensors"


def psnr(error: float, peak: float = PEAK) -> float:
    """Peak signal-to-noise ratio in decibels of a mean squared error, at most 100.

    >>> round(psnr(0.04), 3)
    20.0
    """
    return min(100.0, 10 * math.log10(peak**2 / max(error, 1e-30)))


def targets_of(data: ImageData) -> tuple[Tensor, Tensor]:
    """All images, pool first, with the pool's smallest and largest pixel moved to -1 and 1, and their labels.

    Shapes:
        - result: ``[P + T, C, H, W]`` and ``[P + T]``
    """
    low, high = data.pool.min(), data.pool.max()
    images = torch.cat([data.pool, data.test])
    return (images - low) * (PEAK / (high - low)) - 1, torch.cat([data.pool_labels, data.test_labels])


def plan_portraits(config: SirenConfig, data: ImageData) -> list[Portrait]:
    """Every SIREN of a zoo: `copies` of each training image, one of each other; no image is in two splits."""
    pool, test = config.used(data)
    splits = split_runs(range(pool), {"train": 1 - config.validation, "val": config.validation}, config.seed)
    found: list[Portrait] = []
    for image in [*range(pool), *range(len(data.pool), len(data.pool) + test)]:
        split = splits.get(image, "test")
        found += [
            Portrait(len(found) + copy, image, copy, split) for copy in range(config.copies if split == "train" else 1)
        ]
    return found


def _plan(config: SirenConfig, data: ImageData) -> list[FitTask]:
    if list(data.image_shape[1:]) != list(config.pixels):
        raise ZooError(
            f"zoo {config.name}: the images have {data.image_shape[1]} x {data.image_shape[2]} pixels, zoo.pixels says "
            f"{config.pixels}; change zoo.pixels or zoo.data.pooling"
        )
    portraits = plan_portraits(config, data)
    size = config.stack_size
    stacks = [tuple(portraits[start : start + size]) for start in range(0, len(portraits), size)]
    return [FitTask(config, number, stack) for number, stack in enumerate(stacks)]


def _rest(folder: Path, task: FitTask) -> FitTask | None:
    """The task, unless its shard is there and whole."""
    with contextlib.suppress(ZooError):
        read_shard(folder / WEIGHTS / task.file, with_weights=False)
        return None
    return task


def fit_shards(task: FitTask) -> list[ShardFile]:
    """Fits one stack, on one thread: its shard. SIRENs that are not finite are left out and named in it."""
    config = task.config
    data = load_images(config.data)
    images, labels = targets_of(data)
    architecture = config.architecture(data.image_shape[0])
    chosen = torch.tensor([portrait.image for portrait in task.portraits])
    numbers = [None if config.initialisation == "shared" else portrait.id for portrait in task.portraits]
    starts = [initial_siren(architecture, config.variant, stream(config.seed, n, "start")) for n in numbers]
    with one_thread():
        first = torch.from_numpy(np.stack(starts)).float()
        rate = config.learning_rate
        weights, errors = fit_stack(architecture, first, images[chosen], config.steps, rate, config.schedule)
    finite = (weights.isfinite().all(1) & errors.isfinite()).tolist()
    rows = [
        {
            "id": portrait.id,
            "architecture": architecture.name,
            "activation": architecture.activation,
            "label": int(labels[portrait.image]),
            "image": portrait.image,
            "copy": portrait.copy,
            "split": portrait.split,
            "psnr": psnr(float(error)),
        }
        for portrait, error in zip(task.portraits, errors, strict=True)
    ]
    content = ShardContent(
        architecture.name,
        [row for row, whole in zip(rows, finite, strict=True) if whole],
        [portrait.id for portrait, whole in zip(task.portraits, finite, strict=True) if not whole],
    )
    kept = weights[torch.tensor(finite)]
    shapes = architecture.shapes
    pieces = kept.split([math.prod(shape) for shape in shapes.values()], 1)
    tensors = {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
    return [ShardFile(task.file, encode_shard(tensors, content))]


def _finish(folder: Path, header: Mapping[str, Any], tasks: Sequence[FitTask]) -> None:
    """Joins the shards' records; the run of a SIREN is its image."""
    config = tasks[0].config
    architecture = config.architecture(header["data"]["image_shape"][0])
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    left_out: list[int] = []
    for task in tasks:
        path = folder / WEIGHTS / task.file
        content, _ = read_shard(path, with_weights=False)
        left_out += content.left_out
        for row, record in enumerate(content.records):
            rows.append({"id": record["id"], "run": record["image"], "shard": task.file, "row": row} | record)
        shards.append(shard_entry(path, architecture.name, len(content.records)))
    if not rows:
        raise ZooError(f"{folder}: none of {len(left_out)} SIRENs is finite; lower learning_rate")
    finish(folder, header, rows, shards, left_out, [architecture])


SIRENS = Production(_plan, _rest, fit_shards, _finish)
