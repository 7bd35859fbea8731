"""Alignment: planted permutations are found, functions are kept, and the loss barrier of trained networks falls."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from converters import align, aligned, execute, permute, sample_permutation, trace
from tests.converters.laws import case, random_state

NAMES = [
    "mlp",
    "siren",
    "cnn_kernels",
    "cnn_batch_norm",
    "squeeze_excite",
    "dense_block",
    "channel_shuffle",
    "resnet18",
]
State = dict[str, Tensor]


def distance(a: State, b: State) -> float:
    return sum(float((a[k].double() - b[k].double()).square().sum()) for k in a) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_permutation_is_found(name: str) -> None:
    c = case(name)
    reference = random_state(c.model)
    moved = permute(reference, sample_permutation(c.structure, torch.Generator().manual_seed(1)))
    assert distance(moved, reference) > 1e-3
    assert distance(permute(moved, align(moved, reference, c.structure)), reference) < 1e-9


def test_it_never_moves_away_and_keeps_the_function() -> None:
    net = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    structure, x = trace(net), torch.randn(6, 4, dtype=torch.float64)
    ours, theirs = (random_state(net, seed) for seed in (1, 2))
    out = permute(ours, align(ours, theirs, structure))
    assert distance(out, theirs) < distance(ours, theirs)
    assert torch.allclose(execute(out, x, structure=structure), execute(ours, x, structure=structure), atol=1e-12)
    assert align(ours, ours, structure) == {}


def test_a_stack_is_aligned_network_by_network() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    structure = trace(net)
    states = [random_state(net, seed) for seed in range(3)]
    stack = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    together = aligned(stack, states[0], structure)
    for i, state in enumerate(states):
        alone = aligned(state, states[0], structure)
        assert all(torch.equal(together[name][i], alone[name]) for name in alone)


def test_the_barrier_between_two_digit_networks_falls() -> None:
    data = load_digits()
    images = torch.tensor(data.data / 16.0, dtype=torch.float32)
    labels = torch.tensor(data.target)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    structure = trace(net)

    def trained(seed: int) -> State:
        torch.manual_seed(seed)
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(120):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimiser.step()
        return {name: value.clone() for name, value in net.state_dict().items()}

    def loss(state: State) -> float:
        return float(nn.functional.cross_entropy(execute(state, images, structure=structure), labels))

    def barrier(a: State, b: State) -> float:
        shares = torch.linspace(0, 1, 11).tolist()
        path = [loss({k: (1 - s) * a[k] + s * b[k] for k in a}) for s in shares]
        return max(between - (1 - s) * path[0] - s * path[-1] for s, between in zip(shares, path, strict=True))

    first, second = trained(1), trained(2)
    before, after = barrier(first, second), barrier(first, aligned(second, first, structure))
    assert before > 0.05
    assert after < before / 2
