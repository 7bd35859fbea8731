"""Hyper-parameters, starts, subsets, noise and splits are what the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from experiments.data import ImageData
from experiments.zoo.config import ZooConfig
from experiments.zoo.errors import ZooConfigError
from experiments.zoo.sampling import Recipe, initial_weights, training_set
from experiments.zoo.splits import split_runs

Recipes = Callable[[ZooConfig], list[Recipe]]


def test_hyper_parameters_cover_their_ranges_and_nothing_else(small: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(small | {"size": 600})
    recipes = recipes_of(config)
    for key, spec in config.ranges.items():
        if key == "learning_rate":
            groups = {
                name: [r.learning_rate for r in recipes if r.optimiser == name] for name in config.ranges["optimiser"]
            }
            for name, values in groups.items():
                low, high = spec[name]["log"]
                assert low <= min(values) < 1.1 * low
                assert 0.9 * high < max(values) <= high
                middle = np.quantile(np.log(values), 0.5)
                assert abs(middle - np.log(low * high) / 2) < 0.15 * np.log(high / low), "not log-uniform"
        elif isinstance(spec, dict):
            low, high = spec.get("log") or spec["uniform"]
            values = [getattr(r, key) for r in recipes]
            inside = [value for value in values if value > 0]
            assert low - 1 / 256 <= min(inside) < low + 0.05 * (high - low)
            assert high - 0.1 * (high - low) < max(values) <= high + 1 / 256
            if "zero" in spec:
                assert abs(values.count(0.0) / len(values) - spec["zero"]) < 0.07
        else:
            assert {getattr(r, key) for r in recipes} == set(spec)
    assert {r.architecture.activation for r in recipes} == {"relu", "tanh", "sigmoid"}
    assert max(r.steps for r in recipes) == 25


def test_recipes_do_not_depend_on_the_size_and_ranges_do_not_disturb_one_another(
    small: Any, data: ImageData, recipes_of: Recipes
) -> None:
    few = recipes_of(ZooConfig.parse(small | {"size": 5}))
    assert few == recipes_of(ZooConfig.parse(small))[:5]
    assert few != recipes_of(ZooConfig.parse(small | {"size": 5, "seed": 1}))
    small["ranges"]["initial_scale"] = 1.0
    for one, other in zip(few, recipes_of(ZooConfig.parse(small)), strict=False):
        assert {**one.row(), "initial_scale": 1.0} == other.row()


def test_starts_are_independent_and_drawn_as_torch_draws_them(small: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(small)
    recipes = recipes_of(config)
    starts = [initial_weights(config, recipe) for recipe in recipes]
    units = np.array([s["0.weight"].ravel() / r.initial_scale for s, r in zip(starts, recipes, strict=True)])
    assert np.abs(units).max() <= 0.25  # 1 / sqrt(16)
    assert np.abs(units.std() - 0.25 / np.sqrt(3)) < 0.005
    assert np.abs(np.corrcoef(units) - np.eye(len(units))).max() < 0.35
    assert np.abs(starts[0]["2.bias"]).max() <= recipes[0].initial_scale * 8**-0.5


def test_shared_starts_are_equal_and_all_else_stays(small: Any, data: ImageData, recipes_of: Recipes) -> None:
    small["ranges"]["initial_scale"] = 1.0
    independent = ZooConfig.parse(small)
    shared = ZooConfig.parse(small | {"initialisation": "shared"})
    recipes = recipes_of(shared)
    assert recipes == recipes_of(independent)
    starts = [initial_weights(shared, recipe) for recipe in recipes]
    for start in starts[1:]:
        assert all(np.array_equal(start[name], starts[0][name]) for name in start)
    batches = [training_set(config, recipes[3], data).batches for config in (shared, independent)]
    assert torch.equal(*batches)


def test_subset_and_label_noise_are_really_applied(small: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(small)
    for recipe in recipes_of(config):
        seen = training_set(config, recipe, data)
        images = round(recipe.train_fraction * len(data.pool))
        assert int(seen.member.sum()) == images
        assert bool(seen.member[seen.batches].all()), "an image from outside the subset"
        wrong = seen.labels != data.pool_labels
        assert int(wrong.sum()) == round(recipe.label_noise * images)
        assert not bool((wrong & ~seen.member).any())
        assert 0 <= int(seen.labels.min()) <= int(seen.labels.max()) < data.classes
        assert seen.batches.shape == (recipe.steps, config.batch_size)
        first = seen.batches.reshape(-1)[:images]
        assert len(set(first.tolist())) == len(first), "an epoch shows an image once"


def test_splits_are_exact_disjoint_and_stable() -> None:
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    splits = split_runs(range(2000), shares, seed=0)
    counts = {name: list(splits.values()).count(name) for name in shares}
    assert counts == {"train": 1400, "val": 300, "test": 300}
    assert splits == split_runs(reversed(range(2000)), shares, seed=0)
    assert splits != split_runs(range(2000), shares, seed=1)
    # Written down, so that a change of the rule is noticed: published results depend on it.
    assert [splits[run] for run in range(8)] == ["train", "test", "train", "train", "train", "val", "train", "train"]
    assert split_runs([3, 3, 5], {"train": 0.5, "test": 0.5}, 0).keys() == {3, 5}


def test_all_faults_of_a_configuration_are_listed_at_once(small: Any) -> None:
    small["ranges"] |= {"steps": {"log": [0, 10]}, "optimiser": ["sgd"], "rate": 1}
    small["ranges"]["learning_rate"]["rmsprop"] = 0.1
    del small["ranges"]["dropout"]
    small |= {"size": 0, "executor": "cloud", "splits": {"train": 0.9, "val": 0.2, "test": 0.1}}
    small["architecture"]["activation"] = ["relu", "sine"]
    with pytest.raises(ZooConfigError) as caught:
        ZooConfig.parse(small)
    for part in (
        "zoo configuration 'small' is wrong",
        "size: 0 is not a positive integer",
        "executor: 'cloud' is not one of in_process, processes, ray",
        "splits: {'train': 0.9",
        "ranges.dropout: missing",
        "ranges.rate: unknown",
        "ranges.steps: [0, 10] is not an increasing range above 0",
        "ranges.learning_rate: 'rmsprop' is not one of sgd, momentum, adam",
        "architecture.activation: 'sine' is not one of relu",
    ):
        assert part in str(caught.value)
    with pytest.raises(ZooConfigError, match="sise: unknown"):
        ZooConfig.parse({"sise": 3})


def test_execution_settings_do_not_change_the_fingerprint(small: Any) -> None:
    one = ZooConfig.parse(small)
    other = ZooConfig.parse(small | {"executor": "processes", "workers": 3, "root": "elsewhere"})
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != ZooConfig.parse(small | {"seed": 1}).fingerprint
    assert ZooConfig.parse(one.to_dict()).fingerprint == one.fingerprint
