"""The contract between a task and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from converters import Structure
from experiments.tasks.objective import Objective

__all__ = ["Picturing", "Task"]


class Task(Protocol):
    """What the training loop asks of a task.

    The loop knows no property, no loss and no architecture. A batch is a pair ``(networks, targets)``; what
    the networks are (neuron graphs here) is between the task and the model.
    """

    @property
    def settings(self) -> tuple[str, ...]:
        """What is scored apart: the properties here; each becomes a row of the tables."""

    @property
    def outputs(self) -> int:
        """How many numbers a model predicts per network."""

    @property
    def structure(self) -> Structure | None:
        """The architecture of all networks (they may differ in activations), or None where there are several."""

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches of a split (train, val or test) in an order that ``seed`` decides; has a length."""

    @property
    def also_scored(self) -> tuple[str, ...]:
        """Splits that are scored beside ``test``; their metrics have the split's name before their own."""

    def objective(self, loss: str | None = None) -> Objective:
        """What training lowers, and the unit of a model's outputs; None: the task's own choice."""

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """Setting to metric to value, of the predictions of a whole split in the unit of the targets."""

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and truth as one number each per network and setting, ``[N, settings]``.

        These are stored, and resampled for intervals.
        """

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a test prediction, in the unit of the targets, under true permutations."""


@runtime_checkable
class Picturing(Protocol):
    """A task whose predictions are pictures."""

    def pictures(self, predict: Callable[[Any], Tensor]) -> dict[str, dict[str, Tensor]]:
        """Setting to row to pictures ``[n, C, H, W]`` in -1 to 1 of some test networks.

        The last row is what the method makes, those before it are the same for all methods.
        """
