"""A small residual network with batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["ResidualBlock", "residual_network"]


class ResidualBlock(nn.Module):
    r"""Two 3x3 convolutions beside a shortcut: :math:`\phi(N_2 W_2 \phi(N_1 W_1 x) + S x)`.

    The shortcut S is the identity, or a normalised 1x1 convolution where stride or width change.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution and of the shortcut.
        activation: makes the nonlinearity.

    Shapes:
        - ``(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))``
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W) -> (B, outputs, H', W')``."""
        hidden = self.activation1(self.norm1(self.conv1(x)))
        out: Tensor = self.activation2(self.norm2(self.conv2(hidden)) + self.shortcut(x))
        return out


def residual_network(
    sizes: Sequence[int], strides: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """A 3x3 stem, residual blocks, global average pooling and a linear head.

    Args:
        sizes: channels of the image, of the stem and of every block, and the number of classes.
        strides: of the stem and of every block.
        activation: makes the nonlinearity.
    """
    image, stem, *_, classes = sizes
    layers: list[nn.Module] = [
        nn.Conv2d(image, stem, 3, strides[0], padding=1, bias=False),
        nn.BatchNorm2d(stem),
        activation(),
    ]
    for (inputs, outputs), stride in zip(pairwise(sizes[1:-1]), strides[1:], strict=True):
        layers.append(ResidualBlock(inputs, outputs, stride, activation))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-2], classes))
