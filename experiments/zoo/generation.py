"""Generating a zoo: resumable, the same for every executor, cached by its configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from experiments.data import ImageData, load_images
from experiments.zoo.config import ZooConfig
from experiments.zoo.errors import ZooConfigError, ZooError
from experiments.zoo.folder import ROOT_VARIABLE, Production, finish, one_thread, produce, shard_entry
from experiments.zoo.importers.config import ImportConfig
from experiments.zoo.importers.convert import import_zoo
from experiments.zoo.nets import Architecture, architectures_of
from experiments.zoo.parsing import parse_zoo
from experiments.zoo.properties import Measured, measure
from experiments.zoo.sampling import Recipe, draw_recipe
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.generation import SIRENS
from experiments.zoo.splits import split_runs
from experiments.zoo.storage import MASK, WEIGHTS, ShardContent, ShardFile, encode_shard, read_shard
from experiments.zoo.tickets.config import TicketConfig
from experiments.zoo.tickets.pruning import find_tickets
from experiments.zoo.training import STACKS, TrainedStack, train_stack
from experiments.zoo.zoo import Zoo

__all__ = ["ROOT_VARIABLE", "StackTask", "generate", "get_zoo", "plan_stacks", "train_shards"]

Configuration = ZooConfig | SirenConfig | ImportConfig | DictConfig | Mapping[str, Any]


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
    """The zoo of a configuration: read from the cache, or generated (or imported) now and kept.

    The same as `generate`, which trains nothing where a finished zoo lies.
    """
    return generate(config, root, progress=progress)


def generate(config: Configuration, root: str | Path | None = None, *, progress: bool | None = None) -> Zoo:
    """Generates a zoo, or what is missing of it, and loads it.

    A killed generation continues where it stopped: a finished shard is never trained again, a damaged one
    is. Processes that ask for the same zoo wait for one another.

    Args:
        config: see `ZooConfig`, `SirenConfig` and `ImportConfig`; a mapping or a composed hydra config.
        root: the folder of zoos; else the environment's ``GRAPHNETS_ZOO_ROOT``, else the configuration's.
        progress: whether to show a bar; None shows one on a terminal.

    Raises:
        ZooConfigError: the configuration is wrong.
        ZooError: the executor is not installed, the folder holds something else, or a published zoo cannot be read.
    """
    parsed = parse_zoo(config)
    if isinstance(parsed, ImportConfig):
        return import_zoo(parsed, root)
    if isinstance(parsed, SirenConfig):
        return produce(parsed, root, progress, SIRENS)
    return produce(parsed, root, progress, Production(load_images, _plan, _unfinished, train_shards, _finish))


def plan_stacks(config: ZooConfig, architectures: list[Architecture], classes: int = 0) -> list[StackTask]:
    """Draws every recipe and cuts them into stacks of one topology, in the order of their numbers.

    ``classes`` are those that the data set has, which tasks are drawn from.
    """
    by_topology: dict[tuple[Any, ...], list[Recipe]] = {}
    for network in range(config.size):
        recipe = draw_recipe(config, architectures, network, classes)
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
    with one_thread():
        stacks, measured, states = _made(task)
    shards = []
    for architecture, name in task.files.items():
        content = ShardContent(architecture, [], [])
        parts: dict[str, list[torch.Tensor]] = {key: [] for key in states[0]}
        for number, (stack, found, state) in enumerate(zip(stacks, measured, states, strict=True)):
            columns = {
                row: _columns(recipe, number, task.config.checkpoints)
                for row, recipe in enumerate(stack.recipes)
                if recipe.architecture.name == architecture
            }
            kept = [row for row in columns if found.finite[row]]
            content.records.extend(columns[row] | found.row(row) for row in kept)
            content.left_out.extend(columns[row]["id"] for row in columns if not found.finite[row])
            for key, value in state.items():
                parts[key].append(value[kept])
        joined = {key: torch.cat(values) for key, values in parts.items()}
        shards.append(ShardFile(name, encode_shard(joined, content)))
    return shards


def _made(task: StackTask) -> tuple[list[TrainedStack], list[Measured], list[dict[str, torch.Tensor]]]:
    """The networks of a task, at each checkpoint: how they were trained, what they are like, their tensors.

    Tickets are their initialisations, with masks beside them.
    """
    config, data = task.config, load_images(task.config.data)
    if isinstance(config, TicketConfig):
        stack, found, masks = find_tickets(config, task.recipes, data)
        parts = {MASK + name: mask for name, mask in stack.network.views(masks).items()}
        return [stack], [found], [stack.network.state(stack.weights) | parts]
    trained = train_stack(config, task.recipes, data)
    stacks = [*trained.earlier, trained]
    measured = [measure(config, stack, data) for stack in stacks]
    return stacks, measured, [stack.network.state(stack.weights) for stack in stacks]


def _columns(recipe: Recipe, number: int, checkpoints: int) -> dict[str, Any]:
    """What the records say of the training of a network; where a run has several, they are numbered in its order."""
    if checkpoints == 1:
        return recipe.row()
    step = recipe.checkpoint_steps(checkpoints)[number]
    return recipe.row() | {"id": recipe.id * checkpoints + number, "run": recipe.id, "step": step}


def _unfinished(folder: Path, task: StackTask) -> StackTask | None:
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
    return replace(task, recipes=recipes) if recipes else None


def _finish(folder: Path, header: Mapping[str, Any], tasks: Sequence[StackTask]) -> None:
    """Joins the shards' records, traces the structures and marks the zoo complete."""
    config = tasks[0].config
    splits = _splits(config, tasks)
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    left_out: list[int] = []
    for task in tasks:
        for architecture, name in task.files.items():
            path = folder / WEIGHTS / name
            content, _ = read_shard(path, with_weights=False)
            left_out += content.left_out
            for row, record in enumerate(content.records):
                run = record.get("run", record["id"])
                rows.append({"id": record["id"], "run": run, "split": splits[run], "shard": name, "row": row} | record)
            shards.append(shard_entry(path, architecture, len(content.records)))
    if not rows:
        raise ZooError(f"{folder}: none of {len(left_out)} networks is finite; narrow ranges.learning_rate")
    architectures = sorted({recipe.architecture for task in tasks for recipe in task.recipes})
    finish(folder, header, rows, shards, left_out, architectures)


def _splits(config: ZooConfig, tasks: Sequence[StackTask]) -> dict[int, str]:
    """The split of every run, by itself or by the set of its classes."""
    if config.split_by == "run":
        return split_runs(range(config.size), config.splits, config.seed)
    chosen = {recipe.id: tuple(sorted(recipe.classes)) for task in tasks for recipe in task.recipes}
    numbers = {classes: number for number, classes in enumerate(sorted(set(chosen.values())))}
    splits = split_runs(numbers.values(), config.splits, config.seed)
    return {run: splits[numbers[classes]] for run, classes in chosen.items()}


def _plan(config: ZooConfig, data: ImageData) -> list[StackTask]:
    if config.task_classes is not None and config.task_classes > data.classes:
        raise ZooConfigError(f"task_classes: {config.task_classes}, but {data.name} has {data.classes} classes")
    outputs = config.task_classes or data.classes
    return plan_stacks(config, architectures_of(config.architecture, data.image_shape, outputs), data.classes)
