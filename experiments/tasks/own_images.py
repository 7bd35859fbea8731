"""Images of the classes that each network tells apart."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["OwnImages"]


class OwnImages:
    """Images by class, from which every network gets those of its own classes.

    Args:
        inputs: images as networks take them, ``[N, *input]``.
        labels: their classes, ``[N]``.

    Shapes:
        - classes, of ``n`` networks in the order of their outputs: ``[n, k]``
        - result of `drawn` and `spaced`: ``[n, count, *input]``

    Raises:
        ValueError: of a class there is no image.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs = inputs
        self.counts = torch.bincount(labels)
        by_class = labels.argsort(stable=True).split(self.counts.tolist())
        self.places = torch.nn.utils.rnn.pad_sequence(list(by_class), batch_first=True)

    def drawn(self, classes: Tensor, count: int) -> Tensor:
        """As many of every class, from torch's global generator."""
        return self.inputs[self._places(classes, torch.rand(len(classes), count))]

    def spaced(self, classes: Tensor, count: int) -> Tensor:
        """As many of every class, evenly spaced; the same ones for every network of a class."""
        rounds = -(-count // classes.shape[1])
        shares = torch.arange(count).div(classes.shape[1], rounding_mode="floor") / rounds
        return self.inputs[self._places(classes, shares.expand(len(classes), -1))]

    def all(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """All of them, and which output is right for each, -1 for what fills up: ``[n, B, *input]``, ``[n, B]``."""
        counts = self.counts[classes]
        slots = torch.arange(int(counts.sum(1).max()))
        ends = counts.cumsum(1)
        outputs = (slots >= ends.unsqueeze(2)).sum(1)
        inside = outputs < classes.shape[1]
        outputs = outputs.clamp_max(classes.shape[1] - 1)
        within = slots - (ends - counts).gather(1, outputs)
        places = self.places[classes.gather(1, outputs), within.clamp_max(self.places.shape[1] - 1)]
        return self.inputs[places], outputs.masked_fill(~inside, -1)

    def _places(self, classes: Tensor, shares: Tensor) -> Tensor:
        """Of the image at this share of its class, classes in turn."""
        own = classes[:, torch.arange(shares.shape[1]) % classes.shape[1]]
        counts = self.counts[own]
        if not bool(counts.all()):
            raise ValueError(f"there are no images of class {int(own[counts == 0][0])}")
        return self.places[own, torch.minimum((shares * counts).long(), counts - 1)]
