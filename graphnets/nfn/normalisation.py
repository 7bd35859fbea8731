"""Normalisation and dropout of weight-space features that permutations of neurons commute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, WeightSpaceFeatures
from graphnets.pieces import Pieces

__all__ = ["ChannelDropout", "ChannelNorm", "TensorNorm"]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every weight by itself (Ba et al. 2016), one scale and shift for all tensors.

    Args:
        channels: feature channels per weight.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}``; result: the same
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Normalise."""
        return WeightSpaceFeatures({name: self.norm(tensor) for name, tensor in features.items()})


class TensorNorm(nn.Module):
    """Standardises every channel of a network's tensor over all weights of that tensor, then scales and shifts it.

    The statistics are the network's own, so nothing depends on its batch; a tensor of one weight becomes its shift.

    Args:
        structure: of the networks.
        channels: feature channels per weight.
        eps: added to the variance.
        buffers: whether running statistics belong to the features.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}``; result: the same
    """

    def __init__(self, structure: Structure, channels: int, eps: float = 1e-5, buffers: bool = False) -> None:
        super().__init__()
        self.names, self.eps = Pieces.of(structure, "hnp", buffers).names, eps
        self.weight = nn.Parameter(torch.ones(len(self.names), channels))
        self.bias = nn.Parameter(torch.zeros(len(self.names), channels))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{len(self.names)} tensors, {self.weight.shape[1]} channels"

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Normalise."""
        out = {}
        for i, name in enumerate(self.names):
            flat = features[name].flatten(1, -2)
            centred = flat - flat.mean(1, keepdim=True)
            scaled = centred * (centred.square().mean(1, keepdim=True) + self.eps).rsqrt()
            out[name] = (scaled * self.weight[i] + self.bias[i]).view_as(features[name])
        return WeightSpaceFeatures(out)


class ChannelDropout(nn.Module):
    """Drops whole channels of a network, the same ones in all of its tensors, while training.

    A dropped channel is zero on every weight, so the order of neurons plays no part in what is dropped.

    Args:
        p: share of channels that are dropped; the others are divided by 1 - p.

    Shapes:
        - features: ``{name: [B, *parameter axes, C]}``; result: the same
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        """The share."""
        return f"p={self.p}"

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Drop."""
        parts = self.on_pieces(list(features.values()), next(iter(features.values())).shape[-1])
        return WeightSpaceFeatures(dict(zip(features, parts, strict=True)))

    def on_pieces(self, parts: Sequence[Tensor], channels: int) -> list[Tensor]:
        """Drop channels of ``[B, *unit sizes, F * channels]`` per piece."""
        if not self.training or not self.p:
            return list(parts)
        keep = functional.dropout(parts[0].new_ones(len(parts[0]), channels), self.p)
        return [t * keep.repeat(1, t.shape[-1] // channels).view(len(t), *[1] * (t.dim() - 2), -1) for t in parts]
