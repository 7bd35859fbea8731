"""Many multilayer perceptrons at once: forward and backward as batched matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.zoo.stack import NetworkStack

__all__ = ["StackedMLP"]


class StackedMLP(NetworkStack):
    r"""Forward and backward of ``n`` perceptrons of one topology, each with its own activation.

    Each layer is a view of the matrix ``[n, P]``. The gradient is written out by hand (it is tested against
    autograd in float64): for layer :math:`z_l = W_l a_{l-1} + b_l`, :math:`a_l = m_l \odot \phi(z_l)`

    .. math:: \delta_L = (\mathrm{softmax}(z_L) - y) / B, \quad
              \delta_l = \phi'(z_l) \odot m_l \odot (W_{l+1}^\top \delta_{l+1}), \quad
              \nabla W_l = \delta_l a_{l-1}^\top, \quad \nabla b_l = \textstyle\sum_B \delta_l

    Activations are stored neurons first, images last, ``[n, neurons, B]``, which keeps every
    elementwise operation and reduction contiguous.
    """

    def _layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        tensors = list(self.views(flat).values())
        return [(weight, bias.unsqueeze(2)) for weight, bias in zip(tensors[::2], tensors[1::2], strict=True)]

    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Class scores ``[n, classes, B]`` of every network on the same inputs ``[B, inputs]``."""
        values = inputs.t().expand(len(flat), -1, -1)
        *hidden, (weight, bias) = self._layers(flat)
        for inner, offset in hidden:
            values = self.activation.forward(torch.baddbmm(offset, inner, values))
        return torch.baddbmm(bias, weight, values)

    def gradients(self, flat: Tensor, inputs: Tensor, labels: Tensor, keep: Tensor | None, out: Tensor) -> Tensor:
        """See `NetworkStack.gradients`; inputs are ``[n, B, inputs]``."""
        layers, gradients = self._layers(flat), self._layers(out)
        masks: Sequence[Tensor | None] = [None] * (len(layers) - 1)
        if keep is not None:
            masks = torch.split(keep, list(self.sizes[1:-1]), dim=1)
        before: list[Tensor] = []
        after: list[Tensor] = []
        values = [inputs.transpose(1, 2)]
        for (weight, bias), mask in zip(layers, masks, strict=False):
            before.append(torch.baddbmm(bias, weight, values[-1]))
            after.append(self.activation.forward(before[-1]))
            values.append(after[-1] if mask is None else after[-1] * mask)
        weight, bias = layers[-1]
        log_probabilities = torch.baddbmm(bias, weight, values[-1]).log_softmax(1)
        picked = labels.unsqueeze(1)
        losses = -log_probabilities.gather(1, picked).mean(2).squeeze(1)

        delta = log_probabilities.exp_()
        delta.scatter_add_(1, picked, torch.full_like(picked, -1, dtype=delta.dtype))
        delta /= labels.shape[1]
        for layer in range(len(layers) - 1, -1, -1):
            to_weight, to_bias = gradients[layer]
            to_weight.copy_(torch.bmm(delta, values[layer].transpose(1, 2)))
            torch.sum(delta, 2, keepdim=True, out=to_bias)
            if layer > 0:
                delta = torch.bmm(layers[layer][0].transpose(1, 2), delta)
                mask = masks[layer - 1]
                if mask is not None:
                    delta *= mask
                self.activation.backward(delta, before[layer - 1], after[layer - 1], out=delta)
        return losses
