"""Stacked training is ordinary training, done for many networks at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data import ImageData
from experiments.zoo.config import ZooConfig
from experiments.zoo.nets import ACTIVATION_MODULES, Architecture
from experiments.zoo.sampling import Recipe, initial_weights, stream, training_set
from experiments.zoo.stacked_mlp import StackedMLP
from experiments.zoo.training import DROPOUT_CHUNK, train_stack

Recipes = Callable[[ZooConfig], list[Recipe]]


class PlainDropout(nn.Module):
    """Drops by given factors instead of random ones."""

    factors: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


def plain_training(config: ZooConfig, recipe: Recipe, data: ImageData) -> dict[str, Tensor]:
    """One network, one module, one optimiser from torch.optim, in float64."""
    module = recipe.architecture.build().double()
    start = initial_weights(config, recipe)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in start.items()})
    dropouts = []
    layers: list[nn.Module] = []
    for layer in module:
        layers.append(layer)
        if not isinstance(layer, nn.Linear):
            dropouts.append(PlainDropout())
            layers.append(dropouts[-1])
    training = nn.Sequential(*layers)
    kinds: dict[str, Any] = {
        "sgd": (torch.optim.SGD, {}),
        "momentum": (torch.optim.SGD, {"momentum": 0.9}),
        "adam": (torch.optim.Adam, {}),
    }
    kind, options = kinds[recipe.optimiser]
    optimiser = kind(training.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, **options)
    seen = training_set(config, recipe, data)
    hidden = recipe.architecture.sizes[1:-1]
    generator = stream(config.seed, recipe.id, "dropout")
    shape = (DROPOUT_CHUNK, sum(hidden), config.batch_size)
    for step, images in enumerate(seen.batches):
        if recipe.dropout and step % DROPOUT_CHUNK == 0:
            drawn = np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
            factors = torch.tensor((drawn >= recipe.dropout * 256) / (1 - recipe.dropout))
        elif not recipe.dropout:
            factors = torch.ones(shape)
        for dropout, part in zip(dropouts, factors[step % DROPOUT_CHUNK].split(hidden), strict=True):
            dropout.factors = part.t()
        loss = F.cross_entropy(training(data.pool[images].flatten(1).double()), seen.labels[images])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach() for name, value in module.state_dict().items()}


def test_stacked_training_equals_torch_optim_network_by_network(
    small: Any, data: ImageData, recipes_of: Recipes
) -> None:
    config = ZooConfig.parse(small)
    recipes = recipes_of(config)
    assert {r.optimiser for r in recipes} == {"sgd", "momentum", "adam"}
    assert {r.architecture.activation for r in recipes} == {"relu", "tanh", "sigmoid"}
    assert any(r.dropout > 0 for r in recipes)
    stack = train_stack(config, recipes, data, dtype=torch.float64)
    found = stack.network.views(stack.weights)
    for row, recipe in enumerate(stack.recipes):
        start = initial_weights(config, recipe)
        for name, expected in plain_training(config, recipe, data).items():
            error = (found[name][row] - expected).abs().max() / expected.abs().max()
            # Adam divides by gradient + 1e-8, which magnifies the rounding of gradients that are almost zero.
            assert error < (1e-7 if recipe.optimiser == "adam" else 1e-11), (recipe, name)
            assert not np.allclose(expected.numpy(), start[name], atol=1e-6), "nothing was learned"


@pytest.mark.parametrize("sizes", [(5, 4), (5, 7, 3), (4, 6, 5, 7, 3)])
def test_gradients_written_by_hand_equal_autograd(sizes: tuple[int, ...]) -> None:
    names = sorted(ACTIVATION_MODULES)
    architectures = [Architecture("mlp", sizes, name) for name in names]
    network = StackedMLP(architectures)
    n, batch = len(names), 9
    flat = torch.randn(n, network.parameters, dtype=torch.float64)
    inputs = torch.randn(n, batch, sizes[0], dtype=torch.float64)
    labels = torch.randint(0, sizes[-1], (n, batch))
    keep = (torch.rand(n, network.hidden, batch) > 0.3).double() / 0.7
    for mask, row in product((None, keep), range(n)):
        out = torch.full_like(flat, torch.nan)
        losses = network.gradients(flat, inputs, labels, mask, out)
        weights = {k: v[row].clone().requires_grad_() for k, v in network.views(flat).items()}
        values = inputs[row]
        factors = [None] * len(sizes[1:-1]) if mask is None else mask[row].split(sizes[1:-1])
        tensors = list(weights.values())
        for layer, (weight, bias) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            values = F.linear(values, weight, bias)
            if layer < len(factors):
                values = ACTIVATION_MODULES[names[row]]()(values)
                factor = factors[layer]
                values = values if factor is None else values * factor.t()
        loss = F.cross_entropy(values, labels[row])
        loss.backward()
        assert torch.allclose(losses[row], loss, rtol=1e-12)
        for name, tensor in network.views(out).items():
            gradient = weights[name].grad
            assert gradient is not None
            assert (tensor[row] - gradient).abs().max() < 1e-12 * (1 + gradient.abs().max())


def test_logits_equal_the_modules(small: Any, data: ImageData) -> None:
    architectures = [Architecture("mlp", (16, 8, 10), name) for name in sorted(ACTIVATION_MODULES)]
    network = StackedMLP(architectures)
    flat = torch.randn(len(architectures), network.parameters, dtype=torch.float64)
    inputs = data.test.flatten(1).double()
    logits = network.logits(flat, inputs)
    for row, architecture in enumerate(architectures):
        module = architecture.build().double()
        module.load_state_dict({name: value[row] for name, value in network.views(flat).items()})
        assert torch.allclose(logits[row].t(), module(inputs), atol=1e-12)


def test_a_network_does_not_depend_on_its_stack(small: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(small)
    recipes = recipes_of(config)
    together = train_stack(config, recipes, data)
    place = {recipe.id: row for row, recipe in enumerate(together.recipes)}
    for size in (1, 5):
        for start in range(0, len(recipes), size):
            part = train_stack(config, recipes[start : start + size], data)
            for row, recipe in enumerate(part.recipes):
                assert torch.equal(part.weights[row], together.weights[place[recipe.id]])


def test_a_diverging_network_harms_no_other(small: Any, data: ImageData, recipes_of: Recipes) -> None:
    config = ZooConfig.parse(small)
    recipes = [dataclasses.replace(r, dropout=0.0) for r in recipes_of(config)[:6]]
    alone = train_stack(config, recipes[1:], data)
    wild = dataclasses.replace(recipes[0], optimiser="momentum", learning_rate=1e30, steps=25)
    together = train_stack(config, [wild, *recipes[1:]], data)
    place = {recipe.id: row for row, recipe in enumerate(together.recipes)}
    assert not together.weights[place[wild.id]].isfinite().all()
    for row, recipe in enumerate(alone.recipes):
        assert torch.equal(alone.weights[row], together.weights[place[recipe.id]])


def test_one_topology_per_stack() -> None:
    with pytest.raises(ValueError, match="same topology"):
        StackedMLP([Architecture("mlp", (4, 3), "relu"), Architecture("mlp", (4, 5, 3), "relu")])
