from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.tasks import InrClassification
from experiments.zoo import Zoo, get_zoo
from graphnets import PixelReference

SMALL: dict[str, Any] = {
    "kind": "siren",
    "name": "classified",
    "data": {"name": "digits", "pooling": 2, "test_images": 500},
    "pixels": [4, 4],
    "width": 8,
    "steps": 60,
    "learning_rate": 5e-3,
    "limit": 40,
    "executor": "in_process",
}


@pytest.fixture(scope="module")
def sirens(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("sirens"), progress=False)


def test_targets_are_labels_and_splits_share_no_image(sirens: Zoo) -> None:
    task = InrClassification(sirens)
    assert task.outputs == 10
    assert task.structure == sirens.structure
    for split in ("train", "val", "test"):
        records = sirens.records[sirens.records["split"] == split]
        labels = torch.cat([target for _, target in task.loader(split, 7)])
        assert labels[:, 0].tolist() == records["label"].tolist()
    images = sirens.records.groupby("split")["image"].apply(set)
    assert not (images["train"] & images["test"]) | (images["train"] & images["val"]) | (images["val"] & images["test"])


def test_the_objective_is_the_cross_entropy_and_knows_its_units(sirens: Zoo) -> None:
    objective = InrClassification(sirens).objective()
    target, output = torch.tensor([[3.0], [0.0]]), torch.randn(2, 10, dtype=torch.float64)
    expected = -torch.log(output.softmax(1)[torch.arange(2), [3, 0]]).mean()
    assert torch.allclose(objective.loss(output, target), expected)
    sure = objective.decode(objective.encode(target))
    assert torch.allclose(sure.sum(1), torch.ones(2, dtype=torch.float64))
    assert sure.argmax(1).tolist() == [3, 0]
    assert float(objective.loss(objective.encode(target), target)) < 1e-3
    with pytest.raises(ValueError, match=r"trainer.loss='mse': classes are learned by their cross-entropy"):
        InrClassification(sirens).objective("mse")


def test_scores_are_shares_of_right_classes(sirens: Zoo) -> None:
    task = InrClassification(sirens)
    target = torch.arange(8.0).view(-1, 1)
    prediction = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 4, 5, 0, 0]), 10).double()
    assert task.score(prediction, target) == {"class": {"accuracy": 0.75}}
    answers, truths = task.answers(prediction, target)
    assert answers[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert torch.equal(truths, target)
    assert task.also_scored == ("train",)


def test_pixels_do_not_change_when_neurons_are_permuted_and_weights_do(sirens: Zoo) -> None:
    task = InrClassification(sirens, permutations=2)
    reference = PixelReference(task.structure, targets=10, pixels=[4, 4], channels=[4]).eval()

    def positional(graphs: Any) -> Tensor:
        weights: Tensor = graphs.edge_attr.view(graphs.num_graphs, -1)[:, :2].double()
        return weights

    assert task.invariance(lambda graphs: reference(graphs).double()) < 1e-3
    assert task.invariance(positional) > 1e-2


def test_the_reference_reads_the_images_that_were_fitted(sirens: Zoo) -> None:
    from experiments.data import load_images
    from experiments.zoo.sirens.signals import targets_of

    task = InrClassification(sirens)
    graphs, _ = next(iter(task.loader("test", 40)))
    reference = PixelReference(task.structure, targets=10, pixels=[4, 4])
    images, _ = targets_of(load_images(SMALL["data"]))
    rows = sirens.records[sirens.records["split"] == "test"]["image"].tolist()
    assert float((reference.images(graphs) - images[rows]).abs().mean()) < 0.05
    assert float((reference.images(graphs) - images[rows].flip(0)).abs().mean()) > 0.2
    with pytest.raises(ValueError, match="it needs the structure of such networks"):
        PixelReference(None, targets=10)


def test_a_zoo_without_labels_is_refused_with_a_remedy(tiny_zoo: Zoo) -> None:
    with pytest.raises(ValueError, match=r"has no column label: .* such as zoo=digits_siren"):
        InrClassification(tiny_zoo)


def test_a_splits_copies_can_be_drawn_anew_by_image(sirens: Zoo, tmp_path: Path) -> None:
    from experiments.jobs import new_splits

    splits = new_splits(sirens, {"by": "run", "seed": 3})
    moved = sirens.resplit(splits)
    assert moved.records["split"].value_counts().to_dict() == {"train": 36, "val": 4, "test": 40}
    assert moved.records["split"].tolist() != sirens.records["split"].tolist()


def test_signs_and_periods_can_be_removed_and_the_images_stay(sirens: Zoo) -> None:
    plain, task = InrClassification(sirens), InrClassification(sirens, 2, ["sign", "reflection", "period"])
    reference = PixelReference(task.structure, targets=10, pixels=[4, 4]).eval()
    (before, labels), (after, same) = (next(iter(each.loader("test", 40))) for each in (plain, task))
    assert torch.equal(labels, same)
    assert not torch.allclose(before.x, after.x)
    assert torch.allclose(reference.images(before), reference.images(after), atol=1e-4)
    assert float(after.edge_attr.view(40, -1)[:, -8:].sum(1).min()) > 0

    sums = list[float]()

    def in_order(graphs: Any) -> Tensor:
        """Invariant to the order of neurons, but not to their signs."""
        weights: Tensor = graphs.edge_attr.view(graphs.num_graphs, -1)[:, -8:].double().sort(1).values
        sums.append(float(weights.sum(1).min()))
        return weights

    assert task.invariance(in_order) < 1e-9
    assert min(sums) > 0
    sums.clear()
    plain.invariance(in_order)
    assert min(sums) < 0
