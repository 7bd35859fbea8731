"""One model on one task as Lightning's module: what a step, a validation and a checkpoint are."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from hydra.utils import get_class
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.config import Fit, Optim
from experiments.schedules import SCHEDULES
from experiments.tasks import Task

__all__ = ["Learner", "mean_scores", "stream_seed"]


@runtime_checkable
class WithExtraLoss(Protocol):
    """A model that adds a loss of its own to the task's while it is trained."""

    def extra_loss(self, networks: Any) -> Tensor:
        """The loss of a batch of networks, a scalar."""


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
            scores |= {name: math.nan if astray else value for name, value in (own | mean_scores(by_setting)).items()}
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


def mean_scores(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Every score of a task, averaged over its settings.

    >>> mean_scores({"accuracy": {"r2": 0.5}, "loss": {"r2": 1.0}})
    {'r2': 0.75}
    """
    names = next(iter(scores.values()))
    return {name: sum(by_name[name] for by_name in scores.values()) / len(scores) for name in names}
