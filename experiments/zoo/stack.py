"""What every stack of networks has: one matrix with all their tensors, and views of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.zoo.activations import StackedActivation
from experiments.zoo.nets import Architecture

__all__ = ["NetworkStack"]


class NetworkStack(ABC):
    """Forward and backward of ``n`` networks of one topology, each with its own activation.

    All tensors of the networks lie in one matrix ``[n, P]``: first the parameters, which an optimiser updates
    in one call, then the buffers of batch normalisation, which `gradients` updates.

    Args:
        architectures: one per network, all of one topology. Sort them by activation for speed.
    """

    exact_in_parts = True
    """Whether a part of a stack gives the same networks as the whole, bit for bit and not up to rounding."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        if len({architecture.topology for architecture in architectures}) != 1:
            raise ValueError(f"{type(self).__name__}: the networks of a stack must have the same topology")
        self.architectures = list(architectures)
        self.sizes = architectures[0].sizes
        self.shapes = architectures[0].shapes
        self.activation = StackedActivation([architecture.activation for architecture in architectures])
        lengths = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
        self.parameters = sum(lengths.values())
        """The number of parameters and buffers of one network, P."""
        self.trained = self.parameters - sum(lengths[name] for name in architectures[0].buffers)
        """The number of columns that an optimiser updates, the first ones."""

    @property
    def hidden(self) -> int:
        """The number of hidden neurons (or channels) of one network: how many may be dropped."""
        return sum(self.sizes[1:-1])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Every tensor as a view of ``flat [n, P]``, by its state_dict name, ``[n, *shape]``."""
        views: dict[str, Tensor] = {}
        start = 0
        for name, shape in self.shapes.items():
            stop = start + torch.Size(shape).numel()
            views[name] = flat[:, start:stop].view(len(flat), *shape)
            start = stop
        return views

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """The same as `views` in the types that a ``state_dict`` has, ``[n, *shape]``."""
        architecture = self.architectures[0]
        return {
            name: value.long() if architecture.dtype(name) == torch.int64 else value
            for name, value in self.views(flat).items()
        }

    @abstractmethod
    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Class scores ``[n, classes, B]`` of every network on the same inputs ``[B, ...]``, in evaluation mode."""

    @abstractmethod
    def gradients(self, flat: Tensor, inputs: Tensor, labels: Tensor, keep: Tensor | None, out: Tensor) -> Tensor:
        """Writes the gradient of every network's mean cross-entropy into ``out [n, P]``.

        Args:
            flat: parameters and buffers, ``[n, P]``; the buffers are updated in place.
            inputs: each network's own batch, ``[n, B, ...]``.
            labels: ``[n, B]``.
            keep: dropout factors of the hidden neurons in order of layers, ``[n, hidden, B]``: 0 where
                dropped, 1 / (1 - p) elsewhere; None for no dropout.
            out: receives the gradient in its first columns, those of the parameters.

        Returns:
            The cross-entropy of every network before the step, ``[n]``.
        """
