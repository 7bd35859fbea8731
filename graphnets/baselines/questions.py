"""Asking networks questions: learned inputs with learned labels, and a perceptron on how the answers agree."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch
from graphnets.baselines.probing import (
    by_structure,
    changed,
    describe,
    description_width,
    read_scores,
    scores_width,
    shaken,
)
from graphnets.layered import Networks, networks_of, structures_of

__all__ = ["Questioner"]

LIMIT = 5.0
LARGEST = 100.0
"""Answers of diverged networks are cut to this, their weights to `TAMED` before that."""
TAMED = 1e3


class Questioner(nn.Module, ABC):
    """What `graphnets.Prober` and `graphnets.NeuronSweep` share: everything but how a network answers.

    Arguments, shapes and errors are described there. A subclass whose :meth:`respond` tells more than answers gives the
    number of its columns as ``summary_columns``.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        probes: int = 128,
        hidden: Sequence[int] = (128, 128),
        temperatures: Sequence[float] = (1.0, 3.0),
        dropout: float = 0.0,
        weight_noise: float = 0.1,
        shakes: int = 0,
        shake: float = 0.4,
        spread: float = 1.0,
        sharpness: float = 4.0,
        gain: float = 20 / 3,
        examples: Tensor | tuple[Tensor, Tensor] | None = None,
        summary_columns: int = 0,
    ) -> None:
        super().__init__()
        if probes < 1 or not temperatures or min(temperatures) <= 0:
            raise ValueError(
                f"probes={probes} must be at least 1, temperatures={tuple(temperatures)} positive and at least one"
            )
        self.targets, self.probes, self.hidden, self.dropout = targets, probes, tuple(hidden), dropout
        self.temperatures, self.weight_noise = tuple(temperatures), weight_noise
        self.spread, self.sharpness, self.gain = spread, sharpness, gain
        self.shakes, self.shake, self.summary_columns = shakes, shake, summary_columns
        self.examples: Tensor | None
        self.example_labels: Tensor | None
        self.examples, self.example_labels = examples if isinstance(examples, (tuple, list)) else (examples, None)
        self.serves: tuple[tuple[int, ...], int] | None = None
        if structure is not None:
            self.adopt(structure)

    @abstractmethod
    def ends(self, structure: Structure) -> tuple[tuple[int, ...], int]:
        """Shape of one input without its batch axis, and the number of classes."""

    @abstractmethod
    def answers(self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor) -> Tensor:
        """Class scores of stacked networks ``[B, probes, classes]``, given the probes ``[probes, *input]``."""

    def respond(
        self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Class scores as in :meth:`answers`, and what else is told of each network, ``[B, summary_columns]``."""
        return self.answers(weights, structure, probes), None

    def adopt(self, structure: Structure) -> None:
        """Become a model of networks with the inputs and classes of this one."""
        self._build(*self.ends(structure))

    def _build(self, shape: tuple[int, ...], classes: int) -> None:
        self.serves = shape, classes
        self.questions = _Questions(self._first_probes(shape), self._first_labels(classes), self.gain)
        readings = 1 if self.shakes == 0 else 2
        width = description_width() + self.summary_columns + readings * scores_width(classes, len(self.temperatures))
        self.scale = _Scale(width)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((width, *self.hidden[:-1]), self.hidden, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.SiLU(), nn.Dropout(self.dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else width, self.targets))

    def _first_probes(self, shape: tuple[int, ...]) -> Tensor:
        if self.examples is None:
            return self.spread * torch.randn(self.probes, *shape)
        if len(self.examples) != self.probes or self.examples.numel() != self.probes * prod(shape):
            raise ValueError(
                f"examples has shape {list(self.examples.shape)}; {self.probes} probes of these networks have shape "
                f"{[self.probes, *shape]}"
            )
        return self.examples.detach().clone().to(torch.get_default_dtype()).view(self.probes, *shape)

    def _first_labels(self, classes: int) -> Tensor:
        own = torch.arange(self.probes) % classes if self.example_labels is None else self.example_labels
        if tuple(own.shape) != (self.probes,) or int(own.min()) < 0 or int(own.max()) >= classes:
            raise ValueError(
                f"the classes of examples must be {self.probes} integers from 0 to {classes - 1}, got {own.dtype} "
                f"of shape {list(own.shape)} from {own.min()} to {own.max()}"
            )
        return self.sharpness * nn.functional.one_hot(own.long(), classes).to(torch.get_default_dtype())

    def extra_repr(self) -> str:
        """The contract."""
        shape, classes = self.serves or ("unknown yet", "unknown")
        return f"{self.probes} probes of shape {shape} for {classes} classes -> {self.targets} targets"

    def features(self, batch: Networks) -> Tensor:
        """What answers and weights tell, before standardisation, ``[B, width]``."""
        if self.serves is None:
            raise RuntimeError(
                f"{type(self).__name__} was made with structure=None and has not seen networks; call fit_statistics or "
                "load a state_dict first, or pass a structure"
            )
        groups = by_structure(batch)
        descriptions, answers = [], []
        for structure, _, weights in groups:
            shape, classes = self.ends(structure)
            if (prod(shape), classes) != (prod(self.serves[0]), self.serves[1]):
                raise StructureMismatch(
                    f"{structure.name} takes inputs of shape {shape} and tells {classes} classes apart; this "
                    f"{type(self).__name__} asks inputs of shape {self.serves[0]} and reads {self.serves[1]} classes"
                )
            if self.training and self.weight_noise:
                weights = changed(weights, structure, self._noisy)
            weights = changed(weights, structure, _tamed)
            descriptions.append(describe(weights, structure))
            answer, summary = self._ask(weights, structure)
            answers.append(answer)
            if summary is not None:
                descriptions[-1] = torch.cat([descriptions[-1], summary], 1)
        labels = self.questions.labels().to(answers[0].dtype)
        given = torch.cat(answers, 1).clamp(-LARGEST, LARGEST)
        plain, *others = (read_scores(each, labels, self.temperatures) for each in given)
        read = [plain, torch.stack(others).mean(0)] if others else [plain]
        features = torch.cat([torch.cat(descriptions), *read], 1)
        if len(groups) == 1:
            return features
        order = torch.cat([places for _, places, _ in groups])
        return torch.zeros_like(features).index_copy(0, order, features)

    def _ask(self, weights: Mapping[str, Tensor], structure: Structure) -> tuple[Tensor, Tensor | None]:
        """Answers of n networks of one structure, as they are and shaken, ``[1 + shakes, n, probes, classes]``.

        And what else is told of them as they are.
        """
        copies = [weights]
        for number in range(self.shakes):
            copies.append(changed(weights, structure, partial(shaken, amount=self.shake, number=number)))
        stack = {name: torch.cat([each[name] for each in copies]) for name in weights} if self.shakes else weights
        like = next(value for value in weights.values() if value.is_floating_point())
        answers, summary = self.respond(stack, structure, self.questions.probes().to(like.dtype))
        told = None if summary is None else summary[: len(like)]
        return answers.view(1 + self.shakes, len(like), *answers.shape[1:]), told

    def _noisy(self, value: Tensor) -> Tensor:
        return value * (1 + self.weight_noise * torch.randn_like(value))

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Mean and deviation of every feature, and which ones vary at all: the others are left out for good."""
        training, found = self.training, []
        self.eval()
        for item in batches:
            batch = networks_of(item)
            if self.serves is None:
                self.adopt(structures_of(batch)[0])
                self.to(batch.x.device)
            found.append(self.features(batch))
        self.train(training)
        if found:
            self.scale.fit(torch.cat(found))

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        features = self.features(batch)
        out: Tensor = self.head(self.scale(features.to(self.questions.stored_probes.dtype)))
        return out

    def get_extra_state(self) -> str:
        """Input shape and number of classes, as JSON."""
        return json.dumps(self.serves)

    def set_extra_state(self, state: str) -> None:
        """Build what the state is for, where nothing is built yet."""
        serves = json.loads(state)
        if serves is not None and self.serves is None:
            self._build(tuple(serves[0]), serves[1])


def _tamed(value: Tensor) -> Tensor:
    return value.clamp(-TAMED, TAMED)


class _Questions(nn.Module):
    """Learned probes and their labels, stored divided by ``gain``."""

    def __init__(self, probes: Tensor, labels: Tensor, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.stored_probes = nn.Parameter(probes / gain)
        self.stored_labels = nn.Parameter(labels / gain)

    def probes(self) -> Tensor:
        """``[probes, *input]``."""
        return self.stored_probes * self.gain

    def labels(self) -> Tensor:
        """Distributions ``[probes, classes]``."""
        return (self.stored_labels * self.gain).softmax(-1)


class _Scale(nn.Module):
    """Standardises features by running statistics, clips them, and silences those constant in training."""

    varies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.register_buffer("varies", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Take mean, variance and what varies from ``[N, width]``."""
        mean, variance = features.mean(0), features.var(0, unbiased=False)
        mean_running, variance_running = self.norm.running_mean, self.norm.running_var
        assert mean_running is not None
        assert variance_running is not None
        mean_running.copy_(mean)
        variance_running.copy_(variance.clamp_min(1e-10))
        self.varies.copy_(variance > 1e-8 * (1 + mean.square()))

    def forward(self, features: Tensor) -> Tensor:
        """``[B, width]``."""
        return self._normalised(features).clamp(-LIMIT, LIMIT) * self.varies

    def _normalised(self, features: Tensor) -> Tensor:
        if self.training and len(features) > 1:
            out: Tensor = self.norm(features)
            return out
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return (features - mean) / (variance + self.norm.eps).sqrt()
