"""Which networks a job sees: the zoo's splits, splits drawn anew, unseen values, another zoo's test networks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from experiments.jobs import Networks, load_task, new_splits
from experiments.tasks import Task
from experiments.zoo import Zoo

SPLIT: dict[str, Any] = {
    "name": "own",
    "by": None,
    "held_out": None,
    "share": 0.5,
    "validation": 0.2,
    "seed": None,
}
TASK = {
    "_target_": "experiments.tasks.Generalization",
    "properties": {"accuracy": "test_accuracy"},
}


def networks(zoo: Zoo, **changes: Any) -> Networks:
    return Networks((str(zoo.path), zoo.fingerprint), SPLIT | changes)


def task(chosen: Networks) -> Task:
    return load_task(json.dumps(TASK), json.dumps(asdict(chosen)))


def targets(chosen: Networks, split: str) -> torch.Tensor:
    return torch.cat([y for _, y in task(chosen).loader(split, 64)])


def test_the_zoos_own_splits_are_the_default(tiny_zoo: Zoo) -> None:
    own = networks(tiny_zoo).for_seed(5)
    for split in ("train", "val", "test"):
        records = tiny_zoo.records[tiny_zoo.records["split"] == split]
        assert targets(own, split)[:, 0].numpy() == pytest.approx(records["test_accuracy"].to_numpy())


def test_every_seed_draws_splits_of_its_own_unless_the_split_has_a_seed(tiny_zoo: Zoo) -> None:
    anew, fixed = networks(tiny_zoo, by="run"), networks(tiny_zoo, by="run", seed=3)
    assert new_splits(tiny_zoo, anew.for_seed(0).split) != new_splits(tiny_zoo, anew.for_seed(1).split)
    assert new_splits(tiny_zoo, fixed.for_seed(0).split) == new_splits(tiny_zoo, fixed.for_seed(1).split)
    sizes = [len(targets(anew.for_seed(0), split)) for split in ("train", "val", "test")]
    kept = tiny_zoo.records["split"].value_counts()
    assert sizes == [kept["train"], kept["val"], kept["test"]]


def test_test_networks_have_what_no_other_network_has(tiny_zoo: Zoo) -> None:
    found = new_splits(tiny_zoo, networks(tiny_zoo, by="activation", held_out=["tanh"]).for_seed(0).split)
    activations = {split: set() for split in ("train", "val", "test")}
    for network, activation in zip(tiny_zoo.records["id"], tiny_zoo.records["activation"], strict=True):
        activations[found[network]].add(activation)
    assert activations == {"train": {"relu"}, "val": {"relu"}, "test": {"tanh"}}
