"""Drawing networks again, and methods in two stages: what is scored, and what the second stage sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import execute
from experiments.config import Fit, Optim, Pretraining, Settings
from experiments.predictor import Predictor, predict
from experiments.pretraining import Composed
from experiments.tasks import Encoded, Generalization, InrClassification, InrReconstruction, Task
from experiments.tasks.encoded import EncodedLoader
from experiments.tasks.objective import CrossEntropy
from experiments.tasks.task import Picturing
from experiments.training import train
from experiments.zoo import Zoo, get_zoo
from experiments.zoo.sirens.network import grid
from graphnets import Inr2Array

SMALL: dict[str, Any] = {
    "kind": "siren",
    "name": "arrays",
    "data": {"name": "digits", "pooling": 2, "test_images": 500},
    "pixels": [4, 4],
    "width": 8,
    "hidden_layers": 1,
    "w0": 5.0,
    "steps": 60,
    "learning_rate": 1e-2,
    "limit": 40,
    "executor": "in_process",
}
KINDS = ["sign", "reflection", "period"]
FIT = Fit(3, 16, None, "loss", None, (), "cpu", 1, "auto")
OPTIM = Optim({"_target_": "torch.optim.AdamW", "lr": 5e-3, "weight_decay": 0.01}, "constant", 0.0, 1.0)
ENCODER = {"_target_": "graphnets.NFN", "_partial_": True, "variant": "np", "channels": [8], "head": [16]}
FIRST = Pretraining(
    {"_target_": "experiments.tasks.InrReconstruction", "pixels": [4, 4], "canonical": KINDS},
    {"_target_": "graphnets.Inr2Array", "encoder": ENCODER, "pixels": [4, 4], "patches": [2, 2], "latent": 8},
    OPTIM,
    replace(FIT, epochs=8),
)
READER = {"_target_": "graphnets.LatentTransformer", "tokens": 4, "latent": 8, "channels": 8, "blocks": 1, "heads": 2}
SETTINGS = Settings(READER, OPTIM, replace(FIT, monitor="accuracy"), FIRST)


@pytest.fixture(scope="module")
def sirens(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("sirens"), progress=False)


@pytest.fixture
def task(sirens: Zoo) -> InrClassification:
    return InrClassification(sirens, 1, KINDS)


def test_the_target_is_what_each_network_draws_whatever_its_weights_look_like(sirens: Zoo) -> None:
    plain, canonical = (InrReconstruction(sirens, [4, 4], 1, kinds) for kinds in (None, KINDS))
    for split in ("train", "test"):
        rows = [list(each.loader(split, 16)) for each in (plain, canonical)]
        for (graphs, target), (changed, same) in zip(*rows, strict=True):
            drawn = execute(graphs, grid(4, 4)).transpose(1, 2).flatten(1)
            assert torch.allclose(target, drawn, atol=1e-6)
            assert torch.allclose(target, same, atol=1e-4)
            assert not torch.allclose(graphs.x, changed.x)
    assert (plain.outputs, plain.settings, plain.also_scored) == (16, ("reconstruction",), ("train",))
    assert plain.structure == sirens.structure


def test_scores_compare_with_the_mean_image(sirens: Zoo) -> None:
    task = InrReconstruction(sirens, [4, 4])
    target = torch.cat([target for _, target in task.loader("test", 16)]).double()
    training = torch.cat([target for _, target in task.loader("train", 16)]).double()
    mean = training.mean(0).expand_as(target)
    perfect, blurred = (task.score(found, target)["reconstruction"] for found in (target, mean))
    assert perfect["mse"] == 0
    assert blurred["relative_mse"] == pytest.approx(1)
    assert blurred["mse"] == pytest.approx(float((target - mean).square().mean()))
    errors = (target - mean).square().mean(1)
    assert blurred["psnr"] == pytest.approx(float((10 * torch.log10(4 / errors)).mean()))
    half = task.score((target + mean) / 2, target)["reconstruction"]
    assert half["relative_mse"] == pytest.approx(0.25)
    prediction, truth = task.answers(mean, target)
    assert float((prediction - truth).square().mean()) == pytest.approx(blurred["mse"])


def test_pictures_show_what_is_drawn_and_what_is_drawn_again(sirens: Zoo) -> None:
    task = InrReconstruction(sirens, [4, 4], 1, KINDS)
    assert isinstance(task, Picturing)
    shown = task.pictures(lambda graphs: 0.5 * execute(graphs, grid(4, 4)).transpose(1, 2).flatten(1))
    assert list(shown) == ["reconstruction"]
    drawn, again = shown["reconstruction"].values()
    assert drawn.shape == (8, 1, 4, 4)
    assert torch.allclose(again, drawn / 2, atol=1e-4)


def test_it_sees_canonical_weights_when_neurons_are_permuted(sirens: Zoo) -> None:
    task = InrReconstruction(sirens, [4, 4], 2, KINDS)
    least = list[float]()

    def look(graphs: Any) -> Tensor:
        outgoing: Tensor = graphs.edge_attr.view(graphs.num_graphs, -1)[:, -8:]
        least.append(float(outgoing.sum(1).min()))
        return outgoing.sort(1).values

    assert task.invariance(look) < 1e-6
    assert min(least) > 0
    assert task.invariance(lambda graphs: graphs.edge_attr.view(graphs.num_graphs, -1)[:, -8:]) > 1e-2


def test_two_stages_learn_apart_and_the_encoder_is_kept_as_it_was(task: InrClassification, tmp_path: Path) -> None:
    model, outcome = train(SETTINGS, task, 0, tmp_path)
    assert isinstance(model, Composed)
    own = InrReconstruction(task.zoo, [4, 4], canonical=KINDS)
    first = Settings(FIRST.model, FIRST.optim, FIRST.trainer)
    alone, before = train(first, own, 0, tmp_path / "alone")
    assert isinstance(alone, Inr2Array)
    kept = model.first.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in alone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.first.parameters())
    prediction, target = predict(Predictor([(model, task.objective())]), task, "test", 16)
    assert prediction.shape == (40, 10)
    assert target.shape == (40, 1)
    size = sum(p.numel() for p in (*alone.encoder.parameters(), *model.second.parameters()))
    assert outcome.parameters == size
    assert outcome.cpu_seconds > 0
    assert len(outcome.history["val"]) == 3
    assert len(before.history["val"]) == 8
    assert before.history["val"][-1] < before.history["val"][0]
    assert (tmp_path / "pretraining" / "best.ckpt").exists()


def test_two_stages_continued_in_their_folder_or_begun_anew_give_one_result(
    task: InrClassification, tmp_path: Path
) -> None:
    model, _ = train(SETTINGS, task, 0, tmp_path)
    again, _ = train(SETTINGS, task, 0, tmp_path)
    fresh, _ = train(SETTINGS, task, 0, tmp_path / "fresh")
    for other in (again, fresh):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_what_no_encoder_is_or_has_no_zoo_is_refused(task: InrClassification, tmp_path: Path) -> None:
    plain = {"_target_": "experiments.editors.UneditedImages", "pixels": [4, 4]}
    settings = replace(SETTINGS, pretraining=replace(FIRST, model=plain))
    with pytest.raises(ValueError, match="UneditedImages has no encode; choose one such as inr2array"):
        train(settings, task, 0, tmp_path / "plain")
    encoded = Encoded(task, lambda graphs: graphs.x.view(graphs.num_graphs, 1, -1))
    with pytest.raises(ValueError, match="Encoded has no zoo on which another task could be set"):
        train(SETTINGS, encoded, 0, tmp_path / "encoded")


def test_codes_are_those_of_the_networks_in_any_order(task: InrClassification) -> None:
    calls = list[int]()

    def encode(graphs: Any) -> Tensor:
        calls.append(graphs.num_graphs)
        codes: Tensor = graphs.x.view(graphs.num_graphs, 1, -1)
        return codes

    encoded: Task = Encoded(task, encode)
    graphs = [(encode(each), target) for each, target in task.loader("train", 16)]
    codes, labels = torch.cat([each for each, _ in graphs]), torch.cat([target for _, target in graphs])
    calls.clear()
    orders = []
    for seed in (0, 0, 1):
        batches = list(encoded.loader("train", 10, shuffle=True, seed=seed))
        seen, targets = torch.cat([each for each, _ in batches]), torch.cat([target for _, target in batches])
        order = (seen.flatten(1)[:, None] == codes.flatten(1)[None]).all(2).float().argmax(1)
        assert sorted(order.tolist()) == list(range(len(codes)))
        assert torch.equal(targets, labels[order])
        orders.append(order.tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sum(calls) == len(codes)
    assert torch.cat([each for each, _ in encoded.loader("train", 7)]).equal(codes)
    assert (encoded.outputs, encoded.structure, encoded.settings) == (10, None, ("class",))
    unsorted = encoded.invariance(lambda found: found.flatten(1)[:, :20])
    assert unsorted > 1e-3


def test_mixup_mixes_codes_and_says_how_much() -> None:
    codes, targets = torch.randn(64, 2, 3), torch.arange(64.0).view(-1, 1)
    generator = torch.Generator().manual_seed(0)
    shares = set()
    for mixed, found in EncodedLoader(codes, targets, 16, generator, 0.5):
        first, second, share = found[:, 0].long(), found[:, 1].long(), found[0, 2]
        assert torch.allclose(mixed, share * codes[first] + (1 - share) * codes[second])
        assert sorted(first.tolist()) == sorted(second.tolist())
        shares.add(float(share))
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)


def test_the_cross_entropy_of_mixed_examples_is_the_mix_of_cross_entropies() -> None:
    objective, output = CrossEntropy(5), torch.randn(7, 5)
    first, second = torch.randint(5, (7,)), torch.randint(5, (7,))
    mixed = torch.stack([first.float(), second.float(), torch.full((7,), 0.3)], 1)
    expected = 0.3 * functional.cross_entropy(output, first) + 0.7 * functional.cross_entropy(output, second)
    assert torch.allclose(objective.loss(output, mixed), expected)


def test_other_tasks_of_a_zoo_may_have_two_stages(sirens: Zoo, tmp_path: Path) -> None:
    regression = Generalization(sirens, {"psnr": "psnr"})
    model, _ = train(replace(SETTINGS, trainer=FIT), regression, 0, tmp_path)
    assert isinstance(model, nn.Module)
    prediction, target = predict(Predictor([(model, regression.objective())]), regression, "test", 16)
    assert prediction.shape == target.shape == (40, 1)
