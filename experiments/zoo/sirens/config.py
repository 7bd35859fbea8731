"""The configuration of a zoo of SIRENs: checked in full before anything is fitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.data import LOADERS, ImageData, load_images
from experiments.zoo.config import EXECUTION_KEYS, EXECUTOR_NAMES, INITIALISATIONS, ZooConfig
from experiments.zoo.errors import ZooConfigError
from experiments.zoo.importers.config import ImportConfig
from experiments.zoo.sirens.network import VARIANTS, SirenArchitecture

__all__ = ["KIND", "SCHEDULES", "SirenConfig", "parse_zoo"]

KIND = "siren"
GENERATOR_VERSION = 1
"""Raised when a change of the code changes the networks, so that cached zoos are not taken for new ones."""

SCHEDULES = ("constant", "cosine")
REQUIRED = ("name", "data", "pixels")
COUNTS = ("width", "hidden_layers", "steps", "copies", "stack_size")


@dataclass(frozen=True)
class SirenConfig:
    """Which images are fitted, by what SIRENs, and how. Made by `SirenConfig.parse`.

    Args:
        name: the zoo's name; its folder is called after it.
        data: the images, see `experiments.data.load_images`.
        pixels: ``[height, width]`` that the images are to have.
        kind: always ``"siren"``.
        width, hidden_layers: hidden neurons of a layer, and hidden layers.
        w0: the frequency of every sine.
        variant: how biases start, see `experiments.zoo.sirens.network.initial_siren`.
        initialisation: ``independent`` draws every SIREN's own start, ``shared`` gives all one start.
        steps: of Adam, each on all pixels.
        learning_rate: of Adam.
        schedule: of the learning rate: ``constant``, or ``cosine`` to 0.
        copies: SIRENs per training image; validation and test images have one each.
        limit: the first so many images of the training pool and of the test images alone; None: all.
        validation: share of the data set's training pool whose images validate.
        seed: decides everything that is random; the result does not depend on the executor.
        stack_size: SIRENs fitted at once; a stack is the unit of progress.
        executor: ``in_process``, ``processes`` or ``ray``.
        workers: how many processes; all cores if None.
        root: the folder that holds generated zoos.
    """

    name: str
    data: dict[str, Any]
    pixels: list[int]
    kind: str = KIND
    width: int = 32
    hidden_layers: int = 2
    w0: float = 30.0
    variant: str = "sitzmann"
    initialisation: str = "independent"
    steps: int = 200
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    copies: int = 1
    limit: int | None = None
    validation: float = 0.1
    seed: int = 0
    stack_size: int = 64
    executor: str = "processes"
    workers: int | None = None
    root: str = "data/zoos"

    @classmethod
    def parse(cls, config: SirenConfig | DictConfig | Mapping[str, Any]) -> SirenConfig:
        """Checks a configuration and fills in the defaults.

        Raises:
            ZooConfigError: keys are missing, unknown or out of range; the message lists all of them.
        """
        if isinstance(config, SirenConfig):
            return config
        plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
        values = {str(key): value for key, value in cast(Mapping[str, Any], plain).items()}
        names = [entry.name for entry in fields(cls)]
        faults = [f"{key}: unknown; known are {', '.join(names)}" for key in values if key not in names]
        faults += [f"{key}: missing" for key in REQUIRED if key not in values]
        if not faults:
            parsed = cls(**values)
            faults = _faults(parsed)
            if not faults:
                return parsed
        raise ZooConfigError("\n  ".join([f"zoo configuration {values.get('name', '?')!r} is wrong:", *faults]))

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values; the images have a fingerprint of their own."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["data"] = {key: value for key, value in self.data.items() if key != "folder"}
        return {key: value for key, value in values.items() if key not in EXECUTION_KEYS}

    @property
    def fingerprint(self) -> str:
        """A hash of `to_dict` and of the generator's version: equal fingerprints mean equal zoos."""
        text = json.dumps({"siren_generator": GENERATOR_VERSION, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder_name(self) -> str:
        """The name of the zoo's folder under `root`."""
        return f"{self.name}-{self.fingerprint[:12]}"

    @property
    def splits(self) -> dict[str, float]:
        """Shares of images in ``train``, ``val`` and ``test``, for splits that are drawn anew."""
        images, held_out = self.used(load_images(self.data))
        pool = images / (images + held_out)
        train = (1 - self.validation) * pool
        return {"train": train, "val": pool - train, "test": 1 - pool}

    def used(self, data: ImageData) -> tuple[int, int]:
        """How many images of the training pool and of the test images are drawn."""
        counts = len(data.pool), len(data.test)
        return counts if self.limit is None else (min(self.limit, counts[0]), min(self.limit, counts[1]))

    def architecture(self, channels: int) -> SirenArchitecture:
        """The one architecture of all networks, for images of some channels."""
        sizes = (2, *[self.width] * self.hidden_layers, channels)
        return SirenArchitecture("siren", sizes, "sine", w0=float(self.w0))


def parse_zoo(
    config: ZooConfig | SirenConfig | ImportConfig | DictConfig | Mapping[str, Any],
) -> ZooConfig | SirenConfig | ImportConfig:
    """The checked configuration of a zoo of any kind.

    ``kind: siren`` tells SIRENs from classifiers, an ``importer`` networks that others have trained.

    Raises:
        ZooConfigError: the configuration is wrong; the message lists all faults.
    """
    if isinstance(config, (ZooConfig, SirenConfig, ImportConfig)):
        return config
    if "importer" in config:
        return ImportConfig.parse(config)
    return SirenConfig.parse(config) if config.get("kind") == KIND else ZooConfig.parse(config)


def _faults(config: SirenConfig) -> list[str]:
    known = (
        ("variant", config.variant, VARIANTS),
        ("initialisation", config.initialisation, INITIALISATIONS),
        ("schedule", config.schedule, SCHEDULES),
        ("executor", config.executor, EXECUTOR_NAMES),
        ("kind", config.kind, (KIND,)),
        ("data.name", config.data.get("name"), tuple(LOADERS)),
    )
    faults = [f"{key}: {value!r} is not one of {', '.join(names)}" for key, value, names in known if value not in names]
    numbers = {key: getattr(config, key) for key in COUNTS}
    faults += [
        f"{key}: {value!r} is not a positive integer"
        for key, value in numbers.items()
        if not isinstance(value, int) or value < 1
    ]
    faults += [
        f"{key}: {getattr(config, key)!r} is not a positive number"
        for key in ("w0", "learning_rate")
        if not isinstance(getattr(config, key), (int, float)) or getattr(config, key) <= 0
    ]
    if config.limit is not None and (not isinstance(config.limit, int) or config.limit < 2):
        faults.append(f"limit: {config.limit!r} is neither null nor at least 2")
    if not 0 < config.validation < 1:
        faults.append(f"validation: {config.validation!r} does not lie between 0 and 1")
    if len(config.pixels) != 2 or any(not isinstance(side, int) or side < 2 for side in config.pixels):
        faults.append(f"pixels: {config.pixels!r} is not [height, width], each at least 2")
    return faults
