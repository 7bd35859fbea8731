"""Several networks of one training run: what they are, and that they stay together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from experiments.config import CONFIG_DIR
from experiments.data import ImageData
from experiments.zoo import ZooConfig, ZooConfigError, get_zoo, verify
from experiments.zoo.sampling import Recipe
from experiments.zoo.training import train_stack

Recipes = Callable[[ZooConfig], list[Recipe]]


def test_a_single_checkpoint_leaves_every_fingerprint_as_it_was(small: Any) -> None:
    plain = ZooConfig.parse(small)
    assert ZooConfig.parse(small | {"checkpoints": 1}).fingerprint == plain.fingerprint
    assert ZooConfig.parse(small | {"checkpoints": 2}).fingerprint != plain.fingerprint
    assert "checkpoints" not in plain.to_dict()
    with initialize_config_dir(str(CONFIG_DIR / "zoo"), version_base="1.3"):
        assert ZooConfig.parse(compose("digits_mlp")).folder_name == "digits_mlp-18650ef7ce34"
    with pytest.raises(ZooConfigError, match="checkpoints: 0 is not a positive integer"):
        ZooConfig.parse(small | {"checkpoints": 0})


@pytest.mark.parametrize("architecture", ["mlp", "cnn_bn", "resnet"])
def test_a_checkpoint_is_the_network_of_a_run_that_ended_there(
    small: Any, data: ImageData, recipes_of: Recipes, architecture: str
) -> None:
    if architecture != "mlp":
        small["architecture"] = {"family": architecture, "hidden": [4, 4], "activation": ["relu", "tanh"]}
    config = ZooConfig.parse(small | {"checkpoints": 3, "size": 6})
    recipes = recipes_of(config)
    trained = train_stack(config, recipes, data)
    assert len(trained.earlier) == 2
    for number, stack in enumerate([*trained.earlier, trained]):
        assert stack.recipes == trained.recipes
        shorter = [replace(recipe, steps=recipe.checkpoint_steps(3)[number]) for recipe in recipes]
        alone = train_stack(config, shorter, data)
        assert torch.allclose(stack.weights, alone.weights, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trained.earlier[0].weights, trained.weights, rtol=1e-2)


def test_the_records_name_the_run_and_the_step_and_runs_are_never_split(small: Any, tmp_path: Path) -> None:
    small |= {"checkpoints": 4, "size": 20, "splits": {"train": 0.6, "val": 0.2, "test": 0.2}}
    zoo = get_zoo(small, tmp_path, progress=False)
    records = zoo.records
    assert zoo.header["networks"] == {"trained": 80, "kept": 80, "left_out": 0}
    assert records["id"].tolist() == list(range(80))
    assert (records["run"] == records["id"] // 4).all()
    assert records["split"].value_counts().to_dict() == {"train": 48, "val": 16, "test": 16}
    for _, run in records.groupby("run"):
        steps = run["steps"].iloc[0]
        assert run["split"].nunique() == run["architecture"].nunique() == 1
        assert run["step"].tolist() == [-(-steps * number // 4) for number in (1, 2, 3, 4)]
    assert records.groupby(records["id"] % 4)["train_loss"].median().is_monotonic_decreasing
    assert verify(zoo.path, networks=80).ok


def test_the_last_checkpoint_is_the_zoo_without_checkpoints(small: Any, tmp_path: Path) -> None:
    plain = get_zoo(small, tmp_path, progress=False).records.set_index("id")
    every = get_zoo(small | {"checkpoints": 3}, tmp_path, progress=False).records
    last = every[every["step"] == every["steps"]].set_index("run")
    columns = ["split", "architecture", "learning_rate", "test_accuracy", "robustness", "generalization_gap"]
    assert last[columns].equals(plain[columns])


def test_a_lost_shard_is_restored_with_all_its_checkpoints(small: Any, tmp_path: Path) -> None:
    small |= {"checkpoints": 3}
    zoo = get_zoo(small, tmp_path, progress=False)
    shard = sorted((zoo.path / "weights").iterdir())[1]
    before = {path: path.read_bytes() for path in zoo.path.rglob("*") if path.is_file()}
    shard.unlink()
    get_zoo(small, tmp_path, progress=False)
    assert {path: path.read_bytes() for path in zoo.path.rglob("*") if path.is_file()} == before


def test_diverged_checkpoints_are_left_out_and_earlier_ones_of_the_run_are_kept(small: Any, tmp_path: Path) -> None:
    small["ranges"] |= {"optimiser": "sgd", "learning_rate": 1.0, "weight_decay": 3.0, "steps": 200}  # doubles weights
    zoo = get_zoo(small | {"checkpoints": 10, "size": 12}, tmp_path, progress=False)
    left_out, kept = zoo.header["left_out"], zoo.records["id"].tolist()
    assert sorted(left_out + kept) == list(range(120))
    both = {number // 10 for number in left_out} & {number // 10 for number in kept}
    assert len(both) > 6
    for run in both:
        ends = [number for number in left_out if number // 10 == run]
        assert max(number for number in kept if number // 10 == run) < min(ends)
    assert verify(zoo.path).ok
