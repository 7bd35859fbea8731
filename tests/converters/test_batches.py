"""Neuron graphs are PyTorch Geometric graphs: loaders, batches, copies and pickles work."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, global_mean_pool

from converters import (
    ACTIVATIONS,
    EDGE_TYPES,
    LAYER_ATTRIBUTES,
    LAYER_KINDS,
    NODE_SLOTS,
    NeuronGraph,
    collate,
    execute,
    same_structure,
    to_graph,
    to_graphs,
    to_state_dict,
)
from tests.converters.laws import case, double, random_state
from tests.converters.networks import ALL

SAMPLE = ["mlp", "cnn_kernels", "odds", "resnet18", "shared", "unet", "linear", "mlp_group_norm"]


def graphs_of(*names: str, count: int = 1) -> list[NeuronGraph]:
    return [to_graph(ALL[name].make(seed), structure=case(name).structure) for seed in range(count) for name in names]


def assert_same(a: NeuronGraph, b: NeuronGraph) -> None:
    assert set(a.keys()) == set(b.keys())
    for key in sorted(a.keys()):
        if isinstance(a[key], Tensor):
            assert a[key].dtype == b[key].dtype, key
            assert torch.equal(a[key], b[key]), key
    assert a.structure == b.structure
    assert a.kernel_size == b.kernel_size
    assert list(a.extras.tensors) == list(b.extras.tensors)
    for key, tensor in a.extras.tensors.items():
        assert torch.equal(tensor, b.extras.tensors[key]), key


@pytest.mark.parametrize("name", SAMPLE)
def test_shapes_and_vocabularies(name: str) -> None:
    (graph,) = graphs_of(name)
    structure = case(name).structure
    nodes, edges = structure.num_nodes, structure.num_edges
    width = int(torch.tensor(structure.kernel_size).prod()) if structure.kernel_size else 1
    assert isinstance(graph, Data)
    assert graph.num_nodes == nodes
    assert graph.x.shape == graph.node_mask.shape == (nodes, len(NODE_SLOTS))
    assert graph.edge_index.shape == (2, edges)
    assert graph.edge_attr.shape == (edges, width)
    assert graph.node_attributes.shape == (nodes, len(LAYER_ATTRIBUTES))
    for key, vocabulary in (
        ("node_type", LAYER_KINDS),
        ("activation", ACTIVATIONS),
        ("edge_type", EDGE_TYPES),
    ):
        assert graph[key].min() >= 0
        assert graph[key].max() < len(vocabulary)
    assert graph.edge_index.max() < nodes
    assert graph.node_attributes.isfinite().all()
    assert graph.validate(raise_on_error=True)


@pytest.mark.parametrize("names", [["mlp"], ["linear", "mlp"], SAMPLE])
def test_only_the_edge_index_is_incremented(names: list[str]) -> None:
    graphs = graphs_of(*names, count=2)
    batch = collate(graphs)
    nodes = torch.tensor([0] + [graph.num_nodes for graph in graphs]).cumsum(0)
    assert torch.equal(batch.ptr, nodes)
    assert batch.num_graphs == len(graphs)
    start = 0
    for graph, offset in zip(graphs, nodes.tolist(), strict=False):
        stop = start + graph.num_edges
        assert torch.equal(batch.edge_index[:, start:stop], graph.edge_index + offset)
        assert torch.equal(batch.edge_layer[start:stop], graph.edge_layer)
        start = stop
    for key in ("node_layer", "node_group", "node_position", "node_type", "activation", "x", "node_mask"):
        assert torch.equal(batch[key], torch.cat([graph[key] for graph in graphs])), key
    assert torch.equal(batch.batch, torch.arange(len(graphs)).repeat_interleave(nodes.diff()))


def test_batches_pad_kernels_in_the_centre() -> None:
    batch = collate(graphs_of("mlp", "cnn_kernels", "resnet18"))
    assert batch.edge_attr.shape[1] == 49
    mlp = batch.edge_attr[: case("mlp").structure.num_edges]
    assert mlp[:, 24].all()
    assert not mlp[:, [i for i in range(49) if i != 24]].any()


@pytest.mark.parametrize("names", [["mlp"], SAMPLE])
def test_batches_come_apart(names: list[str]) -> None:
    graphs = graphs_of(*names, count=2)
    batch = collate(graphs)
    for i, graph in enumerate(graphs):
        assert_same(batch[i], graph)
        assert_same(batch.get_example(i), graph)
    for got, graph in zip(batch.to_data_list(), graphs, strict=True):
        assert type(got) is NeuronGraph
        assert_same(got, graph)
    for got, graph in zip(batch[1:3], graphs[1:3], strict=True):
        assert_same(got, graph)
    again = collate(batch.to_data_list())
    assert torch.equal(again.edge_attr, batch.edge_attr)


def test_pyg_batches_and_loaders_take_graphs_of_one_architecture() -> None:
    graphs = graphs_of("cnn_batch_norm", count=5)
    for number, graph in enumerate(graphs):
        graph.y = torch.tensor([float(number)])
    batch = Batch.from_data_list(graphs)
    assert_same(batch[3], graphs[3])
    seen = []
    for part in DataLoader(graphs, batch_size=2):
        seen += part.y.tolist()
        assert same_structure(part) == case("cnn_batch_norm").structure
        for i in range(part.num_graphs):
            number = int(part[i].y)
            expected = ALL["cnn_batch_norm"].make(number).state_dict()
            assert all(torch.equal(to_state_dict(part[i])[key], value) for key, value in expected.items())
    assert seen == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_loaders_of_mixed_architectures() -> None:
    graphs = graphs_of("mlp", "siren", "shared", count=2)
    for part in DataLoader(graphs, batch_size=3, collate_fn=collate):
        assert part.num_graphs == 3
        assert same_structure(part) is None
        for graph in part.to_data_list():
            assert set(to_state_dict(graph)) == set(graph.structure.parameter)


def test_stack_and_collate_are_the_same_batch() -> None:
    for name in ("mlp", "cnn_batch_norm", "odds", "resnet18"):
        structure = case(name).structure
        states = [ALL[name].make(seed).state_dict() for seed in range(3)]
        stacked = to_graphs({key: torch.stack([s[key] for s in states]) for key in states[0]}, structure)
        joined = collate([to_graph(state, structure=structure) for state in states])
        assert set(stacked.keys()) == set(joined.keys())
        for key in sorted(joined.keys()):
            if isinstance(joined[key], Tensor):
                assert torch.equal(stacked[key], joined[key]), key
        assert same_structure(stacked) == same_structure(joined) == structure
        for i in range(3):
            assert_same(stacked[i], joined[i])
        part, other = stacked[1:], joined[1:]
        for one, two in zip(part, other, strict=True):
            assert_same(one, two)


def test_stacks_can_be_split_and_joined_again() -> None:
    structure = case("cnn_kernels").structure
    states = [ALL["cnn_kernels"].make(seed).state_dict() for seed in range(4)]
    stacked = to_graphs({key: torch.stack([s[key] for s in states]) for key in states[0]}, structure)
    again = collate([*stacked.to_data_list(), *graphs_of("mlp")])
    assert_same(again[2], stacked[2])
    assert_same(again[4], graphs_of("mlp")[0])


@pytest.mark.parametrize("name", SAMPLE)
def test_copies_are_independent(name: str) -> None:
    (graph,) = graphs_of(name)
    for other in (graph.clone(), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert_same(other, graph)
        assert type(other) is NeuronGraph
        other.x += 1
        other.edge_attr += 1
        for tensor in other.extras.tensors.values():
            if tensor.dtype.is_floating_point:
                tensor += 1
        assert_same(graph, graphs_of(name)[0])


def test_pickled_batches_come_apart() -> None:
    batch = collate(graphs_of("mlp", "cnn_kernels", "odds"))
    back = pickle.loads(pickle.dumps(batch))
    for i, graph in enumerate(graphs_of("mlp", "cnn_kernels", "odds")):
        assert_same(back[i], graph)
    for other in (batch.clone(), copy.deepcopy(batch)):
        assert_same(other[2], batch[2])


@pytest.mark.parametrize("name", ["mlp", "odds"])
def test_graphs_move_and_cast(name: str) -> None:
    (graph,) = graphs_of(name)
    expected = to_state_dict(graph)
    moved = graph.clone().to("cpu")
    assert all(torch.equal(to_state_dict(moved)[key], value) for key, value in expected.items())
    meta = graph.clone().to("meta")
    assert meta.x.device.type == meta.edge_index.device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in meta.extras.tensors.values())
    wide = graph.map_floats(Tensor.double)
    assert wide.x.dtype == torch.float64
    assert graph.x.dtype == torch.float32
    batch = collate(graphs_of(name, count=2)).to("cpu")
    assert_same(batch[1], graphs_of(name, count=2)[1])


def test_graphs_take_targets_and_other_attributes() -> None:
    graphs = graphs_of("mlp", "siren")
    for number, graph in enumerate(graphs):
        graph.y, graph.name, graph.index = torch.tensor([[float(number)]]), f"net{number}", number
    batch = collate(graphs)
    assert torch.equal(batch.y, torch.tensor([[0.0], [1.0]]))
    assert batch.name == ["net0", "net1"]
    assert [int(batch[i].index) for i in range(2)] == [0, 1]


def test_a_pyg_model_runs_on_batches() -> None:
    batch = collate(graphs_of("mlp", "siren", "residual_mlp"))
    layer = GCNConv(len(NODE_SLOTS), 5)
    out = global_mean_pool(layer(batch.x, batch.edge_index, batch.edge_attr[:, 0].abs()), batch.batch)
    alone = collate(graphs_of("siren"))
    same = global_mean_pool(layer(alone.x, alone.edge_index, alone.edge_attr[:, 0].abs()), alone.batch)
    assert out.shape == (3, 5)
    assert torch.allclose(out[1], same[0], atol=1e-6)


def test_batches_of_one_architecture_are_strided_views() -> None:
    c = case("cnn_flatten")
    states: list[Any] = [random_state(c.model, seed) for seed in range(3)]
    batch = to_graphs({key: torch.stack([s[key] for s in states]) for key in states[0]}, c.structure)
    edges = batch.edge_attr.view(3, c.structure.num_edges, -1)
    nodes = batch.x.view(3, c.structure.num_nodes, -1)
    number = next(b for b, block in enumerate(c.structure.blocks) if block.parameter == "3.weight")
    lo, hi = c.structure.edge_offsets[number : number + 2]
    block = edges[:, lo:hi].unflatten(1, c.structure.blocks[number].shape)
    assert torch.equal(block[..., 4], torch.stack([state["3.weight"] for state in states]))
    lo, hi = c.structure.node_offsets[1:3]
    assert torch.equal(nodes[:, lo:hi, NODE_SLOTS.index("bias")], torch.stack([state["0.bias"] for state in states]))
    found = execute(batch, *double(c.args))
    assert found.shape == (3, 2, 3)


def test_wider_kernels_on_request() -> None:
    c = case("mlp")
    graph = to_graph(c.model, structure=c.structure, kernel_size=(3, 3))
    assert graph.edge_attr.shape[1] == 9
    assert all(torch.equal(to_state_dict(graph)[key], value) for key, value in c.model.state_dict().items())
