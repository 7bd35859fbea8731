"""Residual networks as torchvision has them, narrow enough to test with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def _conv(inner: int, outer: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inner: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inner, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != planes:
            self.downsample = nn.Sequential(_conv(inner, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up around a shortcut."""

    expansion = 4

    def __init__(self, inner: int, planes: int, stride: int) -> None:
        super().__init__()
        outer = planes * self.expansion
        self.conv1, self.bn1 = _conv(inner, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _conv(planes, outer, 1), nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(_conv(inner, outer, 1, stride), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """Stem, four stages, global pooling, classifier; ``width`` channels in the first stage."""

    def __init__(self, block: Callable[[int, int, int], nn.Module], depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inner, stages = width, []
        for stage, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                planes = width * 2**stage
                blocks.append(block(inner, planes, 2 if stage and not number else 1))
                inner = planes * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inner, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActivation(nn.Module):
    """Two pre-activation blocks on one stream."""

    def __init__(self, width: int = 4, inner: int = 6) -> None:
        super().__init__()
        self.stem = _conv(1, width, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.BatchNorm2d(width),
                    "conv1": _conv(width, inner, 3),
                    "norm2": nn.BatchNorm2d(inner),
                    "conv2": _conv(inner, width, 3),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in self.blocks:
            h = part["conv1"](torch.relu(part["norm1"](x)))
            x = x + part["conv2"](torch.relu(part["norm2"](h)))
        return self.head(torch.relu(x).mean((2, 3)))


class OptionA(nn.Module):
    """A shortcut that strides and pads channels with zeros, two on either side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = _conv(1, 4, 3), _conv(4, 6, 3, 2), _conv(6, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        h = self.conv2(torch.relu(self.conv1(x)))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(torch.relu(h + shortcut).mean((2, 3)))
