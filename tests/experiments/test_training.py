"""Training: the same seed gives the same model bit for bit, interrupted or not; the best epoch is kept."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from experiments.config import Fit, Optim, Settings
from experiments.learner import stream_seed
from experiments.predictor import OneModelPerSetting, Predictor, predict
from experiments.schedules import SCHEDULES
from experiments.tasks import Generalization
from experiments.training import Outcome, build_model, train, train_members
from experiments.zoo import Zoo

SETTINGS = Settings(
    model={"_target_": "graphnets.FlatMLP", "dropout": 0.2},
    optim=Optim({"_target_": "torch.optim.AdamW", "lr": 3e-3, "weight_decay": 0.01}, "onecycle", 0.2, 1.0),
    trainer=Fit(6, 16, None, "loss", 0.9, (), "cpu", 1, "auto"),
)
PROPERTIES = {"accuracy": "test_accuracy", "gap": "generalization_gap"}


@pytest.fixture
def task(tiny_zoo: Zoo) -> Generalization:
    return Generalization(tiny_zoo, PROPERTIES)


def with_fit(**changes: Any) -> Settings:
    return replace(SETTINGS, trainer=replace(SETTINGS.trainer, **changes))


def same(one: nn.Module, two: nn.Module) -> bool:
    return equal(one.state_dict(), two.state_dict())


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two state_dicts are the same bit for bit; a model may store more than tensors."""

    def alike(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)

    return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)


def content(outcome: Outcome) -> Outcome:
    return replace(outcome, cpu_seconds=0.0)


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends the training at a place of which Lightning knows nothing."""

    def __init__(self, epoch: int, batch: int | None) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.batch is None and trainer.current_epoch == self.epoch:
            raise Killed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.batch and trainer.current_epoch == self.epoch:
            raise Killed


@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, None), (3, None), (4, 0)])
def test_an_interrupted_training_ends_bit_for_bit_like_an_uninterrupted_one(
    task: Generalization, tmp_path: Path, epoch: int, batch: int | None
) -> None:
    model, outcome = train(SETTINGS, task, 0, tmp_path / "whole")
    with pytest.raises(Killed):
        train(SETTINGS, task, 0, tmp_path / "broken", callbacks=[Kill(epoch, batch)])
    assert (tmp_path / "broken" / "last.ckpt").exists() == (epoch > 0)
    torch.manual_seed(99)  # a new process has another state of the random numbers
    resumed, later = train(SETTINGS, task, 0, tmp_path / "broken")
    assert same(model, resumed)
    assert content(outcome) == content(later)
    whole, broken = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "broken"))
    assert equal(whole["state_dict"], broken["state_dict"])
    assert str(whole["optimizer_states"]) == str(broken["optimizer_states"])
    assert whole["lr_schedulers"] == broken["lr_schedulers"]


@pytest.mark.parametrize("epoch", [3, None])
def test_a_training_goes_on_where_its_folder_was_moved_to(
    task: Generalization, tmp_path: Path, epoch: int | None
) -> None:
    settings = with_fit(epochs=6, ema=None)
    model, outcome = train(settings, task, 0, tmp_path / "whole")
    callbacks = [] if epoch is None else [Kill(epoch, None)]
    with contextlib.nullcontext() if epoch is None else pytest.raises(Killed):
        train(settings, task, 0, tmp_path / "here", callbacks=callbacks)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved, later = train(settings, task, 0, tmp_path / "there")
    assert same(model, moved)
    assert content(outcome) == content(later)
    assert not (tmp_path / "here").exists()


def test_a_finished_training_is_not_repeated(task: Generalization, tmp_path: Path) -> None:
    model, outcome = train(SETTINGS, task, 0, tmp_path)
    again, later = train(SETTINGS, task, 0, tmp_path, callbacks=[Kill(6, None), Kill(5, 0)])
    assert same(model, again)
    assert content(outcome) == content(later)


def test_early_stopping_continued_adds_no_epoch(task: Generalization, tmp_path: Path) -> None:
    settings = replace(with_fit(epochs=60, patience=2, ema=None), optim=replace(SETTINGS.optim, schedule="constant"))
    model, outcome = train(settings, task, 0, tmp_path)
    assert outcome.epoch is not None
    assert len(outcome.history["val"]) == outcome.epoch + 3 < 60
    again, later = train(settings, task, 0, tmp_path)
    assert same(model, again)
    assert content(outcome) == content(later)


def test_one_seed_gives_one_model_and_another_seed_another(task: Generalization, tmp_path: Path) -> None:
    first, one = train(SETTINGS, task, 0, tmp_path / "a")
    torch.manual_seed(5)
    second, two = train(SETTINGS, task, 0, tmp_path / "b")
    third, _ = train(SETTINGS, task, 1, tmp_path / "c")
    assert same(first, second)
    assert content(one) == content(two)
    assert not same(first, third)


def test_the_model_returned_is_that_of_the_best_validation_epoch(task: Generalization, tmp_path: Path) -> None:
    settings = replace(with_fit(epochs=12), optim=replace(SETTINGS.optim, schedule="constant"))
    model, outcome = train(settings, task, 0, tmp_path)
    assert outcome.epoch == outcome.history["val"].index(min(outcome.history["val"]))
    assert outcome.score == pytest.approx(min(outcome.history["val"]))
    objective = task.objective()
    prediction, target = predict(Predictor([(model, objective)]), task, "val", 16)
    assert float(objective.loss(objective.encode(prediction), target)) == pytest.approx(outcome.score, rel=1e-5)
    assert outcome.parameters == sum(p.numel() for p in model.parameters())


def test_the_kept_model_is_the_average_of_weights_where_one_is_asked_for(task: Generalization, tmp_path: Path) -> None:
    averaged, _ = train(SETTINGS, task, 0, tmp_path / "a")
    plain, _ = train(with_fit(ema=None), task, 0, tmp_path / "b")
    assert not same(averaged, plain)
    state = torch.load(tmp_path / "a" / "best.ckpt", weights_only=True)["state_dict"]
    kept = {name: value for name, value in state.items() if name.startswith("averaged.module.")}
    assert equal({f"averaged.module.{name}": value for name, value in averaged.state_dict().items()}, kept)


def test_a_metric_can_decide_and_an_unknown_one_is_named(task: Generalization, tmp_path: Path) -> None:
    _, outcome = train(with_fit(monitor="tau"), task, 0, tmp_path / "a")
    assert -1 <= outcome.score <= 1
    with pytest.raises(ValueError, match=r"trainer.monitor='taw' is no score of this task; known are loss, tau, r2"):
        train(with_fit(monitor="taw"), task, 0, tmp_path / "b")


def test_a_training_that_explodes_says_so(task: Generalization, tmp_path: Path) -> None:
    wild = Optim({"_target_": "torch.optim.SGD", "lr": 1e30}, "constant", 0.0, None)
    with pytest.raises(FloatingPointError, match=r"never finite; lower optim.optimizer.lr"):
        train(replace(SETTINGS, optim=wild), task, 0, tmp_path)


@pytest.mark.parametrize("monitor", ["loss", "r2"])
def test_an_epoch_with_predictions_that_are_not_finite_is_not_kept(
    task: Generalization, tmp_path: Path, monitor: str
) -> None:
    class Broken(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            scale = float("nan") if trainer.current_epoch == 1 else 1.0
            pl_module.predictor.network[-1].bias.data.mul_(scale)

    with torch.no_grad():
        _, outcome = train(with_fit(epochs=2, monitor=monitor), task, 0, tmp_path, callbacks=[Broken()])
    assert outcome.epoch == 0
    assert outcome.history["val"][1] != outcome.history["val"][1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_to_the_given_rate_and_fall_as_their_name_says(name: str) -> None:
    steps = 50
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optim = replace(SETTINGS.optim, schedule=name)
    schedule = SCHEDULES[name](optimizer, optim, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.1, rel=1e-2)
    assert rates[0] < 0.05
    assert (rates[-1] > 0.09) == (name == "constant")
    assert rates.index(max(rates)) == pytest.approx(0.2 * steps, abs=2)


def test_loggers_write_their_files(task: Generalization, tmp_path: Path) -> None:
    train(with_fit(loggers=("csv", "tensorboard"), epochs=2), task, 0, tmp_path)
    (table,) = tmp_path.glob("csv/*/metrics.csv")
    assert "val/loss" in table.read_text()
    assert list(tmp_path.glob("tensorboard/*/events.out.*"))


def test_a_fitted_model_goes_through_the_same_door(task: Generalization, tmp_path: Path) -> None:
    settings = replace(SETTINGS, model={"_target_": "graphnets.StatNN", "head": "boosting"})
    model, outcome = train(settings, task, 0, tmp_path)
    assert outcome.epoch is None
    assert outcome.history["val"] == [pytest.approx(outcome.score)]
    assert outcome.history["train"][0] < outcome.score
    assert outcome.parameters > 0
    prediction, target = predict(Predictor([(model, task.objective())]), task, "test", 16)
    assert prediction.shape == target.shape


def test_members_are_trained_apart_and_their_predictions_averaged(task: Generalization, tmp_path: Path) -> None:
    settings = with_fit(members=3)
    predictor, outcome = train_members(settings, task, 0, tmp_path / "all")
    alone, one = train(SETTINGS, task, 0, tmp_path / "one")
    assert same(alone, predictor.first)
    assert outcome.parameters == 3 * one.parameters
    parts = [predict(Predictor([member]), task, "test", 16)[0] for member in predictor.models]
    assert not torch.allclose(parts[0], parts[1])
    together, _ = predict(predictor, task, "test", 16)
    assert torch.allclose(together, torch.stack(parts).mean(0))


def test_every_property_may_keep_its_own_epoch(task: Generalization, tmp_path: Path) -> None:
    settings = replace(with_fit(epochs=12, checkpoints="each"), optim=replace(SETTINGS.optim, schedule="constant"))
    model, outcome = train(settings, task, 0, tmp_path / "each")
    joint, whole = train(replace(settings, trainer=replace(settings.trainer, checkpoints="joint")), task, 0, tmp_path)
    assert isinstance(model, OneModelPerSetting)
    objective = task.objective()

    def losses(trained: nn.Module) -> Tensor:
        prediction, target = predict(Predictor([(trained, objective)]), task, "val", 16)
        return objective.losses(objective.encode(prediction), target)

    assert (losses(model) <= losses(joint) + 1e-6).all()
    assert outcome.score <= whole.score + 1e-6
    assert float(losses(model).mean()) == pytest.approx(outcome.score, rel=1e-5)
    again, later = train(settings, task, 0, tmp_path / "each")
    assert same(model, again)
    assert content(outcome) == content(later)


def test_a_method_may_have_a_loss_of_its_own(task: Generalization, tmp_path: Path) -> None:
    squared, _ = train(SETTINGS, task, 0, tmp_path / "mse")
    absolute, _ = train(with_fit(loss="mae"), task, 0, tmp_path / "mae")
    assert not same(squared, absolute)


def test_models_are_built_from_the_seed_and_know_their_inputs(task: Generalization) -> None:
    torch.manual_seed(3)
    first = build_model(SETTINGS, task, 0)
    torch.manual_seed(4)
    assert same(first, build_model(SETTINGS, task, 0))
    assert not same(first, build_model(SETTINGS, task, 1))
    outputs: list[Tensor] = []
    for networks, _ in task.loader("train", 64):
        outputs.append(first.eval()(networks))
    assert torch.cat(outputs).shape[1] == task.outputs


def test_streams_do_not_meet() -> None:
    seeds = {stream_seed(seed, *place) for seed in range(5) for place in (("a",), ("b",), ("a", 1), ("a", 2))}
    assert len(seeds) == 20


class Seen(Callback):
    """Remembers whether the optimiser was fused."""

    fused: object = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.fused = optimizer.defaults.get("fused")


@pytest.mark.parametrize(("options", "fused"), [({}, True), ({"foreach": True}, None), ({"fused": False}, False)])
def test_adam_is_fused_unless_told_otherwise(
    task: Generalization, tmp_path: Path, options: dict[str, Any], fused: object
) -> None:
    optimizer = {"_target_": "torch.optim.Adam", "lr": 1e-3, **options}
    settings = replace(with_fit(epochs=1), optim=replace(SETTINGS.optim, optimizer=optimizer))
    train(settings, task, 0, tmp_path, callbacks=[seen := Seen()])
    assert seen.fused is fused
