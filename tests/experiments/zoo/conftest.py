from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from experiments.data import ImageData, load_images
from experiments.zoo.config import ZooConfig
from experiments.zoo.nets import architectures_of
from experiments.zoo.sampling import Recipe, draw_recipe

SMALL: dict[str, Any] = {
    "name": "small",
    "size": 24,
    "data": {"name": "digits", "pooling": 2},
    "architecture": {"family": "mlp", "hidden": [8, 6], "activation": ["relu", "tanh", "sigmoid"]},
    "ranges": {
        "optimiser": ["sgd", "momentum", "adam"],
        "learning_rate": {
            "sgd": {"log": [0.02, 2.0]},
            "momentum": {"log": [0.005, 0.5]},
            "adam": {"log": [0.001, 0.1]},
        },
        "weight_decay": {"log": [1e-6, 1e-2]},
        "initial_scale": {"log": [0.5, 2.0]},
        "dropout": {"uniform": [0.0, 0.5], "zero": 0.3},
        "label_noise": {"uniform": [0.0, 0.4]},
        "train_fraction": {"log": [0.03, 1.0]},
        "steps": {"uniform": [4, 25]},
    },
    "batch_size": 16,
    "stack_size": 8,
    "properties": {"weight_noise_draws": 2, "input_noise_draws": 1},
    "executor": "in_process",
}


@pytest.fixture
def small() -> dict[str, Any]:
    """A configuration that trains in a second; change it freely."""
    return copy.deepcopy(SMALL)


@pytest.fixture(scope="session")
def data() -> ImageData:
    return load_images(SMALL["data"])


@pytest.fixture
def recipes_of(data: ImageData) -> Callable[[ZooConfig], list[Recipe]]:
    """Every recipe of a configuration."""

    def draw_all(config: ZooConfig) -> list[Recipe]:
        architectures = architectures_of(config.architecture, data.image_shape, data.classes)
        return [draw_recipe(config, architectures, network) for network in range(config.size)]

    return draw_all
