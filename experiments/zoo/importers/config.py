"""The configuration of an imported zoo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from experiments.zoo.settings import Settings, split_faults

__all__ = ["FORMATS", "ImportConfig"]

FORMATS: dict[str, tuple[str, ...]] = {"small_cnn_zoo": (), "siren_set": ("w0", "split_points")}
"""Published formats, and what else each must or may be told."""

OPTIONS = ("w0", "split_points")


@dataclass(frozen=True)
class ImportConfig(Settings):
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

    REQUIRED: ClassVar[tuple[str, ...]] = ("importer", "name")

    def faults(self) -> list[str]:
        """What is wrong with the values, one line per fault; empty if nothing is."""
        faults = [] if self.importer in FORMATS else [f"importer: {self.importer!r} is not one of {', '.join(FORMATS)}"]
        faults += split_faults(self.splits)
        foreign = [name for name in OPTIONS if getattr(self, name) is not None and name not in self.options]
        faults += [f"{name}: the format {self.importer} has no such option" for name in foreign]
        if self.w0 is not None and (not isinstance(self.w0, (int, float)) or self.w0 <= 0):
            faults.append(f"w0: {self.w0!r} is not a positive number")
        points = self.split_points
        if points is not None and not (
            len(points) == 2 and all(isinstance(point, int) for point in points) and 0 < points[0] < points[1]
        ):
            faults.append(f"split_points: {points!r} are not two growing numbers of images, such as [45000, 50000]")
        return faults

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
