"""What `NeuronAttention` does beyond the contract that all layers are tested for."""

from __future__ import annotations

import pytest
import torch

from graphnets import NeuronAttention
from graphnets.layered import Bundle
from graphnets.links import Links


@torch.no_grad()
def test_signed_messages_keep_their_size_whatever_the_degree_and_the_attention() -> None:
    torch.manual_seed(0)
    layer = NeuronAttention(16, 2, heads=2).double()
    layer.edge_value.weight.zero_()
    layer.edge_query.weight.zero_()
    layer.edge_key.weight.zero_()
    layer.value.weight[:, :8] = 0  # attention sees the first half of the channels, values the other
    sizes = []
    for sharpness in (0.0, 3.0):
        layer.query.weight.copy_(sharpness * torch.eye(16))
        layer.key.weight.copy_(torch.eye(16) * (torch.arange(16) < 8))
        for degree in (4, 64, 1024):
            x, weights = torch.randn(200, 1 + degree, 16).double(), torch.randn(200, degree, 2).double()
            target = torch.zeros(degree, dtype=torch.int64)
            bundle = Bundle(0, 0, 0, degree, None, torch.arange(1, degree + 1), target)
            mean, signed, _ = layer.attend(x, [weights], Links([bundle], [1 + degree], 200))
            heard = (mean + signed)[:, 0]
            sizes.append(heard.square().mean().sqrt().item())
    assert max(sizes) / min(sizes) < 1.2
    assert min(sizes) > 0.1


def test_huge_scores_neither_overflow_nor_lose_their_gradients() -> None:
    layer = NeuronAttention(12, 3, heads=2).double()
    x = (1e4 * torch.randn(5, 12).double()).requires_grad_()
    edge_attr = (1e4 * torch.randn(8, 3).double()).requires_grad_()
    out, edges = layer(x, torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2], [1, 2, 3, 4, 0, 2, 3, 4]]), edge_attr)
    found = torch.autograd.grad(out.square().sum() + edges.square().sum(), [x, edge_attr, *layer.parameters()])
    assert all(bool(part.isfinite().all()) for part in (out, edges, *found))


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=3 does not divide node_channels=8; choose a divisor"):
        NeuronAttention(8, 2, heads=3)
    with pytest.raises(ValueError, match="heads=0"):
        NeuronAttention(8, 2, heads=0)
