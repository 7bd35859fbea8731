"""Every permutable group leaves the function unchanged, and uncoupled permutations do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from converters import (
    Axis,
    Structure,
    permute,
    sample_permutation,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
    verify,
)
from tests.converters.laws import case, difference, outputs, permuted, random_orders, random_state
from tests.converters.networks import ALL

SOUND = 1e-9
PERMUTABLE = [name for name, network in ALL.items() if network.groups]


@pytest.mark.parametrize("name", ALL)
def test_all_groups_at_once(name: str) -> None:
    c = case(name)
    state = random_state(c.model)
    expected = outputs(c.model, state, c.args, c.kwargs)
    for seed in range(2):
        moved = permuted(c.structure, state, random_orders(c.structure, seed))
        assert difference(expected, outputs(c.model, moved, c.args, c.kwargs)) < SOUND


@pytest.mark.parametrize("name", PERMUTABLE)
def test_each_group_alone(name: str) -> None:
    c = case(name)
    state = random_state(c.model, 1)
    expected = outputs(c.model, state, c.args, c.kwargs)
    unsound = []
    for g, group in enumerate(c.structure.groups):
        if not group.permutable or group.factors:
            continue
        orders = random_orders(c.structure, 5, only=g)
        moved = permuted(c.structure, state, orders)
        assert any(not torch.equal(moved[key], state[key]) for key in state) or group.cells == group.size
        if difference(expected, outputs(c.model, moved, c.args, c.kwargs)) >= SOUND:
            unsound.append(group.name)
    assert unsound == []


@pytest.mark.parametrize("name", PERMUTABLE)
def test_one_axis_alone_changes_the_function(name: str) -> None:
    """The negative control: permute each parameter axis by an order of its own."""
    c = case(name)
    state = random_state(c.model, 2)
    expected = outputs(c.model, state, c.args, c.kwargs)
    broken = {}
    for seed, parameter in enumerate(c.structure.parameters):
        if parameter.alias_of is None:
            alone = dataclasses.replace(c.structure, parameters=(parameter,))
            broken.update(permuted(alone, state, random_orders(c.structure, 100 + seed)))
    broken |= {p.name: broken[p.alias_of] for p in c.structure.parameters if p.alias_of is not None}
    assert difference(expected, outputs(c.model, broken, c.args, c.kwargs)) > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_verify_agrees(name: str) -> None:
    c = case(name)
    report = verify(c.model, c.inputs, c.structure)
    assert report.sound, str(report)
    assert report.units == sum(group.permutable and not group.factors for group in c.structure.groups)
    assert report.frozen == c.structure.frozen_reasons
    if ALL[name].groups:
        assert report.error < SOUND
        assert report.control > 1e-3


@pytest.mark.parametrize("name", ["mlp", "cnn_flatten", "resnet18", "residual_mlp", "mlp_group_norm"])
def test_full_coverage_of_plain_networks(name: str) -> None:
    c = case(name)
    assert verify(c.model, c.inputs, c.structure).coverage == 1.0


@pytest.mark.parametrize("name", ALL)
def test_library_permutations_are_true_symmetries(name: str) -> None:
    """``sample_permutation`` and ``permute`` agree with the groups as the tests read them."""
    c = case(name)
    state = random_state(c.model)
    permutation = sample_permutation(c.structure, torch.Generator().manual_seed(3))
    orders = {g: np.arange(group.size) for g, group in enumerate(c.structure.groups)}
    orders |= {g: order.numpy() for g, order in permutation.items()}
    moved, again = permute(state, permutation), permuted(c.structure, state, orders)
    for key in state:
        assert torch.equal(moved[key], again[key]), key
    for key, tensor in permute(moved, permutation.inverse()).items():
        assert torch.equal(tensor, state[key]), key
    expected = outputs(c.model, state, c.args, c.kwargs)
    assert difference(expected, outputs(c.model, moved, c.args, c.kwargs)) < SOUND
    every = [g for g, group in enumerate(c.structure.groups) if group.permutable]
    assert set(every) <= set(permutation)


@pytest.mark.parametrize("name", PERMUTABLE)
def test_permuted_stacks_and_graphs(name: str) -> None:
    c = case(name)
    states = [random_state(c.model, seed) for seed in range(2)]
    stack = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    permutation = sample_permutation(c.structure, torch.Generator().manual_seed(4))
    by_stack = permute(stack, permutation)
    by_batch = to_state_dict(permute(to_graphs(stack, c.structure), permutation))
    for i, state in enumerate(states):
        alone = permute(state, permutation)
        by_graph = to_state_dict(permute(to_graph(state, structure=c.structure), permutation))
        for key in state:
            assert torch.equal(by_stack[key][i], alone[key])
            assert torch.equal(by_batch[key][i], alone[key])
            assert torch.equal(by_graph[key], alone[key])


def test_permutations_compose_and_invert() -> None:
    c = case("mlp_group_norm")
    state = random_state(c.model)
    a, b = (sample_permutation(c.structure, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    twice, once = permute(permute(state, a), b), permute(state, a.then(b))
    assert all(torch.equal(twice[key], once[key]) for key in state)
    back = a.then(a.inverse())
    assert all(torch.equal(order, torch.arange(len(order))) for order in back.values())


def test_samples_are_uniform_and_seeded() -> None:
    structure = case("mlp").structure
    draw = lambda seed: sample_permutation(structure, torch.Generator().manual_seed(seed))  # noqa: E731
    assert all(torch.equal(draw(0)[g], draw(0)[g]) for g in draw(0))
    (g,) = [g for g, group in enumerate(structure.groups) if group.size == 6]
    first = torch.stack([draw(seed)[g] for seed in range(600)])[:, 0]
    assert (first.bincount(minlength=6) - 100).abs().max() < 45


def corrupted(structure: Structure, name: str, number: int) -> Structure:
    """The structure with the neurons of one axis moved on by one."""
    changed = []
    for parameter in structure.parameters:
        if parameter.name == name:
            axis, axes = parameter.axes[number], list(parameter.axes)
            axes[number] = Axis.of(axis.group.values, np.roll(axis.member.values, 1), axis.slot.values)
            parameter = dataclasses.replace(parameter, axes=tuple(axes))
        changed.append(parameter)
    return dataclasses.replace(structure, parameters=tuple(changed))


@pytest.mark.parametrize(
    ("name", "parameter", "axis"),
    [("mlp", "2.weight", 1), ("mlp", "0.bias", 0), ("cnn_flatten", "0.weight", 0)],
)
def test_a_wrong_structure_is_found_out(name: str, parameter: str, axis: int) -> None:
    c = case(name)
    wrong = corrupted(c.structure, parameter, axis)
    assert wrong != c.structure
    report = verify(c.model, c.inputs, wrong)
    assert not report.sound
    assert report.unsound
    assert "NOT SOUND" in str(report)
    state = random_state(c.model)
    moved = permuted(wrong, state, random_orders(wrong))
    assert difference(outputs(c.model, state, c.args, c.kwargs), outputs(c.model, moved, c.args, c.kwargs)) > 1e-3


@pytest.mark.parametrize("width", [2, 3])
def test_verify_finds_errors_of_small_groups(width: int) -> None:
    """Two or three neurons: most random permutations commute with a wrong order, and uncoupled ones agree by chance."""
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).eval()
    structure = trace(model)
    wrong = dataclasses.replace(
        structure,
        parameters=tuple(
            dataclasses.replace(p, axes=(p.axes[0], Axis.fixed(width))) if p.name == "2.weight" else p
            for p in structure.parameters
        ),
    )
    for seed in range(12):
        assert verify(model, None, structure, seed=seed).sound
        assert not verify(model, None, wrong, seed=seed).sound
