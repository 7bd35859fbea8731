"""The SIREN as a module and as an architecture of a zoo: how it starts, and where it is evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.zoo.nets import Architecture

__all__ = ["VARIANTS", "Sine", "SirenArchitecture", "grid", "initial_siren"]

VARIANTS = ("sitzmann", "siren_pytorch")


class Sine(nn.Module):
    """The activation of a SIREN, ``sin(w0 x)`` (Sitzmann et al. 2020, arXiv:2006.09661).

    Args:
        w0: the frequency.

    Shapes:
        - inputs and result: any

    >>> Sine(2.0)(torch.tensor([0.0, torch.pi / 4]))
    tensor([0., 1.])
    """

    def __init__(self, w0: float = 30.0) -> None:
        super().__init__()
        self.w0 = w0

    def extra_repr(self) -> str:
        """The frequency."""
        return f"w0={self.w0:g}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute."""
        return torch.sin(self.w0 * inputs)


@dataclass(frozen=True, order=True)
class SirenArchitecture(Architecture):
    """Linear layers with sines between, from pixel coordinates ``[B, 2]`` to channels ``[B, C]``.

    Args:
        w0: the frequency of every sine.

    >>> siren = SirenArchitecture("siren", (2, 32, 32, 1), "sine", w0=30.0)
    >>> siren.name
    'siren-2-32-32-1-w30-sine'
    >>> siren.build()(siren.example_input()).shape
    torch.Size([1, 1])
    """

    w0: float = 30.0

    @property
    def geometry(self) -> str:
        """Name of everything but the activation, the frequency included."""
        return f"{super().geometry}-w{self.w0:g}"

    @property
    def topology(self) -> tuple[Any, ...]:
        """What networks of one stack share."""
        return (*super().topology, self.w0)

    def build(self) -> nn.Sequential:
        """The architecture as a module; its parameters start as those of torch's layers."""
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(self.sizes):
            layers += [nn.Linear(inputs, outputs), Sine(self.w0)]
        return nn.Sequential(*layers[:-1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``zoo.json``."""
        return super().to_dict() | {"w0": self.w0}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SirenArchitecture:
        """The inverse of `to_dict`."""
        return cls(values["family"], tuple(values["sizes"]), values["activation"], w0=values["w0"])


def initial_siren(architecture: SirenArchitecture, variant: str, generator: np.random.Generator) -> np.ndarray:
    r"""All parameters of a fresh SIREN in the order of ``architecture.shapes``, ``[P]`` float64.

    Weights are uniform in :math:`\pm 1/n` in the first layer and in :math:`\pm\sqrt{6/n}/\omega_0` in the others, with
    :math:`n` inputs, so that every sine's argument has deviation about 1 (Sitzmann et al. 2020, section 3.2).

    Args:
        architecture: of the network.
        variant: biases are uniform in :math:`\pm 1/\sqrt n`, as the authors' code leaves them (``"sitzmann"``), or in
            the range of their layer's weights, as the package of that name draws them (``"siren_pytorch"``).
        generator: of the draws.
    """
    parts = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(architecture.sizes)):
        bound = 1 / inputs if layer == 0 else (6 / inputs) ** 0.5 / architecture.w0
        spread = bound if variant == "siren_pytorch" else inputs**-0.5
        parts += [generator.uniform(-bound, bound, inputs * outputs), generator.uniform(-spread, spread, outputs)]
    return np.concatenate(parts)


def grid(*sides: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Coordinates (row, column) of an image's pixels in reading order, from -1 to 1, ``[height * width, 2]``.

    With three sides, of the places of a lattice in space, ``[depth * height * width, 3]``.

    >>> grid(2, 2)
    tensor([[-1., -1.],
            [-1.,  1.],
            [ 1., -1.],
            [ 1.,  1.]])
    """
    return torch.cartesian_prod(*(torch.linspace(-1, 1, side, dtype=dtype) for side in sides))
