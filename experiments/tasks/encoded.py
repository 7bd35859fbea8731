"""A task on what a trained encoder says of networks, instead of the networks themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from converters import Structure
from experiments.tasks.objective import Objective
from experiments.tasks.task import Task

__all__ = ["Encoded", "EncodedLoader"]


class EncodedLoader:
    r"""Minibatches of codes and targets.

    With mixup (Zhang et al. 2018, arXiv:1710.09412) a batch is mixed with itself in another order: codes are
    :math:`\lambda z + (1 - \lambda) z'` with one :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` per batch, and
    targets are the columns target, other target and :math:`\lambda`.

    Args:
        codes, targets: ``[N, ...]`` and ``[N, 1]``.
        batch_size: of the batches; the last one may be smaller.
        generator: of the order and of mixup; None: in order.
        mixup: alpha; 0: none.
    """

    def __init__(
        self, codes: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None, mixup: float = 0.0
    ) -> None:
        self.codes, self.targets, self.batch_size = codes, targets, batch_size
        self.generator, self.mixup = generator, mixup

    def __len__(self) -> int:
        return math.ceil(len(self.codes) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.generator is None:
            yield from zip(self.codes.split(self.batch_size), self.targets.split(self.batch_size), strict=True)
            return
        for index in torch.randperm(len(self.codes), generator=self.generator).split(self.batch_size):
            codes, targets = self.codes[index], self.targets[index]
            yield self._mixed(codes, targets) if self.mixup else (codes, targets)

    def _mixed(self, codes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        seed = int(torch.randint(2**31, (), generator=self.generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        other = torch.randperm(len(codes), generator=self.generator)
        mixed = share * codes + (1 - share) * codes[other]
        return mixed, torch.cat([targets, targets[other], torch.full_like(targets, share)], 1)


class Encoded:
    """The task of another one, with codes ``[B, ...]`` instead of networks; every network is encoded once.

    Args:
        task: whose networks and targets.
        encode: from a batch of graphs to codes.
        mixup: alpha of the training codes, see `EncodedLoader`; the task's objective must know mixed targets.
    """

    def __init__(self, task: Task, encode: Callable[[Any], Tensor], mixup: float = 0.0) -> None:
        self.task, self.encode, self.mixup = task, encode, mixup
        self._codes = dict[str, tuple[Tensor, Tensor]]()

    @property
    def settings(self) -> tuple[str, ...]:
        """As the task's."""
        return self.task.settings

    @property
    def also_scored(self) -> tuple[str, ...]:
        """As the task's."""
        return self.task.also_scored

    @property
    def outputs(self) -> int:
        """As the task's."""
        return self.task.outputs

    @property
    def structure(self) -> Structure | None:
        """Codes have none."""
        return None

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches of codes and targets; mixed where they are shuffled."""
        if split not in self._codes:
            with torch.no_grad():
                found = [(self.encode(networks), target) for networks, target in self.task.loader(split, batch_size)]
            codes, targets = zip(*found, strict=True)
            self._codes[split] = torch.cat(codes), torch.cat(targets)
        generator = torch.Generator().manual_seed(seed) if shuffle else None
        return EncodedLoader(*self._codes[split], batch_size, generator, self.mixup)

    def objective(self, loss: str | None = None) -> Objective:
        """As the task's."""
        return self.task.objective(loss)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """As the task's."""
        return self.task.score(prediction, target)

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """As the task's."""
        return self.task.answers(prediction, target)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a test prediction when neurons are permuted before they are encoded."""
        return self.task.invariance(lambda networks: predict(self.encode(networks)))
