"""From a composed hydra config to a checked experiment: every fault is found before anything runs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.sweeps import listed_settings

__all__ = ["CONFIG_DIR", "ConfigError", "Experiment", "Fit", "Method", "Optim", "Pretraining", "Settings", "parse"]

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"

LOSSES = ("mse", "mae", "huber", "bce")
CHECKPOINTS = ("joint", "each")
SCHEDULES = ("constant", "cosine", "onecycle")
LOGGERS = ("csv", "tensorboard")
ROOT_KEYS = frozenset(
    {
        "experiment",
        "title",
        "scale",
        "budget_minutes",
        "seeds",
        "output",
        "record",
        "tuning",
        "execution",
        "bootstrap",
        "variant",
        "zoo",
        "test_zoo",
        "split",
        "task",
        "optim",
        "trainer",
        "methods",
        "report",
    }
)
SPLIT_KEYS = frozenset({"name", "by", "held_out", "share", "validation", "seed"})
METHOD_KEYS = frozenset({"model", "optim", "trainer", "tuning", "one_layout", "pretraining", "task"})
PRETRAINING_KEYS = frozenset({"task", "model", "optim", "trainer", "mixup"})


class ConfigError(ValueError):
    """A config is wrong; the message lists every fault with its place and what would be right."""

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        noun = "is 1 fault" if len(faults) == 1 else f"are {len(faults)} faults"
        super().__init__("\n  ".join([f"there {noun} in the config of {where}:", *faults]))


@dataclass(frozen=True)
class Optim:
    """How weights are moved. See ``configs/optim``."""

    optimizer: dict[str, Any]
    schedule: str
    warmup: float
    gradient_clip: float | None

    def faults(self, where: str) -> list[str]:
        """What is wrong with the values."""
        return [
            *_among(f"{where}.schedule", self.schedule, SCHEDULES),
            *_check(f"{where}.warmup", self.warmup, 0 <= self.warmup < 1, "lie in [0, 1)"),
            *_check(
                f"{where}.optimizer",
                self.optimizer,
                "_target_" in self.optimizer,
                "name its class as _target_",
            ),
        ]


@dataclass(frozen=True)
class Fit:
    """How long to train and what to keep. See ``configs/trainer``."""

    epochs: int
    batch_size: int
    patience: int | None
    monitor: str
    ema: float | None
    loggers: tuple[str, ...]
    accelerator: str
    devices: int | str
    strategy: str
    loss: str | None = None
    checkpoints: str = "joint"
    members: int = 1

    def faults(self, where: str) -> list[str]:
        """What is wrong with the values."""
        return [
            *_check(f"{where}.epochs", self.epochs, self.epochs >= 1, "be at least 1"),
            *_check(f"{where}.batch_size", self.batch_size, self.batch_size >= 1, "be at least 1"),
            *_check(f"{where}.members", self.members, self.members >= 1, "be at least 1"),
            *_among(f"{where}.loss", self.loss, (None, *LOSSES)),
            *_among(f"{where}.checkpoints", self.checkpoints, CHECKPOINTS),
            *_check(f"{where}.ema", self.ema, self.ema is None or 0 < self.ema < 1, "be null or lie in (0, 1)"),
            *(fault for name in self.loggers for fault in _among(f"{where}.loggers", name, LOGGERS)),
        ]


@dataclass(frozen=True)
class Pretraining:
    """An encoder that is trained first, on a task of its own with the same networks, and then kept as it is.

    The method's model then learns from codes, see `experiments.tasks.Encoded`; ``mixup`` is that of the codes.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    optim: Optim
    trainer: Fit
    mixup: float = 0.0


@dataclass(frozen=True)
class Settings:
    """One way to train one method: a model with its optimiser and its training length."""

    model: dict[str, Any]
    optim: Optim
    trainer: Fit
    pretraining: Pretraining | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Method:
    """A row of the tables: its name, the settings it may try, and what each of them changes.

    With ``one_layout`` it is left out where networks differ in their layout; ``task`` changes options of the task for
    it alone, such as how networks are brought into a common form.
    """

    name: str
    trials: tuple[Settings, ...]
    changes: tuple[dict[str, Any], ...]
    one_layout: bool = False
    task: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A checked experiment, as `parse` makes it."""

    name: str
    title: str
    scale: str
    budget_minutes: float
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    variant: str
    task: dict[str, Any]
    zoo: dict[str, Any]
    test_zoo: dict[str, Any] | None
    split: dict[str, Any]
    bootstrap: dict[str, Any]
    workers: int | None
    threads: int
    progress: bool
    figures: bool
    trainings: Path | None
    record: Path | None
    report: dict[str, Any]
    resolved: dict[str, Any]


def parse(config: DictConfig) -> Experiment:
    """Check a composed config.

    Raises:
        ConfigError: keys are unknown or missing, values are out of range, a method lists fewer settings than
            all may try, or a setting changes what is not there; all faults at once.
    """
    where = str(config.get("experiment", "?"))
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise ConfigError(where, [str(error).splitlines()[0]]) from error
    plain.pop("hydra", None)
    faults = _unknown("", plain, ROOT_KEYS)
    required = ROOT_KEYS - {"record", "report", "output"}
    faults += [f"{key}: missing" for key in sorted(required - plain.keys())]
    if faults:
        raise ConfigError(where, faults)
    seeds = plain["seeds"]
    if (
        not isinstance(seeds, list)
        or not seeds
        or any(not isinstance(s, int) for s in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        faults.append(f"seeds: {seeds!r} is not a list of different integers, for instance seeds=[0,1,2]")
    faults += _unknown("tuning.", plain["tuning"], {"trials"})
    faults += _unknown("execution.", plain["execution"], {"workers", "threads", "progress", "figures", "trainings"})
    faults += _unknown("bootstrap.", plain["bootstrap"], {"resamples", "level", "seed"})
    faults += _unknown("split.", plain["split"], SPLIT_KEYS)
    if not plain["methods"]:
        faults.append("methods: none; name at least one, each with a model")
    methods = [_method(name, values, plain, faults) for name, values in plain["methods"].items()]
    if faults:
        raise ConfigError(where, faults)
    return Experiment(
        name=plain["experiment"],
        title=plain["title"],
        scale=plain["scale"],
        budget_minutes=float(plain["budget_minutes"]),
        seeds=tuple(seeds),
        methods=tuple(method for method in methods if method is not None),
        variant=str(plain["variant"]),
        task=plain["task"],
        zoo=plain["zoo"],
        test_zoo=plain["test_zoo"],
        split=plain["split"],
        bootstrap=plain["bootstrap"],
        workers=plain["execution"]["workers"],
        threads=plain["execution"]["threads"],
        progress=plain["execution"]["progress"],
        figures=plain["execution"]["figures"],
        trainings=Path(plain["execution"]["trainings"]) if plain["execution"].get("trainings") else None,
        record=Path(plain["record"]) if plain.get("record") else None,
        report=plain.get("report") or {},
        resolved=plain,
    )


def _method(name: str, values: dict[str, Any], plain: Mapping[str, Any], faults: list[str]) -> Method | None:
    where, before = f"methods.{name}", len(faults)
    faults += _unknown(f"{where}.", values, METHOD_KEYS)
    if not isinstance(values.get("model"), dict) or "_target_" not in values["model"]:
        faults.append(f"{where}.model: names no class; add /model@{where}.model: {name} to the experiment's defaults")
        return None
    wanted = plain["tuning"]["trials"]
    try:
        listed = listed_settings(values.get("tuning"), wanted)
    except ValueError as error:
        faults.append(f"{where}.tuning: {error}")
        return None
    if wanted > len(listed):
        faults.append(
            f"{where}.tuning: lists {len(listed)} settings, tuning.trials asks every method for {wanted}; "
            "list more, or lower tuning.trials"
        )
        return None
    parts = {"model": values["model"], **_fitting(where, plain, values, faults)}
    if values.get("pretraining") is not None:
        parts["pretraining"] = _pretraining(f"{where}.pretraining", plain, values["pretraining"], faults)
    trials: list[Settings] = []
    for number, change in enumerate(listed):
        merged = _merged(f"{where}.tuning[{number}]", parts, change, faults)
        built = _built(where, merged, faults)
        stage: dict[str, Any] | None = merged.get("pretraining")
        first = None if stage is None else _built(f"{where}.pretraining", stage, faults)
        if built is not None and (stage is None or first is not None):
            chosen = None if stage is None or first is None else Pretraining(stage["task"], *first, stage["mixup"])
            trials.append(Settings(*built, chosen))
    for path, known in _strangers(plain["task"], values.get("task") or {}):
        faults.append(f"{where}.task.{path}: unknown here; known are {known}")
    if len(faults) > before:
        return None
    own = values.get("task") or {}
    return Method(name, tuple(trials), tuple(listed), bool(values.get("one_layout", False)), own)


def _fitting(where: str, plain: Mapping[str, Any], values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The experiment's ``optim`` and ``trainer`` with a method's own changes."""
    return {part: _merged(f"{where}.{part}", plain[part], values.get(part), faults) for part in ("optim", "trainer")}


def _pretraining(where: str, plain: Mapping[str, Any], values: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    faults += _unknown(f"{where}.", values, PRETRAINING_KEYS)
    for part in ("task", "model"):
        if not isinstance(values.get(part), dict) or "_target_" not in values[part]:
            faults.append(
                f"{where}.{part}: names no class; add /{part}@{where}.{part}: NAME to the experiment's defaults"
            )
    own = {"task": values.get("task"), "model": values.get("model") or {}, "mixup": values.get("mixup") or 0.0}
    return own | _fitting(where, plain, values, faults)


def _built(where: str, values: dict[str, Any], faults: list[str]) -> tuple[dict[str, Any], Optim, Fit] | None:
    """Model, optimiser and training length of one stage, or None if something is wrong with them."""
    optim = _build(Optim, values["optim"], f"{where}.optim", faults)
    trainer = {**values["trainer"], "loggers": tuple(values["trainer"].get("loggers") or ())}
    fit = _build(Fit, trainer, f"{where}.trainer", faults)
    model = values["model"]
    if "_target_" in model:
        faults += [fault for fault in _model_faults(f"{where}.model", model) if fault not in faults]
    return None if optim is None or fit is None else (model, optim, fit)


def _merged(where: str, base: Any, changes: Any, faults: list[str]) -> dict[str, Any]:
    """``base`` with ``changes``; a key that the base lacks is a fault, as it would have no effect."""
    tree = OmegaConf.create(base)
    if changes:
        strangers = _strangers({key: base[key] for key in base if key != "model"}, _without_model(changes))
        faults += [f"{where}.{path}: unknown here; known are {known}" for path, known in strangers]
        tree = cast(DictConfig, OmegaConf.merge(tree, changes))
    return cast(dict[str, Any], OmegaConf.to_container(tree, resolve=True))


def _without_model(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != "model"}


def _model_faults(where: str, model: Mapping[str, Any]) -> list[str]:
    """Arguments that the model's class does not take; it may take more than its config names."""
    module, _, name = model["_target_"].rpartition(".")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        return [f"{where}._target_: cannot find {model['_target_']!r} ({error})"]
    takes = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return []
    known = [name for name in takes if name not in ("structure", "targets")]
    inner = [(key, value) for key, value in model.items() if isinstance(value, Mapping) and "_target_" in value]
    return [fault for key, value in inner for fault in _model_faults(f"{where}.{key}", value)] + [
        f"{where}.{key}: {name} takes no such argument; it takes {', '.join(known)}"
        for key in model
        if key not in known and not key.startswith("_")
    ]


def _strangers(base: Mapping[str, Any], changes: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in changes.items():
        if key not in base:
            found.append((f"{prefix}{key}", ", ".join(map(str, base))))
        elif isinstance(value, Mapping) and isinstance(base[key], Mapping):
            found += _strangers(base[key], value, f"{prefix}{key}.")
    return found


Part = TypeVar("Part", Optim, Fit)


def _build(kind: type[Part], values: Mapping[str, Any], where: str, faults: list[str]) -> Part | None:
    names = {entry.name for entry in fields(kind)}
    wrong = _unknown(f"{where}.", values, names) + [f"{where}.{key}: missing" for key in sorted(names - values.keys())]
    if not wrong:
        part = kind(**values)
        try:
            wrong = part.faults(where)
        except TypeError as error:
            wrong = [f"{where}: a value has the wrong type ({error})"]
        if not wrong:
            return part
    faults += [fault for fault in wrong if fault not in faults]
    return None


def _unknown(prefix: str, values: Mapping[str, Any], known: frozenset[str] | set[str]) -> list[str]:
    return [f"{prefix}{key}: unknown; known are {', '.join(sorted(known))}" for key in values if key not in known]


def _among(where: str, value: Any, known: Sequence[str | None]) -> list[str]:
    if value in known:
        return []
    names = ["null" if name is None else str(name) for name in known]
    return [f"{where}: {value!r} is not one of {', '.join(names)}"]


def _check(where: str, value: Any, holds: bool, rule: str) -> list[str]:
    return [] if holds else [f"{where}: {value!r} must {rule}"]
