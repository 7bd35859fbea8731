"""Train one model on one task with Lightning: checkpoints, exact resume, selection on validation."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from filelock import FileLock
from hydra.utils import get_class, instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.config import Fit, Optim, Pretraining, Settings
from experiments.files import atomic_path, digest_of
from experiments.loggers import LOGGERS
from experiments.predictor import OneModelPerSetting, Predictor, predict
from experiments.pretraining import Encoding, codes_of, composed, first_stage
from experiments.quiet import quiet_lightning
from experiments.schedules import SCHEDULES
from experiments.tasks import Encoded, Objective, Task

__all__ = ["FittedModel", "Learner", "Outcome", "build_model", "stream_seed", "train", "train_members"]

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


@runtime_checkable
class WithExtraLoss(Protocol):
    """A model that adds a loss of its own to the task's while it is trained."""

    def extra_loss(self, networks: Any) -> Tensor:
        """The loss of a batch of networks, a scalar."""


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


def stream_seed(seed: int, *place: object) -> int:
    """A seed of its own for every random stream, so that none depends on how much another one drew.

    >>> stream_seed(0, "epoch", 3) == stream_seed(0, "epoch", 3) != stream_seed(0, "epoch", 4)
    True
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


class _Epoch:
    """The batches of one epoch, without a state to save: the order follows from the epoch's number."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


class Learner(LightningModule):
    """Any model on any task. Everything random in an epoch depends on the seed and the epoch alone.

    Args:
        model: from a batch's networks to ``[B, task.outputs]``, already holding its input statistics.
        task: gives batches, loss and scores.
        optim: the optimiser.
        fit: length of training and what to keep.
        seed: decides the order of networks and every draw while training.
    """

    def __init__(self, model: nn.Module, task: Task, optim: Optim, fit: Fit, seed: int) -> None:
        super().__init__()
        self.model, self.task, self.optim, self.fit_settings, self.seed = model, task, optim, fit, seed
        self.objective = task.objective(fit.loss)
        self.averaged: AveragedModel | None = None
        if fit.ema is not None:
            average = get_ema_multi_avg_fn(fit.ema)
            self.averaged = AveragedModel(model, multi_avg_fn=average)
        self.history: dict[str, list[float]] = {"train": [], "val": []}
        self.earlier_seconds = 0.0
        self._started = time.process_time()
        self._sum, self._count = 0.0, 0
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    @property
    def predictor(self) -> nn.Module:
        """The model that is validated and kept: the average of weights where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far, earlier sessions included."""
        return self.earlier_seconds + time.process_time() - self._started

    def train_dataloader(self) -> Any:
        """The training networks in this epoch's order."""
        seed = stream_seed(self.seed, "order", self.current_epoch)
        return _Epoch(self.task.loader("train", self.fit_settings.batch_size, shuffle=True, seed=seed))

    def val_dataloader(self) -> Any:
        """The validation networks."""
        return _Epoch(self.task.loader("val", self.fit_settings.batch_size))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """To the accelerator; what is there already is not copied key by key."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def configure_optimizers(self) -> Any:
        """The optimiser and a schedule that moves at every step."""
        options = dict(self.optim.optimizer)
        kind = get_class(options.pop("_target_"))
        if issubclass(kind, (Adam, AdamW)) and not {"foreach", "fused", "differentiable"} & options.keys():
            options["fused"] = _can_be_fused(self.model)  # one kernel for all, several times faster
        optimizer = kind(self.model.parameters(), **options)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = SCHEDULES[self.optim.schedule](optimizer, self.optim, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Start this epoch's own random stream."""
        torch.manual_seed(stream_seed(self.seed, "epoch", self.current_epoch))
        self._sum, self._count = 0.0, 0

    def training_step(self, batch: Any, index: int) -> Tensor:
        """The loss of one batch."""
        networks, target = batch
        loss = self.objective.loss(self.model(networks), target)
        if isinstance(self.model, WithExtraLoss):
            loss = loss + self.model.extra_loss(networks)
        self._sum, self._count = self._sum + float(loss.detach()) * len(target), self._count + len(target)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average towards the new weights."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def validation_step(self, batch: Any, index: int) -> None:
        """Collect what the kept model says."""
        networks, target = batch
        self._outputs.append(self.predictor(networks))
        self._targets.append(target)

    def on_validation_epoch_end(self) -> None:
        """Scores of the whole validation split."""
        output, target = torch.cat(self._outputs), torch.cat(self._targets)
        self._outputs, self._targets = [], []
        losses = self.objective.losses(output, target).tolist()
        scores = {"loss": sum(losses) / len(losses)}
        if len(losses) == len(self.task.settings):
            scores |= {f"{name}/loss": loss for name, loss in zip(self.task.settings, losses, strict=True)}
        monitor = self.fit_settings.monitor
        if monitor != "loss":
            # A model that went astray has no scores, and must not be kept; what the scores are is learned from zeros.
            astray = not bool(torch.isfinite(output).all())
            by_setting = self.task.score(self.objective.decode(output.nan_to_num(0, 0, 0)), target.cpu())
            own = {f"{name}/{key}": value for name, found in by_setting.items() for key, value in found.items()}
            scores |= {name: math.nan if astray else value for name, value in (own | _mean_scores(by_setting)).items()}
        if monitor not in scores:
            known = ", ".join(name for name in scores if "/" not in name)
            raise ValueError(f"trainer.monitor={monitor!r} is no score of this task; known are {known}")
        self.history["val"].append(scores["loss"])
        for name in scores.keys() - {"loss"}:
            if "/" not in name:
                self.history.setdefault(name, []).append(scores[name])
        self.log_dict({f"val/{name}": value for name, value in scores.items()}, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """The mean training loss."""
        self.history["train"].append(self._sum / max(self._count, 1))
        self.log("train/loss", self.history["train"][-1], prog_bar=True, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history and the time spent."""
        checkpoint["history"] = {name: list(values) for name, values in self.history.items()}
        checkpoint["cpu_seconds"] = self.cpu_seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the history and the time spent."""
        self.history = {name: list(values) for name, values in checkpoint["history"].items()}
        self.earlier_seconds = checkpoint["cpu_seconds"]


def _can_be_fused(model: nn.Module) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())


def _mean_scores(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    names = next(iter(scores.values()))
    return {name: sum(by_name[name] for by_name in scores.values()) / len(scores) for name in names}


class _Stop(EarlyStopping):
    """Early stopping that, continued after its last epoch, does not add another one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if patience had already run out."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


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
    keep = partial(ModelCheckpoint, dirpath=folder, enable_version_counter=False, save_on_train_epoch_end=True)
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
    first_seed = stream_seed(seed, "pretraining")
    place = folder / "pretraining" if shared is None else shared / digest_of([asdict(stage), first_seed])[:12]
    with FileLock(place / "lock"):  # another method's worker may be at the same first stage
        first, before = train(own, first_task, first_seed, place, progress=progress, callbacks=callbacks)
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
    score = losses["val"] if monitor == "loss" else _mean_scores(task.score(*found["val"]))[monitor]
    stored = sum(tensor.numel() for tensor in model.buffers())
    return Outcome(score, None, {split: [loss] for split, loss in losses.items()}, seconds, stored)
