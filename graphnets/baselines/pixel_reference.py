"""The reference that reads no weights: a residual network on the pixels that implicit representations draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converters import Structure, execute
from graphnets.layered import Networks

__all__ = ["PixelReference"]


class _Block(nn.Module):
    """Two 3x3 convolutions with group norm, and a way around them (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(1, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(1, outputs),
        )
        same = inputs == outputs and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute."""
        return torch.relu(self.path(images) + self.around(images))


class PixelReference(nn.Module):
    r"""A residual network on the images that networks of coordinates draw, which `converters.execute` runs.

    What discrete data allow, to compare with what weights do (Zhou et al. 2023, arXiv:2302.14040, section E.2, where a
    ResNet-18 reads the images themselves; here it reads them as they were fitted). The prediction is invariant under
    every symmetry of the networks. Group norm instead of batch norm: no prediction depends on others of its batch.

    Args:
        structure: of the networks: two coordinates in, channels out.
        targets: predicted numbers per network.
        pixels: ``[height, width]`` of the images; coordinates (row, column) go from -1 to 1.
        channels: of the blocks; every block but the first halves the sides.
        dropout: before the last layer.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``

    Raises:
        ValueError: there is no structure, or the networks do not take two coordinates.

    >>> from converters import to_graph
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)))
    >>> PixelReference(graph.structure, targets=10, pixels=[8, 8], channels=[4, 8])(graph).shape
    torch.Size([1, 10])
    """

    coordinates: Tensor

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        pixels: Sequence[int] = (8, 8),
        channels: Sequence[int] = (32, 64, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [layer.size for layer in structure.layers if layer.kind == "input"] if structure is not None else []
        if structure is None or sizes != [2]:
            raise ValueError(
                "PixelReference draws images with networks of two coordinates; it needs the structure of such networks"
            )
        height, width = pixels
        self.pixels, self.targets = (height, width), targets
        sides = [torch.linspace(-1, 1, side) for side in self.pixels]
        self.register_buffer("coordinates", torch.cartesian_prod(*sides), persistent=False)
        blocks: list[nn.Module] = []
        inputs = structure.layers[-1].size
        for number, outputs in enumerate(channels):
            blocks.append(_Block(inputs, outputs, stride=1 if number == 0 else 2))
            inputs = outputs
        self.network = nn.Sequential(
            *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(inputs, targets)
        )

    def extra_repr(self) -> str:
        """The contract."""
        size = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.pixels[0]} x {self.pixels[1]} pixels -> {self.targets} targets, {size:,} parameters"

    def images(self, batch: Networks) -> Tensor:
        """What the networks draw, ``[B, C, height, width]``."""
        drawn: Tensor = execute(batch, self.coordinates)
        drawn = drawn if drawn.dim() == 3 else drawn.unsqueeze(0)
        images: Tensor = drawn.transpose(1, 2).unflatten(2, self.pixels)
        return images

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        out: Tensor = self.network(self.images(batch))
        return out
