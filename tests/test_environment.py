"""The conditions that conftest.py promises to every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from experiments.zoo import Zoo

seen: list[tuple[float, float]] = []


def test_one_thread_a_worker() -> None:
    assert torch.get_num_threads() == 1


def test_seeds_are_fixed() -> None:
    seen.append((torch.rand(()).item(), float(np.random.rand())))  # noqa: NPY002


def test_seeds_are_fixed_for_each_test_anew(seeded: torch.Generator) -> None:
    first = torch.rand(()).item()
    assert torch.rand((), generator=seeded).item() == first
    assert all(pair[0] == first for pair in seen)


def test_tiny_zoo_is_a_zoo(tiny_zoo: Zoo) -> None:
    records = tiny_zoo.records
    assert set(records["split"]) == {"train", "val", "test"}
    assert records["test_accuracy"].std() > 0.02, "the networks are all alike"
    assert 0.2 < records["test_accuracy"].max() < 1
    for architecture in tiny_zoo.structures:
        weights = tiny_zoo.weights(architecture)
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
