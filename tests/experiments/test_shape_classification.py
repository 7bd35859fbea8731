"""Networks of shapes come with the points of their own shape, and PointNet reads nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from converters import execute
from experiments.data import load_shapes
from experiments.point_net import PointNet
from experiments.tasks import InrReconstruction, ShapeClassification
from experiments.zoo import Zoo, ZooError, get_zoo
from experiments.zoo.sirens.network import grid

SMALL: dict[str, Any] = {
    "kind": "siren",
    "name": "classified",
    "data": {"name": "solids", "pool_shapes": 50, "test_shapes": 20, "points": 128},
    "distances": {"queries": [32, 32], "deviations": [0.1], "truncation": None},
    "width": 12,
    "hidden_layers": 1,
    "w0": 8.0,
    "steps": 30,
    "learning_rate": 1e-2,
    "copies": 2,
    "validation": 0.2,
    "executor": "in_process",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("solids"), progress=False)


def test_batches_bring_the_points_of_each_networks_shape(zoo: Zoo) -> None:
    task, data = ShapeClassification(zoo), load_shapes(SMALL["data"])
    assert task.outputs == 10
    for split, clouds in (("train", data.pool), ("test", data.test)):
        records = zoo.records[zoo.records["split"] == split]
        first = len(data.pool) if split == "test" else 0
        for (graphs, labels), rows in zip(task.loader(split, 16), torch.arange(len(records)).split(16), strict=True):
            chosen = records.iloc[rows.tolist()]
            assert torch.equal(graphs.points, clouds[torch.tensor(chosen["image"].tolist()) - first])
            assert labels[:, 0].tolist() == chosen["label"].tolist()
    shuffled = [next(iter(task.loader("train", 8, shuffle=True, seed=seed))) for seed in (0, 1)]
    assert not torch.equal(shuffled[0][0].points, shuffled[1][0].points)


def test_permuted_networks_keep_their_points_and_weights_do_not_keep_their_order(zoo: Zoo) -> None:
    reference = PointNet(None, 10, points=64, channels=[8], head=[8]).eval()

    def positional(graphs: Any) -> Tensor:
        weights: Tensor = graphs.edge_attr.view(graphs.num_graphs, -1)[:, :2].double()
        return weights

    for canonical in (None, ["sign", "reflection", "period"]):
        task = ShapeClassification(zoo, permutations=2, canonical=canonical)
        assert task.invariance(lambda graphs: reference(graphs).double()) == 0.0
        assert task.invariance(positional) > 1e-2


def test_point_net_sees_a_set_of_points_of_which_training_draws_anew(zoo: Zoo) -> None:
    graphs, _ = next(iter(ShapeClassification(zoo).loader("test", 20)))
    every, some = (PointNet(None, 4, points=count, channels=[8, 16], head=[8], dropout=0.0) for count in (128, 32))
    with torch.no_grad():
        answers = every.eval()(graphs)
        graphs.points = graphs.points.flip(1)
        assert torch.allclose(every(graphs), answers, atol=1e-6)
        assert answers.std(0).max() > 1e-4
        graphs.points = graphs.points + 0.1
        assert not torch.allclose(every(graphs), answers, atol=1e-4)
        assert torch.equal(some.eval()(graphs), some(graphs))
        some.train()
        assert not torch.allclose(some(graphs), some(graphs), atol=1e-5)
    del graphs.points
    with pytest.raises(ValueError, match="this batch has none; use task=shape_classification"):
        some(graphs)


def test_point_net_learns_to_tell_shapes_from_their_points() -> None:
    data = load_shapes({"name": "solids", "pool_shapes": 200, "test_shapes": 100, "points": 96})
    model = PointNet(None, 10, points=96, channels=[32, 64], head=[32], dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)

    class Clouds:
        def __init__(self, points: Tensor) -> None:
            self.points = points

    for step in range(60):
        rows = torch.arange(50) + 50 * (step % 4)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(Clouds(data.pool[rows])), data.pool_labels[rows]).backward()
        optimiser.step()
    right = (model.eval()(Clouds(data.test)).argmax(1) == data.test_labels).double().mean()
    assert float(right) > 0.5


def test_values_on_a_lattice_in_space_are_drawn_again_by_the_task_of_images(zoo: Zoo) -> None:
    task = InrReconstruction(zoo, [2, 3, 4])
    assert task.outputs == 24
    graphs, target = next(iter(task.loader("val", 5)))
    assert torch.allclose(target, execute(graphs, grid(2, 3, 4)).squeeze(-1), atol=1e-6)
    assert task.score(target, target)["reconstruction"]["relative_mse"] == 0


def test_zoos_without_these_shapes_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    images = {
        **{key: SMALL[key] for key in ("kind", "name", "width", "hidden_layers", "executor")},
        **{"data": {"name": "digits", "pooling": 2}, "pixels": [4, 4], "steps": 1, "limit": 4, "validation": 0.5},
    }
    with pytest.raises(ValueError, match="which are no shapes; choose zoo=solids_siren"):
        ShapeClassification(get_zoo(images, tmp_path, progress=False))
    header = {**zoo.header, "data": {**zoo.header["data"], "fingerprint": "other"}}
    with pytest.raises(ZooError, match="was fitted to other shapes"):
        ShapeClassification(Zoo(zoo.path, header))
