"""Many convolutional networks at once: one network as wide as all of them, in groups."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.zoo.activations import StackedActivation
from experiments.zoo.nets import Architecture
from experiments.zoo.stack import NetworkStack

__all__ = ["StackedConv"]

EVALUATED_AT_ONCE = 256
"""Images in one forward pass of `StackedConv.logits`: fixed, so that rounding does not depend on the stack."""
TRAINED_AT_ONCE = 20
"""Networks in one pass: more do not run faster, and their activations would leave the cache."""


class StackedConv(NetworkStack):
    """Forward and backward of ``n`` convolutional or residual networks of one topology.

    The channels of all networks stand side by side, ``[B, n C, H, W]`` with the channels innermost in memory,
    and every convolution is one grouped convolution. Of the ways to do it on one processor thread this was the
    fastest for 8 to 16 channels (im2col with batched matrix products takes 2 to 4 times as long). Batch
    normalisation works on each channel anyway, so one call normalises all networks.

    Elementwise kernels round the last few channels of a row otherwise than the others, and which channels these
    are depends on who stands beside whom. So a stack always gives the same networks, bit for bit, but a part of
    it gives them up to rounding alone (`exact_in_parts`): a lost shard is restored by training its whole stack.
    """

    exact_in_parts = False

    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Class scores ``[n, classes, B]`` of every network on the same images ``[B, C, H, W]``."""
        logits = flat.new_empty(len(flat), self.sizes[-1], len(inputs))
        with torch.no_grad():
            for rows in self._chunks(len(flat)):
                values, names = self._wide(flat, rows), self._activations(rows)
                for start in range(0, len(inputs), EVALUATED_AT_ONCE):
                    part = inputs[start : start + EVALUATED_AT_ONCE]
                    images = part.unsqueeze(1).expand(-1, names.networks, -1, -1, -1)
                    scores = _Pass(self.architectures[0], values, names).scores(_channels_last(images))
                    logits[rows, :, start : start + len(part)] = scores.transpose(1, 2)
        return logits

    def gradients(self, flat: Tensor, inputs: Tensor, labels: Tensor, keep: Tensor | None, out: Tensor) -> Tensor:
        """See `NetworkStack.gradients`; inputs are ``[n, B, C, H, W]``."""
        losses = flat.new_empty(len(flat))
        targets = self.views(out)
        buffers = self.architectures[0].buffers
        for rows in self._chunks(len(flat)):
            values, names = self._wide(flat, rows), self._activations(rows)
            trained = [value.requires_grad_() for name, value in values.items() if name not in buffers]
            images = _channels_last(inputs[rows].transpose(0, 1))
            masks = None if keep is None else keep[rows].permute(2, 0, 1)
            scores = _Pass(self.architectures[0], values, names, masks, training=True).scores(images)
            picked = labels[rows]
            loss = F.cross_entropy(scores.flatten(0, 1), picked.flatten(), reduction="none").view_as(picked).mean(1)
            gradients = iter(torch.autograd.grad(loss.sum(), trained))
            losses[rows] = loss.detach()
            state = self.views(flat[rows])
            for name, target in targets.items():
                if name in buffers:
                    state[name].copy_(values[name].view(-1, *target.shape[1:]))
                else:
                    target[rows].copy_(next(gradients).view(-1, *target.shape[1:]))
        return losses

    def _chunks(self, networks: int) -> list[slice]:
        """Networks that are computed together."""
        parts = -(-networks // TRAINED_AT_ONCE)
        bounds = [networks * part // parts for part in range(parts + 1)]
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def _wide(self, flat: Tensor, rows: slice) -> dict[str, Tensor]:
        """The tensors of some networks side by side, ``[n out, ...]``; copies."""
        tensors = self.views(flat[rows])
        return {
            name: tensor.flatten(0, 1).clone() if tensor.dim() > 1 else tensor.clone()
            for name, tensor in tensors.items()
        }

    def _activations(self, rows: slice) -> _WideActivation:
        return _WideActivation([architecture.activation for architecture in self.architectures[rows]])


def _channels_last(images: Tensor) -> Tensor:
    """``[B, n, C, H, W] -> [B, n C, H, W]``, channels innermost."""
    return images.flatten(1, 2).contiguous(memory_format=torch.channels_last)


class _WideActivation:
    """The nonlinearities of networks side by side, ``[B, n C, H, W]``."""

    def __init__(self, names: list[str]) -> None:
        self.networks = len(names)
        self.stacked = StackedActivation(names)

    def __call__(self, before: Tensor) -> Tensor:
        result: Tensor = _Activate.apply(before, self)  # type: ignore[no-untyped-call]
        return result

    def by_network(self, wide: Tensor) -> Tensor:
        """A view with the networks first, ``[n, B, H, W, C]``."""
        view: Tensor = wide.permute(0, 2, 3, 1).unflatten(3, (self.networks, -1))
        return view.permute(3, 0, 1, 2, 4)


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: Tensor, activation: _WideActivation) -> Tensor:
        after = torch.empty_like(before)
        activation.stacked.write(activation.by_network(before), activation.by_network(after))
        ctx.activation = activation
        ctx.save_for_backward(before, after)
        return after

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        result = torch.empty_like(ctx.saved_tensors[0])
        ctx.activation.stacked.backward(*map(ctx.activation.by_network, (gradient, *ctx.saved_tensors, result)))
        return result, None


class _Pass:
    """One forward pass of networks side by side.

    Args:
        architecture: of all networks, but for the activation.
        values: their tensors side by side, by state_dict name; running statistics are updated in training.
        activation: their nonlinearities.
        masks: dropout factors in order of layers, ``[B, n, hidden]``, or None.
        training: whether batch normalisation uses the batch.
    """

    def __init__(
        self,
        architecture: Architecture,
        values: dict[str, Tensor],
        activation: _WideActivation,
        masks: Tensor | None = None,
        training: bool = False,
    ) -> None:
        self.architecture, self.values, self.activation, self.training = architecture, values, activation, training
        self.masks = None if masks is None else iter(masks.split(list(architecture.sizes[1:-1]), 2))

    def scores(self, images: Tensor) -> Tensor:
        """``[B, n C, H, W] -> [n, B, classes]``."""
        hidden, head = TRUNKS[self.architecture.family](self, images)
        pooled = hidden.mean((2, 3)).unflatten(1, (self.activation.networks, -1)).transpose(0, 1)
        weight = self.values[f"{head}.weight"].unflatten(0, (self.activation.networks, -1))
        bias = self.values[f"{head}.bias"].view(self.activation.networks, 1, -1)
        return torch.baddbmm(bias, pooled, weight.transpose(1, 2))

    def convolve(self, name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        """The convolution ``name`` of every network."""
        weight, bias = self.values[f"{name}.weight"], self.values.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding, groups=self.activation.networks)

    def normalise(self, name: str, x: Tensor) -> Tensor:
        """The batch normalisation ``name`` of every network."""
        weight, bias, mean, variance, counter = (
            self.values[f"{name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        )
        if self.training:
            counter += 1
        return F.batch_norm(x, mean, variance, weight, bias, self.training)

    def drop(self, x: Tensor) -> Tensor:
        """Drops channels of the next hidden layer."""
        return x if self.masks is None else x * next(self.masks).flatten(1)[:, :, None, None]


def _convolutional(run: _Pass, x: Tensor) -> tuple[Tensor, str]:
    """The hidden layers of `experiments.zoo.nets` 's ``cnn``, and the name of the layer after them."""
    for layer, stride in enumerate(run.architecture.strides):
        x = run.drop(run.activation(run.convolve(f"{2 * layer}", x, stride, run.architecture.padding)))
    return x, str(2 * len(run.architecture.strides) + 2)


def _residual(run: _Pass, x: Tensor) -> tuple[Tensor, str]:
    """The hidden layers of `residual_network`, and the name of the layer after them."""
    stem, *strides = run.architecture.strides
    x = run.drop(run.activation(run.normalise("1", run.convolve("0", x, stem, 1))))
    for block, stride in enumerate(strides, start=3):
        hidden = run.normalise(f"{block}.norm1", run.convolve(f"{block}.conv1", x, stride, 1))
        hidden = run.normalise(f"{block}.norm2", run.convolve(f"{block}.conv2", run.activation(hidden), 1, 1))
        if f"{block}.shortcut.0.weight" in run.values:
            x = run.normalise(f"{block}.shortcut.1", run.convolve(f"{block}.shortcut.0", x, stride, 0))
        x = run.drop(run.activation(hidden + x))
    return x, str(len(strides) + 5)


TRUNKS: dict[str, Callable[[_Pass, Tensor], tuple[Tensor, str]]] = {"cnn": _convolutional, "resnet": _residual}
