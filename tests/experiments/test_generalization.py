from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.tasks import Generalization
from experiments.zoo import Zoo

PROPERTIES = {"accuracy": "test_accuracy", "robustness": "robustness"}


def test_targets_are_standardised_on_training_networks_only(tiny_zoo: Zoo) -> None:
    task = Generalization(tiny_zoo, PROPERTIES)
    for split in ("train", "test"):
        target = torch.cat([y for _, y in task.loader(split, 7)])
        encoded = task.encode(target.double())
        exact = torch.allclose(encoded.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6)
        assert exact == (split == "train")
        assert torch.allclose(task.decode(encoded), target.double(), atol=1e-12)


def test_a_split_is_whole_and_the_order_is_the_seeds(tiny_zoo: Zoo) -> None:
    task = Generalization(tiny_zoo, PROPERTIES)
    plain = torch.cat([y for _, y in task.loader("train", 7)])
    shuffled, again, other = (
        torch.cat([y for _, y in task.loader("train", 7, shuffle=True, seed=seed)]) for seed in (1, 1, 2)
    )
    assert torch.equal(shuffled, again)
    assert not torch.equal(shuffled, other)
    assert torch.equal(plain.sort(0).values, shuffled.sort(0).values)
    assert len(plain) == (tiny_zoo.records["split"] == "train").sum()


def test_scores_are_per_property(tiny_zoo: Zoo) -> None:
    task = Generalization(tiny_zoo, PROPERTIES)
    target = torch.rand(20, 2, dtype=torch.float64)
    prediction = torch.stack([target[:, 0], -target[:, 1]], 1)
    scores = task.score(prediction, target)
    assert scores["accuracy"]["tau"] == 1.0
    assert scores["robustness"]["tau"] == -1.0
    assert scores["accuracy"]["r2"] == pytest.approx(1.0)


def test_invariance_tells_a_pooled_prediction_from_a_positional_one(tiny_zoo: Zoo) -> None:
    task = Generalization(tiny_zoo, PROPERTIES)

    def pooled(graphs: object) -> Tensor:
        weights = graphs.edge_attr.view(graphs.num_graphs, -1)  # type: ignore[attr-defined]
        return torch.stack([weights.double().pow(2).sum(1), weights.double().sum(1)], 1)

    def positional(graphs: object) -> Tensor:
        weights = graphs.edge_attr.view(graphs.num_graphs, -1)  # type: ignore[attr-defined]
        return weights[:, :2].double()

    assert task.invariance(pooled) < 1e-9
    assert task.invariance(positional) > 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"properties": {"speed": "seconds"}},
            "task.properties: the zoo's records have no column seconds; they have id,",
        ),
        ({"properties": PROPERTIES, "loss": "l3"}, "task.loss='l3' is unknown; known are mse, mae, huber"),
    ],
)
def test_a_wrong_task_says_what_is_known(tiny_zoo: Zoo, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generalization(tiny_zoo, **arguments)


def test_architectures_that_differ_in_activations_alone_count_as_one(tiny_zoo: Zoo) -> None:
    structure = Generalization(tiny_zoo, PROPERTIES).structure
    assert len(tiny_zoo.structures) == 2
    assert structure in tiny_zoo.structures.values()
