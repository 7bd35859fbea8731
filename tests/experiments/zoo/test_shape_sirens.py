"""SIRENs of shapes: what they are fitted to, how well, and that a zoo of them is as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.data import load_shapes
from experiments.zoo import SirenConfig, Zoo, ZooConfigError, ZooDataset, get_zoo, info, verify
from experiments.zoo.inspection import _network_faults
from experiments.zoo.parsing import parse_zoo
from experiments.zoo.sirens.signals import distance_field, signals_of

SMALL: dict[str, Any] = {
    "kind": "siren",
    "name": "small_solids",
    "data": {"name": "solids", "pool_shapes": 40, "test_shapes": 20, "points": 256},
    "distances": {"queries": [64, 64], "deviations": [0.1], "truncation": None},
    "width": 24,
    "hidden_layers": 1,
    "w0": 8.0,
    "steps": 100,
    "learning_rate": 1e-2,
    "validation": 0.2,
    "stack_size": 32,
    "executor": "in_process",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("solids"), progress=False)


def test_places_lie_near_the_shape_or_anywhere_and_distances_are_cut() -> None:
    points = load_shapes(SMALL["data"]).pool[0].numpy()
    about = {"queries": [300, 200, 100], "deviations": [1e-4, 0.05], "truncation": 0.2}
    places, away = distance_field(points, about, np.random.default_rng(0))
    anywhere, near, nearby = np.split(away, [100, 400])
    assert near.max() < 1e-3 < nearby.mean() < 0.1 < anywhere.mean()
    assert away.max() == 0.2
    assert np.ptp(places[:100], axis=0).min() > 1.8
    assert np.abs(places[:100]).max() <= 1
    again, _ = distance_field(points, about, np.random.default_rng(0))
    assert np.array_equal(places, again)


def test_signals_belong_to_their_shapes_and_unseen_places_are_others() -> None:
    config, data = SirenConfig.parse(SMALL), load_shapes(SMALL["data"])
    signals = signals_of(config, data, torch.tensor([3, 41]))
    assert signals.coordinates.shape == (2, 128, 3)
    assert signals.values.shape == (2, 1, 128)
    for row, cloud in enumerate((data.pool[3], data.test[1])):
        nearest = torch.cdist(signals.coordinates[row], cloud).amin(1)
        assert torch.allclose(nearest, signals.values[row, 0], atol=1e-5)
    assert torch.equal(signals.values[1:], signals_of(config, data, torch.tensor([41])).values)
    unseen = signals_of(config, data, torch.tensor([3]), unseen=True)
    assert float(torch.cdist(unseen.coordinates[0], signals.coordinates[0]).min()) > 0


def test_networks_know_distances_at_places_that_they_were_not_fitted_to(zoo: Zoo) -> None:
    records = zoo.records
    assert records["split"].value_counts().to_dict() == {"train": 32, "test": 20, "val": 8}
    data, config = load_shapes(SMALL["data"]), SirenConfig.parse(SMALL)
    labels = torch.cat([data.pool_labels, data.test_labels])
    assert records["label"].tolist() == labels[records["image"].tolist()].tolist()
    assert list(zoo.architectures) == ["siren-3-24-1-w8-sine"]
    values = signals_of(config, data, torch.arange(60), unseen=True).values
    spread = float((values - values.mean()).abs().mean())
    assert records["distance_error"].max() < 0.6 * spread
    assert records["distance_error"].mean() < 0.4 * spread
    assert verify(zoo.path, networks=5).ok
    assert info(zoo.path)["properties"].keys() == {"distance_error"}
    graphs, _ = ZooDataset(zoo, "test", ["label"]).batch([0, 1])
    assert graphs.num_graphs == 2


def test_the_quality_that_is_recorded_is_checked(zoo: Zoo) -> None:
    other = Zoo(zoo.path, zoo.header)
    other.records["distance_error"] += 0.01
    data = load_shapes(SMALL["data"])
    assert not _network_faults(zoo, 0, data)
    (fault,) = _network_faults(other, 0, data)
    assert "network 0: distance_error is recorded as" in fault


def test_a_shared_start_is_shared(tmp_path: Path) -> None:
    zoo = get_zoo({**SMALL, "initialisation": "shared", "steps": 1, "learning_rate": 1e-9}, tmp_path, progress=False)
    weights = zoo.weights("siren-3-24-1-w8-sine")["0.weight"]
    assert torch.allclose(weights, weights[:1], atol=1e-6)


def test_wrong_distances_are_named() -> None:
    def faults(**changes: Any) -> str:
        with pytest.raises(ZooConfigError) as caught:
            parse_zoo({**SMALL, **changes})
        return str(caught.value)

    assert "pixels: shapes have none" in faults(pixels=[8, 8])
    assert "distances: None needs queries, deviations, truncation" in faults(distances=None)
    wrong = {"queries": [10, -1, 5], "deviations": [0.1, 0.0, 1.0], "truncation": 0}
    text = faults(distances=wrong)
    for part in ("distances.queries: [10, -1, 5]", "distances.deviations: ", "distances.truncation: 0 is neither"):
        assert part in text
    text = faults(data={"name": "digits"}, pixels=[8, 8])
    assert "distances: images have none" in text
