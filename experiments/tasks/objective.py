"""What training lowers: targets in a unit that suits a model's output, and a loss in that unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "BoundedLikelihood", "CrossEntropy", "Objective", "PixelError", "Standardised", "make_objective"]

EDGE = 1e-4


class Objective(ABC):
    """The unit of a model's outputs, and the loss; made from the targets of the **training** networks alone.

    Shapes:
        - output, target: ``[B, T]``, targets in their own units
    """

    @abstractmethod
    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of every column, ``[T]``."""

    @abstractmethod
    def encode(self, target: Tensor) -> Tensor:
        """Targets as a perfect model would output them."""

    @abstractmethod
    def decode(self, output: Tensor) -> Tensor:
        """A model's outputs in the unit of the targets, in float64 on the CPU."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What training lowers, a scalar: every column weighs the same."""
        return self.losses(output, target).mean()


class Standardised(Objective):
    """Targets minus their mean, divided by their deviation, so that every column weighs the same.

    Args:
        training: targets of the training networks, ``[N, T]`` float64.
        function: loss of every entry.
    """

    def __init__(self, training: Tensor, function: Callable[..., Tensor]) -> None:
        self.mean, self.deviation, self.function = training.mean(0), training.std(0).clamp_min(1e-8), function

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of every column."""
        return self.function(output, self.encode(target), reduction="none").mean(0)

    def encode(self, target: Tensor) -> Tensor:
        """Standardise."""
        return (target - self.mean.to(target)) / self.deviation.to(target)

    def decode(self, output: Tensor) -> Tensor:
        """Undo the standardisation."""
        return output.detach().cpu().double() * self.deviation + self.mean


class BoundedLikelihood(Objective):
    r"""Binary cross-entropy for targets that are shares, such as an accuracy.

    With :math:`t` the target moved to :math:`[0, 1]` and :math:`p = \sigma(o + c)`, where :math:`c` makes an output
    of 0 predict the training mean, a column's loss is the mean of :math:`-t \log p - (1 - t) \log(1 - p)`, less the
    entropy of :math:`t` (so that it can reach 0), divided by the variance of :math:`t` (so that columns weigh alike).

    Args:
        training: targets of the training networks, ``[N, T]`` float64.
        bounds: the smallest and the largest value of every column, T pairs.
    """

    def __init__(self, training: Tensor, bounds: Sequence[Sequence[float]]) -> None:
        self.low, high = torch.tensor(bounds, dtype=torch.float64).unbind(1)
        self.width = high - self.low
        shares = (training - self.low) / self.width
        if bool(((shares < 0) | (shares > 1)).any()):
            raise ValueError(f"task.bounds={[list(pair) for pair in bounds]}: targets of training networks lie outside")
        self.offset = shares.mean(0).clamp(EDGE, 1 - EDGE).logit()
        self.variance = shares.var(0).clamp_min(1e-8)

    def _shares(self, target: Tensor) -> Tensor:
        return ((target - self.low.to(target)) / self.width.to(target)).clamp(0, 1)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of every column."""
        shares = self._shares(target)
        cross = functional.binary_cross_entropy_with_logits(output + self.offset.to(output), shares, reduction="none")
        entropy = torch.special.entr(shares) + torch.special.entr(1 - shares)
        excess: Tensor = (cross - entropy).mean(0)
        return excess / self.variance.to(output)

    def encode(self, target: Tensor) -> Tensor:
        """Log-odds, less the offset; shares closer to 0 or 1 than 1e-4 count as that."""
        return self._shares(target).clamp(EDGE, 1 - EDGE).logit() - self.offset.to(target)

    def decode(self, output: Tensor) -> Tensor:
        """From log-odds to targets."""
        return (output.detach().cpu().double() + self.offset).sigmoid() * self.width + self.low


class CrossEntropy(Objective):
    """Cross-entropy of classes: outputs are their scores ``[B, classes]``, targets their numbers ``[B, 1]``.

    Mixed examples have the columns number, other number and the first one's share, ``[B, 3]``.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy, ``[1]``."""
        if target.shape[1] == 1:
            return functional.cross_entropy(output, target[:, 0].long()).unsqueeze(0)
        both = [functional.cross_entropy(output, target[:, i].long(), reduction="none") for i in (0, 1)]
        return torch.lerp(both[1], both[0], target[:, 2]).mean().unsqueeze(0)

    def encode(self, target: Tensor) -> Tensor:
        """Scores whose `decode` is sure of the class up to 1e-4, ``[B, classes]``."""
        sure = functional.one_hot(target[:, 0].long(), self.classes).double()
        return (sure * (1 - EDGE) + EDGE / self.classes).log()

    def decode(self, output: Tensor) -> Tensor:
        """Probabilities of the classes, ``[B, classes]``."""
        return output.detach().cpu().double().softmax(1)


class PixelError(Objective):
    """The mean squared error of images: outputs and targets are their pixels, ``[B, settings * numbers]``.

    Args:
        settings: images per network; every one is a column of the losses.
    """

    def __init__(self, settings: int) -> None:
        self.settings = settings

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of every setting."""
        losses: Tensor = (output - target).square().unflatten(1, (self.settings, -1)).mean((0, 2))
        return losses

    def encode(self, target: Tensor) -> Tensor:
        """The pixels themselves."""
        return target

    def decode(self, output: Tensor) -> Tensor:
        """The pixels in float64."""
        return output.detach().cpu().double()


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}
LOSSES = (*FUNCTIONS, "bce")
"""Names of losses: mean squared error, mean absolute error, Huber's, and `BoundedLikelihood`."""


def make_objective(
    loss: str, training: Tensor, bounds: Mapping[str, Sequence[float]], columns: Sequence[str]
) -> Objective:
    """The objective of a name.

    Args:
        loss: one of `LOSSES`.
        training: targets of the training networks, ``[N, T]`` float64.
        bounds: of every column, for ``bce``.
        columns: their names, in order.

    Raises:
        ValueError: the loss is unknown, or a column has no bounds where they are needed.
    """
    if loss in FUNCTIONS:
        return Standardised(training, FUNCTIONS[loss])
    if loss != "bce":
        raise ValueError(f"loss {loss!r} is unknown; known are {', '.join(LOSSES)}")
    missing = [name for name in columns if name not in bounds]
    if missing:
        raise ValueError(f"task.bounds: the loss bce needs the bounds of {', '.join(missing)}, such as [0, 1]")
    return BoundedLikelihood(training, [bounds[name] for name in columns])
