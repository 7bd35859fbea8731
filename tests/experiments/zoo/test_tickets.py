"""Pruned networks train as they would one by one, and a zoo of tickets holds what pruning found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.data import ImageData, load_images
from experiments.zoo import TicketConfig, Zoo, ZooConfig, ZooConfigError, ZooError, get_zoo, info, verify
from experiments.zoo.parsing import parse_zoo
from experiments.zoo.sampling import Recipe, initial_weights, training_set
from experiments.zoo.tickets.pruning import find_tickets, held_out_accuracy, largest, ticket_accuracies
from experiments.zoo.training import train_stack
from tests.experiments.zoo.configs import CONFIGS, of_kind

SMALL: dict[str, Any] = {
    "kind": "tickets",
    "name": "small_tickets",
    "size": 12,
    "data": {"name": "digits", "pooling": 2},
    "architecture": {"family": "mlp", "hidden": [12, 10], "activation": "relu"},
    "ranges": {
        "optimiser": "adam",
        "learning_rate": 1e-2,
        "weight_decay": 1e-3,
        "initial_scale": 1.0,
        "dropout": 0.0,
        "label_noise": 0.0,
        "train_fraction": 1.0,
        "steps": 30,
    },
    "batch_size": 16,
    "stack_size": 7,
    "sparsity": 0.8,
    "executor": "in_process",
}
CNN: dict[str, Any] = {"family": "cnn", "hidden": [4, 4], "activation": "relu"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return get_zoo(SMALL, tmp_path_factory.mktemp("tickets"), progress=False)


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load_images(SMALL["data"])


def plain_training(config: ZooConfig, recipe: Recipe, mask: Tensor, data: ImageData) -> nn.Sequential:
    """One network, masked before every step, with torch's own optimiser."""
    module = recipe.architecture.build().double()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in initial_weights(config, recipe).items()})
    parameters = list(module.parameters())
    masks = [part.view_as(p) for part, p in zip(mask.split([p.numel() for p in parameters]), parameters, strict=True)]
    seen = training_set(config, recipe, data)
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    inputs = recipe.architecture.prepare(data.pool).double()
    for batch in seen.batches:
        with torch.no_grad():
            for parameter, part in zip(parameters, masks, strict=True):
                parameter *= part
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(inputs[batch]), seen.labels[batch]).backward()
        optimiser.step()
    with torch.no_grad():
        for parameter, part in zip(parameters, masks, strict=True):
            parameter *= part
    return module


@pytest.mark.parametrize("architecture", [SMALL["architecture"], CNN], ids=["mlp", "cnn"])
def test_pruned_networks_equal_those_trained_one_by_one(
    architecture: dict[str, Any], images: ImageData, recipes_of: Callable[[ZooConfig], list[Recipe]]
) -> None:
    config = TicketConfig.parse({**SMALL, "architecture": architecture})
    recipes = [dataclasses.replace(recipe, steps=6) for recipe in recipes_of(config)[:4]][::-1]
    shapes = recipes[0].architecture.shapes.values()
    masks = torch.rand(4, sum(torch.Size(shape).numel() for shape in shapes)) < 0.4
    stack = train_stack(config, recipes, images, torch.float64, masks)
    assert [recipe.id for recipe in stack.recipes] == [0, 1, 2, 3]
    for row, recipe in enumerate(stack.recipes):
        mask = masks[recipes.index(recipe)]
        plain = nn.utils.parameters_to_vector(plain_training(config, recipe, mask, images).parameters())
        assert torch.allclose(stack.weights[row], plain, atol=1e-10)
        assert (stack.weights[row][~mask] == 0).all()
        assert (stack.weights[row][mask] != 0).any()


def test_tickets_are_the_largest_trained_weights_on_the_initial_ones(
    images: ImageData, recipes_of: Callable[[ZooConfig], list[Recipe]]
) -> None:
    config = TicketConfig.parse(SMALL)
    recipes = recipes_of(config)[:5]
    start, found, masks = find_tickets(config, recipes, images)
    dense = train_stack(config, recipes, images)
    for row in range(5):
        sizes = dense.weights[row].abs()
        assert float(sizes[masks[row]].min()) >= float(sizes[~masks[row]].max())
        first = torch.cat([torch.from_numpy(v).flatten() for v in initial_weights(config, recipes[row]).values()])
        assert torch.equal(start.weights[row], first.float())
    assert masks.sum(1).tolist() == [round(0.2 * masks.shape[1])] * 5
    assert torch.equal(found.values["dense_accuracy"], held_out_accuracy(dense, images))
    everything = torch.ones_like(masks)
    assert torch.equal(ticket_accuracies(config, recipes, everything, images), held_out_accuracy(dense, images))
    assert float(found.values["ticket_accuracy"].mean()) > 0.2
    turned = ticket_accuracies(config, recipes[::-1], masks.flip(0), images)
    assert torch.equal(turned.flip(0), found.values["ticket_accuracy"])


def test_a_network_without_a_way_to_its_outputs_says_the_first_class(
    images: ImageData, recipes_of: Callable[[ZooConfig], list[Recipe]]
) -> None:
    config = TicketConfig.parse(SMALL)
    recipes = recipes_of(config)[:2]
    size = sum(torch.Size(shape).numel() for shape in recipes[0].architecture.shapes.values())
    found = ticket_accuracies(config, recipes, torch.zeros(2, size, dtype=torch.bool), images)
    assert torch.allclose(found, (images.test_labels == 0).double().mean())


def test_as_many_are_the_largest_as_asked_for() -> None:
    scores = torch.randn(4, 50)
    found = largest(scores, 0.3)
    assert found.sum(1).tolist() == [15] * 4
    for row, mask in zip(scores, found, strict=True):
        assert float(row[mask].min()) > float(row[~mask].max())


def test_a_zoo_of_tickets_holds_initial_weights_masks_and_accuracies(zoo: Zoo, tmp_path: Path) -> None:
    (name,) = zoo.architectures
    weights, masks = zoo.weights(name), zoo.masks(name, [3, 1])
    assert weights.keys() == masks.keys()
    assert all(mask.dtype == torch.bool and len(mask) == 2 for mask in masks.values())
    total = sum(mask[0].numel() for mask in masks.values())
    assert sum(int(mask[0].sum()) for mask in masks.values()) == round(0.2 * total)
    assert all(torch.equal(zoo.masks(name)[key][[3, 1]], mask) for key, mask in masks.items())
    assert float(weights["0.weight"].abs().max()) <= 0.25
    assert zoo.records[["dense_accuracy", "ticket_accuracy"]].mean().between(0.2, 1).all()
    assert info(zoo.path)["properties"].keys() == {"dense_accuracy", "ticket_accuracy"}
    report = verify(zoo.path, 4)
    assert report.ok, report
    files = sorted(path.relative_to(zoo.path) for path in zoo.path.rglob("*") if path.is_file())
    again = get_zoo(SMALL, tmp_path, progress=False)
    (again.path / files[-1]).unlink()
    again = get_zoo(SMALL, tmp_path, progress=False)
    assert all((zoo.path / file).read_bytes() == (again.path / file).read_bytes() for file in files)


def test_a_zoo_without_masks_says_so(tiny_zoo: Zoo) -> None:
    with pytest.raises(ZooError, match=r"mask/0.weight should have shape \(8, 16\), found nothing"):
        tiny_zoo.masks(tiny_zoo.records["architecture"][0])


def test_a_changed_mask_is_noticed(tmp_path: Path) -> None:
    zoo = get_zoo(SMALL, tmp_path, progress=False)
    path = sorted((zoo.path / "weights").glob("*.safetensors"))[0]
    with safe_open(path, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata()
        tensors = {name: file.get_tensor(name) for name in names}
    tensors["mask/0.weight"][0] = ~tensors["mask/0.weight"][0]
    save_file(tensors, path, metadata)
    faults = verify(zoo.path, 12).faults
    assert any("its checksum is not the recorded one" in fault for fault in faults)
    changed = json.loads((zoo.path / "zoo.json").read_text())
    shard = next(each for each in changed["shards"] if each["file"] == path.name)
    shard["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (zoo.path / "zoo.json").write_text(json.dumps(changed))
    faults = verify(zoo.path, 12).faults
    assert any("network 0: its mask keeps" in fault for fault in faults)


def test_wrong_configurations_are_named_in_full() -> None:
    wrong = {**SMALL, "sparsity": 1.0, "checkpoints": 2, "batch_size": 0}
    wrong["architecture"] = {"family": "resnet", "hidden": [4], "activation": "relu"}
    with pytest.raises(ZooConfigError) as caught:
        parse_zoo(wrong)
    for part in (
        "batch_size: 0 is not a positive integer",
        "sparsity: 1.0 does not lie between 0 and 1",
        "architecture.family: tickets are drawn of one of mlp, cnn",
        "checkpoints: 2 is not 1; a ticket belongs to an initialisation",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", of_kind(TicketConfig))
def test_every_config_of_tickets_is_right(name: str) -> None:
    config = CONFIGS[name]
    assert config.sparsity == 0.95
    assert config.fingerprint == TicketConfig.parse(config.to_dict()).fingerprint
    assert config.fingerprint != dataclasses.replace(config, sparsity=0.9).fingerprint
