"""Attention maps are those of the forward pass, without padding, neuron by neuron."""

from __future__ import annotations

import pytest
import torch

from converters import permute, sample_permutation
from graphnets import CrossLayerAttention, IntraLayerAttention, WeightNet
from graphnets.layered import Layered
from graphnets.weightnet import AttentionMaps
from graphnets.weightnet.maps import Recorded

from .networks import mixture, stack, structures


def model_for(pooling: str = "mean", **options: object) -> WeightNet:
    settings: dict[str, object] = {"channels": 8, "pooling": pooling, "intra_blocks": 2, "intra_heads": 4, **options}
    return WeightNet(None, 2, max_inputs=60, **settings).double().eval()


@pytest.mark.parametrize("kind", [IntraLayerAttention, CrossLayerAttention])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_done_by_hand_from_its_weights_is_the_attention(
    kind: type[IntraLayerAttention], pre_norm: bool, padded: bool
) -> None:
    block = kind(8, heads=4, pre_norm=pre_norm).double().eval()
    tokens = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]]) if padded else None
    weights = block.weights(tokens, mask)
    assert weights.shape == (3, 4, 6, 6)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, 6, dtype=torch.float64))
    if mask is not None:
        assert not bool(weights.masked_select(~mask[:, None, None, :]).any())
    cut = slice(2 * block.channels, None)
    value = tokens @ block.qkv.weight[cut].T + block.qkv.bias[cut]
    heard = torch.einsum("shij,sjhc->sihc", weights, value.unflatten(-1, (4, 2)))
    expected = heard.flatten(2) @ block.out.weight.T + block.out.bias
    assert torch.allclose(block.attend(tokens, mask), expected, rtol=0, atol=1e-12)
    inside = block.weights(block.norm_attention(tokens) if pre_norm else tokens, mask)
    assert torch.equal(block.weights_in(tokens, mask), inside)
    assert torch.equal(inside, weights) is not pre_norm


@pytest.mark.parametrize("tokens", ["invariant", "paper", "sorted"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("mixed", [False, True])
def test_maps_have_one_row_per_neuron_and_layer_and_rows_sum_to_one(tokens: str, pooling: str, mixed: bool) -> None:
    batch = mixture() if mixed else stack(structures()["cnn"], 3)
    model = model_for(pooling, tokens=tokens)
    maps = model.attention_maps(batch)
    extra = int(pooling == "cls")
    assert maps.cls is (pooling == "cls")
    assert torch.equal(maps.predictions, model(batch))
    assert not maps.predictions.requires_grad
    assert [len(maps.intra), len(maps.cross)] == [2, 1]
    for networks in maps.intra:
        assert len(networks) == len(batch.structure)
        for structure, layers in zip(batch.structure, networks, strict=True):
            assert list(layers) == list(range(1, len(structure.layers)))
            for number, attention in layers.items():
                size = structure.layers[number].size + extra
                assert attention.shape == (4, size, size)
                assert torch.allclose(attention.sum(-1), torch.ones(4, size, dtype=torch.float64))
    for structure, attention in zip(batch.structure, maps.cross[0], strict=True):
        size = len(structure.layers) - 1 + extra
        assert attention.shape == (2, size, size)
        assert torch.allclose(attention.sum(-1), torch.ones(2, size, dtype=torch.float64))


def all_maps(maps: AttentionMaps) -> list[torch.Tensor]:
    intra = [layers[n] for networks in maps.intra for layers in networks for n in layers]
    return intra + [attention for networks in maps.cross for attention in networks]


@pytest.mark.parametrize("pooling", ["moments", "cls"])
def test_a_networks_maps_are_the_same_alone_and_among_others(pooling: str) -> None:
    batch = mixture()
    model = model_for(pooling, pre_norm=True)
    together = model.attention_maps(batch)
    for number, graph in enumerate(batch.to_data_list()):
        alone = model.attention_maps(graph)
        mine = AttentionMaps(
            together.predictions[number : number + 1],
            tuple((networks[number],) for networks in together.intra),
            tuple((networks[number],) for networks in together.cross),
            together.cls,
        )
        for a, b in zip(all_maps(mine), all_maps(alone), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", ["invariant", "sorted", "paper"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_maps_move_with_the_neurons_of_symmetric_tokens(
    tokens: str, pooling: str, network: str, seeded: torch.Generator
) -> None:
    structure = structures()[network]
    batch = stack(structure, 2)
    order = sample_permutation(structure, seeded)
    model = model_for(pooling, tokens=tokens, encodings=[])
    maps, moved = model.attention_maps(batch), model.attention_maps(permute(batch, order))
    extra = int(pooling == "cls")
    worst, still = 0.0, 0.0
    for networks, others in zip(maps.intra, moved.intra, strict=True):
        for layers, changed in zip(networks, others, strict=True):
            for number, attention in layers.items():
                index = order.index(structure.layers[number].axis, 0)
                index = torch.arange(structure.layers[number].size) if index is None else index
                index = torch.cat([torch.arange(extra), index + extra])
                worst = max(worst, float((attention[:, index][:, :, index] - changed[number]).abs().max()))
                still = max(still, float((attention - changed[number]).abs().max()))
    cross = max(float((a - b).abs().max()) for a, b in zip(maps.cross[0], moved.cross[0], strict=True))
    assert still > 1e-3  # the permutation is not the identity
    if tokens == "paper":
        assert worst > 1e-3
    else:
        assert max(worst, cross) < 1e-12


def test_maps_of_the_dense_and_the_mixed_path_agree() -> None:
    batch = stack(structures()["cnn"], 2)
    model = model_for("cls")
    found = []
    for mixed in (False, True):
        view, recorded = Layered(batch, mixed=mixed), Recorded()
        predictions = model._predict(batch, view, recorded)
        found.append(all_maps(recorded.sorted_out(view, predictions, cls=True)))
    assert len(found[0]) == 2 * 2 * 5 + 2
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*found, strict=True))
