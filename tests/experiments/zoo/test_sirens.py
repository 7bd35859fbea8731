"""SIRENs fitted together equal SIRENs fitted one by one, and a zoo of them is the same however it is made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from converters import trace, verify
from experiments.zoo import (
    Sine,
    SirenArchitecture,
    SirenConfig,
    Zoo,
    ZooConfigError,
    ZooDataset,
    ZooError,
    get_zoo,
    info,
)
from experiments.zoo import verify as verify_zoo
from experiments.zoo.sirens.fitting import StackedSirens, fit_stack, learning_rate
from experiments.zoo.sirens.network import grid, initial_siren
from experiments.zoo.sirens.signals import Signals, targets_of
from tests.experiments.zoo.configs import CONFIGS, of_kind

SMALL: dict[str, Any] = {
    "kind": "siren",
    "name": "small_siren",
    "data": {"name": "digits", "pooling": 2, "test_images": 500},
    "pixels": [4, 4],
    "width": 8,
    "steps": 20,
    "learning_rate": 5e-3,
    "copies": 2,
    "validation": 0.2,
    "limit": 40,
    "stack_size": 50,
    "executor": "in_process",
}
ARCHITECTURE = SirenArchitecture("siren", (2, 8, 6, 3), "sine", w0=7.0)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("sirens"), progress=False)


def starts(count: int, variant: str = "sitzmann") -> torch.Tensor:
    rows = [initial_siren(ARCHITECTURE, variant, np.random.default_rng(seed)) for seed in range(count)]
    return torch.from_numpy(np.stack(rows))


def module_of(row: torch.Tensor) -> nn.Sequential:
    module = ARCHITECTURE.build().to(row.dtype)
    torch.nn.utils.vector_to_parameters(row.clone(), module.parameters())
    return module


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_stack_equals_a_plain_loop(schedule: str) -> None:
    steps, rate, images = 12, 3e-3, torch.rand(4, 3, 3, 5, dtype=torch.float64)
    signals = Signals(grid(3, 5, dtype=torch.float64), images.flatten(2))
    found, errors = fit_stack(ARCHITECTURE, starts(4), signals, steps, rate, schedule)
    for start, row, image, error in zip(starts(4), found, images, errors, strict=True):
        module = module_of(start)
        optimiser = torch.optim.Adam(module.parameters(), lr=rate)
        target, inputs = image.flatten(1).t(), grid(3, 5, dtype=torch.float64)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = learning_rate(rate, schedule, step, steps)
            optimiser.zero_grad()
            functional.mse_loss(module(inputs), target).backward()
            optimiser.step()
        plain = torch.nn.utils.parameters_to_vector(module.parameters())
        assert torch.allclose(row, plain, rtol=0, atol=1e-10)
        assert not torch.allclose(row, start, atol=1e-3)
        assert float(error) == pytest.approx(functional.mse_loss(module(inputs), target).item(), abs=1e-12)


def test_gradients_and_pictures_are_those_of_autograd() -> None:
    flat, images = starts(3), torch.rand(3, 3, 20, dtype=torch.float64)
    network, out = (
        StackedSirens(ARCHITECTURE, grid(4, 5, dtype=torch.float64), torch.float64),
        torch.empty_like(starts(3)),
    )
    network.gradients(flat, images, out)
    for row, image, gradient, drawn in zip(flat, images, out, network.render(flat), strict=True):
        module = module_of(row)
        picture = module(grid(4, 5, dtype=torch.float64)).t()
        assert torch.allclose(drawn, picture, atol=1e-12)
        functional.mse_loss(picture, image).backward()
        own = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
        assert torch.allclose(gradient, own, atol=1e-12)


def test_each_signal_may_have_places_of_its_own() -> None:
    places, values = torch.rand(3, 20, 2, dtype=torch.float64), torch.rand(3, 3, 20, dtype=torch.float64)
    found, errors = fit_stack(ARCHITECTURE, starts(3), Signals(places, values), 5, 1e-2, "constant")
    for number in range(3):
        alone = Signals(places[number], values[number : number + 1])
        own, error = fit_stack(ARCHITECTURE, starts(3)[number : number + 1], alone, 5, 1e-2, "constant")
        assert torch.allclose(own[0], found[number], atol=1e-10)
        assert float(error) == pytest.approx(float(errors[number]))


@pytest.mark.parametrize("variant", ["sitzmann", "siren_pytorch"])
def test_starts_have_the_ranges_of_the_paper(variant: str) -> None:
    tensors = module_of(starts(1, variant)[0]).state_dict()
    bounds = {"0.weight": 1 / 2, "2.weight": math.sqrt(6 / 8) / 7, "4.weight": math.sqrt(6 / 6) / 7}
    for name, bound in bounds.items():
        assert 0.7 * bound < float(tensors[name].abs().max()) <= bound
        inputs = tensors[name].shape[1]
        spread = bound if variant == "siren_pytorch" else inputs**-0.5
        assert float(tensors[name.replace("weight", "bias")].abs().max()) <= spread


def test_the_hidden_neurons_of_a_traced_siren_may_be_permuted() -> None:
    module = nn.Sequential(nn.Linear(2, 8), Sine(30.0), nn.Linear(8, 6), Sine(30.0), nn.Linear(6, 3))
    structure = trace(module, torch.zeros(1, 2), strict=True)
    assert [group.size for group in structure.groups if group.permutable] == [8, 6]
    assert [layer.activation for layer in structure.layers] == ["identity", "sin", "sin", "identity"]
    other = nn.Sequential(nn.Linear(2, 8), Sine(1.0), nn.Linear(8, 6), Sine(1.0), nn.Linear(6, 3))
    assert trace(other, torch.zeros(1, 2)).fingerprint != structure.fingerprint
    report = verify(module, torch.randn(4, 2))
    assert report.sound
    assert report.control > 1e-3


def test_a_zoo_of_sirens_holds_what_was_asked_for(zoo: Zoo) -> None:
    records = zoo.records
    assert records["split"].value_counts().to_dict() == {"train": 64, "test": 40, "val": 8}
    assert records.groupby("image")["split"].nunique().max() == 1
    assert records.groupby("image").size().value_counts().to_dict() == {1: 48, 2: 32}
    assert (records["run"] == records["image"]).all()
    images, labels = targets_of(_data())
    assert records["label"].tolist() == labels[records["image"].tolist()].tolist()
    assert float(images.min()) == -1.0
    assert float(images[: len(_data().pool)].max()) == pytest.approx(1.0)
    assert records["psnr"].between(5, 100).all()
    report = verify_zoo(zoo.path, networks=6)
    assert report.ok, report
    assert info(zoo.path)["properties"].keys() == {"psnr"}
    graphs, target = ZooDataset(zoo, "val", ["label"]).batch([0, 3])
    assert graphs.num_graphs == 2
    assert target.shape == (2, 1)


def _data() -> Any:
    from experiments.data import load_images

    return load_images(SMALL["data"])


def test_two_copies_of_an_image_differ_unless_they_share_their_start(zoo: Zoo, tmp_path: Path) -> None:
    shared = get_zoo({**SMALL, "initialisation": "shared", "steps": 2}, tmp_path, progress=False)
    for each, equal in ((zoo, False), (shared, True)):
        twins = each.records[each.records["image"] == each.records.loc[each.records["copy"] == 1, "image"].iloc[0]]
        weights = each.weights(each.records["architecture"][0], twins["id"].to_numpy())
        assert torch.allclose(weights["0.weight"][0], weights["0.weight"][1]) == equal


def test_a_zoo_is_the_same_in_pieces_of_any_size_and_after_an_interruption(zoo: Zoo, tmp_path: Path) -> None:
    again = get_zoo(SMALL, tmp_path / "again", progress=False)
    files = sorted(path.relative_to(zoo.path) for path in zoo.path.rglob("*") if path.is_file())
    shards = [again.path / file for file in files if file.suffix == ".safetensors"]
    shards[0].write_bytes(b"damaged")
    shards[1].unlink()
    again = get_zoo(SMALL, tmp_path / "again", progress=False)
    assert all((zoo.path / file).read_bytes() == (again.path / file).read_bytes() for file in files)
    pieces = get_zoo({**SMALL, "stack_size": 30}, tmp_path / "pieces", progress=False)
    other = get_zoo({**SMALL, "seed": 1}, tmp_path / "other", progress=False)
    name = zoo.records["architecture"][0]
    first, second, third = (each.weights(name)["2.weight"] for each in (zoo, pieces, other))
    assert torch.allclose(first, second, atol=1e-4)
    assert not torch.allclose(first, third, atol=1e-2)


def test_a_wrong_configuration_is_named_in_full(tmp_path: Path) -> None:
    wrong = {**SMALL, "variant": "cosine", "copies": 0, "validation": 1.0, "w0": -1, "pixels": [8], "sise": 3}
    with pytest.raises(ZooConfigError, match="sise: unknown; known are name, data, pixels"):
        SirenConfig.parse(wrong)
    wrong.pop("sise")
    with pytest.raises(ZooConfigError) as caught:
        SirenConfig.parse(wrong)
    for part in (
        "variant: 'cosine' is not one of sitzmann, siren_pytorch",
        "copies: 0 is not a positive integer",
        "w0: -1 is not a positive number",
        "validation: 1.0 does not lie between 0 and 1",
        r"pixels: [8] is not [height, width]",
    ):
        assert part in str(caught.value)
    with pytest.raises(ZooError, match=r"the images have 4 x 4 pixels, zoo.pixels says \[8, 8\]"):
        get_zoo({**SMALL, "pixels": [8, 8]}, tmp_path, progress=False)


@pytest.mark.parametrize("name", of_kind(SirenConfig))
def test_every_siren_config_comes_back(name: str) -> None:
    config = CONFIGS[name]
    assert config.fingerprint == SirenConfig.parse(config.to_dict()).fingerprint
