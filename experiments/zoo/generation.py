"""Generating a zoo: resumable, the same for every executor, cached by its configuration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from converters import trace
from experiments.data import ImageData, load_images
from experiments.zoo.config import GENERATOR_VERSION, ZooConfig
from experiments.zoo.errors import ZooError
from experiments.zoo.executors import EXECUTORS
from experiments.zoo.nets import Architecture, architectures_of
from experiments.zoo.properties import measure
from experiments.zoo.sampling import Recipe, draw_recipe
from experiments.zoo.splits import split_runs
from experiments.zoo.storage import (
    HEADER,
    RECORDS,
    WEIGHTS,
    ShardContent,
    ShardFile,
    encode_shard,
    file_checksum,
    read_header,
    read_shard,
    write_durably,
    write_header,
    write_records,
)
from experiments.zoo.training import STACKS, train_stack
from experiments.zoo.zoo import Zoo, load_zoo, with_architecture

__all__ = ["ROOT_VARIABLE", "StackTask", "generate", "get_zoo", "plan_stacks", "train_shards"]

ROOT_VARIABLE = "GRAPHNETS_ZOO_ROOT"
Configuration = ZooConfig | DictConfig | Mapping[str, Any]


@dataclass(frozen=True)
class StackTask:
    """One unit of work: the networks that are trained together."""

    config: ZooConfig
    number: int
    recipes: tuple[Recipe, ...]

    @property
    def files(self) -> dict[str, str]:
        """The shard that will hold the networks of each architecture, by its name."""
        names = sorted({recipe.architecture.name for recipe in self.recipes})
        return {name: f"shard-{self.number:04d}-{name}.safetensors" for name in names}


def get_zoo(config: Configuration, root: str | Path | None = None, *, progress: bool | None = None) -> Zoo:
    """The zoo of a configuration: read from the cache, or generated now and kept.

    The same as `generate`, which trains nothing where a finished zoo lies.
    """
    return generate(config, root, progress=progress)


def generate(config: Configuration, root: str | Path | None = None, *, progress: bool | None = None) -> Zoo:
    """Generates a zoo, or what is missing of it, and loads it.

    A killed generation continues where it stopped: a finished shard is never trained again, a damaged one
    is. Processes that ask for the same zoo wait for one another.

    Args:
        config: see `ZooConfig`; a mapping or a composed hydra config.
        root: the folder of zoos; else the environment's ``GRAPHNETS_ZOO_ROOT``, else the configuration's.
        progress: whether to show a bar; None shows one on a terminal.

    Raises:
        ZooConfigError: the configuration is wrong.
        ZooError: the executor is not installed, or the folder holds something else.
    """
    parsed = ZooConfig.parse(config)
    parent = Path(root or os.environ.get(ROOT_VARIABLE) or parsed.root)
    folder = parent / parsed.folder_name
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{parsed.folder_name}.lock"):
        data = load_images(parsed.data)
        header = _begin(folder, parsed, data)
        if header["status"] != "complete" or _damaged(folder, header):
            architectures = architectures_of(parsed.architecture, data.image_shape, data.classes)
            tasks = plan_stacks(parsed, architectures)
            todo = [rest for task in tasks if (rest := _unfinished(folder, task)).recipes]
            results = EXECUTORS[parsed.executor](train_shards, todo, parsed.workers)
            for shards in _shown(results, len(todo), parsed.name, progress):
                for shard in shards:
                    write_durably(folder / WEIGHTS / shard.name, shard.data)
            _finish(folder, header, tasks)
    return load_zoo(folder)


def plan_stacks(config: ZooConfig, architectures: list[Architecture]) -> list[StackTask]:
    """Draws every recipe and cuts them into stacks of one topology, in the order of their numbers."""
    by_topology: dict[tuple[Any, ...], list[Recipe]] = {}
    for network in range(config.size):
        recipe = draw_recipe(config, architectures, network)
        by_topology.setdefault(recipe.architecture.topology, []).append(recipe)
    stacks = [
        recipes[start : start + config.stack_size]
        for _, recipes in sorted(by_topology.items())
        for start in range(0, len(recipes), config.stack_size)
    ]
    return [StackTask(config, number, tuple(recipes)) for number, recipes in enumerate(stacks)]


def train_shards(task: StackTask) -> list[ShardFile]:
    """Trains and measures one stack, on one thread: its shards, one per architecture.

    Networks that are not finite are left out of the tensors and named in the shard.
    """
    with _one_thread():
        data = load_images(task.config.data)
        stack = train_stack(task.config, task.recipes, data)
        measured = measure(task.config, stack, data)
    weights = stack.network.state(stack.weights)
    shards = []
    for architecture, name in task.files.items():
        rows = [row for row, recipe in enumerate(stack.recipes) if recipe.architecture.name == architecture]
        kept = [row for row in rows if measured.finite[row]]
        content = ShardContent(
            architecture,
            [stack.recipes[row].row() | measured.row(row) for row in kept],
            [stack.recipes[row].id for row in rows if not measured.finite[row]],
        )
        part = {key: value[kept] for key, value in weights.items()}
        shards.append(ShardFile(name, encode_shard(part, content)))
    return shards


def _begin(folder: Path, config: ZooConfig, data: ImageData) -> dict[str, Any]:
    """The header of the zoo in ``folder``; a first one is written where there is none."""
    if (folder / HEADER).exists():
        header = read_header(folder)
        for key, expected in (("fingerprint", config.fingerprint), ("data", _describe(data))):
            if header[key] != expected:
                raise ZooError(
                    f"{folder} was generated with another {key}: it has {header[key]}, now it is {expected}; "
                    "move the folder away and generate the zoo again"
                )
        return header
    header = {
        "status": "generating",
        "name": config.name,
        "fingerprint": config.fingerprint,
        "generator": GENERATOR_VERSION,
        "config": config.to_dict(),
        "data": _describe(data),
    }
    write_header(folder, header)
    return header


def _describe(data: ImageData) -> dict[str, Any]:
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": data.classes,
        "image_shape": list(data.image_shape),
        "pool_images": len(data.pool),
        "test_images": len(data.test),
    }


def _damaged(folder: Path, header: dict[str, Any]) -> bool:
    """Whether files of a finished zoo are missing or have another size."""
    sizes = {folder / WEIGHTS / shard["file"]: shard["bytes"] for shard in header["shards"]}
    whole = all(file.exists() and file.stat().st_size == size for file, size in sizes.items())
    return not whole or not (folder / RECORDS).exists()


def _unfinished(folder: Path, task: StackTask) -> StackTask:
    """The networks of a stack whose shard is not there or damaged: all others need no training.

    Where a part of a stack would not give the same bits, it is the whole stack or nothing.
    """
    finished = set()
    for architecture, name in task.files.items():
        with contextlib.suppress(ZooError):
            read_shard(folder / WEIGHTS / name, with_weights=False)
            finished.add(architecture)
    if finished and len(finished) < len(task.files) and not STACKS[task.recipes[0].architecture.family].exact_in_parts:
        finished = set()
    recipes = tuple(recipe for recipe in task.recipes if recipe.architecture.name not in finished)
    return replace(task, recipes=recipes)


def _finish(folder: Path, header: dict[str, Any], tasks: list[StackTask]) -> None:
    """Joins the shards' records, traces the structures and marks the zoo complete."""
    config = tasks[0].config
    splits = split_runs(range(config.size), config.splits, config.seed)
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    left_out: list[int] = []
    for task in tasks:
        for architecture, name in task.files.items():
            path = folder / WEIGHTS / name
            content, _ = read_shard(path, with_weights=False)
            left_out += content.left_out
            for row, record in enumerate(content.records):
                run = record["id"]
                rows.append({"id": run, "run": run, "split": splits[run], "shard": name, "row": row} | record)
            shards.append(
                {
                    "file": name,
                    "architecture": architecture,
                    "networks": len(content.records),
                    "bytes": path.stat().st_size,
                    "sha256": file_checksum(path),
                }
            )
    if not rows:
        raise ZooError(f"{folder}: none of {config.size} networks is finite; narrow ranges.learning_rate")
    architectures = sorted({recipe.architecture for task in tasks for recipe in task.recipes})
    records = pd.DataFrame(rows).sort_values("id", ignore_index=True)
    write_records(folder, with_architecture(records, {each.name: each for each in architectures}))
    complete = {
        "status": "complete",
        "networks": {"trained": config.size, "kept": len(rows), "left_out": len(left_out)},
        "left_out": sorted(left_out),
        "architectures": {each.name: each.to_dict() for each in architectures},
        "structures": {each.name: trace(each.build(), each.example_input()).to_json() for each in architectures},
        "shards": shards,
    }
    header = {key: value for key, value in header.items() if key != "schema"}
    write_header(folder, header | complete)
    for leftover in [*folder.glob(".*.tmp"), *(folder / WEIGHTS).glob(".*.tmp")]:
        leftover.unlink()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shown(
    results: Iterator[list[ShardFile]], total: int, name: str, progress: bool | None
) -> Iterator[list[ShardFile]]:
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    columns = [TextColumn(f"zoo {name}"), BarColumn(), MofNCompleteColumn(), TextColumn("stacks")]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown or not total) as bar:
        job = bar.add_task(name, total=total)
        for result in results:
            yield result
            bar.advance(job)
