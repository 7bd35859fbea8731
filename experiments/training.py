"""Train one model on one task with Lightning: checkpoints, exact resume, selection on validation."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from filelock import FileLock
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from experiments.config import Pretraining, Settings
from experiments.files import atomic_path, digest_of
from experiments.learner import Learner, mean_scores, stream_seed
from experiments.loggers import LOGGERS
from experiments.predictor import OneModelPerSetting, Predictor, predict
from experiments.pretraining import Encoding, codes_of, composed, first_stage
from experiments.quiet import quiet_lightning
from experiments.tasks import Encoded, Objective, Task

__all__ = ["FittedModel", "Outcome", "build_model", "train", "train_members", "training_folder"]

LAST, BEST = "last.ckpt", "best.ckpt"


@runtime_checkable
class FittedModel(Protocol):
    """A model that is fitted in one step (boosted trees, a closed form) instead of by gradient descent."""

    def fit(self, batches: Iterable[Any], targets: Tensor) -> Any:
        """Fit to the networks of all batches and their targets ``[N, T]``, standardised."""


@runtime_checkable
class StandardisingModel(Protocol):
    """A model that standardises its inputs with statistics of the training networks."""

    def fit_statistics(self, batches: Iterable[Any]) -> Any:
        """Take the statistics from all batches of networks."""


@dataclass(frozen=True)
class Outcome:
    """What a training left behind.

    Args:
        score: the monitored validation score of the epoch kept, lower is better for ``loss``.
        epoch: the epoch kept, from 0; None for a fitted model.
        history: ``train`` and ``val`` loss per epoch, and every validation score where one of them is monitored.
        cpu_seconds: processor time of the training, an interrupted part included.
        parameters: trainable numbers of the model; of a fitted model all numbers that it stores.
    """

    score: float
    epoch: int | None
    history: dict[str, list[float]]
    cpu_seconds: float
    parameters: int


class _Stop(EarlyStopping):
    """Early stopping that, continued after its last epoch, does not add another one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if patience had already run out."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class _Kept(ModelCheckpoint):
    """Checkpoints that are still known after their folder was moved, to another place or another machine."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of an earlier session, with paths where the files are now."""
        paths = {key: self._here(state_dict[key]) for key in state_dict if key.endswith("_path")}
        scores = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path


def build_model(settings: Settings, task: Task, seed: int) -> nn.Module:
    """A fresh model with the statistics of its inputs, by the one contract all models share."""
    torch.manual_seed(stream_seed(seed, "model"))
    model = cast(nn.Module, instantiate(settings.model, _partial_=True)(structure=task.structure, targets=task.outputs))
    if isinstance(model, StandardisingModel):
        model.fit_statistics(_networks(task, settings.trainer.batch_size))
    return model


def _networks(task: Task, batch_size: int) -> Iterator[Any]:
    for networks, _ in task.loader("train", batch_size):
        yield networks


def train(
    settings: Settings,
    task: Task,
    seed: int,
    folder: Path,
    *,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
    shared: Path | None = None,
) -> tuple[nn.Module, Outcome]:
    """Train one model, and return it as it was after the best validation epoch.

    With ``trainer.checkpoints=each`` every setting of the task has its own best epoch, and the model is a
    `OneModelPerSetting`. ``folder`` gets ``last.ckpt`` after every epoch, ``best.ckpt`` (or one per setting), and the
    loggers' files. If it holds a ``last.ckpt``, training goes on from there, and the result is the same bit for bit as
    without a break.

    With ``pretraining`` that stage comes first, in a folder of its own (in ``shared`` it is named by stage and seed, so
    that methods train a common one once), and the model is a `experiments.pretraining.Composed`.

    Raises:
        FloatingPointError: the validation loss was never finite.
        ValueError: settings have no outputs of their own, but each is to have its own checkpoint.
    """
    if settings.pretraining is not None:
        return _train_in_two(settings, settings.pretraining, task, seed, folder, progress, callbacks, shared)
    model = build_model(settings, task, seed)
    if isinstance(model, FittedModel):
        return model, _fit_at_once(model, settings, task, folder)
    learner = Learner(model, task, settings.optim, settings.trainer, seed)
    fit, monitor = settings.trainer, settings.trainer.monitor
    mode = "min" if fit.monitor in ("loss", "mae", "rmse") else "max"
    keep = partial(_Kept, dirpath=folder, enable_version_counter=False, save_on_train_epoch_end=True)
    kept = {BEST.removesuffix(".ckpt"): f"val/{monitor}"}
    if fit.checkpoints == "each":
        if task.outputs % len(task.settings):
            raise ValueError("trainer.checkpoints=each needs as many outputs for every setting; choose joint")
        kept = {f"best_{setting}": f"val/{setting}/{monitor}" for setting in task.settings}
    best = [keep(filename=name, monitor=value, mode=mode) for name, value in kept.items()]
    patience = fit.patience
    stop = [_Stop(f"val/{monitor}", patience=patience, mode=mode, check_on_train_epoch_end=True)] if patience else []
    last = folder / LAST
    with quiet_lightning():
        trainer = Trainer(
            max_epochs=fit.epochs,
            accelerator=fit.accelerator,
            devices=fit.devices,
            strategy=fit.strategy,
            logger=[LOGGERS[name](folder) for name in fit.loggers],
            callbacks=[*best, *stop, *callbacks, keep(filename=LAST.removesuffix(".ckpt"))],
            gradient_clip_val=settings.optim.gradient_clip,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=folder,
            log_every_n_steps=1,
        )
        trainer.fit(learner, ckpt_path=str(last) if last.exists() else None)
    scores = [float("nan") if each.best_model_score is None else float(each.best_model_score) for each in best]
    if not all(map(math.isfinite, scores)):
        raise FloatingPointError(
            f"{folder}: the validation loss was never finite; lower optim.optimizer.lr, or set optim.gradient_clip"
        )
    states = [torch.load(folder / f"{name}.ckpt", map_location="cpu", weights_only=True) for name in kept]
    models = [copy.deepcopy(_restored(learner, state["state_dict"])) for state in states]
    outcome = Outcome(
        score=sum(scores) / len(scores),
        epoch=int(states[0]["epoch"]) if len(states) == 1 else None,
        history=learner.history,
        cpu_seconds=learner.cpu_seconds,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
    return (models[0] if len(models) == 1 else OneModelPerSetting(models)).eval(), outcome


def training_folder(shared: Path, task: Mapping[str, Any], settings: Settings, seed: int) -> Path:
    """Where below ``shared`` a training of one stage lies: named by all that decides its result but the networks."""
    return shared / digest_of([task, asdict(settings), seed])[:12]


def _train_in_two(
    settings: Settings,
    stage: Pretraining,
    task: Task,
    seed: int,
    folder: Path,
    progress: bool,
    callbacks: Sequence[Callback],
    shared: Path | None,
) -> tuple[nn.Module, Outcome]:
    """An encoder first, then a model of its codes; arguments as in `train`."""
    first_task, own = first_stage(stage, task)
    place = folder / "pretraining" if shared is None else training_folder(shared, stage.task, own, seed)
    with FileLock(place / "lock"):  # another method's worker may be at the same first stage
        first, before = train(own, first_task, seed, place, progress=progress, callbacks=callbacks)
    if not isinstance(first, Encoding):
        raise ValueError(f"pretraining.model: {type(first).__name__} has no encode; choose one such as inr2array")
    encoded = Encoded(task, partial(codes_of, first), stage.mixup)
    alone = replace(settings, pretraining=None)
    second, outcome = train(alone, encoded, seed, folder, progress=progress, callbacks=callbacks)
    parameters = outcome.parameters + sum(parameter.numel() for parameter in first.encoder.parameters())
    seconds = outcome.cpu_seconds + before.cpu_seconds
    return composed(task, first, second).eval(), replace(outcome, cpu_seconds=seconds, parameters=parameters)


def _restored(learner: Learner, state: dict[str, Any]) -> nn.Module:
    learner.cpu().load_state_dict(state)
    return learner.predictor


def train_members(
    settings: Settings,
    task: Task,
    seed: int,
    folder: Path,
    *,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
    shared: Path | None = None,
) -> tuple[Predictor, Outcome]:
    """Train ``trainer.members`` models that differ in their seeds, as one `Predictor`; arguments as in `train`.

    The first one's seed is ``seed``. The outcome holds the mean score, the first one's epoch and history, and the sum
    of processor time and parameters.
    """
    members: list[tuple[nn.Module, Objective]] = []
    outcomes = []
    for number in range(settings.trainer.members):
        own = seed if number == 0 else stream_seed(seed, "member", number)
        place = folder if settings.trainer.members == 1 else folder / f"member{number}"
        model, outcome = train(settings, task, own, place, progress=progress, callbacks=callbacks, shared=shared)
        members.append((model, task.objective(settings.trainer.loss)))
        outcomes.append(outcome)
    total = replace(
        outcomes[0],
        score=sum(each.score for each in outcomes) / len(outcomes),
        cpu_seconds=sum(each.cpu_seconds for each in outcomes),
        parameters=sum(each.parameters for each in outcomes),
    )
    return Predictor(members), total


def _fit_at_once(model: nn.Module, settings: Settings, task: Task, folder: Path) -> Outcome:
    started, size, monitor = time.process_time(), settings.trainer.batch_size, settings.trainer.monitor
    objective = task.objective(settings.trainer.loss)
    targets = torch.cat([target for _, target in task.loader("train", size)])
    cast(FittedModel, model).fit(_networks(task, size), objective.encode(targets))
    seconds = time.process_time() - started
    with atomic_path(folder / BEST) as temporary:
        torch.save({"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}, temporary)
    found = {split: predict(Predictor([(model, objective)]), task, split, size) for split in ("train", "val")}
    losses = {split: float(objective.loss(objective.encode(p), target)) for split, (p, target) in found.items()}
    score = losses["val"] if monitor == "loss" else mean_scores(task.score(*found["val"]))[monitor]
    stored = sum(tensor.numel() for tensor in model.buffers())
    return Outcome(score, None, {split: [loss] for split, loss in losses.items()}, seconds, stored)
