"""What the configurations of all kinds of zoos have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, cast

from omegaconf import DictConfig, OmegaConf
from typing_extensions import Self

from experiments.zoo.errors import ZooConfigError

__all__ = ["EXECUTION_KEYS", "EXECUTOR_NAMES", "INITIALISATIONS", "SPLITS", "Settings", "split_faults"]

INITIALISATIONS = ("independent", "shared")
EXECUTOR_NAMES = ("in_process", "processes", "ray")
EXECUTION_KEYS = ("executor", "workers", "root")
SPLITS = ("train", "val", "test")


class Settings:
    """A configuration, checked in full on its way in and known by its values; subclasses are frozen dataclasses."""

    REQUIRED: ClassVar[tuple[str, ...]] = ("name",)
    """Keys without a default that makes sense."""

    GENERATOR: ClassVar[dict[str, int]] = {}
    """The version of the code that makes networks, raised when a change of it changes them."""

    LATER: ClassVar[dict[str, Any]] = {}
    """Later options with their defaults: zoos from before there were any keep their fingerprints."""

    name: str

    @classmethod
    def parse(cls, config: Settings | DictConfig | Mapping[str, Any]) -> Self:
        """Checks a configuration and fills in the defaults.

        Raises:
            ZooConfigError: keys are missing, unknown or out of range; the message lists all of them.
        """
        if isinstance(config, cls):
            return config
        plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
        values = {str(key): value for key, value in cast(Mapping[str, Any], plain).items()}
        names = [entry.name for entry in fields(cast(Any, cls))]
        faults = [f"{key}: unknown; known are {', '.join(names)}" for key in values if key not in names]
        faults += [f"{key}: missing" for key in cls.REQUIRED if key not in values]
        if not faults:
            parsed = cls(**cls.completed(values))
            faults = parsed.faults()
            if not faults:
                return parsed
        raise ZooConfigError("\n  ".join([f"zoo configuration {values.get('name', '?')!r} is wrong:", *faults]))

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values with what a default inside one of them adds."""
        return values

    def faults(self) -> list[str]:
        """What is wrong with the values, one line per fault; empty if nothing is."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values.

        Execution settings and the folder of the data are left out: the data have a fingerprint of their own.
        """
        unused = [key for key, value in self.LATER.items() if getattr(self, key) == value]
        names = [entry.name for entry in fields(cast(Any, self))]
        values = {name: getattr(self, name) for name in names if name not in (*EXECUTION_KEYS, *unused)}
        if "data" in values:
            values["data"] = {key: value for key, value in values["data"].items() if key != "folder"}
        return values

    @property
    def fingerprint(self) -> str:
        """A hash of `to_dict` and of the generator's version: equal fingerprints mean equal zoos."""
        text = json.dumps({**self.GENERATOR, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder_name(self) -> str:
        """The name of the zoo's folder under ``root``."""
        return f"{self.name}-{self.fingerprint[:12]}"


def split_faults(splits: Mapping[str, float]) -> list[str]:
    """What is wrong with shares of splits."""
    if set(splits) == set(SPLITS) and abs(sum(splits.values()) - 1) <= 1e-9:
        return []
    return [f"splits: {splits} are not shares of train, val and test that add up to 1"]
