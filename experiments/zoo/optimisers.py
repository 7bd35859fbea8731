"""SGD, momentum and Adam in one update, each network of a stack with its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.zoo.sampling import Recipe

__all__ = ["StackedOptimiser"]

MOMENTUM, BETA1, BETA2, EPSILON = 0.9, 0.9, 0.999, 1e-8


class StackedOptimiser:
    r"""Updates ``[n, P]`` parameters, row by row as ``torch.optim.SGD`` and ``torch.optim.Adam`` would.

    .. math:: g \leftarrow g + \lambda w, \quad m \leftarrow \beta m + c\, g, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad w \leftarrow w - \eta_t\, m / d

    with :math:`\beta = 0, c = 1` for SGD, :math:`\beta = 0.9, c = 1` for momentum (both :math:`d = 1`) and
    :math:`\beta = 0.9, c = 0.1, d = \sqrt{v / (1 - \beta_2^t)} + \epsilon`,
    :math:`\eta_t = \eta / (1 - \beta_1^t)` for Adam. The decay is added to the gradient in all three.

    Args:
        recipes: one per network, in any order.
        parameters: the number of parameters of a network, P.
        dtype: of parameters and state.
    """

    def __init__(self, recipes: Sequence[Recipe], parameters: int, dtype: torch.dtype) -> None:
        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=dtype).unsqueeze(1)

        self.adam = torch.tensor([[recipe.optimiser == "adam"] for recipe in recipes])
        self.rate = column([recipe.learning_rate for recipe in recipes])
        self.decay = column([recipe.weight_decay for recipe in recipes])
        self.beta = column([{"sgd": 0.0, "momentum": MOMENTUM, "adam": BETA1}[r.optimiser] for r in recipes])
        self.share = column([1 - BETA1 if recipe.optimiser == "adam" else 1.0 for recipe in recipes])
        self.floor = torch.where(self.adam, EPSILON, 1.0).to(dtype)
        self.mean = torch.zeros(len(recipes), parameters, dtype=dtype)
        self.square = torch.zeros(len(recipes), parameters, dtype=dtype)
        self.steps = 0

    def select(self, rows: Tensor) -> None:
        """Keeps the networks of ``rows [m]`` alone."""
        for name in ("adam", "rate", "decay", "beta", "share", "floor", "mean", "square"):
            setattr(self, name, getattr(self, name)[rows])

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Updates ``weights [n, P]`` in place; ``gradient [n, P]`` is overwritten."""
        self.steps += 1
        gradient.addcmul_(weights, self.decay)
        self.mean.mul_(self.beta).addcmul_(gradient, self.share)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        adam = self.adam
        sharpness = torch.where(adam, (1 - BETA2**self.steps) ** -0.5, 0.0).to(weights.dtype)
        rate = torch.where(adam, self.rate / (1 - BETA1**self.steps), self.rate)
        denominator = self.square.sqrt().mul_(sharpness).add_(self.floor)
        weights.addcdiv_(self.mean * rate, denominator, value=-1)
