"""Batches hold the right graphs with the right targets, whatever the order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from converters import ACTIVATIONS, to_graph, to_state_dict
from experiments.zoo import Zoo, ZooDataset, ZooError

TARGETS = ["test_accuracy", "robustness", "generalization_gap"]


def test_every_network_is_in_one_split_with_its_own_weights_and_targets(tiny_zoo: Zoo) -> None:
    seen: list[int] = []
    for split in ("train", "val", "test"):
        dataset = ZooDataset(tiny_zoo, split, TARGETS)
        records = tiny_zoo.records.set_index("id").loc[dataset.ids.tolist()]
        assert (records["split"] == split).all()
        assert torch.allclose(dataset.y.double(), torch.tensor(records[TARGETS].to_numpy()), atol=1e-6)
        for name in tiny_zoo.architectures:
            chosen = [i for i, other in enumerate(dataset.architectures) if other == name]
            rows = tiny_zoo.of(name)["id"].tolist()
            expected = tiny_zoo.weights(name, [rows.index(int(dataset.ids[i])) for i in chosen])
            found = dataset.weights(chosen)
            assert all(torch.equal(found[key], expected[key]) for key in expected)
        seen += dataset.ids.tolist()
    assert sorted(seen) == tiny_zoo.records["id"].tolist()
    assert len(ZooDataset(tiny_zoo, None, TARGETS)) == len(tiny_zoo)


def test_a_mixed_batch_holds_each_graph_as_it_is_alone(tiny_zoo: Zoo) -> None:
    dataset = ZooDataset(tiny_zoo, "train", ["test_accuracy"])
    order = torch.randperm(len(dataset))[:12]
    batch, y = dataset.batch(order)
    names = [dataset.architectures[i] for i in order]
    assert len(set(names)) == 2, "the batch should mix activations"
    assert torch.equal(y, dataset.y[order])
    for position, graph in enumerate(batch.to_data_list()):
        name, index = names[position], int(order[position])
        weights = {key: value[0] for key, value in dataset.weights([index]).items()}
        assert all(torch.equal(to_state_dict(graph)[key], value) for key, value in weights.items())
        alone = to_graph(weights, structure=tiny_zoo.structures[name])
        for key in ("x", "edge_attr", "edge_index", "activation", "node_type", "node_layer"):
            assert torch.equal(graph[key], alone[key]), key
        activation = ACTIVATIONS.index(tiny_zoo.architectures[name].activation)
        assert activation in graph.activation.tolist()


def test_an_epoch_sees_every_network_once_and_epochs_differ(tiny_zoo: Zoo) -> None:
    dataset = ZooDataset(tiny_zoo, "train", ["test_accuracy"])
    loader = dataset.loader(16, shuffle=True, seed=3)
    epochs = [torch.cat([y for _, y in loader]) for _ in range(3)]
    assert len(loader) == 3 == len(list(dataset.loader(16)))
    for epoch in epochs:
        assert torch.equal(epoch.sort(0).values, dataset.y.sort(0).values)
        assert not torch.equal(epoch, dataset.y)
    assert not torch.equal(epochs[0], epochs[1])
    plain = torch.cat([y for _, y in dataset.loader(16)])
    assert torch.equal(plain, dataset.y)
    other = torch.cat([y for _, y in dataset.loader(16, shuffle=True, seed=4)])
    assert not torch.equal(other, epochs[0])

    again = dataset.loader(16, shuffle=True, seed=3)
    again.load_state_dict({"epoch": 2})
    assert torch.equal(torch.cat([y for _, y in again]), epochs[2])
    assert again.state_dict() == loader.state_dict() == {"epoch": 3}
    again.set_epoch(0)
    assert torch.equal(torch.cat([y for _, y in again]), epochs[0])


def test_networks_of_several_topologies_are_batched_in_order(small: Any, tmp_path: Any) -> None:
    from experiments.zoo import get_zoo

    small |= {"size": 12}
    small["architecture"] = {"family": "mlp", "hidden": [[8], [6, 5]], "activation": ["relu", "tanh"]}
    zoo = get_zoo(small, tmp_path, progress=False)
    assert len({architecture.topology for architecture in zoo.architectures.values()}) == 2
    dataset = ZooDataset(zoo, None, ["test_accuracy"])
    order = torch.randperm(len(dataset))
    batch, y = dataset.batch(order)
    assert torch.equal(y, dataset.y[order])
    for index, graph in zip(order.tolist(), batch.to_data_list(), strict=True):
        weights = dataset.weights([index])
        assert all(torch.equal(to_state_dict(graph)[key], value[0]) for key, value in weights.items())
    with pytest.raises(ZooError, match="2 topologies; ask for weights of one at a time"):
        dataset.weights(order)


def test_wrong_targets_and_splits_are_named(tiny_zoo: Zoo) -> None:
    with pytest.raises(ZooError, match="has no target accuracy; its columns are id, run"):
        ZooDataset(tiny_zoo, "train", ["accuracy"])
    with pytest.raises(ZooError, match="no networks in split 'dev'"):
        ZooDataset(tiny_zoo, "dev", ["test_accuracy"])
    with pytest.raises(ValueError, match="batch_size=0"):
        ZooDataset(tiny_zoo, "val", ["test_accuracy"]).loader(0)
