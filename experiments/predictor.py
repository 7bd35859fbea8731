"""Trained models as one function from networks to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from experiments.tasks import Objective, Task

__all__ = ["OneModelPerSetting", "Predictor", "predict"]


class OneModelPerSetting(nn.Module):
    """Several states of one model, each of which answers for one setting: for its share of the output's columns.

    Args:
        models: one per setting, in the order of the columns.

    Shapes:
        - result: ``[B, columns]``
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, networks: Any) -> Tensor:
        """Predict."""
        return torch.cat([model(networks).chunk(len(self.models), 1)[i] for i, model in enumerate(self.models)], 1)


class Predictor:
    """The average of the predictions of trained models, in the unit of the targets.

    Args:
        models: with the objective that decodes each one's output; they are put in evaluation mode.

    Shapes:
        - result of a call with a batch of networks: ``[B, T]``, float64 on the CPU
    """

    def __init__(self, models: Sequence[tuple[nn.Module, Objective]]) -> None:
        self.models = list(models)
        for model, _ in self.models:
            model.eval()

    @property
    def first(self) -> nn.Module:
        """The first of the models."""
        return self.models[0][0]

    @torch.no_grad()
    def __call__(self, networks: Any) -> Tensor:
        """Predict."""
        return torch.stack([objective.decode(model(networks)) for model, objective in self.models]).mean(0)


def predict(predictor: Callable[[Any], Tensor], task: Task, split: str, batch_size: int) -> tuple[Tensor, Tensor]:
    """Predictions and targets of a split, both ``[N, T]`` in float64 on the CPU."""
    outputs, targets = [], []
    for networks, target in task.loader(split, batch_size):
        outputs.append(predictor(networks))
        targets.append(target.double())
    return torch.cat(outputs), torch.cat(targets)
