"""Predict the properties of a trained network (accuracy, robustness, generalization gap) from its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from converters import Structure
from converters.layout import same_layout
from experiments.evaluation.metrics import permutation_delta, regression_metrics
from experiments.zoo import Zoo, ZooDataset

__all__ = ["LOSSES", "Generalization"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}


class Generalization:
    """Regression of columns of a zoo's records.

    Models are trained on targets standardised with the mean and deviation of the **training** networks, so
    that every property weighs the same; `decode` undoes it.

    Args:
        zoo: the networks.
        properties: name in the tables to column of the records.
        loss: a key of `LOSSES`.
        permutations: true permutations tried by `invariance`.

    Raises:
        ValueError: the zoo lacks a column, a target is not finite, or the loss is unknown.
    """

    def __init__(self, zoo: Zoo, properties: Mapping[str, str], loss: str = "mse", permutations: int = 4) -> None:
        if loss not in LOSSES:
            raise ValueError(f"task.loss={loss!r} is unknown; known are {', '.join(LOSSES)}")
        missing = [column for column in properties.values() if column not in zoo.records]
        if missing:
            raise ValueError(
                f"task.properties: the zoo's records have no column {', '.join(missing)}; "
                f"they have {', '.join(map(str, zoo.records))}"
            )
        self.zoo, self.properties, self.permutations = zoo, dict(properties), permutations
        self._loss, self._datasets = LOSSES[loss], dict[str, ZooDataset]()
        train = zoo.records[zoo.records["split"] == "train"][list(self.properties.values())]
        values = torch.tensor(train.to_numpy(), dtype=torch.float64)
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"task.properties: targets of the training networks are not finite in zoo {zoo.fingerprint}"
            )
        self.mean, self.deviation = values.mean(0), values.std(0).clamp_min(1e-8)

    @property
    def settings(self) -> tuple[str, ...]:
        """The properties' names."""
        return tuple(self.properties)

    @property
    def outputs(self) -> int:
        """One number per property."""
        return len(self.properties)

    @property
    def structure(self) -> Structure | None:
        """The architecture, any of them where they differ in activations alone, or None."""
        structures = list(self.zoo.structures.values())
        return structures[0] if all(same_layout(each, structures[0]) for each in structures) else None

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches ``(graphs, targets [B, properties])``, the targets in their own units."""
        if split not in self._datasets:
            self._datasets[split] = ZooDataset(self.zoo, split, list(self.properties.values()))
        return self._datasets[split].loader(batch_size, shuffle=shuffle, seed=seed)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss over networks and properties, of ``[B, properties]`` standardised targets."""
        return self._loss(output, self.encode(target))

    def encode(self, target: Tensor) -> Tensor:
        """Targets as models are trained on them."""
        return (target - self.mean.to(target)) / self.deviation.to(target)

    def decode(self, output: Tensor) -> Tensor:
        """Undo the standardisation, in float64."""
        return output.detach().cpu().double() * self.deviation + self.mean

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """tau, R2, MAE and RMSE by property."""
        return {
            name: regression_metrics(prediction[:, i], target[:, i].double()) for i, name in enumerate(self.properties)
        }

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a property's prediction when hidden neurons of test networks are permuted."""
        worst = 0.0
        for architecture, structure in self.zoo.structures.items():
            records = self.zoo.of(architecture)
            rows = records.index[records["split"] == "test"].to_numpy()
            if len(rows):
                weights = self.zoo.weights(architecture, rows)
                delta = permutation_delta(
                    lambda graphs: self.decode(predict(graphs)), weights, structure, draws=self.permutations
                )
                worst = max(worst, delta)
        return worst
