"""Training a stack of networks at once, each by its own recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.data import ImageData
from experiments.zoo.config import ZooConfig
from experiments.zoo.optimisers import StackedOptimiser
from experiments.zoo.sampling import (
    DROPOUT_LEVELS,
    Recipe,
    TrainingSet,
    initial_weights,
    stream,
    training_set,
)
from experiments.zoo.stack import NetworkStack
from experiments.zoo.stacked_conv import StackedConv
from experiments.zoo.stacked_mlp import StackedMLP

__all__ = ["STACKS", "TrainedStack", "flat_start", "train_stack"]

STACKS: dict[str, type[NetworkStack]] = {
    "mlp": StackedMLP,
    "cnn": StackedConv,
    "cnn_bn": StackedConv,
    "resnet": StackedConv,
}
"""How networks of a family are trained together."""

DROPOUT_CHUNK = 10
"""Steps whose dropout bytes are drawn at once: part of the random stream, so changing it changes networks."""


@dataclass(frozen=True, eq=False)
class TrainedStack:
    """Networks after training, or at a checkpoint on the way.

    Args:
        network: forward pass of the whole stack.
        recipes: how each was trained, in the order of the rows.
        weights: all parameters and buffers, ``[n, P]``.
        member: each network's training images, ``[n, pool]`` boolean.
        earlier: the same networks at their checkpoints before the end, in the order of time.
    """

    network: NetworkStack
    recipes: list[Recipe]
    weights: Tensor
    member: Tensor
    earlier: tuple[TrainedStack, ...] = ()


class _Dropout:
    """Factors of hidden neurons or channels, 0 where dropped and 1 / (1 - p) elsewhere, by each network's stream."""

    def __init__(self, config: ZooConfig, recipes: Sequence[Recipe], hidden: int, dtype: torch.dtype) -> None:
        self.rates = {row: recipe.dropout for row, recipe in enumerate(recipes) if recipe.dropout > 0}
        self.streams = {row: stream(config.seed, recipes[row].id, "dropout") for row in self.rates}
        self.factors = torch.ones(DROPOUT_CHUNK, len(recipes), hidden, config.batch_size, dtype=dtype)
        self.array = self.factors.numpy()

    def keep(self, step: int, rows: Tensor) -> Tensor | None:
        """Factors of one step for the networks ``rows``, ``[m, hidden, B]``; None if nobody drops."""
        if not self.streams:
            return None
        if step % DROPOUT_CHUNK == 0:
            for row in self.streams.keys() & set(rows.tolist()):
                factors, rate = self.array[:, row], self.rates[row]
                drawn = np.frombuffer(self.streams[row].bytes(factors.size), np.uint8).reshape(factors.shape)
                np.multiply(drawn >= rate * DROPOUT_LEVELS, 1 / (1 - rate), out=factors, casting="same_kind")
        factors_now = self.factors[step % DROPOUT_CHUNK]
        return factors_now if len(rows) == len(factors_now) else factors_now[rows]


def train_stack(
    config: ZooConfig,
    recipes: Sequence[Recipe],
    data: ImageData,
    dtype: torch.dtype = torch.float32,
    masks: Tensor | None = None,
) -> TrainedStack:
    """Trains every recipe's network; all must share one topology.

    A network that has done its number of steps leaves the stack, so short trainings cost little. A network
    that diverges stays in it with non-finite weights; it touches no other.

    Args:
        config: batch size, initialisation, checkpoints and seed.
        recipes: one per network, with the same topology.
        data: the images.
        dtype: of the computation; float64 is for tests.
        masks: of every recipe's parameters in the order of ``recipes``, ``[n, P]``: where it is 0, a parameter is 0
            from the start on.
    """
    order = sorted(range(len(recipes)), key=lambda row: (recipes[row].architecture, recipes[row].id))
    recipes = [recipes[row] for row in order]
    kind = STACKS[recipes[0].architecture.family]
    network = kind([recipe.architecture for recipe in recipes])
    start = torch.stack([flat_start(config, recipe) for recipe in recipes]).to(dtype)
    if masks is not None:
        masks = masks[order].to(dtype)
        start *= masks
    marks = torch.tensor([recipe.checkpoint_steps(config.checkpoints) for recipe in recipes]).T
    kept = start.repeat(config.checkpoints, 1, 1)
    sets = [training_set(config, recipe, data) for recipe in recipes]
    member = torch.stack([each.member for each in sets])
    lengths = torch.tensor([recipe.steps for recipe in recipes])

    inputs = recipes[0].architecture.prepare(data.pool).to(dtype)
    labels = torch.stack([each.labels for each in sets])
    batches = _stack_batches(sets, int(lengths.max()))
    dropout = _Dropout(config, recipes, network.hidden, dtype)
    optimiser = StackedOptimiser(recipes, network.trained, dtype)

    rows = torch.arange(len(recipes))
    active, weights = network, start
    gradient = torch.empty_like(weights)
    for step in range(int(lengths.max())):
        if bool((lengths[rows] <= step).any()):
            remaining = torch.nonzero(lengths[rows] > step).squeeze(1)
            rows, weights, labels = rows[remaining], weights[remaining], labels[remaining]
            optimiser.select(remaining)
            active = kind([recipes[int(row)].architecture for row in rows])
            gradient = torch.empty_like(weights)
        images = batches[step, rows]
        batch = inputs.index_select(0, images.reshape(-1)).view(*images.shape, *inputs.shape[1:])
        active.gradients(weights, batch, labels.gather(1, images), dropout.keep(step, rows), out=gradient)
        if masks is not None:
            gradient *= masks[rows]
        optimiser.step(weights[:, : network.trained], gradient[:, : network.trained])
        for number, due in enumerate(marks[:, rows] == step + 1):
            kept[number, rows[due]] = weights[due]
    earlier = [TrainedStack(network, recipes, weights, member) for weights in kept[:-1]]
    return TrainedStack(network, recipes, kept[-1], member, tuple(earlier))


def flat_start(config: ZooConfig, recipe: Recipe) -> Tensor:
    """The start of one network, ``[P]`` in float64."""
    start = initial_weights(config, recipe).values()
    return torch.from_numpy(np.concatenate([tensor.ravel() for tensor in start]))


def _stack_batches(sets: Sequence[TrainingSet], steps: int) -> Tensor:
    """Batches of all networks, ``[steps, n, B]``; zeros after a network's last step."""
    batches = torch.zeros(steps, len(sets), sets[0].batches.shape[1], dtype=torch.int64)
    for row, each in enumerate(sets):
        batches[: len(each.batches), row] = each.batches
    return batches
