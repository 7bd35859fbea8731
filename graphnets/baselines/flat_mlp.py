"""The baseline that knows no symmetry: a perceptron on all parameters in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure
from converters.layout import same_layout
from graphnets.baselines.augment import draw_orders, permuted_positions
from graphnets.baselines.parameters import ParameterModel, Reading, in_order, parameter_names
from graphnets.baselines.standardise import Standardise
from graphnets.layered import Networks

__all__ = ["FlatMLP"]


class FlatMLP(ParameterModel):
    """A multilayer perceptron on the flattened parameters, in the order of each network's structure.

    Not invariant: a permutation of neurons changes the prediction. With ``augment`` it is shown, while training, each
    network under a new true permutation at every step, which leaves it to learn what the others have built in.

    Networks of one layout: every tensor is standardised with one mean and one deviation (over its entries and the
    networks of `fit_statistics`) and clipped to 10 deviations.

    Networks of several layouts (``structure=None``): one mean and deviation for all weight tensors (two axes or more)
    and one for all vectors. Then the row is filled up with zeros at its end to the length of the longest network that
    `fit_statistics` saw. **A longer network is cut to that length**, and places mean something else in every layout:
    this is the naive baseline.

    Args:
        structure: what the networks share (activations may differ); None is built by `fit_statistics` for what it
            sees, see `ParameterModel`.
        targets: predicted numbers per network.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer.
        augment: in training mode, permute the hidden neurons of every network, each by a fresh permutation from
            torch's global generator; nothing is permuted in evaluation mode.

    Raises:
        StructureMismatch: the model is one of a single layout and a network has another.
        RuntimeError: there is no structure yet.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``

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
        targets: int,
        hidden: Sequence[int] = (128, 64, 32),
        dropout: float = 0.2,
        augment: bool = False,
    ) -> None:
        super().__init__()
        self.targets, self.hidden, self.dropout, self.augment = targets, tuple(hidden), dropout, augment
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
        self.network = nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else numbers, self.targets))
        self.standardise = Standardise(sorts)

    def extent(self, structure: Structure) -> int:
        """Length of the row."""
        return structure.num_parameters

    def extra_repr(self) -> str:
        """The contract."""
        size = sum(p.numel() for p in self.parameters())
        augmented = ", augmented" if self.augment else ""
        return f"{self.built_for} -> {self.targets} targets, not invariant{augmented}, {size} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Mean and deviation of every tensor, or of all weight tensors and all vectors."""
        found: dict[Structure, Tensor] = {}
        alike: dict[Structure, Structure] = {}
        for batch in self.settle(batches):
            for structure, _, tensors in self.readings(batch):
                sums = [
                    torch.stack([t.double().sum(), t.double().square().sum(), t.new_tensor(t.numel())]) for t in tensors
                ]
                now = torch.stack(sums).double()
                if structure not in alike:
                    alike[structure] = next((known for known in found if same_layout(known, structure)), structure)
                key = alike[structure]
                found[key] = found[key] + now if key in found else now
        if not found:
            return
        if self.structure is not None:
            self.standardise.fit(next(iter(found.values())))
            return
        sorts = torch.tensor([sort for structure in found for sort in _sorts(structure)])
        each = torch.cat(list(found.values()))
        sums_by_sort = [each[sorts.to(each.device) == sort].sum(0) for sort in (0, 1)]
        self.standardise.fit(torch.stack([s if float(s[2]) else s.new_tensor([0.0, 1.0, 1.0]) for s in sums_by_sort]))

    def rows(self, batch: Networks) -> Tensor:
        """What the perceptron reads, ``[B, numbers]``."""
        self.require_built()
        readings = self.readings(batch)
        return in_order([self._row(reading) for reading in readings], readings)

    def _row(self, reading: Reading) -> Tensor:
        structure, _, tensors = reading
        row: Tensor = self.standardise(tensors, None if self.largest is None else _sorts(structure))
        if self.augment and self.training:
            orders = {g: order.to(row.device) for g, order in draw_orders(structure, len(row)).items()}
            row = row.gather(1, permuted_positions(structure, orders).to(row.device).expand_as(row))
        return row if self.largest is None else functional.pad(row, (0, self.largest - row.shape[1]))

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        rows = self.rows(batch)
        out: Tensor = self.network(rows)
        return out


def _sorts(structure: Structure) -> list[int]:
    """0 for a weight tensor, 1 for a vector or a number, of every trainable tensor."""
    return [int(len(structure.parameter[name].shape) < 2) for name in parameter_names(structure)]
