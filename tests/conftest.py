"""What every test stands on: one thread a worker, fixed seeds, and one small zoo for all workers together."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # read when the libraries load, hence before their import
os.environ.setdefault("MPLBACKEND", "Agg")

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from experiments.zoo import Zoo

SEED = 20240229
# Hyper-parameters vary as in the real zoos, so that something can be learnt from 60 networks of 300 weights.
TINY_ZOO: dict[str, Any] = {
    "name": "tiny",
    "size": 60,
    "seed": 0,
    "data": {"name": "digits", "pooling": 2, "test_images": 797, "seed": 0, "shift": 1},
    "architecture": {"family": "mlp", "hidden": [8, 8], "activation": ["relu", "tanh"]},
    "ranges": {
        "optimiser": ["sgd", "momentum", "adam"],
        "learning_rate": {
            "sgd": {"log": [0.03, 3.0]},
            "momentum": {"log": [0.005, 0.5]},
            "adam": {"log": [0.001, 0.1]},
        },
        "weight_decay": {"log": [1e-6, 1e-2]},
        "initial_scale": {"log": [0.3, 3.0]},
        "dropout": {"uniform": [0.0, 0.4], "zero": 0.4},
        "label_noise": {"uniform": [0.0, 0.4], "zero": 0.2},
        "train_fraction": {"log": [0.03, 1.0]},
        "steps": {"uniform": [10, 60]},
    },
    "properties": {"weight_noise": 0.4, "weight_noise_draws": 2, "input_noise": 0.5, "input_noise_draws": 2},
    "splits": {"train": 0.6, "val": 0.2, "test": 0.2},
    "stack_size": 30,
    "executor": "in_process",
}

torch.set_num_threads(1)
# Times on a shared machine say nothing about a law, so no example has a deadline.
settings.register_profile(
    "graphnets",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("graphnets")


@pytest.fixture(autouse=True)
def seeded() -> torch.Generator:
    """Seeds every global source of randomness before each test; hands over a generator of the same seed."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - libraries under test draw from the global state
    torch.manual_seed(SEED)
    return torch.Generator().manual_seed(SEED)


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A zoo of 60 digit perceptrons: the first worker that needs it makes it, all read it.

    It belongs to one run of the tests, so no test ever sees networks of an older generator. Do not change it.
    """
    from experiments.zoo import generate

    own = tmp_path_factory.getbasetemp()
    root = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "zoos"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / "tiny.lock"):
        return generate(TINY_ZOO, root, progress=False)
