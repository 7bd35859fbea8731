"""Networks that each tell a few classes apart: what they see, what is measured, and splits that share no task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.data import ImageData
from experiments.zoo import Zoo, ZooConfig, ZooConfigError, get_zoo, verify
from experiments.zoo.nets import architectures_of
from experiments.zoo.sampling import draw, draw_recipe, output_of, range_faults, training_set


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    from tests.experiments.zoo.conftest import SMALL

    ranges: dict[str, Any] = SMALL["ranges"] | {
        "steps": {"normal": [40, 10], "clip": [30, 50]},
        "optimiser": "adam",
        "learning_rate": 0.01,
        "train_fraction": 1.0,
        "label_noise": 0.0,
        "dropout": 0.0,
    }
    config = SMALL | {
        "name": "triplets",
        "size": 60,
        "task_classes": 3,
        "checkpoints": 2,
        "early": {"uniform": [3, 6]},
        "split_by": "task",
        "ranges": ranges,
    }
    return get_zoo(config, tmp_path_factory.mktemp("tasks"), progress=False)


def test_every_run_has_classes_of_its_own_in_an_order_of_its_own(zoo: Zoo) -> None:
    records = zoo.records
    tasks = [tuple(map(int, task.split("-"))) for task in records["classes"]]
    assert all(len(set(task)) == 3 and set(task) <= set(range(10)) for task in tasks)
    assert len(set(tasks)) > 40
    assert any(task != tuple(sorted(task)) for task in tasks)
    assert records.groupby("run")["classes"].nunique().max() == 1
    assert {architecture.sizes[-1] for architecture in zoo.architectures.values()} == {3}


def test_snapshots_are_early_and_at_the_end(zoo: Zoo) -> None:
    for _, run in zoo.records.groupby("run"):
        early, final = run["step"]
        assert 3 <= early <= 6
        assert 30 <= final <= 50
        assert (early, final) == (run["early"].iloc[0], run["steps"].iloc[0])
    losses = zoo.records.groupby(zoo.records["id"] % 2)["test_loss"].median()
    assert losses[1] < losses[0]


def test_no_set_of_classes_is_in_two_splits(zoo: Zoo) -> None:
    sets = zoo.records["classes"].map(lambda task: "-".join(sorted(task.split("-"))))
    assert zoo.records.groupby(sets)["split"].nunique().max() == 1
    assert set(zoo.records["split"]) == {"train", "val", "test"}
    by_run = get_zoo({**zoo.config.to_dict(), "split_by": "run", "size": 3}, zoo.path.parent, progress=False)
    assert by_run.fingerprint != zoo.fingerprint


def test_what_is_recorded_is_measured_on_images_of_the_task_alone(zoo: Zoo, data: ImageData) -> None:
    assert verify(zoo.path, networks=30).ok
    row = zoo.records[zoo.records["id"] == 7].iloc[0]
    architecture = zoo.architectures[row["architecture"]]
    position = zoo.of(architecture.name)["id"].tolist().index(7)
    module = architecture.build().eval()
    module.load_state_dict({name: t[0] for name, t in zoo.weights(architecture.name, [position]).items()})
    task = [int(each) for each in row["classes"].split("-")]
    shown = torch.isin(data.test_labels, torch.tensor(task))
    own = torch.tensor([task.index(int(label)) for label in data.test_labels[shown]])
    with torch.no_grad():
        logits = module(architecture.prepare(data.test[shown]))
    assert float((logits.argmax(1) == own).double().mean()) == pytest.approx(row["test_accuracy"], abs=1e-9)
    assert float(torch.nn.functional.cross_entropy(logits, own)) == pytest.approx(row["test_loss"], rel=1e-4)
    assert zoo.records[zoo.records["step"] == zoo.records["steps"]]["test_accuracy"].median() > 0.75


def test_a_network_sees_images_of_its_classes_alone(small: Any, data: ImageData) -> None:
    config = ZooConfig.parse(small | {"task_classes": 3})
    architectures = architectures_of(config.architecture, data.image_shape, 3)
    for number in range(10):
        recipe = draw_recipe(config, architectures, number, data.classes)
        seen = training_set(config, recipe, data)
        assert set(data.pool_labels[seen.batches.flatten()].tolist()) <= set(recipe.classes)
        assert int(seen.labels.max()) == 2
        assert bool(torch.isin(data.pool_labels[seen.member], torch.tensor(recipe.classes)).all())
        images = int((torch.from_numpy(output_of(recipe.classes, 10))[data.pool_labels] >= 0).sum())
        assert int(seen.member.sum()) == max(1, round(recipe.train_fraction * images))


def test_options_at_their_defaults_change_nothing(small: Any) -> None:
    plain = ZooConfig.parse(small)
    same = ZooConfig.parse(small | {"task_classes": None, "early": None, "split_by": "run"})
    assert same.fingerprint == plain.fingerprint
    assert ZooConfig.parse(small | {"task_classes": 3}).fingerprint != plain.fingerprint


def test_a_normal_distribution_is_cut() -> None:
    spec = {"normal": [100, 15], "clip": [50, 150]}
    drawn = np.array([draw(spec, position) for position in np.linspace(0, 1, 1000, endpoint=False)])
    assert drawn.min() == 50
    assert drawn.max() < 150
    assert abs(drawn.mean() - 100) < 0.5
    assert abs(drawn.std() - 15) < 0.5
    assert range_faults("steps", spec) == []
    assert "increasing 'clip'" in range_faults("steps", {"normal": [100, 15]})[0]
    assert "may have 'zero'" in range_faults("steps", {"uniform": [0, 1], "clip": [0, 1]})[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_classes": 1}, "task_classes: 1 is not an integer of at least 2"),
        ({"split_by": "task"}, "split_by: 'task' needs task_classes"),
        ({"split_by": "class", "task_classes": 3}, "split_by: 'class' is not one of run, task"),
        ({"early": {"uniform": [1, 3]}}, "early: the only checkpoint is the end of training"),
        ({"early": {"uniform": [3, 1]}, "checkpoints": 2}, "is not an increasing range"),
    ],
)
def test_wrong_options_are_told(small: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooConfigError, match=message):
        ZooConfig.parse(small | change)


def test_more_classes_than_there_are_is_told(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ZooConfigError, match=r"task_classes: 11, but digits .* has 10 classes"):
        get_zoo(small | {"task_classes": 11}, tmp_path, progress=False)
