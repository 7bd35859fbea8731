"""Everything random about one network, drawn from the zoo's seed and the network's number alone.

No draw depends on other networks, on the stack or on the executor: network 17 of a zoo of 2000 has the
hyper-parameters, the start, the images and the batches of network 17 of a zoo of 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import ImageData
from experiments.zoo.config import OPTIMISERS, RANGE_KEYS, ZooConfig
from experiments.zoo.nets import Architecture

__all__ = [
    "DROPOUT_LEVELS",
    "Recipe",
    "TrainingSet",
    "draw",
    "draw_recipe",
    "initial_weights",
    "output_of",
    "range_faults",
    "stream",
    "training_set",
]

DROPOUT_LEVELS = 256
"""Dropout probabilities are multiples of 1 / 256, so that one random byte decides about one neuron."""

NAMES = ("recipe", "start", "images", "batches", "dropout", "weight_noise", "places", "unseen_places", "task", "early")
PURPOSES = {name: number for number, name in enumerate(NAMES)}


def stream(seed: int, network: int | None, purpose: str) -> np.random.Generator:
    """The random numbers of one network (or, with None, of the whole zoo) for one purpose."""
    key = (PURPOSES[purpose],) if network is None else (PURPOSES[purpose], network)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def range_faults(key: str, spec: Any) -> list[str]:
    """What is wrong with the distribution ``spec``, one line per fault; empty if nothing is."""
    if isinstance(spec, (bool, type(None))):
        return [f"{key}: {spec!r} is not a distribution"]
    if isinstance(spec, (int, float, str)):
        return []
    if isinstance(spec, Sequence):
        return [] if len(spec) else [f"{key}: an empty list of choices"]
    kinds = [kind for kind in ("log", "uniform", "normal") if kind in spec]
    unknown = sorted(set(spec) - {"log", "uniform", "normal", "zero", *(["clip"] if "normal" in spec else [])})
    if len(kinds) != 1 or unknown:
        return [
            f"{key}: {dict(spec)} needs 'log', 'uniform' or 'normal' with 'clip', and may have 'zero'; nothing else"
        ]
    if kinds == ["normal"]:
        low, high = spec.get("clip", (1, 0))
        right = spec["normal"][1] > 0 and low < high
        return [] if right else [f"{key}: a 'normal' needs [mean, deviation above 0] and an increasing 'clip'"]
    low, high = spec[kinds[0]]
    if low > high or (kinds[0] == "log" and low <= 0):
        return [f"{key}: [{low}, {high}] is not an increasing range" + (" above 0" * (kinds[0] == "log"))]
    return []


def draw(spec: Any, position: float, gate: float = 1.0) -> Any:
    """One value of a distribution, given two random numbers that are uniform in ``[0, 1)``.

    ``spec`` is a constant, a list of equally likely choices, ``{"uniform": [low, high]}``, ``{"log": [low, high]}``, or
    ``{"normal": [mean, deviation], "clip": [low, high]}``, whose tails lie on its ends; with ``"zero": p`` the value is
    0 where ``gate`` is below p.

    >>> draw(0.5, 0.9), draw(["a", "b"], 0.9), draw({"uniform": [0.0, 4.0]}, 0.5)
    (0.5, 'b', 2.0)
    >>> round(draw({"log": [0.01, 1.0]}, 0.5), 6), draw({"log": [0.01, 1.0], "zero": 0.5}, 0.5, gate=0.2)
    (0.1, 0.0)
    """
    if isinstance(spec, Mapping):
        if gate < spec.get("zero", 0.0):
            return 0.0
        if "log" in spec:
            low, high = spec["log"]
            return float(low * (high / low) ** position)
        if "normal" in spec:
            low, high = spec["clip"]
            return float(np.clip(NormalDist(*spec["normal"]).inv_cdf(max(position, 1e-12)), low, high))
        low, high = spec["uniform"]
        return float(low + (high - low) * position)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return spec[int(position * len(spec))]
    return spec


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    ``early`` is the step of its first checkpoint (0: evenly spaced as the others), ``classes`` those of its task in the
    order of its outputs (empty: all of the data set).
    """

    id: int
    architecture: Architecture
    optimiser: str
    learning_rate: float
    weight_decay: float
    initial_scale: float
    dropout: float
    label_noise: float
    train_fraction: float
    steps: int
    early: int = 0
    classes: tuple[int, ...] = ()

    def row(self) -> dict[str, Any]:
        """The hyper-parameters as columns of the records."""
        values = asdict(self) | {"architecture": self.architecture.name}
        for key in ("early", "classes"):
            if not values[key]:
                del values[key]
        if self.classes:
            values["classes"] = "-".join(map(str, self.classes))
        return values | {"activation": self.architecture.activation}

    def checkpoint_steps(self, checkpoints: int) -> list[int]:
        """After how many steps a network is kept: evenly spaced from the early one on, rounded up, the last at the end.

        >>> Recipe(0, Architecture("mlp", (2, 2), "relu"), "sgd", 0.1, 0, 1, 0, 0, 1, steps=25).checkpoint_steps(4)
        [7, 13, 19, 25]
        """
        if self.early:
            rest = self.steps - self.early
            return [self.early - (-rest * number // (checkpoints - 1)) for number in range(checkpoints)]
        return [-(-self.steps * number // checkpoints) for number in range(1, checkpoints + 1)]


def output_of(task: Sequence[int] | str | None, classes: int) -> np.ndarray:
    """The output of a network for each class of the data set, -1 for those that are not in its task.

    Args:
        task: its classes in the order of its outputs, also as records write them; None or empty: all of the data set.
        classes: how many the data set has.

    >>> output_of("3-0", 5).tolist(), output_of(None, 3).tolist()
    ([1, -1, -1, 0, -1], [0, 1, 2])
    """
    if not task:
        return np.arange(classes)
    chosen = [int(each) for each in (task.split("-") if isinstance(task, str) else task)]
    output = np.full(classes, -1)
    output[chosen] = np.arange(len(chosen))
    return output


def draw_recipe(config: ZooConfig, architectures: Sequence[Architecture], network: int, classes: int = 0) -> Recipe:
    """Draws architecture, hyper-parameters and task, of ``classes`` that there are, of network number ``network``.

    Every hyper-parameter has its own pair of random numbers, so changing the range of one leaves the
    others as they were.
    """
    random = stream(config.seed, network, "recipe").random((len(RANGE_KEYS) + 1, 2))
    architecture = draw(architectures, random[-1, 0])
    values: dict[str, Any] = {}
    for key, (position, gate) in zip(RANGE_KEYS, random, strict=False):
        spec = config.ranges[key]
        if key == "learning_rate" and isinstance(spec, Mapping) and set(spec) & set(OPTIMISERS):
            spec = spec[values["optimiser"]]
        values[key] = draw(spec, position, gate)
    values["dropout"] = round(values["dropout"] * DROPOUT_LEVELS) / DROPOUT_LEVELS
    values["steps"] = max(config.checkpoints, round(values["steps"]))
    if config.early is not None:
        first = round(draw(config.early, *stream(config.seed, network, "early").random(2)))
        values["early"] = min(max(first, 1), values["steps"])
    if config.task_classes is not None:
        chosen = stream(config.seed, network, "task").permutation(classes)[: config.task_classes]
        values["classes"] = tuple(map(int, chosen))
    return Recipe(id=network, architecture=architecture, **values)


def initial_weights(config: ZooConfig, recipe: Recipe) -> dict[str, np.ndarray]:
    """The start of one network, as torch's modules draw it, linear maps times the network's initial scale.

    Weights of linear layers and convolutions, and their biases, are uniform in ``+-1 / sqrt(inputs)``; batch
    normalisation starts as the identity. With ``initialisation: shared`` the draw is that of the zoo, the same
    for every network of one topology.
    """
    network = None if config.initialisation == "shared" else recipe.id
    generator = stream(config.seed, network, "start")
    weights: dict[str, np.ndarray] = {}
    bound: float | None = None
    for name, shape in recipe.architecture.shapes.items():
        if name.endswith("weight"):
            bound = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else None
        if name in recipe.architecture.buffers or bound is None:
            weights[name] = np.full(shape, 1.0 if name.endswith(("weight", "running_var")) else 0.0)
        else:
            weights[name] = recipe.initial_scale * generator.uniform(-bound, bound, shape)
    return weights


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What one network sees.

    Args:
        member: which images of the pool are in its training subset, ``[P]`` boolean.
        labels: the label it is trained with for every image of the pool, noise included, ``[P]``.
        batches: the images (numbers in the pool) of every step, ``[steps, batch]``.
    """

    member: Tensor
    labels: Tensor
    batches: Tensor


def training_set(config: ZooConfig, recipe: Recipe, data: ImageData) -> TrainingSet:
    """Draws the training subset, the noisy labels and the batches of one network.

    Exactly ``round(label_noise * images)`` images of the subset get a wrong label, uniform over the other
    classes. Batches run through the subset in a new order every epoch.
    """
    generator = stream(config.seed, recipe.id, "images")
    pool = len(data.pool)
    labels = output_of(recipe.classes, data.classes)[data.pool_labels.numpy()]
    shown = np.flatnonzero(labels >= 0)
    images = max(1, round(recipe.train_fraction * len(shown)))
    subset = generator.permutation(shown)[:images]
    classes = len(recipe.classes) or data.classes
    wrong = subset[: round(recipe.label_noise * images)]
    labels[wrong] = (labels[wrong] + generator.integers(1, classes, len(wrong))) % classes
    member = np.zeros(pool, dtype=bool)
    member[subset] = True

    generator = stream(config.seed, recipe.id, "batches")
    seen = recipe.steps * config.batch_size
    epochs = np.tile(subset, (-(-seen // images), 1))
    order = generator.permuted(epochs, axis=1).reshape(-1)[:seen]
    return TrainingSet(
        member=torch.from_numpy(member),
        labels=torch.from_numpy(labels.clip(0)),
        batches=torch.from_numpy(order.reshape(recipe.steps, config.batch_size)),
    )
