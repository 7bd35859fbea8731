"""From images or shapes to a zoo of SIRENs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.data import ImageData, ShapeData, load_data
from experiments.zoo.errors import ZooError
from experiments.zoo.folder import Production, finish, one_thread, shard_entry
from experiments.zoo.sampling import stream
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.fitting import StackedSirens, fit_stack
from experiments.zoo.sirens.network import SirenArchitecture, initial_siren
from experiments.zoo.sirens.signals import quality, signals_of
from experiments.zoo.splits import split_runs
from experiments.zoo.storage import WEIGHTS, ShardContent, ShardFile, encode_shard, read_shard

__all__ = ["SIRENS", "FitTask", "Portrait", "fit_shards", "plan_portraits"]


@dataclass(frozen=True)
class Portrait:
    """One SIREN to be: its number, and the image or shape (pool first, then test) that it is to be."""

    id: int
    image: int
    copy: int
    split: str


@dataclass(frozen=True)
class FitTask:
    """One unit of work: the SIRENs that are fitted together."""

    config: SirenConfig
    number: int
    architecture: SirenArchitecture
    portraits: tuple[Portrait, ...]

    @property
    def file(self) -> str:
        """The shard that will hold them."""
        return f"shard-{self.number:04d}-siren.safetensors"


def plan_portraits(config: SirenConfig, data: ImageData | ShapeData) -> list[Portrait]:
    """Every SIREN of a zoo: `copies` of each training image or shape, one of each other; none is in two splits."""
    pool, test = config.used(data)
    splits = split_runs(range(pool), {"train": 1 - config.validation, "val": config.validation}, config.seed)
    found: list[Portrait] = []
    for image in [*range(pool), *range(len(data.pool), len(data.pool) + test)]:
        split = splits.get(image, "test")
        found += [
            Portrait(len(found) + copy, image, copy, split) for copy in range(config.copies if split == "train" else 1)
        ]
    return found


def _plan(config: SirenConfig, data: ImageData | ShapeData) -> list[FitTask]:
    if isinstance(data, ImageData) and list(data.image_shape[1:]) != config.pixels:
        raise ZooError(
            f"zoo {config.name}: the images have {data.image_shape[1]} x {data.image_shape[2]} pixels, zoo.pixels says "
            f"{config.pixels}; change zoo.pixels or zoo.data.pooling"
        )
    portraits = plan_portraits(config, data)
    size = config.stack_size
    stacks = [tuple(portraits[start : start + size]) for start in range(0, len(portraits), size)]
    architecture = config.architecture(data)
    return [FitTask(config, number, architecture, stack) for number, stack in enumerate(stacks)]


def _rest(folder: Path, task: FitTask) -> FitTask | None:
    """The task, unless its shard is there and whole."""
    with contextlib.suppress(ZooError):
        read_shard(folder / WEIGHTS / task.file, with_weights=False)
        return None
    return task


def fit_shards(task: FitTask) -> list[ShardFile]:
    """Fits one stack, on one thread: its shard. SIRENs that are not finite are left out and named in it."""
    config, architecture = task.config, task.architecture
    data = load_data(config.data)
    labels = torch.cat([data.pool_labels, data.test_labels])
    chosen = torch.tensor([portrait.image for portrait in task.portraits])
    numbers = [None if config.initialisation == "shared" else portrait.id for portrait in task.portraits]
    starts = [initial_siren(architecture, config.variant, stream(config.seed, n, "start")) for n in numbers]
    with one_thread():
        first = torch.from_numpy(np.stack(starts)).float()
        rate = config.learning_rate
        signals = signals_of(config, data, chosen)
        weights, errors = fit_stack(architecture, first, signals, config.steps, rate, config.schedule)
        shown = signals_of(config, data, chosen, unseen=True)
        drawn = StackedSirens(architecture, shown.coordinates, weights.dtype).render(weights)
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
            config.quality: value,
        }
        for portrait, value in zip(task.portraits, quality(config, drawn, shown), strict=True)
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
    """Joins the shards' records; the run of a SIREN is its image or shape."""
    architecture = tasks[0].architecture
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


SIRENS = Production(load_data, _plan, _rest, fit_shards, _finish)
