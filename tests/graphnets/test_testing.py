"""The assertions themselves must be able to fail."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from converters import permute, sample_permutation, to_state_dict, weight_space
from graphnets.testing import (
    EdgeFeatures,
    NodeFeatures,
    PermutationAction,
    SetAction,
    assert_equivariant,
    assert_independent,
    assert_invariant,
    permuted,
)

from .networks import mixture, stack, structures


@pytest.mark.parametrize("name", list(structures()))
def test_all_kinds_of_features_are_permuted_alike(name: str, seeded: torch.Generator) -> None:
    structure = structures()[name]
    graph = stack(structure, 1)[0]
    action = PermutationAction(sample_permutation(structure, seeded))
    moved = action @ graph
    assert not torch.equal(moved.edge_attr, graph.edge_attr)
    assert torch.equal((action @ NodeFeatures(graph.x)).values, moved.x)
    assert torch.equal((action @ EdgeFeatures(graph.edge_attr)).values, moved.edge_attr)
    features = action @ weight_space(graph, structure)
    expected = weight_space(moved, structure)
    assert all(torch.equal(features[key], expected[key]) for key in expected)
    state = action @ to_state_dict(graph)
    assert all(torch.equal(state[key], value) for key, value in to_state_dict(moved).items())


class Broken(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, batch):
        values = batch.edge_attr.view(batch.num_graphs if hasattr(batch, "ptr") else 1, -1)
        if self.what == "first":
            return values[:, :1]
        if self.what == "constant":
            return torch.zeros_like(values[:, :1])
        if self.what == "batch":
            return values.sum(1, keepdim=True) - values.mean()
        return values.sort(1).values[:, :2]


def test_assert_invariant_fails_where_it_should(seeded: torch.Generator) -> None:
    batch = stack(structures()["mlp"])
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(Broken("first"), batch, seeded)
    with pytest.raises(AssertionError, match="all predictions are equal"):
        assert_invariant(Broken("constant"), batch, seeded)
    with pytest.raises(AssertionError, match="a false symmetry went unnoticed"):
        assert_invariant(Broken("sorted"), batch, seeded)


def test_assert_independent_fails_where_it_should() -> None:
    batch = stack(structures()["mlp"])
    with pytest.raises(AssertionError, match="depend on the batch"):
        assert_independent(Broken("batch"), batch)
    assert_independent(Broken("sorted"), batch)


def test_assert_equivariant_fails_where_it_should() -> None:
    x, action = torch.randn(6, 3), SetAction(torch.tensor([1, 2, 3, 4, 5, 0]))
    assert_equivariant(nn.Linear(3, 3), x, action)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(lambda v: v.cumsum(0), x, action)
    with pytest.raises(AssertionError, match="the output is constant"):
        assert_equivariant(lambda v: 0 * v, x, action)
    with pytest.raises(AssertionError, match="went unnoticed"):
        assert_equivariant(nn.Linear(3, 3), x, action, control=SetAction(torch.tensor([0, 2, 1, 3, 4, 5])))


def test_networks_of_different_architectures_are_permuted_each_by_its_own_group(seeded: torch.Generator) -> None:
    batch = mixture()
    moved = permuted(batch, seeded)
    for before, after in zip(batch.to_data_list(), moved.to_data_list(), strict=True):
        assert not torch.equal(before.edge_attr, after.edge_attr)
        for one, other in zip(before.blocks, after.blocks, strict=True):
            assert torch.equal(one.flatten().sort().values, other.flatten().sort().values)
    structure = structures()["mlp"]
    graph = stack(structure, 1)[0]
    back = sample_permutation(structure, seeded)
    assert torch.equal(permute(permute(graph, back), back.inverse()).edge_attr, graph.edge_attr)
