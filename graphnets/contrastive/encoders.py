"""Data sets and results as vectors, and where they lie among weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ResultsEncoder", "SharedEncoder", "class_means"]


def class_means(features: Tensor, labels: Tensor, classes: Sequence[int]) -> Tensor:
    r"""A data set as the mean features of its classes, one after another (Swanevelder 2025, Section 3.2.2).

    .. math:: \bar z_c = \frac{1}{|X_c|} \sum_{x \in X_c} z_x, \qquad z = [\bar z_{c_1}; \bar z_{c_2}; \ldots]

    Args:
        features: of images, by any encoder.
        labels: of the images.
        classes: in the order of the outputs of the networks that tell them apart.

    Shapes:
        - features: ``[N, d]``; labels: ``[N]``; result: ``[len(classes) * d]``

    Raises:
        ValueError: a class has no image.
    """
    counts = [int((labels == label).sum()) for label in classes]
    empty = [label for label, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise ValueError(f"no image of class {', '.join(map(str, empty))} among {len(labels)}")
    return torch.cat([features[labels == label].mean(0) for label in classes])


class ResultsEncoder(nn.Module):
    r"""A result as the learned vector of its bin (Swanevelder 2025, Section 3.2.3).

    Bins are quantiles of the results it is fitted to, so that all of them are met equally often; results beyond the
    first or the last bin belong to it.

    Args:
        bins: how many.
        channels: of the vectors; 512 in the paper.

    Shapes:
        - results: ``[B]``; result: ``[B, channels]``

    Raises:
        RuntimeError: it is used before it is fitted.
    """

    edges: Tensor

    def __init__(self, bins: int = 16, channels: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(bins, channels)
        self.register_buffer("edges", torch.full((bins - 1,), torch.nan, dtype=torch.float64))

    def fit(self, results: Tensor) -> ResultsEncoder:
        """Take the quantiles of the results of training networks, ``[N]``.

        Raises:
            ValueError: there are no results, or some are not finite.
        """
        if not len(results) or not bool(results.isfinite().all()):
            raise ValueError(f"{len(results)} results, {int((~results.isfinite()).sum())} of them not finite")
        shares = torch.linspace(0, 1, len(self.edges) + 2, dtype=torch.float64)[1:-1]
        self.edges.copy_(torch.quantile(results.double(), shares.to(results.device)))
        return self

    def bins(self, results: Tensor) -> Tensor:
        """The number of each result's bin, ``[B]``."""
        if bool(self.edges.isnan().any()):
            raise RuntimeError("the bins are not known; call fit with the results of training networks")
        return torch.bucketize(results.double(), self.edges)

    def forward(self, results: Tensor) -> Tensor:
        """Look up."""
        found: Tensor = self.embedding(self.bins(results))
        return found


class SharedEncoder(nn.Module):
    r"""From a data set and a result to where weights with that result lie (Swanevelder 2025, Section 3.3).

    .. math:: z_{proj} = \mathrm{MLP}([z_{dataset}; r]) \,/\, \lVert \cdot \rVert

    Trained by `graphnets.contrastive.nt_xent` against the latents of weights, which stay as they are, so that their
    decoder reads what comes out. Latents of weights have unit norm (see `WeightAutoencoder`): the cosine of the loss
    would leave the length of this one free, and the decoder needs it.

    Args:
        data_channels: of the vector of a data set.
        latent: of the weights' latents.
        hidden: widths of hidden layers.
        bins, result_channels: see `ResultsEncoder`; its vectors are trained with the rest.
        dropout: after every hidden layer.

    Shapes:
        - data: ``[B, data_channels]``; results: ``[B]``; result: ``[B, latent]``, of norm 1
    """

    def __init__(
        self,
        data_channels: int,
        latent: int,
        hidden: Sequence[int] = (512, 512),
        bins: int = 16,
        result_channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.results = ResultsEncoder(bins, result_channels)
        widths = [data_channels + result_channels, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], latent))

    def forward(self, data: Tensor, results: Tensor) -> Tensor:
        """Project."""
        vector = torch.cat([data, self.results(results).to(data)], 1)
        return functional.normalize(self.network(vector), dim=1)
