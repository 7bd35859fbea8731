"""Predict the properties of a trained network (accuracy, robustness, generalization gap) from its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from converters import Structure
from converters.layout import same_layout
from experiments.evaluation.metrics import regression_metrics
from experiments.tasks.invariance import zoo_permutation_delta
from experiments.tasks.objective import LOSSES, Objective, make_objective
from experiments.zoo import Zoo, ZooDataset

__all__ = ["Generalization"]


class Generalization:
    """Regression of columns of a zoo's records.

    Every property weighs the same in training, in which statistics of the **training** networks' targets alone are
    used; see `experiments.tasks.objective`.

    Args:
        zoo: the networks.
        properties: name in the tables to column of the records.
        loss: one of `experiments.tasks.objective.LOSSES`, for methods that name no other.
        permutations: true permutations tried by `invariance`.
        bounds: smallest and largest value of properties, which the loss ``bce`` needs.
        test_zoo: another zoo, whose test networks are predicted instead of this one's: a test of transfer.

    Raises:
        ValueError: a zoo lacks a column, a target is not finite, or the loss is unknown.
    """

    def __init__(
        self,
        zoo: Zoo,
        properties: Mapping[str, str],
        loss: str = "mse",
        permutations: int = 4,
        bounds: Mapping[str, Sequence[float]] | None = None,
        test_zoo: Zoo | None = None,
    ) -> None:
        if loss not in LOSSES:
            raise ValueError(f"task.loss={loss!r} is unknown; known are {', '.join(LOSSES)}")
        self.zoo, self.test_zoo = zoo, zoo if test_zoo is None else test_zoo
        for each in (self.zoo, self.test_zoo):
            missing = [column for column in properties.values() if column not in each.records]
            if missing:
                raise ValueError(
                    f"task.properties: the records of {each.path} have no column {', '.join(missing)}; "
                    f"they have {', '.join(map(str, each.records))}"
                )
        self.properties, self.permutations, self.default_loss = dict(properties), permutations, loss
        self.bounds = dict(bounds or {})
        self._datasets = dict[str, ZooDataset]()
        train = zoo.records[zoo.records["split"] == "train"][list(self.properties.values())]
        self._training = torch.tensor(train.to_numpy(), dtype=torch.float64)
        if not bool(torch.isfinite(self._training).all()):
            raise ValueError(
                f"task.properties: targets of the training networks are not finite in zoo {zoo.fingerprint}"
            )

    @property
    def settings(self) -> tuple[str, ...]:
        """The properties' names."""
        return tuple(self.properties)

    @property
    def also_scored(self) -> tuple[str, ...]:
        """No split but ``test``."""
        return ()

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
            zoo = self.test_zoo if split == "test" else self.zoo
            self._datasets[split] = ZooDataset(zoo, split, list(self.properties.values()))
        return self._datasets[split].loader(batch_size, shuffle=shuffle, seed=seed)

    def objective(self, loss: str | None = None) -> Objective:
        """What training lowers; None: the task's own loss."""
        return make_objective(loss or self.default_loss, self._training, self.bounds, self.settings)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """tau, R2, MAE and RMSE by property."""
        return {
            name: regression_metrics(prediction[:, i], target[:, i].double()) for i, name in enumerate(self.properties)
        }

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions and targets themselves."""
        return prediction, target

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a property's prediction when hidden neurons of test networks are permuted."""
        return zoo_permutation_delta(predict, self.test_zoo, self.permutations)
