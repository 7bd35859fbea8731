"""Networks of every kind that weight-space attention is tested on."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures, trace
from graphnets.pieces import Pieces

from ..networks import mlp, structures


class Attentive(nn.Module):
    """A Transformer's layer between hidden neurons: two heads of three dimensions, residuals, LayerNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.layer = nn.TransformerEncoderLayer(6, 2, 4, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x)).mean(1))


class Recurrent(nn.Module):
    """Hidden states, whose neurons are the rows and the columns of one matrix, for each of four gates."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


def grouped() -> nn.Sequential:
    """A grouped convolution: neurons nested in cells on both of its sides."""
    return nn.Sequential(nn.Conv1d(1, 6, 1), nn.ReLU(), nn.Conv1d(6, 6, 1, groups=2), nn.ReLU(), nn.Conv1d(6, 1, 1))


@cache
def nft_structures() -> dict[str, Structure]:
    tokens = torch.zeros(1, 5, 3)
    known = structures()
    return {
        "chain": trace(mlp(2, 4, 3, 2)),
        "narrow": trace(mlp(1, 4, 1, 3, 1)),
        "cnn": known["cnn"],
        "residual": known["residual"],
        "attention": trace(Attentive(), tokens),
        "recurrent": trace(Recurrent(), tokens),
        "grouped": trace(grouped(), torch.zeros(1, 1, 3)),
    }


def random_features(structure: Structure, channels: int = 1, batch: int = 2) -> WeightSpaceFeatures:
    names = Pieces.of(structure, "hnp").names
    shapes = {name: structure.parameter[name].shape for name in names}
    return WeightSpaceFeatures({n: torch.randn(batch, *s, channels, dtype=torch.float64) for n, s in shapes.items()})
