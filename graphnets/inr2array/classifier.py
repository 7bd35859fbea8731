"""Classifiers of arrays of latent vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.layered import Networks
from graphnets.statistics import take_statistics

__all__ = ["LatentTransformer", "SpatialClassifier"]


class LatentTransformer(nn.Module):
    """A Transformer on the M vectors of an array (Zhou et al. 2023, arXiv:2305.13546, Appendix B.4).

    Vectors are projected, positions added, and a perceptron reads the first vector of what comes out. No vector depends
    on other arrays of the batch.

    Deviations from the paper: vectors are standardised channel by channel, with statistics of the training arrays.

    Args:
        structure: not used; arrays have none.
        targets: predicted numbers per array.
        tokens: vectors of an array, M.
        latent: their size, d.
        channels, blocks, heads: of the Transformer; ``hidden`` is the width of its perceptrons and 4 times ``channels``
            if None.
        dropout: in the Transformer.

    Shapes:
        - latents: ``[B, tokens, latent]``
        - result: ``[B, targets]``

    >>> model = LatentTransformer(None, 10, tokens=4, latent=8, channels=16, blocks=1, heads=2).eval()
    >>> model(torch.randn(3, 4, 8)).shape
    torch.Size([3, 10])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        tokens: int = 16,
        latent: int = 256,
        channels: int = 512,
        blocks: int = 12,
        heads: int = 4,
        hidden: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.targets = targets
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("deviation", torch.ones(latent))
        self.enter = nn.Linear(latent, channels)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, channels))
        width = 4 * channels if hidden is None else hidden
        layer = nn.TransformerEncoderLayer(channels, heads, width, dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, blocks, nn.LayerNorm(channels), enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, targets))

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        tokens, latent = len(self.positions), len(self.mean)
        return f"{tokens} x {latent} latents -> {self.targets} targets, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn mean and deviation of every channel from batches of latents ``[B, tokens, latent]``."""
        vectors = torch.cat([batch.flatten(0, 1) for batch in batches]).double()
        self.mean.copy_(vectors.mean(0))
        self.deviation.copy_(vectors.std(0).clamp_min(1e-6))

    def forward(self, latents: Tensor) -> Tensor:
        """Predict."""
        states = self.enter((latents - self.mean) / self.deviation) + self.positions
        out: Tensor = self.head(self.blocks(states)[:, 0])
        return out


class SpatialClassifier(nn.Module):
    """Any predictor as the maker of a grid of vectors, which convolutions classify (arXiv:2305.13546, Appendix B.4).

    It has the form of `Inr2Array` with a classifier, but is trained on classes alone.

    Args:
        structure: of the networks.
        targets: predicted numbers per network.
        encoder: makes the encoder, as in `Inr2Array`.
        patches: rows and columns of the grid.
        latent: size of its vectors.
        channels: of the convolutions.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        encoder: Callable[..., nn.Module],
        patches: Sequence[int] = (4, 4),
        latent: int = 256,
        channels: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.shape, self.targets = (*patches, latent), targets
        self.encoder = encoder(structure=structure, targets=patches[0] * patches[1] * latent)
        layers: list[nn.Module] = []
        for width in channels:
            layers += [nn.Conv2d(latent, width, 3, padding=1), nn.ReLU()]
            latent = width
        self.head = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(latent, targets))

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        return f"{' x '.join(map(str, self.shape))} -> {self.targets} targets, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Let the encoder take the statistics of its inputs, if it has any."""
        take_statistics(self.encoder, batches)

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        out: Tensor = self.head(self.encoder(batch).unflatten(1, self.shape).movedim(3, 1))
        return out
