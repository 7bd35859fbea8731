"""The configuration of a zoo of SIRENs: checked in full before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import LOADERS, SHAPE_LOADERS, ImageData, ShapeData, load_data
from experiments.zoo.settings import EXECUTOR_NAMES, INITIALISATIONS, Settings
from experiments.zoo.sirens.network import VARIANTS, SirenArchitecture

__all__ = ["KIND", "SCHEDULES", "SirenConfig"]

KIND = "siren"
SCHEDULES = ("constant", "cosine")
DISTANCES = ("queries", "deviations", "truncation")
COUNTS = ("width", "hidden_layers", "steps", "copies", "stack_size")


@dataclass(frozen=True)
class SirenConfig(Settings):
    """Which images or shapes are fitted, by what SIRENs, and how. Made by `SirenConfig.parse`.

    Args:
        name: the zoo's name; its folder is called after it.
        data: the images or shapes, see `experiments.data.load_data`.
        pixels: ``[height, width]`` that the images are to have; None for shapes.
        distances: of shapes, whose distances are fitted: ``queries``, ``deviations`` and ``truncation``, see
            `experiments.zoo.sirens.signals.distance_field`; None for images.
        kind: always ``"siren"``.
        width, hidden_layers: hidden neurons of a layer, and hidden layers.
        w0: the frequency of every sine.
        variant: how biases start, see `experiments.zoo.sirens.network.initial_siren`.
        initialisation: ``independent`` draws every SIREN's own start, ``shared`` gives all one start.
        steps: of Adam, each on all pixels or places.
        learning_rate: of Adam.
        schedule: of the learning rate: ``constant``, or ``cosine`` to 0.
        copies: SIRENs per training image (or shape); validation and test images have one each.
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
    pixels: list[int] | None = None
    distances: dict[str, Any] | None = None
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

    REQUIRED: ClassVar[tuple[str, ...]] = ("name", "data")
    GENERATOR: ClassVar[dict[str, int]] = {"siren_generator": 1}
    LATER: ClassVar[dict[str, Any]] = {"distances": None}

    def faults(self) -> list[str]:
        """What is wrong with the values, one line per fault; empty if nothing is."""
        return _faults(self)

    @property
    def splits(self) -> dict[str, float]:
        """Shares of images in ``train``, ``val`` and ``test``, for splits that are drawn anew."""
        images, held_out = self.used(load_data(self.data))
        pool = images / (images + held_out)
        train = (1 - self.validation) * pool
        return {"train": train, "val": pool - train, "test": 1 - pool}

    @property
    def quality(self) -> str:
        """The column of the records that says how well a network fits: of an image or of a shape."""
        return "psnr" if self.distances is None else "distance_error"

    def used(self, data: ImageData | ShapeData) -> tuple[int, int]:
        """How many images or shapes of the training pool and of the test set are drawn."""
        counts = len(data.pool), len(data.test)
        return counts if self.limit is None else (min(self.limit, counts[0]), min(self.limit, counts[1]))

    def architecture(self, data: ImageData | ShapeData) -> SirenArchitecture:
        """The one architecture of all networks: from pixels to channels, or from places to a distance."""
        ends = (2, data.image_shape[0]) if isinstance(data, ImageData) else (3, 1)
        sizes = (ends[0], *[self.width] * self.hidden_layers, ends[1])
        return SirenArchitecture("siren", sizes, "sine", w0=float(self.w0))


def _faults(config: SirenConfig) -> list[str]:
    known = (
        ("variant", config.variant, VARIANTS),
        ("initialisation", config.initialisation, INITIALISATIONS),
        ("schedule", config.schedule, SCHEDULES),
        ("executor", config.executor, EXECUTOR_NAMES),
        ("kind", config.kind, (KIND,)),
        ("data.name", config.data.get("name"), (*LOADERS, *SHAPE_LOADERS)),
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
    return faults + (_shape_faults(config) if config.data.get("name") in SHAPE_LOADERS else _image_faults(config))


def _image_faults(config: SirenConfig) -> list[str]:
    faults = [] if config.distances is None else ["distances: images have none; leave it null"]
    sides = config.pixels or []
    if len(sides) != 2 or any(not isinstance(side, int) or side < 2 for side in sides):
        faults.append(f"pixels: {config.pixels!r} is not [height, width], each at least 2")
    return faults


def _shape_faults(config: SirenConfig) -> list[str]:
    faults = [] if config.pixels is None else ["pixels: shapes have none; leave it null"]
    given = config.distances or {}
    if set(given) != set(DISTANCES):
        return [*faults, f"distances: {config.distances!r} needs {', '.join(DISTANCES)}, and nothing else"]
    queries, deviations, cut = (given[key] for key in DISTANCES)
    if any(not isinstance(count, int) or count < 0 for count in queries) or not sum(queries):
        faults.append(f"distances.queries: {queries!r} are no numbers of places")
    if len(queries) != len(deviations) + 1 or any(not deviation > 0 for deviation in deviations):
        faults.append(
            f"distances.deviations: {deviations!r} should be positive, and one fewer than queries, whose last number "
            "is for places anywhere"
        )
    if cut is not None and not cut > 0:
        faults.append(f"distances.truncation: {cut!r} is neither null nor positive")
    return faults
