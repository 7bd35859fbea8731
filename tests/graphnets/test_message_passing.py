"""What `NeuronMessagePassing` does beyond the contract that all layers are tested for."""

from __future__ import annotations

import pytest
import torch

from graphnets import NeuronMessagePassing
from graphnets.layered import Bundle, Layered

from .networks import mixture


def test_mean_aggregation_ignores_how_often_an_edge_is_repeated() -> None:
    layer = NeuronMessagePassing(3, 2, hidden_channels=16, update_edges=False)
    x, edge_index, edge_attr = torch.randn(2, 3), torch.tensor([[0], [1]]), torch.randn(1, 2)
    once, _ = layer(x, edge_index, edge_attr)
    twice, _ = layer(x, edge_index.repeat(1, 2), edge_attr.repeat(2, 1))
    assert torch.allclose(once, twice, atol=1e-6)
    total = NeuronMessagePassing(3, 2, hidden_channels=16, update_edges=False, aggr="sum")
    summed, _ = total(x, edge_index, edge_attr)
    assert not torch.allclose(summed, total(x, edge_index.repeat(1, 2), edge_attr.repeat(2, 1))[0])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="aggr='max' is unknown"):
        NeuronMessagePassing(4, 2, aggr="max")
    with pytest.raises(ValueError, match="leave no messages"):
        NeuronMessagePassing(4, 2, hidden_channels=0)
    with pytest.raises(ValueError, match="dense bundle"):
        Bundle(0, 1, 0, 4, (2, 2)).ends(False)


def test_mixed_batches_are_laid_out_layer_by_layer() -> None:
    batch = mixture()
    view = Layered(batch)
    assert not view.dense
    layers = view.nodes(batch.node_layer)[0]
    assert bool((layers.diff() >= 0).all())
    source, target = (view.edges(batch.node_layer[end])[0] for end in batch.edge_index)
    for bundle in view.bundles:
        assert set(source[bundle.start : bundle.stop].tolist()) == {bundle.source}
        assert set(target[bundle.start : bundle.stop].tolist()) == {bundle.target}
    assert int(view.fan_in.max()) == int(torch.bincount(batch.edge_index[1]).max())
