"""Convolutional and residual networks trained in a stack are what torch's own modules and optimisers make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data import ImageData
from experiments.zoo import get_zoo, stacked_conv
from experiments.zoo.config import ZooConfig
from experiments.zoo.nets import ACTIVATION_MODULES, Architecture
from experiments.zoo.residual import ResidualBlock
from experiments.zoo.sampling import Recipe, initial_weights, stream, training_set
from experiments.zoo.stacked_conv import StackedConv
from experiments.zoo.training import DROPOUT_CHUNK, train_stack

Recipes = Callable[[ZooConfig], list[Recipe]]
FAMILIES: dict[str, dict[str, Any]] = {
    "cnn": {"family": "cnn", "hidden": [5, 3], "strides": [1, 2], "padding": 1},
    "cnn_bn": {"family": "cnn_bn", "hidden": [4, 3], "strides": [2, 1], "padding": 1},
    "resnet": {"family": "resnet", "hidden": [3, 3, 4], "strides": [1, 1, 2]},
}


@pytest.fixture(params=list(FAMILIES))
def conv(request: pytest.FixtureRequest, small: dict[str, Any]) -> dict[str, Any]:
    """A small configuration of each family."""
    small["architecture"] = FAMILIES[request.param] | {"activation": ["tanh", "gelu"]}
    small["ranges"]["steps"] = {"uniform": [3, 12]}
    return small | {"size": 14, "batch_size": 8}


def forward(module: nn.Sequential, x: Tensor, factors: list[Tensor] | None) -> Tensor:
    """The module, with channels multiplied by ``factors [B, C]`` after every hidden layer."""
    remaining: Iterator[Tensor] = iter(factors or [])
    activations = tuple(type(make()) for make in ACTIVATION_MODULES.values())
    for layer in module:
        x = layer(x)
        if factors is not None and isinstance(layer, (*activations, ResidualBlock)):
            x = x * next(remaining)[:, :, None, None]
    assert next(remaining, None) is None
    return x


def plain_training(config: ZooConfig, recipe: Recipe, data: ImageData) -> dict[str, Tensor]:
    module = recipe.architecture.build()
    start = initial_weights(config, recipe)
    module.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in start.items()})
    module = module.double()
    module.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in start.items()})
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam}
    options = {"momentum": 0.9} if recipe.optimiser == "momentum" else {}
    optimiser = kinds[recipe.optimiser](
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, **options
    )
    seen = training_set(config, recipe, data)
    hidden = recipe.architecture.sizes[1:-1]
    generator = stream(config.seed, recipe.id, "dropout")
    shape = (DROPOUT_CHUNK, sum(hidden), config.batch_size)
    drawn = torch.ones(shape, dtype=torch.float64)
    for step, images in enumerate(seen.batches):
        if recipe.dropout and step % DROPOUT_CHUNK == 0:
            numbers = np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
            drawn = torch.tensor((numbers >= recipe.dropout * 256) / (1 - recipe.dropout))
        factors = [part.t() for part in drawn[step % DROPOUT_CHUNK].split(hidden)]
        loss = F.cross_entropy(forward(module, data.pool[images].double(), factors), seen.labels[images])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach() for name, value in module.state_dict().items()}


def test_stacked_training_equals_torch_optim_network_by_network(
    conv: Any, data: ImageData, recipes_of: Recipes
) -> None:
    config = ZooConfig.parse(conv)
    recipes = recipes_of(config)
    assert {r.optimiser for r in recipes} == {"sgd", "momentum", "adam"}
    assert len({r.architecture.activation for r in recipes}) == 2
    assert any(r.dropout > 0 for r in recipes)
    stack = train_stack(config, recipes, data, dtype=torch.float64)
    found = stack.network.state(stack.weights)
    for row, recipe in enumerate(stack.recipes):
        start = initial_weights(config, recipe)
        expected = plain_training(config, recipe, data)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            if value.dtype == torch.int64:
                assert int(found[name][row]) == int(value) == recipe.steps
                continue
            error = (found[name][row] - value).abs().max() / value.abs().max()
            assert error < (1e-6 if recipe.optimiser == "adam" else 1e-10), (recipe, name)
            assert not np.allclose(value.numpy(), start[name], atol=1e-7), "nothing was learned"


def test_logits_equal_the_modules(conv: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(conv)
    stack = train_stack(config, recipes_of(config), data)
    logits = stack.network.logits(stack.weights, data.test)
    state = stack.network.state(stack.weights)
    for row, recipe in enumerate(stack.recipes):
        module = recipe.architecture.build()
        module.load_state_dict({name: value[row] for name, value in state.items()})
        with torch.no_grad():
            expected = module.eval()(data.test)
        assert (logits[row].t() - expected).abs().max() < 1e-4 * (1 + expected.abs().max())


def test_a_stack_gives_the_same_bits_and_a_part_of_it_the_same_up_to_rounding(
    conv: Any, data: ImageData, recipes_of: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ZooConfig.parse(conv)
    recipes = recipes_of(config)
    together = train_stack(config, recipes, data)
    assert torch.equal(together.weights, train_stack(config, recipes[::-1], data).weights)
    exact = train_stack(config, recipes, data, dtype=torch.float64)
    place = {recipe.id: row for row, recipe in enumerate(exact.recipes)}
    monkeypatch.setattr(stacked_conv, "TRAINED_AT_ONCE", 4)
    for size in (1, 3, 10):
        for start in range(0, len(recipes), size):
            part = train_stack(config, recipes[start : start + size], data, dtype=torch.float64)
            for row, recipe in enumerate(part.recipes):
                error = (part.weights[row] - exact.weights[place[recipe.id]]).abs().max()
                assert error < 1e-7, (recipe, size)


def test_a_diverging_network_harms_no_other(conv: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(conv)
    recipes = [dataclasses.replace(r, dropout=0.0) for r in recipes_of(config)[:5]]
    alone = train_stack(config, recipes[1:], data, dtype=torch.float64)
    wild = dataclasses.replace(recipes[0], optimiser="momentum", learning_rate=1e300, steps=12)
    together = train_stack(config, [wild, *recipes[1:]], data, dtype=torch.float64)
    place = {recipe.id: row for row, recipe in enumerate(together.recipes)}
    assert not together.weights[place[wild.id]].isfinite().all()
    for row, recipe in enumerate(alone.recipes):
        assert torch.allclose(alone.weights[row], together.weights[place[recipe.id]], rtol=0, atol=1e-7)


def test_a_lost_shard_is_restored_bit_for_bit(conv: Any, tmp_path: Path) -> None:
    zoo = get_zoo(conv, tmp_path, progress=False)
    files = {path: path.read_bytes() for path in (zoo.path / "weights").iterdir()}
    assert len(files) > 2
    for path in files:
        path.unlink()
        get_zoo(conv, tmp_path, progress=False)
        assert {each: each.read_bytes() for each in (zoo.path / "weights").iterdir()} == files


def test_the_loss_is_that_of_each_network_and_buffers_are_not_trained(conv: Any, data: ImageData) -> None:
    from experiments.zoo.nets import architectures_of

    architectures = architectures_of(conv["architecture"], data.image_shape, data.classes)
    network = StackedConv(architectures)
    flat = torch.randn(2, network.parameters, dtype=torch.float64)
    for name in architectures[0].buffers:
        network.views(flat)[name].abs_()
    out = torch.full_like(flat, torch.nan)
    images, labels = data.pool[:12].double().view(2, 6, *data.image_shape), data.pool_labels[:12].view(2, 6)
    before = network.state(flat.clone())
    losses = network.gradients(flat, images, labels, None, out)
    assert bool(out[:, : network.trained].isfinite().all())
    for row, architecture in enumerate(architectures):
        module = architecture.build().double()
        module.load_state_dict({name: value[row] for name, value in before.items()})
        loss = F.cross_entropy(module(images[row]), labels[row])
        loss.backward()
        assert torch.allclose(losses[row], loss, rtol=1e-9)
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            error = (network.views(out)[name][row] - parameter.grad).abs().max()
            assert error < 1e-9 * (1 + parameter.grad.abs().max()), name
        for name, buffer in module.named_buffers():
            assert torch.allclose(network.views(flat)[name][row].to(buffer.dtype), buffer), name


def test_one_topology_per_stack() -> None:
    with pytest.raises(ValueError, match="StackedConv: the networks of a stack must have the same topology"):
        StackedConv([Architecture("cnn", (1, 4, 3), "relu", (stride,), 1) for stride in (1, 2)])
