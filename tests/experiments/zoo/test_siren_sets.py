"""Published sets of SIRENs: both layouts, their splits, and what is wrong with damaged ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.cli import main
from experiments.tasks import InrClassification
from experiments.zoo import ZooConfigError, ZooError, get_zoo, load_zoo, verify

SPLIT = "mnist_splits.json"


@pytest.fixture(autouse=True)
def own_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHNETS_ZOO_ROOT", raising=False)


def siren(seed: int, sizes: tuple[int, ...], name: str) -> dict[str, Tensor]:
    """A state_dict of a SIREN; layers are numbered from the tenth on, so that names do not sort as layers do."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for layer in range(len(sizes) - 1):
        shape = sizes[layer + 1], sizes[layer]
        state[name.format(9 + layer) + ".weight"] = torch.randn(shape, generator=generator) * 0.2
        state[name.format(9 + layer) + ".bias"] = torch.randn(shape[0], generator=generator) * 0.2
    return state


def save(path: Path, seed: int, sizes: tuple[int, ...] = (2, 5, 5, 1), name: str = "seq.{}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(siren(seed, sizes, name), path)


def write_images(folder: Path) -> Path:
    """A folder per image, three per split, and a split file whose paths begin elsewhere."""
    content: dict[str, dict[str, list[Any]]] = {}
    for number in range(9):
        split = ("train", "val", "test")[number % 3]
        place = f"mnist_png_{'testing' if split == 'test' else 'training'}_{number % 4}_{number}/checkpoints/final.pth"
        save(folder / place, number)
        entry = content.setdefault(split, {"path": [], "label": []})
        entry["path"].append(f"/their/machine/mnist-inrs/{place}")
        entry["label"].append(str(number % 4))
    (folder / SPLIT).write_text(json.dumps(content))
    return folder


def write_classes(folder: Path) -> Path:
    """A folder per class and copy: ten images in colour, the first six with two further networks."""
    for image in range(10):
        for copy, part in enumerate(("", "aug0_", "aug1_")):
            if copy == 0 or image < 6:
                path = folder / f"randinit_smaller_{part}{image % 3}s" / f"net{image}.pth"
                save(path, 10 * image + copy, (2, 5, 3), "net.{}.linear")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Any]:
    folder = write_images(tmp_path / "published" / "mnist-inrs")
    return {"importer": "siren_set", "name": "mnist", "folder": str(folder), "root": str(tmp_path / "zoos")}


@pytest.fixture
def classes(tmp_path: Path) -> dict[str, Any]:
    folder = write_classes(tmp_path / "published" / "cifar")
    return {"importer": "siren_set", "name": "cifar", "folder": str(folder), "root": str(tmp_path / "zoos")}


def test_a_set_with_a_split_file_keeps_its_labels_splits_and_functions(images: dict[str, Any]) -> None:
    zoo = get_zoo(images | {"w0": 7.0})
    records = zoo.records
    assert records["split"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 3}
    assert (records["copy"] == 0).all()
    assert records["image"].is_unique
    (architecture,) = zoo.architectures.values()
    assert architecture.name == "siren-2-5-5-1-w7-sine"
    weights, points = zoo.weights(architecture.name), torch.randn(6, 2)
    for row, file in enumerate(records["file"]):
        number = int(file.partition("/")[0].rpartition("_")[2])
        assert records["label"][row] == number % 4
        assert records["split"][row] == ("train", "val", "test")[number % 3]
        module = architecture.build()
        module.load_state_dict({name: stack[row] for name, stack in weights.items()})
        state = siren(number, (2, 5, 5, 1), "seq.{}")
        values = points
        for layer in (9, 10, 11):
            values = values @ state[f"seq.{layer}.weight"].T + state[f"seq.{layer}.bias"]
            values = torch.sin(7.0 * values) if layer < 11 else values
        assert torch.allclose(module(points), values, atol=1e-5)
        assert values.std() > 1e-3
    assert verify(zoo.path).ok
    task = InrClassification(zoo)
    assert (task.classes, task.structure) == (4, zoo.structure)
    graphs, labels = next(iter(task.loader("test", 8)))
    assert graphs.num_graphs == len(labels) == 3


def test_a_set_by_classes_is_split_by_image_and_copies_only_train(classes: dict[str, Any]) -> None:
    zoo = get_zoo(classes | {"split_points": [5, 7]})
    records = zoo.records
    assert zoo.architectures.keys() == {"siren-2-5-3-w30-sine"}
    assert records["label"].tolist() == (records["image"] % 3).tolist()
    assert len(records) == 22
    by_image = records.groupby("image")["split"].apply(set).tolist()
    assert by_image == [{"train"}] * 5 + [{"val", "none"}, {"val"}] + [{"test"}] * 3
    assert sorted(records[records["image"] == 0]["copy"]) == [0, 1, 2]
    assert (records.loc[records["split"].isin(["val", "test"]), "copy"] == 0).all()
    assert zoo.header["data"]["classes"] == 3


def test_without_a_split_file_images_are_split_by_shares_and_copies_stay_together(classes: dict[str, Any]) -> None:
    zoo = get_zoo(classes | {"splits": {"train": 0.5, "val": 0.2, "test": 0.3}})
    by_image = zoo.records.groupby("image")["split"].apply(set)
    assert by_image.map(len).max() == 1
    assert by_image.explode().value_counts().to_dict() == {"train": 5, "test": 3, "val": 2}


def test_networks_that_the_split_file_does_not_name_are_in_no_split(images: dict[str, Any]) -> None:
    path = Path(images["folder"]) / SPLIT
    content = json.loads(path.read_text())
    for key in ("path", "label"):
        content["val"][key] = content["val"][key][:1]
    path.write_text(json.dumps(content))
    counts = get_zoo(images).records["split"].value_counts().to_dict()
    assert counts == {"train": 3, "test": 3, "none": 2, "val": 1}


def test_options_decide_the_zoo_and_pixels_do_not(classes: dict[str, Any]) -> None:
    first = get_zoo(classes).fingerprint
    assert get_zoo(classes | {"pixels": [32, 32]}).fingerprint == first
    assert get_zoo(classes | {"w0": 5.0}).fingerprint != first
    assert get_zoo(classes | {"split_points": [5, 7]}).fingerprint != first


class Hostile:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"open({str(self.trap)!r}, 'w').close()",)


def network(folder: Path) -> Path:
    return min(folder.rglob("*.pth"))


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / SPLIT).read_text())
        change(content)
        (folder / SPLIT).write_text(json.dumps(content))

    return edit


def set_label(content: dict[str, Any]) -> None:
    content["train"]["label"][0] = 3
    content["test"]["path"][0] = "mnist_png_testing_3_77/final.pth"
    content["val"]["path"][2], content["val"]["label"][2] = (content["train"][key][2] for key in ("path", "label"))


DAMAGES: list[tuple[Callable[[Path], Any], list[str]]] = [
    (lambda folder: network(folder).write_bytes(network(folder).read_bytes()[:300]), ["cannot be read"]),
    (lambda folder: network(folder).parent.parent.rename(folder / "five_0"), ["1 files that are not there"]),
    (
        lambda folder: save(max(folder.rglob("*.pth")), 0, (2, 5, 1)),
        ["has not the tensors of the first network"],
    ),
    (lambda folder: save(network(folder), 0, (3, 5, 1)), ["no SIREN of images"]),
    (
        lambda folder: save(folder / "randinit_smaller_1s" / "net0.pth", 0),
        ["mixes two layouts of sets"],
    ),
    (
        lambda folder: save(folder / "randinit_smaller_1s" / "final.pth", 0),
        ["1 files that name no image, as net0.pth does: randinit_smaller_1s/final.pth"],
    ),
    (lambda folder: (folder / SPLIT).write_text('{"train"'), ["mnist_splits.json is damaged"]),
    (
        rewritten(lambda content: content.pop("val")),
        ["each with lists 'path' and 'label' of one length; val is not so"],
    ),
    (rewritten(lambda content: content["test"]["label"].pop()), ["of one length; test is not so"]),
    (
        rewritten(set_label),
        [
            "1 other labels than the folders'",
            "(label 3, its folder says 0)",
            "1 files that are not there: mnist_png_testing_3_77/final.pth",
            "1 files in two splits",
        ],
    ),
    (lambda folder: (folder / "other_split.json").write_text("{}"), ["there are several split files"]),
]


@pytest.mark.parametrize(("damage", "messages"), DAMAGES)
def test_what_does_not_fit_is_named_with_every_fault(
    images: dict[str, Any], damage: Callable[[Path], Any], messages: list[str]
) -> None:
    damage(Path(images["folder"]))
    with pytest.raises(ZooError) as caught:
        get_zoo(images)
    for message in messages:
        assert message in str(caught.value)


def test_an_image_has_one_label(classes: dict[str, Any]) -> None:
    save(Path(classes["folder"]) / "randinit_smaller_aug0_1s" / "net0.pth", 0, (2, 5, 3))
    with pytest.raises(ZooError, match="1 images with several labels: 0"):
        get_zoo(classes)


def test_code_in_a_file_is_not_run(images: dict[str, Any], tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    network(Path(images["folder"])).write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(ZooError, match="cannot be read"):
        get_zoo(images)
    assert not trap.exists()


def test_networks_that_are_not_finite_are_left_out(classes: dict[str, Any]) -> None:
    path = Path(classes["folder"]) / "randinit_smaller_0s" / "net9.pth"
    state = torch.load(path, weights_only=True)
    state["net.9.linear.bias"][1] = np.nan
    torch.save(state, path)
    zoo = get_zoo(classes)
    assert zoo.header["networks"] == {"trained": 22, "kept": 21, "left_out": 1}
    assert 9 not in set(zoo.records["image"])


def test_a_folder_without_networks_and_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = {"importer": "siren_set", "name": "none", "folder": str(tmp_path), "root": str(tmp_path / "zoos")}
    with pytest.raises(ZooError, match=r"holds no set of SIRENs: .* whose folder names the label"):
        get_zoo(config)
    with pytest.raises(ZooConfigError) as caught:
        get_zoo(config | {"w0": -1, "split_points": [7, 5]})
    assert "w0: -1 is not a positive number" in str(caught.value)
    assert "split_points: [7, 5] are not two growing numbers of images" in str(caught.value)
    with pytest.raises(ZooConfigError, match="w0: the format small_cnn_zoo has no such option"):
        get_zoo(config | {"importer": "small_cnn_zoo", "w0": 30.0})


def test_the_command_line_imports_a_set(classes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--root", classes["root"], "--name", "cifar"]
    command = ["zoo", "import", "siren_set", classes["folder"], *place]
    assert main([*command, "--w0", "5", "--split-points", "5", "7"]) == 0
    assert "22 networks in" in capsys.readouterr().out
    (path,) = Path(classes["root"]).glob("cifar-*/")
    assert load_zoo(path).fingerprint == get_zoo(classes | {"w0": 5.0, "split_points": [5, 7]}).fingerprint
    assert main(["zoo", "info", str(path)]) == 0
