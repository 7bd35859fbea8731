"""A graph gives the state_dict back bit for bit, and holds every element exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from converters import NeuronGraph, collate, to_graph, to_graphs, to_state_dict
from tests.converters.laws import case, random_state, shared_names
from tests.converters.networks import ALL


def assert_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names in the same order, shapes, dtypes and bits (signed zeros too)."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        got = found[name]
        assert got.shape == tensor.shape, name
        assert got.dtype == tensor.dtype, name
        assert _bytes(got) == _bytes(tensor), name


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def signed_zeros(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A few entries of each tensor become -0.0, 0.0, a subnormal and the largest number."""
    out = {}
    for name, tensor in state.items():
        out[name] = tensor.clone()
        if tensor.is_floating_point() and tensor.numel():
            info = torch.finfo(tensor.dtype)
            special = torch.tensor([-0.0, 0.0, info.smallest_normal / 2, 1e3], dtype=tensor.dtype)
            count = min(tensor.numel(), 4)
            flat = out[name].contiguous().reshape(-1)
            flat[:count] = special[:count]
            out[name] = flat.reshape(tensor.shape)
    return out


@pytest.mark.parametrize("name", ALL)
def test_state_dict_comes_back(name: str) -> None:
    c = case(name)
    graph = to_graph(c.model, structure=c.structure)
    assert_bits(to_state_dict(graph), c.model.state_dict())
    fresh = ALL[name].make()
    fresh.load_state_dict(to_state_dict(graph), strict=True)


@pytest.mark.parametrize("name", ["odds", "resnet18", "cnn_kernels", "mlp_layer_norm", "bfloat16", "depthwise"])
def test_special_values_come_back(name: str) -> None:
    c = case(name)
    state = signed_zeros(c.model.state_dict())
    assert_bits(to_state_dict(to_graph(state, structure=c.structure)), state)


@pytest.mark.parametrize("name", ALL)
def test_views_hold_the_same(name: str) -> None:
    c = case(name)
    graph = to_graph(c.model, structure=c.structure, materialize=False)
    assert not graph.is_materialized
    assert_bits(to_state_dict(graph), c.model.state_dict())
    full, direct = graph.materialize(), to_graph(c.model, structure=c.structure)
    assert torch.equal(full.x, direct.x)
    assert torch.equal(full.edge_attr, direct.edge_attr)


@pytest.mark.parametrize("name", ALL)
def test_stack_comes_back(name: str) -> None:
    c = case(name)
    names = list(c.model.state_dict())
    states = [ALL[name].make(seed).state_dict() for seed in range(3)]
    batch = to_graphs({key: torch.stack([state[key] for state in states]) for key in names}, c.structure)
    together = to_state_dict(batch)
    for i, state in enumerate(states):
        assert_bits({key: together[key][i] for key in names}, state)
        assert_bits(to_state_dict(batch[i]), state)
        alone = to_graph(state, structure=c.structure)
        assert same_graph(batch[i], alone) == []


def same_graph(a: NeuronGraph, b: NeuronGraph) -> list[str]:
    """Keys in which two graphs differ, extras aside."""
    assert set(a.keys()) == set(b.keys())
    keys = [key for key in sorted(a.keys()) if isinstance(a[key], Tensor)]
    different = [key for key in keys if a[key].dtype != b[key].dtype or not torch.equal(a[key], b[key])]
    return different + ([] if a.structure == b.structure else ["structure"])


def test_mixed_architectures_come_back() -> None:
    names = [name for name in ALL if case(name).structure.dtype == "float32"]
    graphs = [to_graph(case(name).model, structure=case(name).structure) for name in names]
    before = [graph.clone() for graph in graphs]
    batch = collate(graphs)
    assert isinstance(batch, Batch)
    for i, name in enumerate(names):
        assert_bits(to_state_dict(cast(NeuronGraph, batch[i])), case(name).model.state_dict())
        assert same_graph(batch[i], before[i]) == []
        assert same_graph(graphs[i], before[i]) == []
    for graph, name in zip(batch.to_data_list(), names, strict=True):
        assert_bits(to_state_dict(graph), case(name).model.state_dict())


def numbered(model: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Every element a number of its own, exact in its dtype; tied names share theirs; and how many there are."""
    tied, start = shared_names(model), 1
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            state[name] = state[tied[name]]
            continue
        if tensor.dtype == torch.bool:
            state[name] = tensor
            continue
        dtype = torch.float64 if tensor.is_floating_point() else tensor.dtype
        state[name] = torch.arange(start, start + tensor.numel(), dtype=torch.int64).to(dtype).reshape(tensor.shape)
        start += tensor.numel()
    return state, start - 1


@pytest.mark.parametrize("name", ALL)
def test_every_element_has_exactly_one_slot(name: str) -> None:
    c = case(name)
    state, count = numbered(c.model)
    graph = to_graph(state, structure=c.structure)
    assert (graph.x[~graph.node_mask] == 0).all()
    held = [graph.x[graph.node_mask], graph.edge_attr.reshape(-1)]
    held += [t.reshape(-1).to(torch.complex128).real for t in graph.extras.tensors.values() if t.dtype != torch.bool]
    values = torch.cat([tensor.to(torch.float64) for tensor in held])
    found = values[values != 0].sort().values
    assert torch.equal(found, torch.arange(1, count + 1, dtype=torch.float64))


@pytest.mark.parametrize("name", ["mlp", "cnn_kernels", "resnet18", "residual_mlp", "siren"])
def test_floats_of_plain_networks_need_no_extras(name: str) -> None:
    structure = case(name).structure
    assert [key for key in structure.extras if structure.parameter[key].dtype == "float32"] == []


@pytest.mark.parametrize("name", ALL)
def test_zero_weights_keep_their_edges(name: str) -> None:
    c = case(name)
    full = to_graph(c.model, structure=c.structure)
    zero = {key: torch.zeros_like(tensor) for key, tensor in c.model.state_dict().items()}
    graph = to_graph(zero, structure=c.structure)
    assert torch.equal(graph.edge_index, full.edge_index)
    assert torch.equal(graph.node_mask, full.node_mask)
    assert graph.edge_attr.shape == full.edge_attr.shape
    assert not graph.edge_attr.any()
    assert_bits(to_state_dict(graph), zero)


@pytest.mark.parametrize("name", ["mlp", "cnn_flatten", "resnet18", "depthwise", "siren"])
def test_blocks_are_views_of_the_weights(name: str) -> None:
    c = case(name)
    graph = to_graph(c.model, structure=c.structure)
    state: Any = c.model.state_dict()
    for block, view in zip(c.structure.blocks, graph.blocks, strict=True):
        assert view.untyped_storage().data_ptr() == graph.edge_attr.untyped_storage().data_ptr()
        assert view.shape[:-1] == block.shape
        if block.parameter is not None:
            assert abs(float(view.double().sum() - state[block.parameter].double().sum())) < 1e-9
        else:
            assert not view.any()


def test_random_states_differ_from_each_other() -> None:
    model = case("mlp").model
    assert not torch.equal(random_state(model, 0)["0.weight"], random_state(model, 1)["0.weight"])
