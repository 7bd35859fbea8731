"""One step of iterative magnitude pruning on a stack of networks, and the training of what is left of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.data import ImageData
from experiments.zoo.config import ZooConfig
from experiments.zoo.properties import Measured
from experiments.zoo.sampling import Recipe
from experiments.zoo.tickets.config import TicketConfig
from experiments.zoo.training import TrainedStack, flat_start, train_stack

__all__ = ["TICKET_PROPERTIES", "find_tickets", "largest", "ticket_accuracies"]

TICKET_PROPERTIES = ("dense_accuracy", "ticket_accuracy")


def largest(scores: Tensor, share: float) -> Tensor:
    """Where the ``share`` largest scores of every row lie, ``[n, P] -> [n, P]`` boolean, exactly as many.

    >>> largest(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), 0.5)
    tensor([[ True, False,  True, False]])
    """
    chosen = scores.topk(round(share * scores.shape[1]), 1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)


def held_out_accuracy(stack: TrainedStack, data: ImageData) -> Tensor:
    """Accuracy of every network of a stack on the held-out images, ``[n]`` float64.

    Where pruning has cut all ways to the outputs, every image belongs to the first class.
    """
    inputs = stack.recipes[0].architecture.prepare(data.test)
    found = stack.network.logits(stack.weights, inputs.to(stack.weights.dtype)).argmax(1)
    return (found == data.test_labels).double().mean(1)


def ticket_accuracies(config: ZooConfig, recipes: Sequence[Recipe], masks: Tensor, data: ImageData) -> Tensor:
    """Held-out accuracy of every network after its own training with pruned parameters, ``[n]`` float64.

    Start, batches and optimiser are those of the recipe; pruned parameters are 0 from the start on.

    Args:
        config: of the zoo.
        recipes: of networks of one topology.
        masks: their masks in the same order, ``[n, P]``; True where a parameter stays.
        data: the images.
    """
    found = []
    for first in range(0, len(recipes), config.stack_size):
        part = slice(first, first + config.stack_size)
        stack = train_stack(config, recipes[part], data, masks=masks[part])
        place = {recipe.id: row for row, recipe in enumerate(stack.recipes)}
        found.append(held_out_accuracy(stack, data)[[place[recipe.id] for recipe in recipes[part]]])
    return torch.cat(found)


def find_tickets(
    config: TicketConfig, recipes: Sequence[Recipe], data: ImageData
) -> tuple[TrainedStack, Measured, Tensor]:
    """Trains networks, prunes the smallest of all their trained parameters together, and trains what is left anew.

    One step of iterative magnitude pruning (Frankle and Carbin 2019, arXiv:1803.03635), as Zhou et al. 2023
    (arXiv:2302.14040, Section 3.3) make their tickets: what is left starts again from its initial values.

    Returns:
        The networks at their **start**; ``dense_accuracy`` and ``ticket_accuracy`` of each; and their masks,
        ``[n, P]`` boolean, True where a parameter stays.
    """
    dense = train_stack(config, recipes, data)
    masks = largest(dense.weights.abs(), 1 - config.sparsity)
    start = torch.stack([flat_start(config, recipe) for recipe in dense.recipes]).to(dense.weights.dtype)
    values = {
        "dense_accuracy": held_out_accuracy(dense, data),
        "ticket_accuracy": ticket_accuracies(config, dense.recipes, masks, data),
    }
    finite = dense.weights.isfinite().all(1)
    return TrainedStack(dense.network, dense.recipes, start, dense.member), Measured(values, finite), masks
