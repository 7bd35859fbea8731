"""Standardisation: of parameters tensor by tensor, and of statistics and readouts column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graphnets.layered import Layered, Networks

__all__ = ["LIMIT", "ScaleColumns", "Standardise", "fit_spread"]

LIMIT = 10.0
"""Standardised values are clipped to so many deviations."""


class Standardise(nn.Module):
    """A typical mean and deviation per sort of tensor, clipped to 10 deviations; the results side by side.

    Args:
        sorts: how many sorts there are: one per tensor of a layout, or fewer that several tensors share.

    Shapes:
        - tensors: ``[B, numbers of one parameter]`` each; result: ``[B, numbers]``
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, sorts: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sorts))
        self.register_buffer("deviation", torch.ones(sorts))

    def extra_repr(self) -> str:
        """The size."""
        return f"{len(self.mean)} sorts of tensors"

    def fit(self, sums: Tensor) -> None:
        """Take both from sum, sum of squares and count of every network and sort, ``[N, sorts, 3]`` float64.

        Medians over networks: of their means, and of their root mean squares about that. A few diverged networks, whose
        weights may be a million times as large as the others', do not move them.
        """
        for sort, (total, square, count) in enumerate(sums.permute(1, 2, 0)):
            has = count > 0
            if not bool(has.any()):
                continue
            means = total[has] / count[has]
            mean = means.median()
            spread = square[has] / count[has] - 2 * mean * means + mean.square()
            deviation = spread.clamp_min(0).sqrt().median()
            self.mean[sort] = mean
            self.deviation[sort] = deviation if float(deviation) > 0 else 1.0

    def forward(self, tensors: Sequence[Tensor], sorts: Sequence[int] | None = None) -> Tensor:
        """``sorts`` says which sort each tensor is; None: each its own, in order."""
        mean, deviation = (self.mean, self.deviation)
        if sorts is not None:
            index = torch.tensor(sorts, device=mean.device)
            mean, deviation = mean[index], deviation[index]
        scaled = [(t - m) / d for t, m, d in zip(tensors, mean, deviation, strict=True)]
        return torch.cat(scaled, 1).clamp(-LIMIT, LIMIT)


class ScaleColumns(nn.Module):
    """Standardises features column by column and clips them to 10 deviations.

    Args:
        width: number of columns.
        firm: of the first ``firm`` columns every difference counts; of the later ones, those that do not vary among
            the networks of `fit` have no say (deviation infinity), so that what was never seen moves no prediction.
        gaps: NaN means absent and becomes 0; else NaN stays NaN.

    Shapes:
        - features: ``[B, width]``; result: ``[B, width]``

    >>> scale = ScaleColumns(2, firm=0, gaps=True)
    >>> scale.fit(torch.tensor([[1.0, 7.0], [3.0, 7.0], [torch.nan, 7.0]]))
    >>> scale(torch.tensor([[4.0, 8.0], [torch.nan, 7.0]]))
    tensor([[2., 0.],
            [0., 0.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, firm: int, gaps: bool) -> None:
        super().__init__()
        self.firm, self.gaps = firm, gaps
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def extra_repr(self) -> str:
        """The size."""
        return f"{len(self.mean)} columns"

    def fit(self, features: Tensor) -> None:
        """Take mean and deviation of every column from the networks that have it, ``[N, width]``."""
        present = ~features.isnan()
        if not self.gaps or bool(present.all()):
            mean, deviation = features.mean(0), features.std(0, unbiased=False)
        else:
            count = present.sum(0).clamp_min(1)
            mean = features.where(present, 0).sum(0) / count
            deviation = ((features - mean).where(present, 0).square().sum(0) / count).sqrt()
        self.set(mean, deviation)

    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Take both as they are, ``[width]`` each."""
        constant = deviation < 1e-6
        constant[: self.firm] = False
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp_min(1e-6).masked_fill(constant, torch.inf))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise."""
        scaled = ((features - self.mean) / self.deviation).clamp(-LIMIT, LIMIT)
        return scaled.masked_fill(features.isnan(), 0) if self.gaps else scaled


@torch.no_grad()
def fit_spread(
    model: nn.Module,
    scale: ScaleColumns,
    batches: Sequence[Networks],
    features: Callable[[Networks, Layered], Tensor],
) -> None:
    """Take centre and spread of what a model, as it is now, makes of training networks.

    The median, and 1.48 times the median distance to it: the deviation of a normal column, and not moved by a few
    diverged networks.

    Networks of one architecture with wide layers have readouts that differ by a hundredth of their size; without this,
    a head learns what they have in common first, and of the rest little.
    """
    training = model.training
    model.eval()
    found = torch.cat([features(batch, Layered(batch)) for batch in batches])
    centre = found.quantile(0.5, 0)
    scale.set(centre, 1.4826 * (found - centre).abs().quantile(0.5, 0))
    model.train(training)
