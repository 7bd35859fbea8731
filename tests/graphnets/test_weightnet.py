from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnets import CrossLayerAttention, IntraLayerAttention, WeightNet
from graphnets.layered import Layered
from graphnets.testing import SetAction, assert_equivariant
from graphnets.weightnet.tokens import TokenSets

from .networks import mixture, stack, structures


def textbook(block: IntraLayerAttention, tokens: Tensor) -> Tensor:
    """The block written out, one head and one set at a time."""
    out = []
    for x in tokens:
        width = block.channels // block.heads
        query, key, value = (
            x @ w.T + b for w, b in zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True)
        )
        heads = []
        for head in range(block.heads):
            cut = slice(head * width, (head + 1) * width)
            scores = query[:, cut] @ key[:, cut].T / width**0.5
            heads.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ value[:, cut])
        h = functional.layer_norm(x + block.out(torch.cat(heads, 1)), [block.channels])
        out.append(functional.layer_norm(h + block.feed_forward(h), [block.channels]))
    return torch.stack(out)


@pytest.mark.parametrize("kind", [IntraLayerAttention, CrossLayerAttention])
def test_attention_equals_the_equations(kind: type[IntraLayerAttention]) -> None:
    block = kind(8, heads=2).double().eval()
    tokens = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    fast, slow = block(tokens), textbook(block, tokens)
    assert torch.allclose(fast, slow, rtol=0, atol=1e-10)
    weight = torch.randn_like(fast)
    (a,), (b,) = (torch.autograd.grad((out * weight).sum(), tokens) for out in (fast, slow))
    assert torch.allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_attention_is_equivariant(pre_norm: bool) -> None:
    block = IntraLayerAttention(8, heads=4, pre_norm=pre_norm)
    order, other = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([2, 0, 1])
    assert_equivariant(block, torch.randn(3, 5, 8), SetAction(order), tolerance=1e-12)
    positions = torch.randn(5, 8, dtype=torch.float64)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(lambda x: block.double()(x + positions), torch.randn(3, 5, 8), SetAction(order))
    assert_equivariant(block.float(), torch.randn(3, 5, 8), SetAction(other, 0), tolerance=1e-12)  # sets are apart


def test_padding_changes_nothing() -> None:
    block = IntraLayerAttention(8).double().eval()
    tokens, rest = torch.randn(2, 4, 8).double(), torch.randn(2, 3, 8).double()
    mask = torch.tensor([True] * 4 + [False] * 3).expand(2, -1)
    padded = block(torch.cat([tokens, 100 * rest], 1), mask)
    assert torch.allclose(padded[:, :4], block(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixed", [False, True])
def test_token_sets_hold_every_neuron_once_with_its_layer_and_network(mixed: bool) -> None:
    batch = mixture() if mixed else stack(structures()["cnn"], 3)
    view = Layered(batch)
    layer = view.nodes(batch.node_layer).flatten()
    network = view.nodes(batch.batch).flatten()
    met = torch.zeros(len(layer), dtype=torch.int64)
    for sets in TokenSets.of(view, skip=[0]):
        mask = torch.ones_like(sets.index, dtype=torch.bool) if sets.mask is None else sets.mask
        for row in range(len(sets.index)):
            nodes = sets.index[row, mask[row]]
            met[nodes] += 1
            assert set(layer[nodes].tolist()) == {int(sets.layers[row])}
            assert set(network[nodes].tolist()) == {int(sets.owner[row])}
    assert torch.equal(met, (layer != 0).long())


@pytest.mark.parametrize("name", ["segment", "layer_type", "depth"])
def test_every_encoding_can_be_switched_off(name: str) -> None:
    full = {"segment", "layer_type", "depth"}
    batch = stack(structures()["residual"], 2)
    without = WeightNet(None, 1, channels=8, encodings=sorted(full - {name}))
    assert without(batch.apply(lambda t: t.float() if t.is_floating_point() else t)).shape == (2, 1)
    names = {key.split(".")[0] for key, _ in without.named_parameters()}
    assert name not in names
    assert full - {name} <= names


def test_defaults_are_the_papers() -> None:
    model = WeightNet(structures()["mlp"], 3)
    assert model.channels == 64
    assert [len(model.intra), len(model.cross)] == [1, 1]
    assert [model.intra[0].heads, model.cross[0].heads] == [2, 2]
    assert not model.intra[0].pre_norm
    assert len(model.heads) == 3
    assert all(isinstance(head[-1], nn.Linear) and head[-1].out_features == 1 for head in model.heads)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=3 does not divide channels=8"):
        IntraLayerAttention(8, heads=3)


def test_invariant_tokens_are_the_default_and_keep_their_state() -> None:
    model, same = WeightNet(None, 1), WeightNet(None, 1, tokens="invariant", positions=[])
    assert list(model.state_dict()) == list(same.state_dict())
    assert {key.split(".")[1] for key in model.state_dict() if key.startswith("tokens.")} == {
        "scaling",
        "node_encoding",
        "edge_encoding",
        "gather",
    }
