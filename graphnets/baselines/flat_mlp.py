"""The baseline that knows no symmetry: a perceptron on all parameters in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, WeightSpaceFeatures
from converters.layout import same_layout
from graphnets.baselines.augment import draw_orders, permuted_positions
from graphnets.baselines.parameters import ParameterModel, Reading, in_order, parameter_names
from graphnets.layered import Networks
from graphnets.standardise import Standardise

__all__ = ["FlatMLP"]


class FlatMLP(ParameterModel):
    """A multilayer perceptron on the flattened parameters, in the order of each network's structure.

    Not invariant: a permutation of neurons changes the prediction. With ``augment`` it is shown, while training, each
    network under a new true permutation at every step, which leaves it to learn what the others have built in.

    Networks of one layout: every tensor is standardised with one mean and one deviation (medians over the networks of
    `fit_statistics`, so that a diverged one does not decide the scale) and clipped to 10 deviations.

    Networks of several layouts (``structure=None``): one mean and deviation for all weight tensors (two axes or more)
    and one for all vectors. Then the row is filled up with zeros at its end to the length of the longest network that
    `fit_statistics` saw. **A longer network is cut to that length**, and places mean something else in every layout:
    this is the naive baseline.

    Args:
        structure: what the networks share (activations may differ); None is built by `fit_statistics` for what it
            sees, see `ParameterModel`.
        targets: predicted numbers per network; None for new weights, which needs a structure.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer.
        augment: in training mode, permute the hidden neurons of every network, each by a fresh permutation from
            torch's global generator; nothing is permuted in evaluation mode. New weights are put back in order.
        out_channels: of new weights.

    Raises:
        ValueError: new weights are asked for without a structure.
        StructureMismatch: the model is one of a single layout and a network has another.
        RuntimeError: there is no structure yet.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``

    >>> from converters import collate, to_graph
    >>> nets = [nn.Sequential(nn.Linear(2, n), nn.ReLU(), nn.Linear(n, 3)) for n in (4, 8)]
    >>> batch = collate([to_graph(net) for net in nets])
    >>> model = FlatMLP(None, targets=1, hidden=[16])
    >>> model.fit_statistics([batch])
    >>> model.extra_repr()
    'mixed networks of up to 51 numbers -> 1 targets, not invariant, 849 parameters'
    >>> model(batch).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        hidden: Sequence[int] = (128, 64, 32),
        dropout: float = 0.2,
        augment: bool = False,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        if structure is None and targets is None:
            raise ValueError("a perceptron that gives new weights is one of a single layout; pass structure=")
        self.targets, self.hidden, self.dropout, self.augment = targets, tuple(hidden), dropout, augment
        self.out_channels = out_channels
        if structure is not None:
            self.adopt(structure)

    def build(self) -> None:
        """Make the layers."""
        structure, sorts, numbers = self.structure, 2, self.largest or 0
        if structure is not None:
            sorts, numbers = len(parameter_names(structure)), structure.num_parameters
        layers: list[nn.Module] = []
        for inputs, outputs in zip((numbers, *self.hidden[:-1]), self.hidden, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.dropout)]
        results = numbers * self.out_channels if self.targets is None else self.targets
        self.network = nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else numbers, results))
        self.standardise = Standardise(sorts)

    def extent(self, structure: Structure) -> int:
        """Length of the row."""
        return structure.num_parameters

    def extra_repr(self) -> str:
        """The contract."""
        size = sum(p.numel() for p in self.parameters())
        augmented = ", augmented" if self.augment else ""
        if self.targets is None:
            return f"{self.built_for} -> new weights, not equivariant{augmented}, {size} parameters"
        return f"{self.built_for} -> {self.targets} targets, not invariant{augmented}, {size} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Typical mean and deviation of every tensor, or of all weight tensors and all vectors; see `Standardise`."""
        found: dict[Structure, list[Tensor]] = {}
        alike: dict[Structure, Structure] = {}
        for batch in self.settle(batches):
            for structure, _, tensors in self.readings(batch):
                sums = [torch.stack([t.sum(1), t.square().sum(1)], 1) for t in (each.double() for each in tensors)]
                counts = torch.tensor([[t.shape[1]] for t in tensors], dtype=torch.float64, device=sums[0].device)
                now = torch.cat([torch.stack(sums, 1), counts.expand(len(sums[0]), -1, -1)], 2)
                if structure not in alike:
                    alike[structure] = next((known for known in found if same_layout(known, structure)), structure)
                found.setdefault(alike[structure], []).append(now)
        if not found:
            return
        whole = {structure: torch.cat(parts) for structure, parts in found.items()}
        if self.structure is not None:
            self.standardise.fit(next(iter(whole.values())))
            return
        by_sort = []
        for structure, each in whole.items():
            sorts = torch.tensor(_sorts(structure), device=each.device)
            by_sort.append(each.new_zeros(len(each), 2, 3).index_add(1, sorts, each))
        self.standardise.fit(torch.cat(by_sort))

    def rows(self, batch: Networks) -> Tensor:
        """What the perceptron reads, ``[B, numbers]``."""
        self.require_built()
        readings = self.readings(batch)
        return in_order([self._row(reading) for reading in readings], readings)

    def _row(self, reading: Reading) -> Tensor:
        structure, _, tensors = reading
        row: Tensor = self.standardise(tensors, None if self.largest is None else _sorts(structure))
        if self.augment and self.training:
            row = row.gather(1, self._positions(structure, row))
        return row if self.largest is None else functional.pad(row, (0, self.largest - row.shape[1]))

    @staticmethod
    def _positions(structure: Structure, row: Tensor) -> Tensor:
        """Where the numbers of networks that are permuted anew come from, ``[B, numbers]``."""
        orders = {g: order.to(row.device) for g, order in draw_orders(structure, len(row)).items()}
        return permuted_positions(structure, orders).to(row.device).expand_as(row)

    def _new_weights(self, reading: Reading) -> WeightSpaceFeatures:
        structure, _, tensors = reading
        row = self.standardise(tensors)
        if self.augment and self.training:
            positions = self._positions(structure, row)
            moved = self.network(row.gather(1, positions)).unflatten(1, (-1, self.out_channels))
            new = torch.empty_like(moved).scatter(1, positions.unsqueeze(2).expand_as(moved), moved)
        else:
            new = self.network(row).unflatten(1, (-1, self.out_channels))
        names, parts = parameter_names(structure), new.split([t.shape[1] for t in tensors], 1)
        shapes = [structure.parameter[name].shape for name in names]
        return WeightSpaceFeatures(
            {n: part.reshape(len(row), *shape, -1) for n, shape, part in zip(names, shapes, parts, strict=True)}
        )

    def forward(self, batch: Networks) -> Tensor | WeightSpaceFeatures:
        """Predict, or give new weights."""
        if self.targets is None:
            (reading,) = self.readings(batch)
            return self._new_weights(reading)
        rows = self.rows(batch)
        out: Tensor = self.network(rows)
        return out


def _sorts(structure: Structure) -> list[int]:
    """0 for a weight tensor, 1 for a vector or a number, of every trainable tensor."""
    return [int(len(structure.parameter[name].shape) < 2) for name in parameter_names(structure)]
