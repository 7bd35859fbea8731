"""The configuration of an imported zoo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.zoo.errors import ZooConfigError

__all__ = ["FORMATS", "ImportConfig"]

FORMATS = ("small_cnn_zoo",)


@dataclass(frozen=True)
class ImportConfig:
    """Which published zoo, and how it is split.

    Args:
        importer: the format, one of ``FORMATS``.
        name: the zoo's name; its folder is called after it.
        folder: where the published files lie; not needed any more once the zoo is imported.
        splits: shares of ``train``, ``val`` and ``test`` runs.
        seed: of the splits.
        root: the folder that holds zoos.
    """

    importer: str
    name: str
    folder: str | None = None
    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.4, "val": 0.1, "test": 0.5})
    seed: int = 0
    root: str = "data/zoos"

    @classmethod
    def parse(cls, config: DictConfig | Mapping[str, Any]) -> ImportConfig:
        """Checks a configuration and fills in the defaults.

        Raises:
            ZooConfigError: keys are missing, unknown or out of range; the message lists all of them.
        """
        plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
        values = {str(key): value for key, value in cast(Mapping[str, Any], plain).items()}
        names = [entry.name for entry in fields(cls)]
        faults = [f"{key}: unknown; known are {', '.join(names)}" for key in values if key not in names]
        faults += [f"{key}: missing" for key in names[:2] if key not in values]
        if not faults:
            parsed = cls(**values)
            if parsed.importer not in FORMATS:
                faults.append(f"importer: {parsed.importer!r} is not one of {', '.join(FORMATS)}")
            if set(parsed.splits) != {"train", "val", "test"} or abs(sum(parsed.splits.values()) - 1) > 1e-9:
                faults.append(f"splits: {parsed.splits} are not shares of train, val and test that add up to 1")
            if not faults:
                return parsed
        raise ZooConfigError("\n  ".join([f"zoo configuration {values.get('name', '?')!r} is wrong:", *faults]))

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the result besides the files, as plain values."""
        return {"importer": self.importer, "name": self.name, "splits": dict(self.splits), "seed": self.seed}

    @property
    def fingerprint(self) -> str:
        """A hash of `to_dict`."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder_name(self) -> str:
        """The name of the zoo's folder under `root`."""
        return f"{self.name}-{self.fingerprint[:12]}"
