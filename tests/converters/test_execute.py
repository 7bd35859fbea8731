"""A network run from its graph alone equals the module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from converters import StructureMismatch, execute, to_graph, to_graphs
from tests.converters.laws import case, difference, double, leaves, outputs, random_state, shared_names
from tests.converters.networks import ALL, NETWORKS

EXACT = 1e-10


def resized(tree: Any, batch: int) -> Any:
    """Inputs with another batch size and other values."""

    def resize(leaf: Any) -> Any:
        times = -(-batch // leaf.shape[0])
        leaf = leaf.repeat(times, *([1] * (leaf.dim() - 1)))[:batch]
        return leaf + 0.1 * torch.arange(leaf.numel()).reshape(leaf.shape).cos() if leaf.is_floating_point() else leaf

    return pytree.tree_map(resize, tree)


@pytest.mark.parametrize("name", ALL)
def test_equals_the_module(name: str) -> None:
    c = case(name)
    state = random_state(c.model)
    expected = outputs(c.model, state, c.args, c.kwargs)
    found = execute(state, *double(c.args), structure=c.structure, **double(c.kwargs))
    assert difference(expected, found) < EXACT
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)


@pytest.mark.parametrize("name", ALL)
def test_equals_the_module_from_its_graph(name: str) -> None:
    c = case(name)
    state = random_state(c.model)
    graph = to_graph(state, structure=c.structure)
    expected = outputs(c.model, state, c.args, c.kwargs)
    assert difference(expected, execute(graph, *double(c.args), **double(c.kwargs))) < EXACT


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_batch_sizes(name: str, batch: int) -> None:
    c = case(name)
    batch = max(batch, NETWORKS[name].least_batch)
    state = random_state(c.model, 1)
    args, kwargs = resized(c.args, batch), resized(c.kwargs, batch)
    expected = outputs(c.model, state, args, kwargs)
    found = execute(state, *double(args), structure=c.structure, **double(kwargs))
    assert difference(expected, found) < EXACT


@pytest.mark.parametrize("name", NETWORKS)
def test_many_networks_at_once(name: str) -> None:
    c = case(name)
    states = [random_state(c.model, seed) for seed in range(3)]
    stack = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    args, kwargs = double(c.args), double(c.kwargs)
    together = execute(stack, *args, structure=c.structure, **kwargs)
    batch = execute(to_graphs(stack, c.structure), *args, **kwargs)
    chunked = execute(stack, *args, structure=c.structure, chunk_size=2, **kwargs)
    for i, state in enumerate(states):
        alone = outputs(c.model, state, c.args, c.kwargs)
        for many in (together, batch, chunked):
            assert difference(alone, pytree.tree_map(lambda leaf, i=i: leaf[i], many)) < EXACT


# bfloat16 is too coarse to compare; in_place overwrites what torch itself would need for its backward pass.
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("bfloat16", "in_place")])
def test_gradients_are_those_of_the_module(name: str) -> None:
    c = case(name)
    tied = shared_names(c.model)
    state = random_state(c.model)
    trained = {key for key, _ in c.model.named_parameters()}
    free = {key: state[key].requires_grad_() for key in trained if state[key].is_floating_point()}
    state |= {key: free[first] for key, first in tied.items() if first in free}

    def gradients(out: Any) -> list[Any]:
        loss = sum((leaf.sin() * (1 + torch.arange(leaf.numel()).reshape(leaf.shape))).sum() for leaf in leaves(out))
        return list(torch.autograd.grad(loss, list(free.values()), allow_unused=True))

    expected = gradients(outputs(c.model, state, c.args, c.kwargs))
    direct = gradients(execute(state, *double(c.args), structure=c.structure, **double(c.kwargs)))
    graph = to_graph(state, structure=c.structure)
    through = gradients(execute(graph, *double(c.args), **double(c.kwargs)))
    moved = 0
    for key, want, *others in zip(free, expected, direct, through, strict=True):
        for got in others:
            if want is None or not want.any():
                assert got is None or not got.any(), key
                continue
            moved += 1
            assert torch.allclose(got, want, rtol=1e-8, atol=1e-10), key
    assert moved > 0


def test_gradients_reach_the_graph() -> None:
    c = case("cnn_batch_norm")
    graph = to_graph(random_state(c.model), structure=c.structure)
    graph.x.requires_grad_()
    graph.edge_attr.requires_grad_()
    execute(graph, *double(c.args)).square().sum().backward()
    assert graph.x.grad[graph.node_mask].any()
    assert graph.edge_attr.grad.any()
    assert not graph.x.grad[~graph.node_mask].any()


def test_gradients_reach_the_inputs() -> None:
    c = case("siren")
    state = random_state(c.model)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: execute(state, x, structure=c.structure), (x,))


def test_networks_of_a_batch_do_not_mix() -> None:
    c = case("mlp")
    stack = {k: torch.stack([v, v + 1]) for k, v in random_state(c.model).items()}
    before = execute(stack, *double(c.args), structure=c.structure)
    stack["0.weight"][1] += 5.0
    after = execute(stack, *double(c.args), structure=c.structure)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_may_have_inputs_of_its_own(name: str) -> None:
    c = case(name)
    states = [random_state(c.model, seed) for seed in range(2)]
    stack = {key: torch.stack([state[key] for state in states]) for key in states[0]}

    def moved(leaf: Any, i: int) -> Any:
        return (
            leaf + 0.1 * i * torch.arange(leaf.numel()).reshape(leaf.shape).sin() if leaf.is_floating_point() else leaf
        )

    own = [pytree.tree_map(lambda leaf, i=i: moved(leaf, i), (c.args, c.kwargs)) for i in range(2)]
    args, kwargs = pytree.tree_map(lambda *each: torch.stack(each), *own)
    together = execute(stack, *double(args), structure=c.structure, own_inputs=True, **double(kwargs))
    for i, state in enumerate(states):
        alone = outputs(c.model, state, *own[i])
        assert difference(alone, pytree.tree_map(lambda leaf, i=i: leaf[i], together)) < EXACT


def test_inputs_of_their_own_are_as_many_as_networks() -> None:
    c = case("mlp")
    state = random_state(c.model)
    stack = {key: torch.stack([value, value]) for key, value in state.items()}
    (x,) = double(c.args)
    with pytest.raises(StructureMismatch, match=r"input 0 has shape .*, expected 2 in front"):
        execute(stack, torch.stack([x, x, x]), structure=c.structure, own_inputs=True)
    with pytest.raises(StructureMismatch, match="for many networks"):
        execute(state, x, structure=c.structure, own_inputs=True)


@pytest.mark.parametrize("name", ["cnn_batch_norm", "cnn_batch_norm_bare", "mlp_batch_norm", "resnet18"])
def test_statistics_of_the_batch_are_those_of_training(name: str) -> None:
    c = case(name)
    state = random_state(c.model)
    model = copy.deepcopy(c.model).double()
    model.load_state_dict(state)
    expected = model.train()(*double(c.args), **double(c.kwargs))
    stack = {key: torch.stack([value, value]) for key, value in state.items()}
    before = {key: value.clone() for key, value in state.items()}
    found = execute(state, *double(c.args), structure=c.structure, batch_statistics=True, **double(c.kwargs))
    many = execute(stack, *double(c.args), structure=c.structure, batch_statistics=True, **double(c.kwargs))
    running = execute(state, *double(c.args), structure=c.structure, **double(c.kwargs))
    assert difference(expected, found) < EXACT
    assert difference(expected, many[1]) < EXACT
    assert difference(expected, running) > 1e-3
    assert all(torch.equal(state[key], value) for key, value in before.items())
