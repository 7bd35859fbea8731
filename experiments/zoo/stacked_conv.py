"""Many convolutional networks at once: one network as wide as all of them, in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.zoo.nets import ACTIVATION_MODULES, Architecture
from experiments.zoo.stack import NetworkStack

__all__ = ["StackedConv"]

EVALUATED_AT_ONCE = 128
"""Images in one forward pass of `StackedConv.logits`: fixed, so that rounding does not depend on the stack."""
TRAINED_AT_ONCE = 10
"""Networks in one pass: more do not run faster, and their activations would leave the cache."""


class StackedConv(NetworkStack):
    """Forward and backward of ``n`` convolutional or residual networks of one topology.

    The channels of some networks stand side by side, ``[B, n C, H, W]`` with the channels innermost in memory,
    and every convolution is one grouped convolution. Of the ways to do it on one processor thread this was the
    fastest for 8 to 16 channels (im2col with batched matrix products takes 2 to 4 times as long). Batch
    normalisation works on each channel anyway, so one call normalises all networks. Networks side by side have
    the same activation: their channels are then one block of memory, which elementwise kernels need to be fast.

    Kernels round otherwise in another width, and which networks stand side by side depends on the stack. So a
    stack always gives the same networks, bit for bit, but a part of it gives them up to rounding alone
    (`exact_in_parts`): a lost shard is restored by training its whole stack.
    """

    exact_in_parts = False

    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Class scores ``[n, classes, B]`` of every network on the same images ``[B, C, H, W]``."""
        logits = flat.new_empty(len(flat), self.sizes[-1], len(inputs))
        with torch.no_grad():
            for rows in self._chunks([False] * len(flat)):
                values = self._wide(flat[rows])
                for start in range(0, len(inputs), EVALUATED_AT_ONCE):
                    images = inputs[start : start + EVALUATED_AT_ONCE].clone(memory_format=torch.channels_last)
                    scores = _Pass(self.architectures[rows[0]], values, len(rows)).scores(images)
                    logits[rows, :, start : start + len(images)] = scores.transpose(1, 2)
        return logits

    def gradients(self, flat: Tensor, inputs: Tensor, labels: Tensor, keep: Tensor | None, out: Tensor) -> Tensor:
        """See `NetworkStack.gradients`; inputs are ``[n, B, C, H, W]``."""
        losses = flat.new_empty(len(flat))
        state = self.views(flat)
        buffers = self.architectures[0].buffers
        drops = [False] * len(flat) if keep is None else (keep != 1).flatten(1).any(1).tolist()
        for rows in self._chunks(drops):
            values = self._wide(flat[rows])
            trained = [value.requires_grad_() for name, value in values.items() if name not in buffers]
            images = inputs[rows].transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
            masks = None if keep is None or not drops[rows[-1]] else keep[rows].permute(2, 0, 1)
            run = _Pass(self.architectures[rows[0]], values, len(rows), masks, training=True)
            scores, picked = run.scores(images), labels[rows]
            loss = F.cross_entropy(scores.flatten(0, 1), picked.flatten(), reduction="none").view_as(picked).mean(1)
            gradients = torch.autograd.grad(loss.sum(), trained)
            losses[rows] = loss.detach()
            out[rows, : self.trained] = torch.cat([each.reshape(len(rows), -1) for each in gradients], 1)
            for name in buffers:
                state[name][rows] = values[name].view(-1, *state[name].shape[1:])
        return losses

    def _chunks(self, drops: Sequence[bool]) -> Iterator[list[int]]:
        """Networks that are computed together: of one activation, those with dropout behind those without."""
        names = [architecture.activation for architecture in self.architectures]
        order = sorted(range(len(names)), key=lambda row: (names[row], drops[row]))
        for _, group in groupby(order, key=names.__getitem__):
            rows = list(group)
            parts = -(-len(rows) // TRAINED_AT_ONCE)
            bounds = [len(rows) * part // parts for part in range(parts + 1)]
            yield from (rows[start:stop] for start, stop in pairwise(bounds))

    def _wide(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors of some networks side by side, ``[n out, ...]``, and counters, ``[n]``."""
        return {
            name: tensor.flatten(0, 1) if tensor.dim() > 1 else tensor.clone()
            for name, tensor in self.views(flat).items()
        }


class _Pass:
    """One forward pass of networks side by side.

    Args:
        architecture: of all networks.
        values: their tensors side by side, by state_dict name; running statistics are updated in training.
        networks: their number, n.
        masks: dropout factors in order of layers, ``[B, n, hidden]``, or None.
        training: whether batch normalisation uses the batch.
    """

    def __init__(
        self,
        architecture: Architecture,
        values: dict[str, Tensor],
        networks: int,
        masks: Tensor | None = None,
        training: bool = False,
    ) -> None:
        self.architecture, self.values, self.networks, self.training = architecture, values, networks, training
        self.activation = ACTIVATION_MODULES[architecture.activation]()
        self.masks = None if masks is None else iter(masks.split(list(architecture.sizes[1:-1]), 2))

    def scores(self, images: Tensor) -> Tensor:
        """``[B, n C, H, W]``, or ``[B, C, H, W]`` for the same images to all, ``-> [n, B, classes]``."""
        hidden, head = TRUNKS[self.architecture.family](self, images)
        pooled = hidden.mean((2, 3)).unflatten(1, (self.networks, -1)).transpose(0, 1)
        weight = self.values[f"{head}.weight"].unflatten(0, (self.networks, -1))
        bias = self.values[f"{head}.bias"].view(self.networks, 1, -1)
        return torch.baddbmm(bias, pooled, weight.transpose(1, 2))

    def convolve(self, name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        """The convolution ``name`` of every network; a dense one where all have the same input."""
        weight, bias = self.values[f"{name}.weight"], self.values.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])

    def activate(self, x: Tensor) -> Tensor:
        """The networks' nonlinearity."""
        result: Tensor = self.activation(x)
        return result

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
    """The hidden layers of a ``cnn`` or ``cnn_bn`` of `experiments.zoo.nets`, and the name of the layer after them."""
    normalised = run.architecture.family == "cnn_bn"
    modules = 3 if normalised else 2
    for layer, stride in enumerate(run.architecture.strides):
        x = run.convolve(f"{modules * layer}", x, stride, run.architecture.padding)
        x = run.drop(run.activate(run.normalise(f"{modules * layer + 1}", x) if normalised else x))
    return x, str(modules * len(run.architecture.strides) + 2)


def _residual(run: _Pass, x: Tensor) -> tuple[Tensor, str]:
    """The hidden layers of `residual_network`, and the name of the layer after them."""
    stem, *strides = run.architecture.strides
    x = run.drop(run.activate(run.normalise("1", run.convolve("0", x, stem, 1))))
    for block, stride in enumerate(strides, start=3):
        hidden = run.normalise(f"{block}.norm1", run.convolve(f"{block}.conv1", x, stride, 1))
        hidden = run.normalise(f"{block}.norm2", run.convolve(f"{block}.conv2", run.activate(hidden), 1, 1))
        if f"{block}.shortcut.0.weight" in run.values:
            x = run.normalise(f"{block}.shortcut.1", run.convolve(f"{block}.shortcut.0", x, stride, 0))
        x = run.drop(run.activate(hidden + x))
    return x, str(len(strides) + 5)


TRUNKS: dict[str, Callable[[_Pass, Tensor], tuple[Tensor, str]]] = {
    "cnn": _convolutional,
    "cnn_bn": _convolutional,
    "resnet": _residual,
}
