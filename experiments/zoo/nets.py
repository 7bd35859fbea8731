"""The architectures of zoo networks: how to name them, and how to build them as ordinary modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATION_MODULES", "Architecture", "architectures_of"]

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
        family: the kind of network; ``"mlp"``.
        sizes: neurons of every layer, the inputs first and the classes last.
        activation: the nonlinearity of the hidden layers, a key of ``ACTIVATION_MODULES``.

    >>> Architecture("mlp", (16, 16, 16, 10), "tanh").name
    'mlp-16-16-16-10-tanh'
    """

    family: str
    sizes: tuple[int, ...]
    activation: str

    @property
    def name(self) -> str:
        """The name in records and file names."""
        return "-".join([self.family, *map(str, self.sizes), self.activation])

    @property
    def topology(self) -> tuple[Any, ...]:
        """What decides names and shapes of the parameters: networks of one topology can share a stack."""
        return self.family, self.sizes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by its name in the module's ``state_dict``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(self.sizes)):
            shapes[f"{2 * layer}.weight"] = (outputs, inputs)
            shapes[f"{2 * layer}.bias"] = (outputs,)
        return shapes

    def build(self) -> nn.Sequential:
        """The architecture as a module with fresh parameters."""
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(self.sizes):
            layers += [nn.Linear(inputs, outputs), ACTIVATION_MODULES[self.activation]()]
        return nn.Sequential(*layers[:-1])

    def example_input(self) -> Tensor:
        """An input of the right shape, ``[1, inputs]``."""
        return torch.zeros(1, self.sizes[0])

    def prepare(self, images: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` as this architecture takes them: flattened, ``[N, inputs]``."""
        return images.flatten(1)


def architectures_of(config: Mapping[str, Any], image_shape: tuple[int, int, int], classes: int) -> list[Architecture]:
    """Every architecture that a zoo may draw from, in a fixed order.

    ``config`` holds ``family``, ``hidden`` (a list of hidden widths, or a list of such lists) and
    ``activation`` (a name or a list of names).

    >>> spec = {"family": "mlp", "hidden": [16, 16], "activation": ["relu", "tanh"]}
    >>> [a.name for a in architectures_of(spec, (1, 4, 4), 10)]
    ['mlp-16-16-16-10-relu', 'mlp-16-16-16-10-tanh']
    """
    hidden = list(config["hidden"])
    choices = hidden if hidden and not isinstance(hidden[0], int) else [hidden]
    activations = config["activation"]
    names = [activations] if isinstance(activations, str) else list(activations)
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return [
        Architecture(config["family"], (inputs, *map(int, widths), classes), name)
        for widths, name in itertools.product(choices, names)
    ]
