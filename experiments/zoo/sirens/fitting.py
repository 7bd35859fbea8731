"""Many SIRENs at once: forward and backward as batched matrix products, one Adam for all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.zoo.sirens.network import SirenArchitecture
from experiments.zoo.sirens.signals import Signals

__all__ = ["StackedSirens", "fit_stack", "learning_rate"]


class StackedSirens:
    r"""Forward and backward of ``n`` SIRENs of one architecture, each with a signal of its own.

    All parameters lie in one matrix ``[n, P]``. With :math:`z_l = \omega_0 (W_l a_{l-1} + b_l)`,
    :math:`a_l = \sin z_l` and the mean squared error over ``places * channels`` numbers, the gradient is

    .. math:: \delta_L = \tfrac{2}{NC}(W_L a_{L-1} + b_L - y), \quad
              \delta_l = \omega_0 \cos z_l \odot W_{l+1}^\top \delta_{l+1}, \quad
              \nabla W_l = \delta_l a_{l-1}^\top, \quad \nabla b_l = \textstyle\sum_N \delta_l

    Frequencies cost nothing: they are factors of the matrix products. Values lie neurons first and places last,
    ``[n, neurons, N]``. No SIREN has a say in another one's numbers.

    Args:
        architecture: of every SIREN.
        coordinates: where signals are known, ``[N, d]`` for all networks or ``[n, N, d]``.
        dtype: of the computation; float64 is for tests.
    """

    def __init__(self, architecture: SirenArchitecture, coordinates: Tensor, dtype: torch.dtype) -> None:
        self.architecture, self.w0 = architecture, architecture.w0
        self.coordinates = coordinates.to(dtype).transpose(-1, -2).contiguous()
        self._lengths = [math.prod(shape) for shape in architecture.shapes.values()]

    def layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights ``[n, out, in]`` and biases ``[n, out, 1]`` of every layer, as views of ``flat [n, P]``."""
        shapes = self.architecture.shapes.values()
        pieces = zip(flat.split(self._lengths, 1), shapes, strict=True)
        tensors = [piece.view(len(flat), *shape, *[1] * (2 - len(shape))) for piece, shape in pieces]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def render(self, flat: Tensor) -> Tensor:
        """The signals that the networks give, ``[n, C, N]``."""
        *hidden, (weight, bias) = self.layers(flat)
        values = self.coordinates.expand(len(flat), -1, -1)
        for inner, offset in hidden:
            values = self._waves(inner, offset, values).sin_()
        return torch.baddbmm(bias, weight, values)

    def gradients(self, flat: Tensor, targets: Tensor, out: Tensor) -> None:
        """Writes the gradient of every SIREN's mean squared error into ``out [n, P]``; targets are ``[n, C, N]``."""
        layers, gradients = self.layers(flat), self.layers(out)
        values, slopes = [self.coordinates.expand(len(flat), -1, -1)], []
        for weight, bias in layers[:-1]:
            waves = self._waves(weight, bias, values[-1])
            values.append(torch.sin(waves))
            slopes.append(waves.cos_())
        weight, bias = layers[-1]
        delta = torch.baddbmm(bias, weight, values[-1]).sub_(targets).mul_(2 / targets[0].numel())
        for layer in range(len(layers) - 1, -1, -1):
            to_weight, to_bias = gradients[layer]
            to_weight.copy_(delta @ values[layer].transpose(1, 2))
            torch.sum(delta, 2, keepdim=True, out=to_bias)
            if layer > 0:
                back = layers[layer][0].transpose(1, 2)
                delta = slopes[layer - 1].mul_(torch.baddbmm(delta[:, :1, :1], back, delta, beta=0, alpha=self.w0))

    def _waves(self, weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
        """Arguments of the sines, ``w0 (W a + b)``."""
        return torch.baddbmm(bias, weight, values, beta=self.w0, alpha=self.w0)


def learning_rate(base: float, schedule: str, step: int, steps: int) -> float:
    """Of one step: the base, or its cosine towards 0.

    >>> [round(learning_rate(1.0, "cosine", step, 4), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return base * 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else base


def fit_stack(
    architecture: SirenArchitecture,
    starts: Tensor,
    signals: Signals,
    steps: int,
    base_rate: float,
    schedule: str,
) -> tuple[Tensor, Tensor]:
    """Fits every SIREN to its signal by Adam on all places.

    Args:
        architecture: of every SIREN.
        starts: initial parameters, ``[n, P]``; their type is that of the computation.
        signals: one for each.
        steps: of Adam.
        base_rate: its learning rate at the start.
        schedule: see `learning_rate`.

    Returns:
        Parameters ``[n, P]``, and the mean squared error of each, ``[n]``.
    """
    network = StackedSirens(architecture, signals.coordinates, starts.dtype)
    targets = signals.values.to(starts.dtype)
    weights = starts.clone()
    weights.grad = torch.empty_like(weights)
    optimiser = torch.optim.Adam([weights], lr=base_rate, fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(base_rate, schedule, step, steps)
        network.gradients(weights, targets, weights.grad)
        optimiser.step()
    errors = (network.render(weights) - targets).square().flatten(1).mean(1)
    return weights.detach(), errors
