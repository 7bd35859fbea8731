"""The reference that reads no weights: PointNet (Qi et al. 2017, arXiv:1612.00593) on the points of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure

__all__ = ["PointNet"]


class PointNet(nn.Module):
    r"""One perceptron on every point, the maximum over points, and a perceptron on that.

    .. math:: f(\{x_1, \dots, x_N\}) = \mathrm{MLP}_2\big(\max_i \mathrm{MLP}_1(x_i)\big)

    What the points of shapes allow, to compare with what weights of their distance fields do (Zhou et al. 2023,
    arXiv:2302.14040, section E.2). It does not change when points are reordered, and knows nothing of neurons.

    Deviations from the paper: without its networks that transform points and features, and without batch norm after the
    maximum, where a batch may be of one shape.

    Args:
        structure: not used; a batch brings the points of its shapes, see `experiments.tasks.ShapeClassification`.
        targets: predicted numbers per shape.
        points: how many of each shape are read: new ones at every step of training, else the first ones.
        channels: of the perceptron on points, each with batch norm and ReLU.
        head: widths of the hidden layers after the maximum.
        dropout: before the last layer.

    Shapes:
        - batch: has ``points``, ``[B, N, 3]``
        - result: ``[B, targets]``

    Raises:
        ValueError: a batch has no points.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        points: int = 1024,
        channels: Sequence[int] = (64, 64, 64, 128, 1024),
        head: Sequence[int] = (512, 256),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.points, self.targets = points, targets
        layers: list[nn.Module] = []
        width = 3
        for each in channels:
            layers += [nn.Conv1d(width, each, 1), nn.BatchNorm1d(each), nn.ReLU()]
            width = each
        self.each = nn.Sequential(*layers)
        layers = []
        for each in head:
            layers += [nn.Linear(width, each), nn.ReLU()]
            width = each
        self.together = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, targets))

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        return f"{self.points} points -> {self.targets} targets, {size:,} parameters"

    def forward(self, batch: Any) -> Tensor:
        """Predict."""
        clouds: Tensor | None = getattr(batch, "points", None)
        if clouds is None:
            raise ValueError(
                "PointNet reads the points of shapes, and this batch has none; use task=shape_classification"
            )
        if self.training:
            clouds = clouds[:, torch.randperm(clouds.shape[1], device=clouds.device)]
        out: Tensor = self.together(self.each(clouds[:, : self.points].transpose(1, 2)).amax(2))
        return out
