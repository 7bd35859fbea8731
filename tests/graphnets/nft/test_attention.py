"""Weight-space attention against the paper's equations written out, and its symmetries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import WeightSpaceFeatures, sample_permutation, trace
from graphnets import WeightSpaceCrossAttention, WeightSpaceSelfAttention
from graphnets.nfn import LayerEncoding
from graphnets.nft import kernels
from graphnets.nft.kernels import AttentionPlan, attend, feed_forward
from graphnets.testing import PermutationAction, assert_equivariant, relative_error

from .nft_structures import nft_structures, random_features


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Tokens ``[B, T, n, H, c]`` that are arrays over n neurons and c channels, for every head."""
    scores = torch.einsum("btnhc,bsnhc->bhts", query, key) / (query.shape[2] * query.shape[4]) ** 0.5
    return torch.einsum("bhts,bsnhc->btnhc", scores.softmax(-1), value)


def equations(layer: WeightSpaceSelfAttention, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
    """Eq. 22-29 on a chain, with scaled dot products; neuron sets are numbered from the inputs, 0."""
    inner = layer.attention
    names = list(features)
    weights, biases = names[::2], names[1::2]
    three: dict[str, list[Tensor]] = {
        name: list((value @ inner.qkv.weight.T).unflatten(-1, (3, inner.heads, -1)).unbind(-3))
        for name, value in features.items()
    }
    out = {name: torch.zeros_like(three[name][0]) for name in names}
    if inner.terms != "global":
        for i in range(len(weights) + 1):
            tokens: list[list[Tensor]] = []
            if i > 0:
                tokens.append([t.transpose(1, 2) for t in three[weights[i - 1]]])  # columns of W(i)
                tokens.append([t.unsqueeze(1) for t in three[biases[i - 1]]])
            if i < len(weights):
                tokens.append(three[weights[i]])  # rows of W(i+1)
            heard = attention(*(torch.cat(each, 1) for each in zip(*tokens, strict=True)))
            parts = list(heard.split([t[0].shape[1] for t in tokens], 1))
            if i > 0:
                out[weights[i - 1]] = out[weights[i - 1]] + parts[0].transpose(1, 2)
                out[biases[i - 1]] = out[biases[i - 1]] + parts[1].squeeze(1)
            if i < len(weights):
                out[weights[i]] = out[weights[i]] + parts[-1]
    if inner.terms != "adjacent":
        flat = [[t.flatten(1, -3) for t in three[name]] for name in names]
        if inner.global_term != "full":
            flat = [[getattr(t, inner.global_term)(1, keepdim=True) for t in each] for each in flat]
        heard = attention(*(torch.cat(each, 1).unsqueeze(2) for each in zip(*flat, strict=True))).squeeze(2)
        for name, part in zip(names, heard.split([each[0].shape[1] for each in flat], 1), strict=True):
            whole = part.expand(-1, out[name].flatten(1, -3).shape[1], -1, -1)
            out[name] = out[name] + whole.reshape(out[name].shape)
    return WeightSpaceFeatures({name: value.flatten(-2) for name, value in out.items()})


CHOICES = [
    ("full", "mean"),
    ("full", "sum"),
    ("full", "full"),
    ("adjacent", "mean"),
    ("global", "mean"),
    ("global", "full"),
]


@pytest.mark.parametrize(("terms", "global_term"), CHOICES)
@pytest.mark.parametrize(("name", "chunk"), [("chain", 1), ("chain", 2**20), ("narrow", 2**20)])
def test_self_attention_is_that_of_the_equations(
    terms: str, global_term: str, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "CHUNK", chunk)  # one network at a time, or all at once
    structure = nft_structures()[name]
    layer = WeightSpaceSelfAttention(structure, 6, heads=2, terms=terms, global_term=global_term).double()
    features = random_features(structure, 6, batch=3).map(Tensor.requires_grad_)
    inputs = [*features.values(), layer.attention.qkv.weight]
    results = []
    for function in (layer, lambda x: equations(layer, x)):
        out = function(features)
        loss = sum((value.sin() * torch.arange(value.numel()).view_as(value)).sum() for value in out.values())
        results.append((out, torch.autograd.grad(loss, inputs)))
    (ours, ours_grads), (theirs, theirs_grads) = results
    assert relative_error(ours, theirs) < 1e-10
    assert relative_error(ours_grads, theirs_grads) < 1e-10


@pytest.mark.parametrize("name", nft_structures())
@pytest.mark.parametrize("symmetry", ["np", "hnp"])
@pytest.mark.parametrize("global_term", ["mean", "full"])
def test_self_attention_is_equivariant(name: str, symmetry: str, global_term: str, seeded: torch.Generator) -> None:
    structure = nft_structures()[name]
    layer = WeightSpaceSelfAttention(structure, 4, heads=2, symmetry=symmetry, global_term=global_term)
    action, control = (PermutationAction(sample_permutation(structure, seeded, coupled)) for coupled in (True, False))
    assert_equivariant(layer, random_features(structure, 4), action, control, noticed=1e-4)


@dataclass
class Moved:
    """A permutation of weights, given as what happens to the tensors of a chain."""

    change: Callable[[dict[str, Tensor]], None]

    def __matmul__(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        tensors = {name: value.clone() for name, value in features.items()}
        self.change(tensors)
        return WeightSpaceFeatures(tensors)


def across_layers(t: dict[str, Tensor]) -> None:
    t["0.weight"][:, 1, 0], t["2.weight"][:, 2, 3] = t["2.weight"][:, 2, 3].clone(), t["0.weight"][:, 1, 0].clone()


def within_a_row(t: dict[str, Tensor]) -> None:
    t["2.weight"][:, 1] = t["2.weight"][:, 1].roll(1, 1)


def within_a_column(t: dict[str, Tensor]) -> None:
    t["2.weight"][:, :, 2] = t["2.weight"][:, :, 2].roll(1, 1)


def rows_alone(t: dict[str, Tensor]) -> None:
    t["0.weight"] = t["0.weight"].roll(1, 1)
    t["0.bias"] = t["0.bias"].roll(1, 1)


def truly(t: dict[str, Tensor]) -> None:
    rows_alone(t)
    t["2.weight"] = t["2.weight"].roll(1, 2)


@pytest.mark.parametrize("false", [across_layers, within_a_row, within_a_column, rows_alone])
@pytest.mark.parametrize("global_term", ["mean", "full"])
def test_every_kind_of_false_symmetry_is_broken(false: Callable[[Any], None], global_term: str) -> None:
    """Theorem 3.1: self-attention of encoded layers commutes with permutations of neurons and with no others."""
    structure = nft_structures()["chain"]
    attend_all = WeightSpaceSelfAttention(structure, 4, heads=2, global_term=global_term)
    layer = nn.Sequential(LayerEncoding(structure, 4), attend_all)
    assert_equivariant(layer, random_features(structure, 4), Moved(truly), control=Moved(false))


def test_only_the_layer_encoding_breaks_the_reversal_of_a_chain() -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False))
    structure = trace(net)

    def reverse(t: dict[str, Tensor]) -> None:
        t["0.weight"], t["2.weight"] = t["2.weight"].transpose(1, 2).clone(), t["0.weight"].transpose(1, 2).clone()

    layer, features = WeightSpaceSelfAttention(structure, 4, heads=2), random_features(structure, 4)
    assert_equivariant(layer, features, Moved(reverse))
    encoding = LayerEncoding(structure, 4)
    nn.init.normal_(encoding.vectors)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(nn.Sequential(encoding, layer), features, Moved(reverse))


@pytest.mark.parametrize("name", ["chain", "attention", "grouped"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_of_attention(name: str, dropout: float) -> None:
    rows = WeightSpaceSelfAttention(nft_structures()[name], 4, heads=2).attention.rows
    x = torch.randn(2, rows.length, 4, dtype=torch.float64, requires_grad=True)
    shapes = [(12, 4), (12,), (4,), (4,)]
    weight, bias, scale, shift = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    for residual, pooled in itertools.product((False, True), ("mean", None)):
        plan = AttentionPlan(rows, 2, pooled=pooled, residual=residual, dropout=dropout)

        def run(*inputs: Tensor, plan: AttentionPlan = plan) -> Tensor:
            torch.manual_seed(0)
            return attend(*inputs[:3], inputs[3:], plan)

        assert torch.autograd.gradcheck(run, (x, weight, bias, scale, shift), fast_mode=True)


def test_gradients_of_the_feed_forward_step() -> None:
    shapes = [(2, 7, 4), (5, 4), (5,), (4, 5), (4,), (4,), (4,)]
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        return feed_forward(x, rest[:2], rest[2:4], rest[4:])

    assert torch.autograd.gradcheck(run, inputs)


def test_queries_read_all_weights_as_in_the_equation() -> None:
    structure = nft_structures()["chain"]
    layer = WeightSpaceCrossAttention(structure, 6, 8, queries=3, heads=2).double()
    features = random_features(structure, 6)
    tokens = torch.cat([value.flatten(1, -2) for value in features.values()], 1)
    key, value = layer.pool.key(tokens), layer.pool.value(tokens)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = layer.pool.queries[:, head] @ key[..., head].mT / 4**0.5
        heads.append(scores.softmax(-1) @ value[..., head])
    assert relative_error(layer(features), torch.cat(heads, -1)) < 1e-12


@pytest.mark.parametrize("name", nft_structures())
def test_what_queries_read_is_invariant(name: str, seeded: torch.Generator) -> None:
    structure = nft_structures()[name]
    layer = WeightSpaceCrossAttention(structure, 4, 8, queries=3, heads=2, symmetry="hnp")
    features = random_features(structure, 4)
    assert_equivariant(layer, features, PermutationAction(sample_permutation(structure, seeded)))
    first = next(iter(features))
    changed = WeightSpaceFeatures({**features, first: features[first] + 1})
    assert relative_error(layer.double()(changed), layer(features)) > 1e-3


def test_unknown_options_are_refused() -> None:
    structure = nft_structures()["chain"]
    with pytest.raises(ValueError, match="heads=3 does not divide channels=8"):
        WeightSpaceSelfAttention(structure, 8, heads=3)
    with pytest.raises(ValueError, match="terms='all' is unknown; choose one of full, adjacent, global"):
        WeightSpaceSelfAttention(structure, 8, terms="all")
    with pytest.raises(ValueError, match="global_term='max' is unknown; choose one of mean, sum, full"):
        WeightSpaceSelfAttention(structure, 8, global_term="max")
    with pytest.raises(ValueError, match="heads=3 does not divide out_channels=8"):
        WeightSpaceCrossAttention(structure, 4, 8, heads=3)


def test_a_printed_layer_tells_its_contract() -> None:
    layer = WeightSpaceSelfAttention(nft_structures()["chain"], 8, heads=2)
    expected = "channels=8, heads=2, terms=full over mean, np, 4 sets of fibres, 35 elements"
    assert layer.attention.extra_repr() == expected
    pool = WeightSpaceCrossAttention(nft_structures()["chain"], 8, 16, queries=3, heads=2).pool
    assert pool.extra_repr() == "channels=8, out_channels=16, queries=3, heads=2"
