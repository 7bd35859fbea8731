"""The contract of every layer that passes messages along weights, each against its textbook form."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from converters import NeuronGraphs, Structure, sample_permutation
from graphnets import NeuralGraphLayer, NeuronAttention, NeuronMessagePassing
from graphnets.layered import Layered
from graphnets.message_passing.kernels import reference_attention, reference_message_passing
from graphnets.message_passing.neural_graph import ModulatedMessages
from graphnets.message_passing.passing import EdgeLayer
from graphnets.testing import EdgeFeatures, NodeFeatures, PermutationAction, assert_equivariant

from .networks import attention_structure, mixture, stack, structures

LAYERS: dict[str, tuple[type[EdgeLayer], dict[str, Any]]] = {
    "message_passing": (NeuronMessagePassing, {}),
    "message_passing_narrow_gates": (NeuronMessagePassing, {"hidden_channels": 3, "gates": 3, "update_edges": False}),
    "message_passing_sum": (NeuronMessagePassing, {"aggr": "sum", "gates": 2}),
    "message_passing_gates_only": (NeuronMessagePassing, {"hidden_channels": 0, "gates": 1}),
    "attention": (NeuronAttention, {"node_channels": 12, "heads": 2}),
    "attention_one_head": (NeuronAttention, {"heads": 1, "update_edges": False, "gates": 0, "edge_channels": 2}),
    "attention_joint": (NeuronAttention, {"node_channels": 8, "heads": 4, "gates": 2}),
    "attention_wide_edges": (NeuronAttention, {"heads": 3, "edge_channels": 9}),
    "neural_graph": (NeuralGraphLayer, {}),
    "neural_graph_backward": (NeuralGraphLayer, {"backward": True, "hidden_channels": 4}),
    "neural_graph_all": (
        NeuralGraphLayer,
        {
            "aggregators": ("sum", "max", "std", "mean", "min"),
            "scalers": ("attenuation", "identity", "amplification"),
            "backward": True,
            "update_edges": False,
        },
    ),
    "neural_graph_max": (NeuralGraphLayer, {"aggregators": ["max"], "scalers": ["attenuation"]}),
}
SOME = ["message_passing_sum", "attention_joint", "neural_graph_backward"]
PRINTED = {
    NeuronMessagePassing: "nodes=6, edges=3, hidden=6, aggr=mean, update_edges=True, gates=0",
    NeuronAttention: "nodes=6, edges=3, heads=2, update_edges=True, gates=1",
    NeuralGraphLayer: "nodes=6, edges=3, hidden=6, backward=False, update_edges=True",
}


def networks() -> dict[str, Structure]:
    known = structures()
    return {name: known[name] for name in ("mlp", "cnn", "residual")} | {"attention": attention_structure()}


def build(name: str) -> Any:
    """A layer of which no parameter is zero or in a special position."""
    kind, options = LAYERS[name]
    layer = kind(**{"node_channels": 6, "edge_channels": 3, **options}).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        if isinstance(layer, NeuralGraphLayer):
            layer.set_log_degrees(torch.tensor(0.7), torch.tensor(1.9))
    return layer


def features(layer: EdgeLayer, nodes: int, edges: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(nodes, layer.node_channels, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(edges, layer.edge_channels, dtype=torch.float64, requires_grad=True)


def heard_in_neural_graph(part: ModulatedMessages, x: Tensor, node: int, sources: Tensor, edges: Tensor) -> Tensor:
    """What one neuron hears, as the paper writes it: one message after the other."""
    weight = torch.cat([part.source.weight, part.target.weight], 1)
    messages = []
    for source, edge in zip(sources, edges, strict=True):
        hidden = functional.linear(torch.cat([x[source], x[node]]), weight, part.source.bias).relu()
        messages.append(part.scale(edge) * part.message(hidden) + part.shift(edge))
    if not messages:
        return x.new_zeros(part.out_channels)
    stacked = torch.stack(messages)
    found = {
        "mean": stacked.mean(0),
        "sum": stacked.sum(0),
        "max": stacked.max(0).values,
        "min": stacked.min(0).values,
        "std": (stacked.var(0, unbiased=False) + 1e-5).sqrt(),
    }
    size = torch.log(torch.tensor(len(messages) + 1.0, dtype=x.dtype)) / part.log_degree
    scalers = {"identity": 1.0, "amplification": size, "attenuation": 1 / size}
    return torch.cat([found[name] * scalers[scaler] for scaler in part.scalers for name in part.aggregators])


def reference_neural_graph(
    layer: NeuralGraphLayer, x: Tensor, edge_index: Tensor, edge_attr: Tensor
) -> tuple[Tensor, Tensor]:
    source, target = edge_index
    new = []
    for node in range(len(x)):
        arriving, leaving = target == node, source == node
        heard = [x[node], heard_in_neural_graph(layer.messages, x, node, source[arriving], edge_attr[arriving])]
        hears = bool(arriving.any())
        if layer.backward_messages is not None:
            side = layer.backward_messages
            heard.append(heard_in_neural_graph(side, x, node, target[leaving], edge_attr[leaving]))
            hears = hears or bool(leaving.any())
        new.append(layer.node_norm(x[node] + layer.update(torch.cat(heard))) if hears else x[node])
    x = torch.stack(new)
    if layer.update_edges:
        pairs = torch.cat([x[source], x[target], edge_attr], 1)
        weight = torch.cat([layer.edge_source.weight, layer.edge_target.weight, layer.edge_edge.weight], 1)
        hidden = functional.silu(functional.linear(pairs, weight, layer.edge_source.bias))
        edge_attr = layer.edge_norm(edge_attr + layer.edge_message(hidden))
    return x, edge_attr


REFERENCES: dict[type[EdgeLayer], Callable[..., tuple[Tensor, Tensor]]] = {
    NeuronMessagePassing: reference_message_passing,
    NeuronAttention: reference_attention,
    NeuralGraphLayer: reference_neural_graph,
}


def textbook(layer: EdgeLayer, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
    return REFERENCES[type(layer)](layer, x, edge_index, edge_attr)


def gradients(layer: EdgeLayer, x: Tensor, edge_attr: Tensor, out: tuple[Tensor, Tensor]) -> list[Tensor]:
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in out)
    inputs = [x, edge_attr, *layer.parameters()]
    return list(torch.autograd.grad(loss, inputs, retain_graph=True))


def assert_close(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_it_equals_its_textbook_form_in_values_and_gradients(name: str) -> None:
    layer = build(name)
    edge_index = torch.randint(0, 7, (2, 30))  # node 8 has no edges, some pairs have several
    x, edge_attr = features(layer, 9, 30)
    fast, slow = layer(x, edge_index, edge_attr), textbook(layer, x, edge_index, edge_attr)
    assert_close(fast, slow)
    found = gradients(layer, x, edge_attr, fast)
    assert_close(found, gradients(layer, x, edge_attr, slow))
    assert min(float(g.abs().max()) for g in found) > 1e-5  # every parameter matters
    assert torch.equal(fast[0][8], x[8])


@pytest.mark.parametrize("network", ["mlp", "residual"])
@pytest.mark.parametrize("name", LAYERS)
def test_networks_laid_out_densely_or_as_one_graph_get_the_same(name: str, network: str) -> None:
    layer = build(name)
    batch = stack(networks()[network], 3)
    x, edge_attr = features(layer, len(batch.x), len(batch.edge_attr))
    for reverse in (False, True):
        slow = layer(x, batch.edge_index.flip(0) if reverse else batch.edge_index, edge_attr)
        wanted = gradients(layer, x, edge_attr, slow)
        for mixed in (False, True):
            view = Layered(batch, mixed=mixed)
            assert view.dense is not mixed
            inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
            states, edges = layer.parallel(*inputs, view, reverse=reverse)
            nodes_back, edges_back = graph_order(view, batch)
            found = torch.cat(states, 1).flatten(0, 1)[nodes_back], torch.cat(edges, 1).flatten(0, 1)[edges_back]
            assert_close(found, slow)
            assert_close(gradients(layer, x, edge_attr, found), wanted)


def graph_order(view: Layered, batch: NeuronGraphs) -> tuple[Tensor, Tensor]:
    """Where nodes and edges of the batch lie in the view."""
    nodes, edges = (torch.arange(len(values)).unsqueeze(1) for values in (batch.x, batch.edge_attr))
    return view.nodes(nodes).flatten().argsort(), view.edges(edges).flatten().argsort()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_a_sweep_is_the_layer_on_one_layer_of_the_network_after_the_other(name: str, reverse: bool) -> None:
    layer = build(name)
    batch = stack(networks()["residual"], 2)
    x, edge_attr = features(layer, len(batch.x), len(batch.edge_attr))
    ends = batch.edge_index.flip(0) if reverse else batch.edge_index
    expected, last = x, int(batch.node_layer.max())
    for number in range(last, -1, -1) if reverse else range(last + 1):
        new, _ = layer(expected, ends, edge_attr)
        expected = torch.where((batch.node_layer == number).unsqueeze(1), new, expected)
    assert not torch.allclose(expected, layer(x, ends, edge_attr)[0])
    for mixed in (False, True):
        view = Layered(batch, mixed=mixed)
        inputs = view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr))
        states, edges = layer.sweep(*inputs, view, reverse=reverse)
        assert_close([torch.cat(states, 1)], [view.nodes(expected)])
        assert_close(edges, layer.step_edges(states, inputs[1], view.bundles, reverse))
        assert not torch.allclose(edges[0], inputs[1][0])


@pytest.mark.parametrize("network", networks())
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_equivariant(name: str, network: str, seeded: torch.Generator) -> None:
    structure, layer = networks()[network], build(name)
    graph = stack(structure, 1)[0]
    x, edges = features(layer, structure.num_nodes, structure.num_edges)

    def apply(given: tuple[NodeFeatures, EdgeFeatures]) -> tuple[NodeFeatures, EdgeFeatures]:
        new = layer(given[0].values, graph.edge_index, given[1].values)
        return NodeFeatures(new[0]), EdgeFeatures(new[1])

    action = PermutationAction(sample_permutation(structure, seeded))
    control = PermutationAction(sample_permutation(structure, seeded))
    control.edge_order = torch.randperm(structure.num_edges, generator=seeded)
    assert_equivariant(apply, (NodeFeatures(x), EdgeFeatures(edges)), action, control, tolerance=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_network_gets_the_same_alone_and_among_other_architectures(name: str) -> None:
    layer, batch = build(name), mixture()
    x, edge_attr = features(layer, len(batch.x), len(batch.edge_attr))
    view = Layered(batch)
    assert not view.dense
    states, edges = layer.parallel(view.split(view.nodes(x)), view.split_edges(view.edges(edge_attr)), view)
    nodes_back, edges_back = graph_order(view, batch)
    together = torch.cat(states, 1)[0, nodes_back], torch.cat(edges, 1)[0, edges_back]
    graphs = batch.to_data_list()
    sizes = [[len(graph.x) for graph in graphs], [len(graph.edge_attr) for graph in graphs]]
    own = zip(graphs, x.split(sizes[0]), edge_attr.split(sizes[1]), strict=True)
    alone = [layer(nodes, graph.edge_index, values) for graph, nodes, values in own]
    assert_close(together, [torch.cat(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_right_by_finite_differences(name: str) -> None:
    kind, options = LAYERS[name]
    sizes = {"node_channels": 3 if options.get("heads") == 3 else 4, "edge_channels": 2}
    layer = kind(**{**options, **sizes}).double()
    x, edge_attr = features(layer, 4, 5)
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    assert torch.autograd.gradcheck(lambda a, b: layer(a, edge_index, b), (x, edge_attr))


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_state_dict_is_the_whole_layer(name: str) -> None:
    layer, file = build(name), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = build(name)
    x, edge_attr = features(layer, 5, 8)
    inputs = x, torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2], [1, 2, 3, 4, 0, 2, 3, 4]]), edge_attr
    assert not torch.equal(other(*inputs)[0], layer(*inputs)[0])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(other(*inputs), layer(*inputs), strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_it_leaves_its_inputs_alone_and_works_without_edges(name: str) -> None:
    layer = build(name)
    x, edge_attr = features(layer, 4, 2)
    kept = x.clone(), edge_attr.clone()
    edges = layer(x, torch.tensor([[0, 1], [1, 2]]), edge_attr)[1]
    assert torch.equal(edges, edge_attr) is not layer.update_edges
    assert torch.equal(x, kept[0])
    assert torch.equal(edge_attr, kept[1])
    out, edges = layer(x, torch.zeros(2, 0, dtype=torch.int64), edge_attr[:0])
    assert torch.equal(out, x)  # nobody heard anything
    assert edges.shape == (0, layer.edge_channels)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_an_edge_of_zeros_is_an_edge(name: str) -> None:
    layer = build(name)
    x, edge_attr = features(layer, 3, 2)
    edge_attr = edge_attr * torch.tensor([[1.0], [0.0]])
    both, _ = layer(x, torch.tensor([[0, 1], [2, 2]]), edge_attr)
    without, _ = layer(x, torch.tensor([[0], [2]]), edge_attr[:1])
    assert float((both[2] - without[2]).abs().max()) > 1e-2
    alone, _ = layer(x, torch.tensor([[1], [2]]), edge_attr[1:])
    assert float((alone[2] - x[2]).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", PRINTED)
def test_dropout_acts_in_training_only(kind: type[EdgeLayer]) -> None:
    layer = kind(8, 2, dropout=0.5)
    x, edge_index, edge_attr = torch.randn(2, 8), torch.tensor([[0], [1]]), torch.randn(1, 2)
    assert not torch.equal(layer(x, edge_index, edge_attr)[0], layer(x, edge_index, edge_attr)[0])
    layer.eval()
    assert torch.equal(layer(x, edge_index, edge_attr)[0], layer(x, edge_index, edge_attr)[0])


@pytest.mark.parametrize("kind", PRINTED)
def test_a_printed_layer_tells_its_contract(kind: type[EdgeLayer]) -> None:
    options = {"heads": 2} if kind is NeuronAttention else {}
    assert PRINTED[kind] in repr(kind(6, 3, **options))
