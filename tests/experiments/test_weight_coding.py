"""The task of coding weights: targets, alignment, what is scored, the loss, and rows with a task of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from converters import execute
from experiments.config import CONFIG_DIR, ConfigError, parse
from experiments.predictor import Predictor, predict
from experiments.tasks import WeightCoding
from experiments.tasks.weight_coding import WeightError
from experiments.training import build_model, train
from experiments.zoo import Zoo, ZooDataset, get_zoo
from graphnets.contrastive import LinearCoder, behaviour_loss, from_rows, to_rows
from graphnets.contrastive.rows import held

SMALL: dict[str, Any] = {
    "name": "coded",
    "size": 40,
    "task_classes": 3,
    "split_by": "task",
    "data": {"name": "digits", "pooling": 2},
    "architecture": {"family": "mlp", "hidden": [8], "activation": "relu"},
    "ranges": {
        "optimiser": "adam",
        "learning_rate": 0.02,
        "weight_decay": 1e-5,
        "initial_scale": 1.0,
        "dropout": 0.0,
        "label_noise": 0.0,
        "train_fraction": 1.0,
        "steps": 60,
    },
    "executor": "in_process",
    "properties": {"weight_noise_draws": 1, "input_noise_draws": 1},
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("coded"), progress=False)


@pytest.fixture(scope="module")
def aligned_task(zoo: Zoo) -> WeightCoding:
    return WeightCoding(zoo, permutations=1)


def whole(task: WeightCoding, split: str) -> Tensor:
    return torch.cat([target for _, target in task.loader(split, 7)]).double()


def test_targets_are_rows_and_classes(zoo: Zoo) -> None:
    task = WeightCoding(zoo, align=False)
    target = whole(task, "val")
    dataset = ZooDataset(zoo, "val", ["id"])
    assert zoo.structure is not None
    rows = to_rows(dataset.weights(range(len(dataset))), zoo.structure).double()
    assert torch.equal(target[:, : task.outputs], rows)
    tasks = zoo.records.set_index("id").loc[dataset.ids.numpy(), "classes"]
    assert ["-".join(str(int(each)) for each in row) for row in target[:, task.outputs :]] == tasks.tolist()


def test_alignment_keeps_functions_and_brings_networks_together(zoo: Zoo, aligned_task: WeightCoding) -> None:
    plain = WeightCoding(zoo, align=False)
    assert zoo.structure is not None
    x = torch.randn(5, 16).double()
    for split in ("train", "test"):
        before, after = (whole(task, split)[:, : plain.outputs] for task in (plain, aligned_task))
        both = [execute(from_rows(rows, zoo.structure), x, structure=zoo.structure) for rows in (before, after)]
        assert torch.allclose(*both, atol=1e-9)
    spread = [float(whole(task, "train")[:, : plain.outputs].var(0).sum()) for task in (plain, aligned_task)]
    assert spread[1] < 0.95 * spread[0]


def test_networks_that_come_back_whole_score_best(aligned_task: WeightCoding) -> None:
    target = whole(aligned_task, "test")
    rows = target[:, : aligned_task.outputs]
    found = aligned_task.score(rows, target)["images"]
    assert found["agreement"] == pytest.approx(1.0)
    assert found["noise_agreement"] == pytest.approx(1.0)
    assert found["accuracy_drop"] == found["relative_mse"] == 0.0
    assert found["class_entropy"] > 0.5
    answers, truth = aligned_task.answers(rows, target)
    assert torch.allclose(answers, truth)
    mean = whole(aligned_task, "train")[:, : aligned_task.outputs].mean(0).expand_as(rows)
    worse = aligned_task.score(mean, target)["images"]
    assert worse["agreement"] < 0.9
    assert worse["accuracy_drop"] > 0.1
    assert 0.5 < worse["relative_mse"] < 2
    assert aligned_task.answers(mean, target)[0].mean() == pytest.approx(worse["agreement"])


def test_accuracy_is_that_of_the_records(zoo: Zoo, aligned_task: WeightCoding) -> None:
    """Networks that are replaced by a constant one lose what the records say they had, less a share of chance."""
    target = whole(aligned_task, "test")
    zeros = torch.zeros_like(target[:, : aligned_task.outputs])
    accuracy = zoo.records[zoo.records["split"] == "test"]["test_accuracy"].mean()
    drop = aligned_task.score(zeros, target)["images"]["accuracy_drop"]
    assert drop == pytest.approx(accuracy - 1 / 3, abs=0.03)


def test_the_loss_is_a_share_of_the_variance_and_of_behaviour(zoo: Zoo) -> None:
    task = WeightCoding(zoo, behaviour=0.5, images=10)
    objective = task.objective()
    assert isinstance(objective, WeightError)
    target = whole(task, "train").float()
    rows = target[:, : task.outputs]
    assert float(objective.loss(rows, target)) == pytest.approx(0.0, abs=1e-9)
    mean = rows.mean(0).expand_as(rows)
    assert task.structure is not None
    stacks = [from_rows(each, task.structure) for each in (mean, rows)]
    with torch.no_grad():
        found = float(objective.loss(mean, target))
    inputs = objective.pool.spaced(target[:, task.outputs :].long(), 10)
    apart = behaviour_loss(stacks[0], stacks[1], inputs, task.structure, "divergence", own_inputs=True)
    assert found == pytest.approx(0.5 + 0.5 * float(apart), rel=1e-4)
    torch.manual_seed(0)
    drawn = [float(objective.loss(mean, target)) for _ in range(3)]
    assert len(set(drawn)) == 3, "other images every time"
    torch.manual_seed(0)
    assert float(objective.loss(mean, target)) == drawn[0]
    with pytest.raises(ValueError, match="a share, from 0 to 1"):
        WeightCoding(zoo, behaviour=2.0)
    with pytest.raises(ValueError, match=r"trainer\.loss='mae'"):
        task.objective("mae")


def test_principal_components_are_fitted_at_once_and_predict(aligned_task: WeightCoding) -> None:
    model = LinearCoder(aligned_task.structure, aligned_task.outputs, rank=200)
    model.fit([graphs for graphs, _ in aligned_task.loader("train", 7)], torch.empty(0))
    prediction, target = predict(Predictor([(model, aligned_task.objective())]), aligned_task, "train", 7)
    assert aligned_task.score(prediction, target)["images"]["agreement"] > 0.99


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(
            "train", ["experiment=contrastive/weight_autoencoder", "scale=tiny", "output=unused", *overrides]
        )


def test_a_row_may_have_its_own_task() -> None:
    methods = {method.name: method for method in parse(composed()).methods}
    assert methods["pca_unaligned"].task == {"align": False}
    assert methods["pca"].task == {}
    with pytest.raises(ConfigError, match=r"methods\.pca\.task\.aligned: unknown here; known are"):
        parse(composed("+methods.pca.task.aligned=false"))


def test_the_extra_loss_of_a_model_is_trained(aligned_task: WeightCoding, tmp_path: Any) -> None:
    """With a share of nearly nothing for reconstruction the contrast decides, and falls."""
    methods = {method.name: method for method in parse(composed("trainer.epochs=6")).methods}
    settings = methods["autoencoder"].trials[0]
    settings.model.update(beta=0.02, rank=4, latent=6)
    before = build_model(settings, aligned_task, 0)
    after, _ = train(settings, aligned_task, 0, tmp_path)
    (graphs, _), *_ = aligned_task.loader("train", 64)

    def contrast(model: Any) -> float:
        torch.manual_seed(0)
        return float(model.extra_loss(graphs).detach())

    assert contrast(after) < contrast(before)


@pytest.mark.parametrize("family", ["cnn_bn", "resnet"])
def test_running_statistics_taken_anew_bring_networks_back(family: str, tmp_path: Any) -> None:
    config: dict[str, Any] = {
        **SMALL,
        "name": "normalised",
        "size": 16,
        "data": {"name": "digits", "pooling": 1},
        "architecture": {"family": family, "hidden": [12, 12], "activation": "relu"},
        "ranges": {**SMALL["ranges"], "steps": 300},
    }
    task = WeightCoding(get_zoo(config, tmp_path, progress=False), align=False)
    target = whole(task, "test")
    rows = target[:, : task.outputs].clone()
    names = [(p.name, p.numel) for p in held(task._structure)]
    start = 0
    for name, numel in names:
        if name.endswith("running_mean"):
            rows[:, start : start + numel] += 2.0
        start += numel
    found = task.score(rows, target)["images"]
    assert found["agreement"] < 0.7
    assert found["recalibrated_agreement"] > 0.95
    assert abs(found["recalibrated_drop"]) < 0.02
    whole_again = task.score(target[:, : task.outputs], target)["images"]
    assert whole_again["agreement"] == 1.0
    assert whole_again["recalibrated_agreement"] > 0.95


def test_without_running_statistics_there_is_nothing_to_take(aligned_task: WeightCoding) -> None:
    target = whole(aligned_task, "test")
    torch.manual_seed(0)
    rows = target[:, : aligned_task.outputs]
    found = aligned_task.score(rows + 0.3 * torch.randn_like(rows), target)["images"]
    assert found["recalibrated_agreement"] == found["agreement"] < 1
    assert found["recalibrated_drop"] == found["accuracy_drop"]
