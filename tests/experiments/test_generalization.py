from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.tasks import LOSSES, Generalization
from experiments.zoo import Zoo, generate

BOUNDS = {"accuracy": (0.0, 1.0), "robustness": (0.0, 1.0)}
PROPERTIES = {"accuracy": "test_accuracy", "robustness": "robustness"}


@pytest.fixture(scope="session")
def small_zoo(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Twenty other networks of the same kind."""
    config = {**tiny_zoo.header["config"], "size": 20, "seed": 1, "executor": "in_process"}
    return generate(config, tmp_path_factory.mktemp("other"), progress=False)


def test_targets_are_standardised_on_training_networks_only(tiny_zoo: Zoo) -> None:
    task = Generalization(tiny_zoo, PROPERTIES)
    for split in ("train", "test"):
        target = torch.cat([y for _, y in task.loader(split, 7)])
        encoded = task.objective().encode(target.double())
        exact = torch.allclose(encoded.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6)
        assert exact == (split == "train")
        assert torch.allclose(task.objective().decode(encoded), target.double(), atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_objective_is_least_at_the_target_and_every_property_weighs_alike(tiny_zoo: Zoo, loss: str) -> None:
    objective = Generalization(tiny_zoo, PROPERTIES, bounds=BOUNDS).objective(loss)
    target = torch.tensor(tiny_zoo.records[list(PROPERTIES.values())].to_numpy())
    best = objective.encode(target)
    assert torch.allclose(objective.decode(best), target, atol=2e-4)
    assert float(objective.losses(best, target).abs().max()) < 1e-3
    for step in (-0.3, 0.3):
        assert (objective.losses(best + step, target) > objective.losses(best, target)).all()
    constant = objective.losses(torch.zeros_like(target), target)
    assert float(constant.max() / constant.min()) < 2
    output = torch.randn_like(target).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: objective.loss(each, target), output)


def test_bounded_targets_stay_within_their_bounds(tiny_zoo: Zoo) -> None:
    task = Generalization(tiny_zoo, PROPERTIES, bounds=BOUNDS)
    far = task.objective("bce").decode(torch.tensor([[50.0, -50.0]]))
    assert torch.allclose(far, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="the loss bce needs the bounds of robustness"):
        Generalization(tiny_zoo, PROPERTIES, bounds={"accuracy": (0, 1)}).objective("bce")
    with pytest.raises(ValueError, match="lie outside"):
        Generalization(tiny_zoo, PROPERTIES, bounds={"accuracy": (0, 0.1), "robustness": (0, 1)}).objective("bce")


def test_another_zoo_gives_the_test_networks_and_nothing_else(tiny_zoo: Zoo, small_zoo: Zoo) -> None:
    plain, task = Generalization(tiny_zoo, PROPERTIES), Generalization(tiny_zoo, PROPERTIES, test_zoo=small_zoo)
    for split in ("train", "val", "test"):
        here, there = (torch.cat([y for _, y in each.loader(split, 7)]) for each in (plain, task))
        assert torch.equal(here, there) == (split != "test")
    records = small_zoo.records
    expected = records[records["split"] == "test"]["test_accuracy"].to_numpy()
    assert torch.cat([y for _, y in task.loader("test", 7)])[:, 0].numpy() == pytest.approx(expected)
    assert torch.equal(task.objective().encode(torch.zeros(1, 2)), plain.objective().encode(torch.zeros(1, 2)))


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
        weights = graphs.edge_attr.view(graphs.num_graphs, -1)
        return torch.stack([weights.double().pow(2).sum(1), weights.double().sum(1)], 1)

    def positional(graphs: object) -> Tensor:
        weights = graphs.edge_attr.view(graphs.num_graphs, -1)
        return weights[:, :2].double()

    assert task.invariance(pooled) < 1e-9
    assert task.invariance(positional) > 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"properties": {"speed": "seconds"}},
            "task.properties: the records of .* have no column seconds; they have id,",
        ),
        ({"properties": PROPERTIES, "loss": "l3"}, "task.loss='l3' is unknown; known are mse, mae, huber, bce"),
    ],
)
def test_a_wrong_task_says_what_is_known(tiny_zoo: Zoo, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generalization(tiny_zoo, **arguments)


def test_architectures_that_differ_in_activations_alone_count_as_one(tiny_zoo: Zoo) -> None:
    structure = Generalization(tiny_zoo, PROPERTIES).structure
    assert len(tiny_zoo.structures) == 2
    assert structure in tiny_zoo.structures.values()
