"""Methods in two stages: an encoder learns a task of its own, and a model learns from its codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from converters import Structure
from experiments.config import Pretraining, Settings
from experiments.tasks import Task
from experiments.zoo import Zoo
from graphnets.contrastive import to_rows

__all__ = ["Composed", "Encoding", "Sampled", "TaskOfZoo", "codes_of", "composed", "first_stage"]


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


@runtime_checkable
class Decoding(Protocol):
    """A model of the first stage that also makes networks of codes."""

    structure: Structure

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """A stack of networks from codes ``[B, ...]``."""


@runtime_checkable
class SampledTask(Protocol):
    """A task whose predictions are rows of so many networks for each condition."""

    samples: int


@runtime_checkable
class SamplingModel(Protocol):
    """A model of the second stage that draws codes."""

    def sample(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes ``[B, count, ...]`` for the conditions of ``x``."""


def codes_of(first: Encoding, networks: Any) -> Tensor:
    """Codes of a batch of graphs; where it has conditions ``[B, d]``, these beside them."""
    codes, condition = first.encode(networks), getattr(networks, "condition", None)
    return codes if condition is None else torch.cat([codes.flatten(1), condition.to(codes)], 1)


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
        out: Tensor = self.second(codes_of(cast(Encoding, self.first), networks))
        return out


class Sampled(Composed):
    """Networks for the conditions of a batch of graphs, whose weights count for nothing.

    Args:
        first: the coder that decodes.
        second: draws codes.
        count: networks for each condition.

    Shapes:
        - networks: a batch of B graphs with conditions
        - result: rows of ``count`` networks each, ``[B, count * numbers]``

    Raises:
        ValueError: the first stage makes no networks, or the second draws no codes.
    """

    def __init__(self, first: Encoding, second: nn.Module, count: int) -> None:
        super().__init__(first, second)
        if not isinstance(first, Decoding):
            raise ValueError(f"pretraining.model: {type(first).__name__} has no decode; choose a coder of weights")
        if not isinstance(second, SamplingModel):
            raise ValueError(f"model: {type(second).__name__} has no sample; choose one such as projection_model")
        self.count, self.generator = count, torch.Generator().manual_seed(0)

    def forward(self, networks: Any) -> Tensor:
        """Draw and decode; draws go on where the last batch's ended."""
        first, second = cast(Decoding, self.first), cast(SamplingModel, self.second)
        codes = second.sample(codes_of(cast(Encoding, self.first), networks), self.count, self.generator)
        rows = to_rows(first.decode(codes.flatten(0, 1)), first.structure)
        return rows.reshape(len(codes), -1)


def composed(task: Task, first: Encoding, second: nn.Module) -> Composed:
    """Both stages as the model that a task asks for."""
    return Sampled(first, second, task.samples) if isinstance(task, SampledTask) else Composed(first, second)


def first_stage(stage: Pretraining, task: Task) -> tuple[Task, Settings]:
    """The first stage's task on the networks of ``task``, and how it is learned.

    Raises:
        ValueError: the task has no zoo.
    """
    if not isinstance(task, TaskOfZoo):
        raise ValueError(f"pretraining: {type(task).__name__} has no zoo on which another task could be set")
    own = cast(Task, instantiate(stage.task, zoo=task.zoo, test_zoo=None, _convert_="all"))
    return own, Settings(stage.model, stage.optim, replace(stage.trainer, members=1, checkpoints="joint"))
