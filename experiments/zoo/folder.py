"""The life of a zoo's folder: begun, filled shard by shard, finished; the same whatever its networks are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from converters import trace
from experiments.data import ImageData, ShapeData
from experiments.zoo.config import ZooConfig
from experiments.zoo.errors import ZooError
from experiments.zoo.executors import EXECUTORS, refuse_in_import_of_script
from experiments.zoo.nets import Architecture
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.storage import (
    HEADER,
    RECORDS,
    WEIGHTS,
    ShardFile,
    file_checksum,
    read_header,
    write_durably,
    write_header,
    write_records,
)
from experiments.zoo.zoo import Zoo, load_zoo, with_architecture

__all__ = ["ROOT_VARIABLE", "Production", "finish", "one_thread", "produce", "shard_entry", "zoo_root"]

ROOT_VARIABLE = "GRAPHNETS_ZOO_ROOT"


Config = TypeVar("Config", bound=ZooConfig | SirenConfig)
Data = TypeVar("Data", bound="ImageData | ShapeData")
Task = TypeVar("Task")


@dataclass(frozen=True)
class Production(Generic[Config, Data, Task]):
    """How one kind of networks is made.

    Args:
        load: the data, from the configuration's ``data``.
        plan: cuts the work into tasks.
        rest: what of a task is not yet done in the folder; None: nothing.
        work: the shards of a task, on one thread; runs where the executor says.
        finish: joins all shards, see `finish`.
    """

    load: Callable[[Mapping[str, Any]], Data]
    plan: Callable[[Config, Data], list[Task]]
    rest: Callable[[Path, Task], Task | None]
    work: Callable[[Task], list[ShardFile]]
    finish: Callable[[Path, Mapping[str, Any], Sequence[Task]], None]


def zoo_root(given: str | Path | None, configured: str | Path) -> Path:
    """The folder of zoos, made if it is not there.

    It is ``given``, else the environment's ``GRAPHNETS_ZOO_ROOT``, else ``configured``.
    """
    root = Path(given or os.environ.get(ROOT_VARIABLE) or configured)
    root.mkdir(parents=True, exist_ok=True)
    return root


def produce(
    config: Config, root: str | Path | None, progress: bool | None, production: Production[Config, Data, Task]
) -> Zoo:
    """Generates a zoo, or what is missing of it, and loads it; see `experiments.zoo.generate`."""
    refuse_in_import_of_script()
    parent = zoo_root(root, config.root)
    folder = parent / config.folder_name
    with FileLock(parent / f".{config.folder_name}.lock"):
        data = production.load(config.data)
        header = _begin(folder, config, data)
        if header["status"] != "complete" or _damaged(folder, header):
            tasks = production.plan(config, data)
            todo = [rest for task in tasks if (rest := production.rest(folder, task)) is not None]
            results = EXECUTORS[config.executor](production.work, todo, config.workers)
            for shards in _shown(results, len(todo), config.name, progress):
                for shard in shards:
                    write_durably(folder / WEIGHTS / shard.name, shard.data)
            production.finish(folder, header, tasks)
    return load_zoo(folder)


def _begin(folder: Path, config: ZooConfig | SirenConfig, data: ImageData | ShapeData) -> dict[str, Any]:
    """The header of the zoo in ``folder``; a first one is written where there is none."""
    if (folder / HEADER).exists():
        header = read_header(folder)
        for key, expected in (("fingerprint", config.fingerprint), ("data", data.describe())):
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
        **config.GENERATOR,
        "config": config.to_dict(),
        "data": data.describe(),
    }
    write_header(folder, header)
    return header


def _damaged(folder: Path, header: Mapping[str, Any]) -> bool:
    """Whether files of a finished zoo are missing or have another size."""
    sizes = {folder / WEIGHTS / shard["file"]: shard["bytes"] for shard in header["shards"]}
    whole = all(file.exists() and file.stat().st_size == size for file, size in sizes.items())
    return not whole or not (folder / RECORDS).exists()


def shard_entry(path: Path, architecture: str, networks: int) -> dict[str, Any]:
    """What the header says of a shard."""
    about = {"file": path.name, "architecture": architecture, "networks": networks}
    return about | {"bytes": path.stat().st_size, "sha256": file_checksum(path)}


def finish(
    folder: Path,
    header: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    shards: Sequence[Mapping[str, Any]],
    left_out: Sequence[int],
    architectures: Sequence[Architecture],
) -> None:
    """Writes the records, traces the structures and marks the zoo complete.

    Args:
        folder: of the zoo.
        header: what `produce` began.
        rows: one per network.
        shards: one `shard_entry` per shard.
        left_out: numbers of the networks that are not finite.
        architectures: of all networks, in order.
    """
    records = pd.DataFrame(rows).sort_values("id", ignore_index=True)
    write_records(folder, with_architecture(records, {each.name: each for each in architectures}))
    complete = {
        "status": "complete",
        "networks": {"trained": len(rows) + len(left_out), "kept": len(rows), "left_out": len(left_out)},
        "left_out": sorted(left_out),
        "architectures": {each.name: each.to_dict() for each in architectures},
        "structures": {each.name: trace(each.build(), each.example_input()).to_json() for each in architectures},
        "shards": list(shards),
    }
    kept = {key: value for key, value in header.items() if key != "schema"}
    write_header(folder, kept | complete)
    for leftover in [*folder.glob(".*.tmp"), *(folder / WEIGHTS).glob(".*.tmp")]:
        leftover.unlink()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shown(
    results: Iterator[list[ShardFile]], total: int, name: str, progress: bool | None
) -> Iterator[list[ShardFile]]:
    """The results as they come, with a bar; ``progress`` None: on a terminal alone."""
    console = Console(stderr=True)
    visible = console.is_terminal if progress is None else progress
    columns = [TextColumn(f"zoo {name}"), BarColumn(), MofNCompleteColumn(), TextColumn("stacks")]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not visible or not total) as bar:
        job = bar.add_task(name, total=total)
        for result in results:
            yield result
            bar.advance(job)
