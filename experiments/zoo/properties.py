"""What a trained network is like: accuracies, losses and robustness on held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.data import ImageData
from experiments.zoo.config import ZooConfig
from experiments.zoo.sampling import Recipe, output_of, stream
from experiments.zoo.stack import NetworkStack
from experiments.zoo.training import TrainedStack

__all__ = ["PROPERTIES", "Measured", "measure", "noisy_images"]

PROPERTIES = (
    "test_accuracy",
    "train_accuracy",
    "generalization_gap",
    "robustness",
    "robustness_input_noise",
    "robustness_shift",
    "test_loss",
    "train_loss",
)


@dataclass(frozen=True)
class Measured:
    """Properties of the networks of a stack.

    Args:
        values: ``[n]`` per property of ``PROPERTIES``.
        finite: whether all parameters and all properties of a network are finite, ``[n]``.
    """

    values: dict[str, Tensor]
    finite: Tensor

    def row(self, index: int) -> dict[str, float]:
        """The properties of one network as columns of the records."""
        return {name: float(values[index]) for name, values in self.values.items()}


def measure(config: ZooConfig, stack: TrainedStack, data: ImageData) -> Measured:
    """Measures every network of a stack, on images of the classes of its task.

    - ``test_accuracy``, ``test_loss``: on the held-out images.
    - ``train_accuracy``, ``train_loss``: on the network's own training images with their true labels.
    - ``generalization_gap``: train accuracy minus test accuracy.
    - ``robustness``: test accuracy after Gaussian noise on the weights, of deviation
      ``properties.weight_noise`` times the root mean square of each tensor, averaged over draws; the
      running statistics of batch normalisation stay as they are.
    - ``robustness_input_noise``: accuracy on the held-out images plus Gaussian noise of deviation
      ``properties.input_noise``, averaged over draws (the same noisy images for every network).
    - ``robustness_shift``: accuracy on the shifted test images.
    """
    network, weights = stack.network, stack.weights
    prepare = stack.recipes[0].architecture.prepare
    own = torch.from_numpy(np.stack([output_of(recipe.classes, data.classes) for recipe in stack.recipes]))

    def scores(flat: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[n, outputs, B]`` and each network's output for each image to gather them by, ``[n, 1, B]``."""
        return network.logits(flat, prepare(images).to(flat.dtype)), own[:, labels].clamp_min(0).unsqueeze(1)

    def cross_entropy(logits: Tensor, picked: Tensor) -> Tensor:
        """``[n, B]``."""
        return -logits.log_softmax(1).gather(1, picked).squeeze(1).to(torch.float64)

    def right(logits: Tensor, picked: Tensor) -> Tensor:
        """Whether the label's score is above all others, ``[n, B]``; overwrites the logits."""
        score = logits.gather(1, picked).squeeze(1)
        others = logits.scatter_(1, picked, float("-inf")).amax(1)
        return (score > others).to(torch.float64)

    def mean(values: Tensor, labels: Tensor) -> Tensor:
        """Over the images of each network's own classes, ``[n]``."""
        counted = own[:, labels] >= 0
        return values.mean(1) if bool(counted.all()) else (values * counted).sum(1) / counted.sum(1)

    def accuracy(flat: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return mean(right(*scores(flat, images, labels)), labels)

    logits, picked = scores(weights, data.test, data.test_labels)
    values = {"test_loss": mean(cross_entropy(logits, picked), data.test_labels)}
    values["test_accuracy"] = mean(right(logits, picked), data.test_labels)
    logits, picked = scores(weights, data.pool, data.pool_labels)
    images = stack.member.sum(1)
    values["train_loss"] = cross_entropy(logits, picked).where(stack.member, 0.0).sum(1) / images
    values["train_accuracy"] = (right(logits, picked) * stack.member).sum(1) / images
    values["generalization_gap"] = values["train_accuracy"] - values["test_accuracy"]

    draws = int(config.properties["weight_noise_draws"])
    noise = _weight_noise(config, stack.recipes, network, weights, draws)
    noisy = [accuracy(weights + each, data.test, data.test_labels) for each in noise]
    values["robustness"] = torch.stack(noisy).mean(0)
    values["robustness_input_noise"] = accuracy(weights, *noisy_images(config, data))
    values["robustness_shift"] = accuracy(weights, data.shifted, data.shifted_labels)

    finite = weights.isfinite().all(1)
    for value in values.values():
        finite &= value.isfinite()
    return Measured({name: values[name] for name in PROPERTIES}, finite)


def noisy_images(config: ZooConfig, data: ImageData) -> tuple[Tensor, Tensor]:
    """The held-out images with noise, ``draws`` times each, and their labels."""
    draws = int(config.properties["input_noise_draws"])
    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn((draws, *data.test.shape), generator=generator)
    images = data.test + float(config.properties["input_noise"]) * noise
    return images.flatten(0, 1), data.test_labels.repeat(draws)


def _weight_noise(
    config: ZooConfig, recipes: list[Recipe], network: NetworkStack, weights: Tensor, draws: int
) -> Iterator[Tensor]:
    """Noise of every network's own stream, scaled tensor by tensor, one ``[n, P]`` per draw; none on buffers."""
    scale = torch.zeros_like(weights)
    targets, tensors = network.views(scale), network.views(weights)
    for name in tensors.keys() - network.architectures[0].buffers:
        mean_square = tensors[name].flatten(1).square().mean(1)
        targets[name].copy_(mean_square.sqrt().view(-1, *[1] * (tensors[name].dim() - 1)).expand_as(targets[name]))
    streams = [stream(config.seed, recipe.id, "weight_noise") for recipe in recipes]
    for _ in range(draws):
        noise = torch.zeros_like(weights)
        normal = np.stack([each.standard_normal(network.trained) for each in streams])
        noise[:, : network.trained] = torch.from_numpy(normal).to(weights.dtype)
        yield noise * float(config.properties["weight_noise"]) * scale
