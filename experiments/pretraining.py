"""Methods in two stages: an encoder learns a task of its own, and a model learns from its codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, cast, runtime_checkable

from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.config import Pretraining, Settings
from experiments.tasks import Task
from experiments.zoo import Zoo

__all__ = ["Composed", "Encoding", "TaskOfZoo", "first_stage"]


@runtime_checkable
class Encoding(Protocol):
    """A trained model of the first stage."""

    encoder: nn.Module

    def encode(self, batch: Any) -> Tensor:
        """Codes of a batch of networks, ``[B, ...]``."""


@runtime_checkable
class TaskOfZoo(Protocol):
    """A task whose networks are a zoo's, on which another task can be set."""

    zoo: Zoo


class Composed(nn.Module):
    """Both stages as one model of networks.

    Args:
        first: the encoder's model, which is kept as it is.
        second: reads codes.

    Shapes:
        - networks: a batch of graphs
        - result: what ``second`` predicts
    """

    def __init__(self, first: Encoding, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = cast(nn.Module, first).requires_grad_(False), second

    def forward(self, networks: Any) -> Tensor:
        """Encode and predict."""
        codes = cast(Encoding, self.first).encode(networks)
        out: Tensor = self.second(codes)
        return out


def first_stage(stage: Pretraining, task: Task) -> tuple[Task, Settings]:
    """The first stage's task on the networks of ``task``, and how it is learned.

    Raises:
        ValueError: the task has no zoo.
    """
    if not isinstance(task, TaskOfZoo):
        raise ValueError(f"pretraining: {type(task).__name__} has no zoo on which another task could be set")
    own = cast(Task, instantiate(stage.task, zoo=task.zoo, test_zoo=None, _convert_="all"))
    return own, Settings(stage.model, stage.optim, replace(stage.trainer, members=1, checkpoints="joint"))
