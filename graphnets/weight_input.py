"""How models of one architecture read a batch: as weight-space features on a common scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch, WeightSpaceFeatures, weight_space
from converters.layout import same_layout
from graphnets.baselines.stat_nn import KNOWN, describe_layers
from graphnets.layered import Networks, networks_of, structures_of
from graphnets.pieces import Pieces
from graphnets.standardise import LIMIT, Standardise

__all__ = ["ScaleTensors", "WeightInput"]


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


class WeightInput(nn.Module):
    """From a batch of graphs to weight-space features of one channel, standardised tensor by tensor.

    Args:
        structure: what the networks share (activations may differ).
        buffers: whether running statistics are read too.
        activations: whether `known` tells what the networks compute besides their weights.
        weight_noise: relative Gaussian noise on weights while training.

    Raises:
        ValueError: there is no structure; models of weight spaces are made for one architecture.

    Attributes:
        known_features: columns of `known`.
    """

    def __init__(
        self,
        structure: Structure | None,
        buffers: bool = False,
        activations: bool = False,
        weight_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if structure is None:
            raise ValueError(
                "this model has parameters for every tensor of one architecture, so it needs its structure; "
                "networks of several architectures are for NeuronGNN, NeuronTransformer, WeightNet or Prober"
            )
        self.structure, self.buffers_too, self.weight_noise = structure, buffers, weight_noise
        self.known_features = KNOWN if activations else 0
        self.scale = ScaleTensors(structure, 1, buffers)

    def extra_repr(self) -> str:
        """What is read."""
        return f"{self.structure.name}, buffers={self.buffers_too}, weight_noise={self.weight_noise}"

    def features(self, batch: Networks) -> WeightSpaceFeatures:
        """The weights as they are, ``{name: [B, *shape, 1]}``.

        Raises:
            StructureMismatch: a network has another layout.
        """
        for other in {id(s): s for s in structures_of(batch)}.values():
            if not same_layout(self.structure, other):
                raise StructureMismatch(f"the model was built for {self.structure!r} and cannot read {other!r}")
        return weight_space(batch, structures_of(batch)[0], buffers=self.buffers_too)

    def known(self, batch: Networks) -> Tensor:
        """What the networks compute besides their weights, ``[B, known_features]``."""
        structures = structures_of(batch)
        if not self.known_features:
            return torch.zeros(len(structures), 0, dtype=batch.x.dtype, device=batch.x.device)
        rows = [describe_layers(structure) for structure in structures]
        return torch.stack(rows).to(batch.x.device, batch.x.dtype)

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights from some networks."""
        self.scale.fit(self.features(networks_of(item)) for item in batches)

    def forward(self, batch: Networks) -> WeightSpaceFeatures:
        """Read and standardise."""
        features = self.features(batch)
        if self.training and self.weight_noise:
            features = features.map(lambda t: t * (1 + self.weight_noise * torch.randn_like(t)))
        scaled: WeightSpaceFeatures = self.scale(features)
        return scaled
