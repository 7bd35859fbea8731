"""Statistics of every weight tensor, and boosted trees or a perceptron on them (Unterthiner et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.baselines.boosting import BoostedTrees
from graphnets.baselines.parameters import ParameterModel
from graphnets.layered import Networks, networks_of

__all__ = ["HEADS", "BoostedStatNN", "PerceptronStatNN", "StatNN", "tensor_statistics"]

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = 2 + len(QUANTILES)
LIMIT = 10.0


def tensor_statistics(tensors: Sequence[Tensor]) -> Tensor:
    """Mean, variance (of the population: 0 for one number) and quantiles 0, 25, 50, 75, 100% of every tensor.

    Shapes:
        - tensors: ``[B, numbers]`` each; result: ``[B, 7 * len(tensors)]``

    >>> tensor_statistics([torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0]])])
    tensor([[2.0000, 1.0000, 1.0000, 1.5000, 2.0000, 2.5000, 3.0000, 5.0000, 0.0000,
             5.0000, 5.0000, 5.0000, 5.0000, 5.0000]])
    """
    features = []
    for tensor in tensors:
        levels = torch.tensor(QUANTILES, dtype=tensor.dtype, device=tensor.device)
        moments = torch.stack([tensor.mean(1), tensor.var(1, unbiased=False)], 1)
        features += [moments, _quantiles(tensor, levels)]
    return torch.cat(features, 1)


def _quantiles(tensor: Tensor, levels: Tensor) -> Tensor:
    """As `torch.quantile` along axis 1, which refuses large tensors; ``[B, numbers] -> [B, levels]``."""
    ordered = tensor.sort(1).values
    place = levels * (tensor.shape[1] - 1)
    low = place.floor().long()
    high = place.ceil().long()
    return torch.lerp(ordered[:, low], ordered[:, high], place - low)


class _Statistics(ParameterModel):
    """Reads `tensor_statistics`, in float64 so that the order of neurons leaves no trace in the sums."""

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.targets = targets

    def features(self, batch: Networks) -> Tensor:
        """``[B, 7 * tensors]`` in float64."""
        return tensor_statistics([tensor.double() for tensor in self.read(batch)])


class BoostedStatNN(_Statistics):
    """`StatNN` with gradient-boosted trees: fitted in one step by :meth:`fit`, differentiable in nothing.

    Args:
        structure, targets: see `StatNN`.
        trees, learning_rate, leaves, min_leaf, l2: see scikit-learn's ``HistGradientBoostingRegressor``
            (``max_iter``, ``learning_rate``, ``max_leaf_nodes``, ``min_samples_leaf``, ``l2_regularization``).
        seed: of the trees' fitting.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        trees: int = 300,
        learning_rate: float = 0.05,
        leaves: int = 15,
        min_leaf: int = 10,
        l2: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(targets)
        self.boosting = BoostedTrees(targets, trees, learning_rate, leaves, min_leaf, l2, seed)
        if structure is not None:
            self.adopt(structure)

    def build(self, structure: Structure) -> None:
        """Nothing depends on the structure but the features."""

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.built_for} -> {self.targets} targets, gradient boosting"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the layout, if it is not known; trees need no standardised inputs."""
        if self.structure is None:
            next(iter(self.adopt_first(batches)), None)

    def fit(self, batches: Iterable[Any], targets: Tensor) -> BoostedStatNN:
        """Grow the trees.

        Args:
            batches: graphs, or pairs whose first item they are.
            targets: of all their networks in that order, ``[N, targets]``.
        """
        features = [self.features(networks_of(item)) for item in self.adopt_first(batches)]
        self.boosting.fit(torch.cat(features), targets)
        return self

    def forward(self, batch: Networks) -> Tensor:
        """``[B, targets]``."""
        out: Tensor = self.boosting(self.features(batch))
        return out.to(batch.x.dtype)


class PerceptronStatNN(_Statistics):
    """`StatNN` with a perceptron on the standardised statistics, trained by gradient descent.

    Args:
        structure, targets: see `StatNN`.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(targets)
        self.hidden, self.dropout = tuple(hidden), dropout
        if structure is not None:
            self.adopt(structure)

    def build(self, structure: Structure) -> None:
        """Make the perceptron."""
        width = STATISTICS * len(self.names(structure))
        self.scale = _Scale(width)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((width, *self.hidden[:-1]), self.hidden, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else width, self.targets))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.built_for} -> {self.targets} targets, perceptron {self.hidden}"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Mean and deviation of every statistic."""
        found = [self.features(networks_of(item)) for item in self.adopt_first(batches)]
        if found:
            features = torch.cat(found)
            self.scale.mean.copy_(features.mean(0))
            self.scale.deviation.copy_(features.std(0, unbiased=False).clamp_min(1e-6))

    def forward(self, batch: Networks) -> Tensor:
        """``[B, targets]``."""
        features = self.features(batch)
        out: Tensor = self.network(self.scale(features).to(batch.x.dtype))
        return out


class _Scale(nn.Module):
    """Standardises features and clips them to 10 deviations."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """``[B, width]``."""
        return ((features - self.mean) / self.deviation).clamp(-LIMIT, LIMIT)


HEADS: dict[str, type[BoostedStatNN] | type[PerceptronStatNN]] = {
    "boosting": BoostedStatNN,
    "mlp": PerceptronStatNN,
}
"""``head`` of `StatNN` to class."""


def StatNN(
    structure: Structure | None, targets: int, head: str = "boosting", **hyperparameters: Any
) -> BoostedStatNN | PerceptronStatNN:
    """Predicts from mean, variance and quantiles of every weight tensor (Unterthiner et al. 2020).

    Invariant under permutations of neurons, as every statistic is.

    Args:
        structure: what the networks share (activations may differ); None takes the layout of the first networks seen.
        targets: predicted numbers per network.
        head: ``"boosting"`` (has ``fit(batches, targets)``) or ``"mlp"``, trained like any other model.
        hyperparameters: of `BoostedStatNN` or `PerceptronStatNN`.

    Raises:
        ValueError: ``head`` is unknown.

    >>> StatNN(None, 3, head="mlp")
    PerceptronStatNN(no structure yet -> 3 targets, perceptron (128, 64))
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; known are {', '.join(HEADS)}")
    return HEADS[head](structure, targets, **hyperparameters)
