"""The task of editing what networks draw: targets, errors, models, pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from converters import execute
from experiments.data import edited, load_images
from experiments.editors import EditedImages, UneditedImages
from experiments.evaluation.bootstrap import resample_counts, resampled_metric
from experiments.evaluation.pictures import save_pictures, store_pictures
from experiments.predictor import OneModelPerSetting, Predictor, predict
from experiments.tasks import InrEditing
from experiments.tasks.task import Picturing
from experiments.zoo import Zoo, get_zoo
from experiments.zoo.sirens.network import grid
from experiments.zoo.sirens.signals import targets_of
from graphnets import NFN, FlatMLP

SMALL: dict[str, Any] = {
    "kind": "siren",
    "name": "edited",
    "data": {"name": "digits", "pooling": 2, "test_images": 500},
    "pixels": [4, 4],
    "width": 8,
    "w0": 10.0,
    "steps": 100,
    "learning_rate": 5e-3,
    "limit": 40,
    "executor": "in_process",
}
SIREN = "siren-2-8-8-1-w10-sine"
OPERATIONS: dict[str, dict[str, Any]] = {"dilate": {"size": 2}, "contrast": {"clip": 2.0, "tiles": 2}}


@pytest.fixture(scope="module")
def sirens(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("sirens"), progress=False)


@pytest.fixture
def task(sirens: Zoo) -> InrEditing:
    return InrEditing(sirens, OPERATIONS, [4, 4], permutations=1)


def predictor(task: InrEditing, functional: Any, **options: Any) -> Predictor:
    torch.manual_seed(0)
    assert task.structure is not None
    model = EditedImages(task.structure, task.outputs, functional, task.pixels, **options)
    model.fit_statistics(graphs for graphs, _ in task.loader("train", 16))
    return Predictor([(model, task.objective())])


def test_targets_are_the_edited_images_that_networks_were_fitted_to(task: InrEditing, sirens: Zoo) -> None:
    assert (task.settings, task.outputs, task.also_scored) == (("dilate", "contrast"), 2 * 16, ("train",))
    images, _ = targets_of(load_images(SMALL["data"]))
    for split in ("train", "val", "test"):
        records = sirens.records[sirens.records["split"] == split]
        found = torch.cat([target for _, target in task.loader(split, 7)])
        originals = images[records["image"].tolist()]
        expected = [edited(originals, name, options).flatten(1) for name, options in OPERATIONS.items()]
        assert torch.equal(found, torch.cat(expected, 1))


def test_renders_are_edited_where_images_are_not_at_hand(task: InrEditing, sirens: Zoo) -> None:
    rendered = InrEditing(sirens, OPERATIONS, [4, 4], source="render")
    ours, theirs = (next(iter(each.loader("test", 40)))[1] for each in (rendered, task))
    assert not torch.equal(ours, theirs)
    assert float((ours - theirs)[:, :16].square().mean()) < 0.05 * float(theirs[:, :16].var())
    graphs, _ = next(iter(rendered.loader("test", 40)))
    drawn = execute(graphs, grid(4, 4))[..., 0].unflatten(1, (1, 4, 4))
    assert torch.allclose(ours[:, :16], edited(drawn, "dilate", {"size": 2}).flatten(1), atol=1e-5)


def test_what_cannot_be_is_refused_with_a_remedy(sirens: Zoo, tiny_zoo: Zoo) -> None:
    with pytest.raises(ValueError, match=r"task.source='pixels' is not one of image, render"):
        InrEditing(sirens, OPERATIONS, [4, 4], source="pixels")
    with pytest.raises(ValueError, match=r"task.pixels=\[8, 8\]: the images have \[4, 4\]"):
        InrEditing(sirens, OPERATIONS, [8, 8]).dataset("test")
    with pytest.raises(ValueError, match=r"trainer.loss='mae': images are learned by their squared error"):
        InrEditing(sirens, OPERATIONS, [4, 4]).objective("mae")
    with pytest.raises(ValueError, match="17 targets are no images of 4 x 4 pixels"):
        UneditedImages(sirens.structures[SIREN], 17, [4, 4])
    header = {**sirens.header, "config": {k: v for k, v in sirens.header["config"].items() if k != "data"}}
    with pytest.raises(ValueError, match="has no images at hand; edit what its networks draw: source=render"):
        InrEditing(Zoo(sirens.path, header), OPERATIONS, [4, 4]).dataset("test")
    with pytest.raises(ValueError, match="has several architectures"):
        InrEditing(tiny_zoo, OPERATIONS, [4, 4])


def test_errors_are_mean_squares_by_operation_and_networks_weigh_the_same(task: InrEditing) -> None:
    prediction, target = torch.randn(2, 9, 32, dtype=torch.float64)
    scores = task.score(prediction, target)
    assert scores["dilate"]["mse"] == pytest.approx(float((prediction - target)[:, :16].square().mean()))
    assert scores["contrast"]["mse"] == pytest.approx(float((prediction - target)[:, 16:].square().mean()))
    answers, truths = task.answers(prediction, target)
    assert answers.shape == truths.shape == (9, 2)
    whole = resampled_metric("mse", np.ones((1, 9)), answers[:, 1].numpy(), truths[:, 1].numpy())
    assert whole[0] == pytest.approx(scores["contrast"]["mse"])
    assert resampled_metric("mse", resample_counts(9, 50), answers[:, 1].numpy(), truths[:, 1].numpy()).std() > 0
    objective = task.objective()
    assert objective.decode(objective.encode(target)).equal(target)
    assert float(objective.loss(prediction, target)) == pytest.approx(
        (scores["dilate"]["mse"] + scores["contrast"]["mse"]) / 2
    )


def test_weights_are_made_canonical_on_request_and_draw_the_same(task: InrEditing, sirens: Zoo) -> None:
    other = InrEditing(sirens, OPERATIONS, [4, 4], permutations=1, canonical=["sign", "reflection", "period"])
    (graphs, target), (canonical, same) = (next(iter(each.loader("test", 40))) for each in (task, other))
    assert torch.equal(target, same)
    assert not torch.equal(graphs.edge_attr, canonical.edge_attr)
    drawn, again = (execute(each, grid(4, 4)) for each in (graphs, canonical))
    assert torch.allclose(drawn, again, atol=1e-4)
    assert other.invariance(predictor(other, partial(NFN, variant="np", channels=[4]))) < 1e-3


def test_unedited_images_are_those_that_networks_draw(task: InrEditing) -> None:
    assert task.structure is not None
    model = UneditedImages(task.structure, task.outputs, task.pixels)
    graphs, _ = next(iter(task.loader("test", 5)))
    drawn = execute(graphs, grid(4, 4))[..., 0]
    assert torch.equal(model(graphs), torch.cat([drawn, drawn], 1))
    assert model(graphs[0]).shape == (1, 32)
    still = predictor(task, partial(NFN, channels=[4]), step=0.0)
    assert torch.allclose(still(graphs).float(), model(graphs), atol=1e-6)


def test_editors_have_nothing_in_common_but_what_they_know_of_networks(task: InrEditing) -> None:
    model = predictor(task, partial(NFN, channels=[4], fourier=1.0), parallel=2).first
    assert isinstance(model, EditedImages)
    one, two = model.editors
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert not {id(a) for a, _ in pairs} & {id(b) for _, b in pairs}
    graphs, _ = next(iter(task.loader("test", 5)))
    model(graphs)[:, :16].sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in two.parameters())
    assert all(p.grad is not None and p.grad.any() for p in one.parameters())


def test_equivariant_editors_draw_the_same_whatever_the_order_of_neurons(task: InrEditing) -> None:
    assert task.invariance(predictor(task, partial(NFN, variant="np", channels=[4]))) < 1e-4
    assert task.invariance(predictor(task, partial(FlatMLP, hidden=[8]), step=1.0)) > 1e-2


def test_every_setting_may_have_a_model_of_its_own(task: InrEditing) -> None:
    first, second = (predictor(task, partial(NFN, channels=[4]), step=step).first for step in (0.0, 1.0))
    graphs, _ = next(iter(task.loader("test", 5)))
    together = OneModelPerSetting([first, second])(graphs)
    assert torch.equal(together[:, :16], first(graphs)[:, :16])
    assert torch.equal(together[:, 16:], second(graphs)[:, 16:])
    assert not torch.equal(together[:, :16], second(graphs)[:, :16])


def test_pictures_show_networks_before_wanted_and_after(task: InrEditing, tmp_path: Path) -> None:
    assert isinstance(task, Picturing)
    edit = predictor(task, partial(NFN, channels=[4]), step=1.0)
    pictures = task.pictures(edit)
    prediction, target = predict(edit, task, "test", 40)
    for position, (name, rows) in enumerate(pictures.items()):
        assert list(rows) == ["drawn", "wanted", "edited"]
        assert all(row.shape == (8, 1, 4, 4) for row in rows.values())
        part = slice(16 * position, 16 * (position + 1))
        assert torch.allclose(rows["wanted"][0].flatten(), target[0, part].float()), name
        assert torch.allclose(rows["edited"][-1].flatten(), prediction[-1, part].float(), atol=1e-5)
        assert not torch.allclose(rows["drawn"], rows["edited"])
    store_pictures(tmp_path / "nfn_np", pictures)
    store_pictures(tmp_path / "nft", pictures)
    still = Predictor([(UneditedImages(task.zoo.structures[SIREN], task.outputs, task.pixels), task.objective())])
    store_pictures(tmp_path / "unedited", task.pictures(still))
    folders = {name: tmp_path / name for name in ("nfn_np", "nft", "absent", "unedited")}
    files = save_pictures(folders, tmp_path / "figures")
    assert [path.name for path in files if path.suffix == ".png"] == ["pictures_dilate.png", "pictures_contrast.png"]
    assert matplotlib.image.imread(files[0]).std() > 0.1
    svg = files[1].read_text()
    assert "NFT" in svg
    assert "Unedited" not in svg
    assert "wanted" in svg
    assert "edited" not in svg
