"""Operators that choose, order, scan or draw: what they must fix is fixed, what they may pass is permutable."""

from __future__ import annotations

import copy
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, execute, to_graph, to_state_dict, trace, verify
from tests.converters.laws import difference, double, permuted, random_orders, random_state
from tests.converters.modules import Net
from tests.converters.operators import OPERATORS

SOUND = 1e-9


@cache
def traced(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Structure]:
    operator = OPERATORS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = operator.build().eval()
    inputs = operator.inputs()
    return model, inputs, trace(model, inputs, strict=True)


def run(model: nn.Module, state: dict[str, Tensor], inputs: Any) -> Any:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        return torch.func.functional_call(wide(model), state, double(inputs))


@cache
def wide(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double().eval()


def swapped(state: dict[str, Tensor], i: int, j: int, last: bool) -> dict[str, Tensor]:
    """Two hidden neurons exchanged: their rows in ``first`` and, with ``last``, their columns there."""
    out = dict(state)
    for name in ("first.weight", "first.bias"):
        order = torch.arange(len(state[name]))
        order[[i, j]] = order[[j, i]]
        out[name] = state[name][order]
    if last:
        order = torch.arange(state["last.weight"].shape[1])
        order[[i, j]] = order[[j, i]]
        out["last.weight"] = state["last.weight"][:, order]
    return out


@pytest.mark.parametrize("name", OPERATORS)
def test_groups_are_as_annotated(name: str) -> None:
    structure = traced(name)[2]
    sizes = sorted(group.size for group in structure.groups if group.permutable)
    assert sizes == sorted(OPERATORS[name].groups)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_group_is_a_symmetry(name: str) -> None:
    model, inputs, structure = traced(name)
    for seed in range(3):
        state = random_state(model, seed)
        expected = run(model, state, inputs)
        moved = permuted(structure, state, random_orders(structure, seed))
        assert difference(expected, run(model, moved, inputs)) < SOUND
    report = verify(model, inputs, structure)
    assert report.sound, str(report)


@pytest.mark.parametrize("name", OPERATORS)
def test_no_exchange_of_two_neurons_is_missed(name: str) -> None:
    """Every pair is tried, with and without the same exchange in the next layer."""
    model, inputs, structure = traced(name)
    operator = OPERATORS[name]
    rows = structure.parameter["first.weight"].axes[0]
    states = [random_state(model, seed) for seed in range(4)]
    expected = [run(model, state, inputs) for state in states]
    missed = []
    for i, j in combinations(range(operator.hidden), 2):
        group = rows.group.values
        found = group[i] == group[j] and structure.groups[int(group[i])].permutable
        for last in {False, operator.out == operator.hidden}:
            pairs = zip(states, expected, strict=True)
            same = all(difference(e, run(model, swapped(s, i, j, last), inputs)) < SOUND for s, e in pairs)
            if same and not found:
                missed.append((i, j))
    assert bool(missed) == operator.missed, missed


@pytest.mark.parametrize("name", OPERATORS)
def test_round_trip_and_program(name: str) -> None:
    model, inputs, structure = traced(name)
    state = model.state_dict()
    back = to_state_dict(to_graph(model, structure=structure))
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    if structure.program.baked:
        return
    with torch.random.fork_rng():
        torch.manual_seed(3)
        again = execute(random_state(model), *(x.double() for x in inputs), structure=structure)
    assert difference(run(model, random_state(model), inputs), again) < 1e-10


def by_sorted_numbers(n: Net, x: Tensor) -> Tensor:
    """Neurons in the order of their values, found outside torch."""
    h = n.first(x)
    return n.last(h[:, torch.from_numpy(h[0].detach().numpy().argsort().copy())])


def by_list(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    return n.last(h * sorted(h[0].tolist())[0])


@pytest.mark.parametrize("forward", [by_sorted_numbers, by_list])
def test_values_read_into_python_fix_their_neurons(forward: Any) -> None:
    model = Net(forward, first=nn.Linear(4, 6), last=nn.Linear(6, 2)).eval()
    inputs = torch.ones(1, 4)
    structure = trace(model, inputs)
    assert not any(group.permutable for group in structure.groups)
    assert structure.program.baked
    assert any("into Python" in reason for _, reason in structure.frozen_reasons)
    assert verify(model, inputs, structure).sound
