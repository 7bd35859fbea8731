"""Normalisation and dropout of weight-space features that permutations of neurons commute with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, WeightSpaceFeatures
from graphnets.baselines.standardise import LIMIT, Standardise
from graphnets.pieces import Pieces

__all__ = ["ChannelDropout", "ChannelNorm", "ScaleTensors", "TensorNorm"]


class ScaleTensors(nn.Module):
    """Standardises every tensor with one mean and one deviation per channel of all its weights, clipped to 10.

    One pair of numbers for a whole tensor, never one per entry: entries move under permutations, and a scale of
    their own would end equivariance. Medians over networks, so that a few diverged ones do not decide.

    Args:
        structure: of the networks.
        channels: feature channels per weight.
        buffers: whether running statistics belong to the features.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}``; result: the same
    """

    def __init__(self, structure: Structure, channels: int = 1, buffers: bool = False) -> None:
        super().__init__()
        self.channels, self.names = channels, Pieces.of(structure, "hnp", buffers).names
        self.scale = Standardise(channels * len(self.names))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{len(self.names)} tensors, {self.channels} channels"

    def fit(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Take the scales from the features of some networks."""
        found = []
        for features in batches:
            each = [features[name].detach().double().flatten(1, -2) for name in self.names]
            sums = [torch.stack([t.sum(1), t.square().sum(1), torch.full_like(t[:, 0], t.shape[1])], -1) for t in each]
            found.append(torch.cat(sums, 1))
        if found:
            self.scale.fit(torch.cat(found))

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Standardise."""
        mean = self.scale.mean.view(-1, self.channels)
        deviation = self.scale.deviation.view(-1, self.channels)
        return WeightSpaceFeatures(
            {n: ((features[n] - mean[i]) / deviation[i]).clamp(-LIMIT, LIMIT) for i, n in enumerate(self.names)}
        )


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
        if not self.training or not self.p:
            return WeightSpaceFeatures(features)
        first = next(iter(features.values()))
        keep = functional.dropout(first.new_ones(len(first), first.shape[-1]), self.p)
        shaped = {name: keep.view(len(keep), *[1] * (t.dim() - 2), -1) for name, t in features.items()}
        return WeightSpaceFeatures({name: tensor * shaped[name] for name, tensor in features.items()})
