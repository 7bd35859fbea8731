"""The networkx view holds every number of the graph once, under its name."""

from __future__ import annotations

from collections import Counter

import networkx
import pytest
import torch
from torch import nn

from converters import StructureMismatch, collate, to_graph, to_networkx, trace


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, (1, 3)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(5 * 6 * 4, 3, bias=False),
    )


EXAMPLE = torch.zeros(2, 1, 8, 8)


def test_the_weights_can_be_read_back_by_name() -> None:
    net = network()
    nn.init.normal_(net[1].running_mean)
    view = to_networkx(to_graph(net, EXAMPLE))
    state = net.state_dict()
    found: dict[str, list[float]] = {}
    for _, data in sorted(view.nodes(data=True)):
        for slot in {"bias", "scale", "running_mean", "running_var"} & data.keys():
            key = f"{data['layer']}.{'weight' if slot == 'scale' else slot}"
            found.setdefault(key, []).append(data[slot])
    for source, target, data in view.edges(data=True):
        if "weight" in data:
            i, j = view.nodes[target]["index"], view.nodes[source]["index"]
            width = view.graph["kernels"][data["block"]]
            weight = state[data["parameter"]]
            assert len(data["weight"]) == weight[i, j].numel()
            assert tuple(weight.shape[2:]) == width
            assert data["weight"] == weight[i, j].flatten().tolist()
            found.setdefault(data["parameter"], []).extend(data["weight"])
    found.update({name: [value] for name, value in view.graph["extras"].items()})
    assert {name: len(values) for name, values in found.items()} == {n: t.numel() for n, t in state.items()}
    for name in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.bias"):
        assert found[name] == state[name].tolist()


def test_structure_and_names() -> None:
    graph = to_graph(network(), EXAMPLE)
    view = to_networkx(graph)
    assert isinstance(view, networkx.MultiDiGraph)
    assert (view.number_of_nodes(), view.number_of_edges()) == (graph.num_nodes, graph.num_edges)
    assert list(view.nodes) == list(range(graph.num_nodes))
    ends = Counter(map(tuple, graph.edge_index.t().tolist()))
    assert Counter((a, b) for a, b in view.edges()) == ends
    assert networkx.is_directed_acyclic_graph(view)
    layers = [(layer.name, layer.kind, layer.activation, layer.size) for layer in graph.structure.layers]
    seen = Counter((d["layer"], d["kind"], d["activation"]) for _, d in view.nodes(data=True))
    assert seen == {(name, kind, activation): size for name, kind, activation, size in layers}
    hidden = {d["group"] for _, d in view.nodes(data=True) if d["permutable"]}
    assert hidden == {group.name for group in graph.structure.groups if group.permutable}
    assert view.graph["name"] == "Sequential"
    assert view.graph["fingerprint"] == graph.structure.fingerprint


def test_absent_is_not_zero() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    nn.init.zeros_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    view = to_networkx(to_graph(net))
    assert [data.get("bias") for _, data in sorted(view.nodes(data=True))] == [None, None, 0.0, 0.0, 0.0, None]
    assert view.number_of_edges() == 9
    assert all(view.edges[i, j, 0]["weight"] == [0.0] for i in (0, 1) for j in (2, 3, 4))
    assert {data["type"] for *_, data in view.edges(data=True)} == {"linear"}


def test_views_are_read_without_filling_the_graph_in() -> None:
    graph = to_graph(network(), EXAMPLE, materialize=False)
    view = to_networkx(graph)
    assert not graph.is_materialized
    assert view.number_of_edges() == graph.structure.num_edges
    assert not any(key in graph for key in ("x", "edge_attr"))


def test_padding_is_not_shown() -> None:
    net = network()
    graph = to_graph(net, EXAMPLE, kernel_size=(5, 5))
    plain = to_networkx(to_graph(net, EXAMPLE))
    assert networkx.utils.edges_equal(to_networkx(graph).edges(data=True), plain.edges(data=True), directed=True)


def test_a_batch_is_refused() -> None:
    graphs = [to_graph(nn.Linear(2, 3)) for _ in range(2)]
    with pytest.raises(StructureMismatch, match=r"got a batch of 2; convert each graph = batch\[i\]"):
        to_networkx(collate(graphs))


def test_gradients_and_half_precision_do_not_disturb() -> None:
    net = nn.Linear(2, 2).bfloat16()
    graph = to_graph(dict(net.named_parameters()), structure=trace(net))
    assert graph.edge_attr.requires_grad
    assert to_networkx(graph).edges[0, 2, 0]["weight"] == [net.weight[0, 0].item()]
