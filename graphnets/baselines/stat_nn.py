"""Statistics of every weight tensor, and boosted trees or a perceptron on them (Unterthiner et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import ACTIVATIONS, Structure
from graphnets.baselines.boosting import BoostedTrees
from graphnets.baselines.parameters import ParameterModel, Reading, in_order, parameter_names
from graphnets.layered import Networks, structures_of
from graphnets.standardise import ScaleColumns

__all__ = ["HEADS", "BoostedStatNN", "PerceptronStatNN", "StatNN", "describe_layers", "tensor_statistics"]

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = 2 + len(QUANTILES)
LAST = 2
PLACES = 4
KNOWN = PLACES * (len(ACTIVATIONS) + 1) + 2
"""Columns of `describe_layers`."""


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


@lru_cache(maxsize=256)
def describe_layers(structure: Structure) -> Tensor:
    """What is known of a network besides its weights, ``[KNOWN]`` float64: the same columns for every structure.

    Of every layer but the input, its activation (one-hot) and the logarithm of its size, interpolated at 4 places
    between the first and the last; then the logarithms of the number of layers and of parameters.
    """
    layers = [layer for layer in structure.layers if layer.kind != "input"] or list(structure.layers)
    names = torch.tensor([ACTIVATIONS.index(layer.activation) for layer in layers])
    sizes = torch.tensor([layer.size for layer in layers], dtype=torch.float64).log()
    each = torch.cat([functional.one_hot(names, len(ACTIVATIONS)).double(), sizes.unsqueeze(1)], 1)
    places = functional.interpolate(each.T.unsqueeze(0), size=PLACES, mode="linear", align_corners=True)
    whole = torch.tensor([len(layers), max(structure.num_parameters, 1)], dtype=torch.float64).log()
    return torch.cat([places.flatten(), whole])


class _Summary(NamedTuple):
    """Statistics of n networks of one layout: of each tensor ``[n, T, 7]`` and of all weight tensors ``[n, 7]``."""

    reading: Reading
    values: Tensor
    pooled: Tensor


class _Statistics(ParameterModel):
    """Reads `tensor_statistics`, in float64 so that the order of neurons leaves no trace in the sums."""

    UNIT = "tensors"

    def __init__(self, targets: int, activations: bool) -> None:
        super().__init__()
        self.targets, self.activations = targets, activations

    def extent(self, structure: Structure) -> int:
        """Number of tensors."""
        return len(parameter_names(structure))

    def width(self) -> int:
        """Number of features."""
        tensors = 0 if self.structure is None else self.extent(self.structure)
        if self.largest is not None:
            tensors = self.largest + LAST + 1
        return STATISTICS * tensors + self.activations * KNOWN

    def features(self, batch: Networks) -> Tensor:
        """``[B, width]`` in float64; NaN where a network has no such tensor."""
        self.require_built()
        return self._arrange(self._summaries(batch), structures_of(batch))

    def survey(self, batches: Iterable[Any]) -> Tensor:
        """`features` of all networks, ``[N, width]``; a model not yet built is built for them."""
        found = [(self._summaries(batch), structures_of(batch)) for batch in self.settle(batches)]
        rows = [self._arrange(summaries, structures) for summaries, structures in found]
        return torch.cat(rows) if rows else torch.zeros(0, 0)

    def _summaries(self, batch: Networks) -> list[_Summary]:
        out = []
        for reading in self.readings(batch):
            tensors = [tensor.double() for tensor in reading.tensors]
            names = parameter_names(reading.structure)
            weights = [t for name, t in zip(names, tensors, strict=True) if _is_weight(reading.structure, name)]
            values = tensor_statistics(tensors).unflatten(1, (len(tensors), STATISTICS))
            if self.structure is not None or not weights:
                pooled = values.new_full((len(values), STATISTICS), torch.nan)
            else:
                pooled = tensor_statistics([torch.cat(weights, 1)])
            out.append(_Summary(reading._replace(tensors=[]), values, pooled))
        return out

    def _arrange(self, summaries: Sequence[_Summary], structures: Sequence[Structure]) -> Tensor:
        """The statistics in the columns of this model, and what is known of the networks."""
        rows = [summary.values if self.largest is None else self._aligned(summary) for summary in summaries]
        out = in_order([row.flatten(1) for row in rows], [summary.reading for summary in summaries])
        if not self.activations:
            return out
        return torch.cat([out, torch.stack([describe_layers(s) for s in structures]).to(out.device)], 1)

    def _aligned(self, summary: _Summary) -> Tensor:
        """From the first tensor on, from the last one back, and all weights together, ``[n, largest + 3, 7]``."""
        values, size = summary.values, self.largest or 0
        front = functional.pad(values[:, :size], (0, 0, 0, max(size - values.shape[1], 0)), value=torch.nan)
        back = functional.pad(values[:, -LAST:], (0, 0, max(LAST - values.shape[1], 0), 0), value=torch.nan)
        return torch.cat([front, back, summary.pooled.unsqueeze(1)], 1)


def _is_weight(structure: Structure, name: str) -> bool:
    return len(structure.parameter[name].shape) > 1


class BoostedStatNN(_Statistics):
    """`StatNN` with gradient-boosted trees: fitted in one step by :meth:`fit`, differentiable in nothing.

    Args:
        structure, targets, activations: see `StatNN`.
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
        activations: bool = False,
    ) -> None:
        super().__init__(targets, activations)
        self.boosting = BoostedTrees(targets, trees, learning_rate, leaves, min_leaf, l2, seed)
        if structure is not None:
            self.adopt(structure)

    def build(self) -> None:
        """Nothing depends on the networks but the features."""

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.built_for} -> {self.targets} targets, gradient boosting"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the layouts, if they are not known; trees need no standardised inputs."""
        if not self.is_built:
            for _ in self.settle(batches):
                pass

    def fit(self, batches: Iterable[Any], targets: Tensor) -> BoostedStatNN:
        """Grow the trees.

        Args:
            batches: graphs, or pairs whose first item they are.
            targets: of all their networks in that order, ``[N, targets]``.
        """
        self.boosting.fit(self.survey(batches), targets)
        return self

    def forward(self, batch: Networks) -> Tensor:
        """``[B, targets]``."""
        out: Tensor = self.boosting(self.features(batch))
        return out.to(batch.x.dtype)


class PerceptronStatNN(_Statistics):
    """`StatNN` with a perceptron on the standardised statistics, trained by gradient descent.

    A statistic of a tensor that a network does not have is 0 after standardisation.

    Args:
        structure, targets, activations: see `StatNN`.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.1,
        activations: bool = False,
    ) -> None:
        super().__init__(targets, activations)
        self.hidden, self.dropout = tuple(hidden), dropout
        if structure is not None:
            self.adopt(structure)

    def build(self) -> None:
        """Make the perceptron."""
        width, mixed = self.width(), self.largest is not None
        self.scale = ScaleColumns(width, firm=0 if mixed else width - self.activations * KNOWN, gaps=mixed)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((width, *self.hidden[:-1]), self.hidden, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else width, self.targets))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.built_for} -> {self.targets} targets, perceptron {self.hidden}"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Mean and deviation of every statistic."""
        if len(features := self.survey(batches)):
            self.scale.fit(features)

    def forward(self, batch: Networks) -> Tensor:
        """``[B, targets]``."""
        features = self.features(batch)
        out: Tensor = self.network(self.scale(features).to(batch.x.dtype))
        return out


HEADS: dict[str, type[BoostedStatNN] | type[PerceptronStatNN]] = {
    "boosting": BoostedStatNN,
    "mlp": PerceptronStatNN,
}
"""``head`` of `StatNN` to class."""


def StatNN(
    structure: Structure | None,
    targets: int,
    head: str = "boosting",
    activations: bool = False,
    **hyperparameters: Any,
) -> BoostedStatNN | PerceptronStatNN:
    """Predicts from mean, variance and quantiles of every weight tensor (Unterthiner et al. 2020).

    Invariant under permutations of neurons, as every statistic is.

    Networks of several layouts (``structure=None``) have the statistics of their k-th tensor in the same columns,
    for every k up to the most tensors seen in fitting (more are left out), then those of their last two tensors, then
    those of all entries of their weight tensors together. What a network does not have is absent: missing to the
    trees, 0 after standardisation to the perceptron.

    Args:
        structure: what the networks share (activations may differ); None is built in fitting for what it sees, see
            `ParameterModel`.
        targets: predicted numbers per network.
        head: ``"boosting"`` (has ``fit(batches, targets)``) or ``"mlp"``, trained like any other model.
        activations: also read what the graph tells besides the weights; see `describe_layers`.
        hyperparameters: of `BoostedStatNN` or `PerceptronStatNN`.

    Raises:
        ValueError: ``head`` is unknown.

    >>> StatNN(None, 3, head="mlp")
    PerceptronStatNN(no structure yet -> 3 targets, perceptron (128, 64))
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; known are {', '.join(HEADS)}")
    return HEADS[head](structure, targets, activations=activations, **hyperparameters)
