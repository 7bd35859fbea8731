"""A zoo's configuration: checked in full before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from experiments.data import LOADERS
from experiments.zoo.nets import architecture_faults
from experiments.zoo.settings import EXECUTOR_NAMES, INITIALISATIONS, Settings, split_faults

__all__ = ["OPTIMISERS", "RANGE_KEYS", "ZooConfig"]

OPTIMISERS = ("sgd", "momentum", "adam")
RANGE_KEYS = (
    "optimiser",
    "learning_rate",
    "weight_decay",
    "initial_scale",
    "dropout",
    "label_noise",
    "train_fraction",
    "steps",
)
PROPERTY_DEFAULTS: dict[str, float] = {
    "weight_noise": 0.3,
    "weight_noise_draws": 8,
    "input_noise": 0.5,
    "input_noise_draws": 4,
}
SPLIT_BY = ("run", "task")


@dataclass(frozen=True)
class ZooConfig(Settings):
    """What to generate. Made by `ZooConfig.parse` from a mapping or a composed hydra config.

    Args:
        name: the zoo's name; its folder is called after it.
        size: the number of networks to train.
        data: the data set, see `experiments.data.load_images`.
        architecture: the architectures, see `experiments.zoo.nets.architectures_of`.
        ranges: one distribution per hyper-parameter, see `experiments.zoo.sampling.draw`.
        seed: decides everything that is random; the result does not depend on the executor.
        initialisation: ``independent`` draws every network's own start, ``shared`` gives all one start.
        batch_size: images in a training step.
        stack_size: networks trained at once; a stack is the unit of progress.
        checkpoints: networks kept of every training run, at evenly spaced shares of its steps, the last one at
            its end: with 10 the zoo has ten times ``size`` networks.
        early: the distribution of the step of the first checkpoint, from which on the others are evenly spaced.
        task_classes: how many classes each network tells apart, drawn for every run and in an order of its own, which
            the records hold (``classes``); it is trained and measured on their images alone. None: all of them.
        splits: shares of ``train``, ``val`` and ``test`` networks.
        split_by: ``run``, or ``task``, with which no two splits have runs with the same set of classes.
        properties: strengths and numbers of draws of the noise that measures robustness. ``weight_noise``
            is relative to each tensor's root mean square, ``input_noise`` to the images' deviation.
        executor: ``in_process``, ``processes`` or ``ray``.
        workers: how many processes; all cores if None.
        root: the folder that holds generated zoos.
    """

    name: str
    size: int
    data: dict[str, Any]
    architecture: dict[str, Any]
    ranges: dict[str, Any]
    seed: int = 0
    initialisation: str = "independent"
    batch_size: int = 32
    stack_size: int = 100
    checkpoints: int = 1
    early: Any = None
    task_classes: int | None = None
    split_by: str = "run"
    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15})
    properties: dict[str, float] = field(default_factory=lambda: dict(PROPERTY_DEFAULTS))
    executor: str = "processes"
    workers: int | None = None
    root: str = "data/zoos"

    REQUIRED: ClassVar[tuple[str, ...]] = ("name", "size", "data", "architecture", "ranges")
    GENERATOR: ClassVar[dict[str, int]] = {"generator": 2}
    LATER: ClassVar[dict[str, Any]] = {"checkpoints": 1, "early": None, "task_classes": None, "split_by": "run"}

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values with all properties."""
        return values | {"properties": {**PROPERTY_DEFAULTS, **values.get("properties", {})}}

    def faults(self) -> list[str]:
        """What is wrong with the values, one line per fault; empty if nothing is."""
        return _faults(self)


def _faults(config: ZooConfig) -> list[str]:
    from experiments.zoo.sampling import range_faults

    def among(key: str, value: Any, known: tuple[str, ...]) -> list[str]:
        return [] if value in known else [f"{key}: {value!r} is not one of {', '.join(known)}"]

    faults = [
        f"{key}: {getattr(config, key)!r} is not a positive integer"
        for key in ("size", "batch_size", "stack_size", "checkpoints")
        if not isinstance(getattr(config, key), int) or getattr(config, key) < 1
    ]
    faults += among("initialisation", config.initialisation, INITIALISATIONS)
    faults += among("executor", config.executor, EXECUTOR_NAMES)
    faults += among("split_by", config.split_by, SPLIT_BY)
    if config.split_by == "task" and config.task_classes is None:
        faults.append("split_by: 'task' needs task_classes")
    if config.task_classes is not None and (not isinstance(config.task_classes, int) or config.task_classes < 2):
        faults.append(f"task_classes: {config.task_classes!r} is not an integer of at least 2")
    if config.early is not None:
        faults += range_faults("early", config.early)
        if config.checkpoints == 1:
            faults.append("early: the only checkpoint is the end of training; set checkpoints to 2 or more")
    faults += among("data.name", config.data.get("name"), tuple(LOADERS))
    faults += architecture_faults(config.architecture)
    for key in PROPERTY_DEFAULTS.keys() ^ config.properties.keys():
        faults.append(f"properties.{key}: unknown; known are {', '.join(PROPERTY_DEFAULTS)}")
    faults += split_faults(config.splits)
    faults += [f"ranges.{key}: missing" for key in RANGE_KEYS if key not in config.ranges]
    faults += [f"ranges.{key}: unknown" for key in config.ranges if key not in RANGE_KEYS]
    for key, spec in config.ranges.items():
        if key == "learning_rate" and isinstance(spec, Mapping) and set(spec) & set(OPTIMISERS):
            for optimiser in spec:
                faults += among("ranges.learning_rate", optimiser, OPTIMISERS)
                faults += range_faults(f"ranges.learning_rate.{optimiser}", spec[optimiser])
        elif key in RANGE_KEYS:
            faults += range_faults(f"ranges.{key}", spec)
    return faults
