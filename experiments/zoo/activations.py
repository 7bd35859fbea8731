"""Nonlinearities of a stack: each network its own, each block of equal ones in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from experiments.zoo.nets import ACTIVATION_MODULES

__all__ = ["DERIVATIVES", "FUNCTIONS", "StackedActivation"]

_aten = torch.ops.aten

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "relu": lambda before, out: torch.clamp_min(before, 0, out=out),
    "leaky_relu": lambda before, out: _aten.leaky_relu.out(before, 0.01, out=out),
    "elu": lambda before, out: _aten.elu.out(before, out=out),
    "gelu": lambda before, out: _aten.gelu.out(before, out=out),
    "silu": lambda before, out: _aten.silu.out(before, out=out),
    "tanh": lambda before, out: torch.tanh(before, out=out),
    "sigmoid": lambda before, out: torch.sigmoid(before, out=out),
}
"""Writes the nonlinearity of ``before`` into ``out``."""

DERIVATIVES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], object]] = {
    "relu": lambda grad, before, after, out: _aten.threshold_backward.grad_input(grad, after, 0, grad_input=out),
    "leaky_relu": lambda grad, before, after, out: _aten.leaky_relu_backward.grad_input(
        grad, before, 0.01, False, grad_input=out
    ),
    "elu": lambda grad, before, after, out: _aten.elu_backward.grad_input(
        grad, 1.0, 1.0, 1.0, False, before, grad_input=out
    ),
    "gelu": lambda grad, before, after, out: _aten.gelu_backward.grad_input(grad, before, grad_input=out),
    "silu": lambda grad, before, after, out: _aten.silu_backward.grad_input(grad, before, grad_input=out),
    "tanh": lambda grad, before, after, out: _aten.tanh_backward.grad_input(grad, after, grad_input=out),
    "sigmoid": lambda grad, before, after, out: _aten.sigmoid_backward.grad_input(grad, after, grad_input=out),
}
"""Writes the gradient before the nonlinearity, from the one after it, into ``out``, which may be ``grad``."""

assert FUNCTIONS.keys() == DERIVATIVES.keys() == ACTIVATION_MODULES.keys()


class StackedActivation:
    """One nonlinearity per network of a stack, over tensors ``[n, ...]``.

    Runs of equal names are handled together, so a stack sorted by activation needs one call per kind.

    >>> both = StackedActivation(["relu", "tanh"])
    >>> both.forward(torch.tensor([[-1.0], [0.0]]))
    tensor([[0.],
            [0.]])
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.runs: list[tuple[str, slice]] = []
        start = 0
        for name, run in groupby(names):
            stop = start + len(list(run))
            self.runs.append((name, slice(start, stop)))
            start = stop

    def forward(self, before: Tensor) -> Tensor:
        """``[n, ...] -> [n, ...]``."""
        after = torch.empty_like(before)
        self.write(before, after)
        return after

    def write(self, before: Tensor, after: Tensor) -> None:
        """The same, into a tensor of the same shape."""
        for name, rows in self.runs:
            FUNCTIONS[name](before[rows], after[rows])

    def backward(self, gradient: Tensor, before: Tensor, after: Tensor, out: Tensor) -> None:
        """From the gradient after the nonlinearity to the one before it, ``out``, which may be the same tensor.

        All tensors are ``[n, ...]``.
        """
        for name, rows in self.runs:
            DERIVATIVES[name](gradient[rows], before[rows], after[rows], out[rows])
