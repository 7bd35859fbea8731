"""A stack of networks is converted by the same few tensor operations, however many networks there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from converters import execute, permute, sample_permutation, to_graphs, to_state_dict, weight_space
from tests.converters.laws import case, random_state


class Counter(TorchDispatchMode):
    """Counts tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(action: Callable[[], Any]) -> int:
    """How many tensor operations ``action`` makes once everything that can be cached is."""
    action()
    with Counter() as counter:
        action()
    return counter.count


def stack(name: str, count: int) -> dict[str, Tensor]:
    state = random_state(case(name).model, dtype=torch.float32)
    return {
        key: value.expand(count, *value.shape) + torch.arange(count).reshape(-1, *[1] * value.dim()) / count
        if value.is_floating_point()
        else value.expand(count, *value.shape).contiguous()
        for key, value in state.items()
    }


NAMES = ["mlp", "cnn_batch_norm", "shared", "odds"]


@pytest.mark.parametrize("name", NAMES)
def test_no_loop_over_networks(name: str) -> None:
    structure = case(name).structure
    few, many = stack(name, 20), stack(name, 2000)
    counts = [operations(lambda weights=weights: to_graphs(weights, structure)) for weights in (few, many)]
    assert counts[0] == counts[1] < 40 * (len(structure.parameters) + len(structure.blocks) + 10)


@pytest.mark.parametrize("name", NAMES)
def test_no_loop_on_the_way_back(name: str) -> None:
    structure = case(name).structure
    batches = [to_graphs(stack(name, count), structure) for count in (20, 2000)]
    permutation = sample_permutation(structure)
    actions: list[Callable[[Any], Any]] = [
        to_state_dict,
        lambda batch: permute(batch, permutation),
        lambda batch: weight_space(batch, structure),
    ]
    for action in actions:
        counts = [operations(lambda batch=batch, action=action: action(batch)) for batch in batches]
        assert counts[0] == counts[1]


def test_execution_has_no_loop_over_networks() -> None:
    c = case("mlp")
    few, many = stack("mlp", 20), stack("mlp", 2000)
    counts = [operations(lambda w=w: execute(w, *c.args, structure=c.structure)) for w in (few, many)]
    assert counts[0] == counts[1]


def test_two_thousand_networks_come_back() -> None:
    structure, weights = case("mlp").structure, stack("mlp", 2000)
    batch = to_graphs(weights, structure)
    back = to_state_dict(batch)
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    for i in (0, 1, 999, 1999):
        one = to_state_dict(batch[i])
        assert all(torch.equal(one[key], value[i]) for key, value in weights.items())


def test_the_dense_view_of_a_stack() -> None:
    structure, weights = case("cnn_batch_norm").structure, stack("cnn_batch_norm", 4)
    features = weight_space(weights, structure)
    trained = [p.name for p in structure.parameters if not p.buffer]
    assert list(features) == trained
    for key in trained:
        assert torch.equal(features[key], weights[key].unsqueeze(-1))
    both = weight_space([weights, to_graphs(weights, structure)], structure, buffers=True)
    assert both.channels == 2
    assert both.batch_size == 4
    assert "1.running_var" in both
    assert "1.num_batches_tracked" not in both
    assert all(torch.equal(tensor[..., 0], tensor[..., 1]) for tensor in both.values())
    assert all(torch.equal(features.to_weights()[key], weights[key]) for key in trained)
    permutation = sample_permutation(structure)
    moved, other = permute(features, permutation), weight_space(permute(weights, permutation), structure)
    assert all(torch.equal(moved[key], other[key]) for key in trained)


def test_tied_tensors_appear_once_in_the_dense_view() -> None:
    structure, weights = case("shared").structure, stack("shared", 2)
    features = weight_space(weights, structure)
    assert "first.weight" in features
    assert "again.weight" not in features
