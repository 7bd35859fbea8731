"""The architectures of zoo networks: how to name them, and how to build them as ordinary modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from experiments.zoo.residual import residual_network

__all__ = ["ACTIVATION_MODULES", "BUILDERS", "Architecture", "architecture_faults", "architectures_of", "is_counter"]

ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True, order=True)
class Architecture:
    """One architecture of a zoo.

    Args:
        family: the kind of network: ``"mlp"``, ``"cnn"`` (3x3 convolutions, global average pooling, a linear
            head), ``"cnn_bn"`` (the same, batch normalisation in place of each convolution's bias) or
            ``"resnet"`` (see `experiments.zoo.residual.residual_network`).
        sizes: neurons of every layer, the inputs first and the classes last; channels where the family has
            them. In a residual network the stem and each block are one entry.
        activation: the nonlinearity of the hidden layers, a key of ``ACTIVATION_MODULES``.
        strides: of every hidden layer; empty for a perceptron.
        padding: pixels of zeros around the images of each 3x3 convolution of a ``"cnn"`` or ``"cnn_bn"``.

    >>> Architecture("mlp", (16, 16, 16, 10), "tanh").name
    'mlp-16-16-16-10-tanh'
    >>> Architecture("cnn", (1, 8, 12, 10), "relu", strides=(1, 2), padding=1).name
    'cnn-1-8-12-10-s12p1-relu'
    """

    family: str
    sizes: tuple[int, ...]
    activation: str
    strides: tuple[int, ...] = ()
    padding: int = 0

    @property
    def geometry(self) -> str:
        """Name of everything but the activation, the same for all networks of one `topology`."""
        steps = "s" + "".join(map(str, self.strides)) + f"p{self.padding}"
        return "-".join([self.family, *map(str, self.sizes), *([steps] if self.strides else [])])

    @property
    def name(self) -> str:
        """The name in records and file names."""
        return f"{self.geometry}-{self.activation}"

    @property
    def topology(self) -> tuple[Any, ...]:
        """What decides names and shapes of the parameters: networks of one topology can share a stack."""
        return self.family, self.sizes, self.strides, self.padding

    @property
    def depth(self) -> int:
        """The number of hidden layers; in a residual network, of its stem and blocks."""
        return len(self.sizes) - 2

    @property
    def width(self) -> float:
        """The mean number of neurons (or channels) of a hidden layer; 0 without hidden layers."""
        return sum(self.sizes[1:-1]) / max(self.depth, 1)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the module's ``state_dict`` by its name: parameters, then buffers."""
        return dict(_shapes(self)[0])

    @property
    def buffers(self) -> frozenset[str]:
        """The names in `shapes` that are buffers: they are updated, but not by the optimiser."""
        return _shapes(self)[1]

    def dtype(self, name: str) -> torch.dtype:
        """The type in which the tensor ``name`` of `shapes` is stored."""
        return torch.int64 if is_counter(name) else torch.float32

    def build(self) -> nn.Sequential:
        """The architecture as a module with fresh parameters."""
        return BUILDERS[self.family](self)

    def example_input(self) -> Tensor:
        """An input of the right shape: ``[1, inputs]``, or an image of 8 x 8 pixels or of as many as are needed."""
        side = 1
        for stride in reversed(self.strides):
            side = (side - 1) * stride + 3 - 2 * self.padding
        return torch.zeros(1, self.sizes[0], *([max(side, 8)] * 2 if self.strides else []))

    def prepare(self, images: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` as this architecture takes them: a perceptron's are flattened, ``[N, inputs]``."""
        return images if self.strides else images.flatten(1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``zoo.json``."""
        values = {"family": self.family, "sizes": list(self.sizes), "activation": self.activation}
        return values | ({"strides": list(self.strides), "padding": self.padding} if self.strides else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`."""
        strides = tuple(values.get("strides", ()))
        return cls(values["family"], tuple(values["sizes"]), values["activation"], strides, values.get("padding", 0))


def is_counter(name: str) -> bool:
    """Whether a tensor of this name counts steps, as batch normalisation does: an integer, not a weight."""
    return name.endswith("num_batches_tracked")


@lru_cache(maxsize=1024)
def _shapes(architecture: Architecture) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], frozenset[str]]:
    with torch.device("meta"):
        module = architecture.build()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return tuple((name, tuple(tensor.shape)) for name, tensor in tensors), frozenset(dict(module.named_buffers()))


def _perceptron(architecture: Architecture) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(architecture.sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATION_MODULES[architecture.activation]()]
    return nn.Sequential(*layers[:-1])


def _convolutional(architecture: Architecture) -> nn.Sequential:
    normalised = architecture.family == "cnn_bn"
    layers: list[nn.Module] = []
    *channels, classes = architecture.sizes
    for (inputs, outputs), stride in zip(itertools.pairwise(channels), architecture.strides, strict=True):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride, architecture.padding, bias=not normalised))
        layers += [nn.BatchNorm2d(outputs)] if normalised else []
        layers.append(ACTIVATION_MODULES[architecture.activation]())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def _residual(architecture: Architecture) -> nn.Sequential:
    return residual_network(architecture.sizes, architecture.strides, ACTIVATION_MODULES[architecture.activation])


BUILDERS: dict[str, Callable[[Architecture], nn.Sequential]] = {
    "mlp": _perceptron,
    "cnn": _convolutional,
    "cnn_bn": _convolutional,
    "resnet": _residual,
}
"""The module of an architecture by its family."""


def architectures_of(config: Mapping[str, Any], image_shape: tuple[int, int, int], classes: int) -> list[Architecture]:
    """Every architecture that a zoo may draw from, in a fixed order.

    ``config`` holds ``family``, ``hidden`` (a list of hidden widths, or a list of such lists), ``activation``
    (a name or a list of names) and, for images, ``strides`` (of the first layers; later ones have 1) and
    ``padding``. A mixed zoo has a list ``families`` of such mappings instead; what stands beside it holds for
    all of them.

    >>> spec = {"family": "mlp", "hidden": [16, 16], "activation": ["relu", "tanh"]}
    >>> [a.name for a in architectures_of(spec, (1, 4, 4), 10)]
    ['mlp-16-16-16-10-relu', 'mlp-16-16-16-10-tanh']
    >>> both = {"activation": "relu", "families": [spec, {"family": "cnn", "hidden": [4, 6], "strides": [2]}]}
    >>> [a.name for a in architectures_of(both, (1, 8, 8), 10)][-1]
    'cnn-1-4-6-10-s21p1-relu'
    """
    if "families" in config:
        shared = {key: value for key, value in config.items() if key != "families"}
        return [
            each for part in config["families"] for each in architectures_of(shared | dict(part), image_shape, classes)
        ]
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    found = []
    for widths, activation in itertools.product(_widths(config), _names(config)):
        if config["family"] == "mlp":
            found.append(Architecture("mlp", (inputs, *widths, classes), activation))
            continue
        strides = (*config.get("strides", ()), *[1] * len(widths))[: len(widths)]
        padding = int(config.get("padding", 1))
        found.append(Architecture(config["family"], (image_shape[0], *widths, classes), activation, strides, padding))
    return found


def _widths(config: Mapping[str, Any]) -> list[tuple[int, ...]]:
    hidden = list(config["hidden"])
    choices = hidden if hidden and not isinstance(hidden[0], int) else [hidden]
    return [tuple(map(int, widths)) for widths in choices]


def _names(config: Mapping[str, Any]) -> list[str]:
    activations: str | Sequence[str] = config["activation"]
    return [activations] if isinstance(activations, str) else list(activations)


def architecture_faults(config: Mapping[str, Any], key: str = "architecture") -> list[str]:
    """What is wrong with a configuration of architectures, one line per fault; empty if nothing is."""
    if "families" in config:
        shared = {name: value for name, value in config.items() if name != "families"}
        parts = list(config["families"])
        faults = [] if parts else [f"{key}.families: an empty list"]
        for number, part in enumerate(parts):
            faults += architecture_faults(shared | dict(part), f"{key}.families[{number}]")
        return faults
    known = ("family", "hidden", "activation", "strides", "padding")
    faults = [f"{key}.{name}: unknown; known are families, {', '.join(known)}" for name in config if name not in known]
    faults += [f"{key}.{name}: missing" for name in known[:3] if name not in config]
    if "family" in config and config["family"] not in BUILDERS:
        faults.append(f"{key}.family: {config['family']!r} is not one of {', '.join(BUILDERS)}")
    for name in _names(config) if "activation" in config else []:
        if name not in ACTIVATION_MODULES:
            faults.append(f"{key}.activation: {name!r} is not one of {', '.join(ACTIVATION_MODULES)}")
    if "hidden" in config:
        shallow = 0 if config.get("family") == "mlp" else 1
        faults += [
            f"{key}.hidden: {list(widths)} is not a list of {'' if not shallow else 'at least one '}positive widths"
            for widths in _widths(config)
            if len(widths) < shallow or any(width < 1 for width in widths)
        ]
    if any(int(stride) not in (1, 2, 3) for stride in config.get("strides", ())):
        faults.append(f"{key}.strides: {list(config['strides'])} are not all 1, 2 or 3")
    if config.get("padding", 1) not in (0, 1):
        faults.append(f"{key}.padding: {config['padding']!r} is not 0 or 1")
    return faults
