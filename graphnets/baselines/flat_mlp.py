"""The baseline that knows no symmetry: a perceptron on all parameters in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.baselines.parameters import ParameterModel
from graphnets.layered import Networks, networks_of

__all__ = ["FlatMLP"]

LIMIT = 10.0


class FlatMLP(ParameterModel):
    """A multilayer perceptron on the flattened parameters, in the order of the structure.

    Every tensor is standardised with one mean and one deviation (over its entries and the networks of
    `fit_statistics`) and clipped to 10 deviations. Not invariant: a permutation of neurons changes the prediction.

    Args:
        structure: what the networks share (activations may differ); None takes the layout of the first networks that
            `fit_statistics` sees.
        targets: predicted numbers per network.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        hidden: Sequence[int] = (128, 64, 32),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.targets, self.hidden, self.dropout = targets, tuple(hidden), dropout
        if structure is not None:
            self.adopt(structure)

    def build(self, structure: Structure) -> None:
        """Make the layers for a structure."""
        numbers = structure.num_parameters
        layers: list[nn.Module] = []
        for inputs, outputs in zip((numbers, *self.hidden[:-1]), self.hidden, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else numbers, self.targets))
        self.standardise = Standardise(len(self.names(structure)))

    def extra_repr(self) -> str:
        """The contract."""
        size = sum(p.numel() for p in self.parameters())
        return f"{self.built_for} -> {self.targets} targets, not invariant, {size} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Mean and deviation of every tensor."""
        total, square, count = (torch.zeros(0, dtype=torch.float64) for _ in range(3))
        for item in self.adopt_first(batches):
            tensors = self.read(networks_of(item))
            sums = [
                torch.stack([t.double().sum(), t.double().square().sum(), t.new_tensor(t.numel())]) for t in tensors
            ]
            sums_now = torch.stack(sums).double().unbind(1)
            total, square, count = (
                a + b if len(a) else b for a, b in zip((total, square, count), sums_now, strict=True)
            )
        if len(count):
            mean = total / count
            self.standardise.mean.copy_(mean)
            self.standardise.deviation.copy_((square / count - mean.square()).clamp_min(1e-12).sqrt())

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        tensors = self.read(batch)
        out: Tensor = self.network(self.standardise(tensors))
        return out


class Standardise(nn.Module):
    """One mean and one deviation per tensor; the results side by side, ``[B, numbers]``."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tensors))
        self.register_buffer("deviation", torch.ones(tensors))

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """``tensors`` are ``[B, numbers of one parameter]`` each."""
        scaled = [(t - m) / d for t, m, d in zip(tensors, self.mean, self.deviation, strict=True)]
        return torch.cat(scaled, 1).clamp(-LIMIT, LIMIT)
