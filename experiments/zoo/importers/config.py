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

FORMATS: dict[str, tuple[str, ...]] = {"small_cnn_zoo": (), "siren_set": ("w0", "split_points")}
"""Published formats, and what else each must or may be told."""

OPTIONS = ("w0", "split_points")


@dataclass(frozen=True)
class ImportConfig:
    """Which published zoo, and how it is split.

    Args:
        importer: the format, one of ``FORMATS``.
        name: the zoo's name; its folder is called after it.
        folder: where the published files lie; not needed any more once the zoo is imported.
        splits: shares of ``train``, ``val`` and ``test`` runs, where the publication has no splits.
        seed: of the splits.
        w0: of SIRENs, the frequency of the sines, see `experiments.zoo.importers.siren_set.read_siren_set`.
        split_points: of SIRENs, the numbers of the first validation image and of the first test image.
        pixels: ``[height, width]`` of the images that SIRENs draw, for what reads pixels; changes nothing in the zoo.
        root: the folder that holds zoos.
    """

    importer: str
    name: str
    folder: str | None = None
    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.4, "val": 0.1, "test": 0.5})
    seed: int = 0
    w0: float | None = None
    split_points: list[int] | None = None
    pixels: list[int] | None = None
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
            foreign = [name for name in OPTIONS if getattr(parsed, name) is not None and name not in parsed.options]
            faults += [f"{name}: the format {parsed.importer} has no such option" for name in foreign]
            if parsed.w0 is not None and (not isinstance(parsed.w0, (int, float)) or parsed.w0 <= 0):
                faults.append(f"w0: {parsed.w0!r} is not a positive number")
            points = parsed.split_points
            if points is not None and not (
                len(points) == 2 and all(isinstance(point, int) for point in points) and 0 < points[0] < points[1]
            ):
                faults.append(f"split_points: {points!r} are not two growing numbers of images, such as [45000, 50000]")
            if not faults:
                return parsed
        raise ZooConfigError("\n  ".join([f"zoo configuration {values.get('name', '?')!r} is wrong:", *faults]))

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the result besides the files, as plain values."""
        return {
            "importer": self.importer,
            "name": self.name,
            "splits": dict(self.splits),
            "seed": self.seed,
            **self.options,
        }

    @property
    def options(self) -> dict[str, Any]:
        """What the format's reader is told besides the folder."""
        own = {name: getattr(self, name) for name in FORMATS.get(self.importer, ())}
        return {name: value for name, value in own.items() if value is not None}

    @property
    def fingerprint(self) -> str:
        """A hash of `to_dict`."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder_name(self) -> str:
        """The name of the zoo's folder under `root`."""
        return f"{self.name}-{self.fingerprint[:12]}"
