"""Small networks with forwards of their own: one idea each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Forward = Callable[..., Any]


class Net(nn.Module):
    """Named parts and one function that uses them: ``forward(net, *inputs)``."""

    def __init__(self, forward: Forward, **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            if isinstance(part, Buffer):
                self.register_buffer(name, part.tensor, persistent=part.persistent)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.run(self, *inputs, **named)


class Buffer:
    """A tensor to be registered as a buffer of :class:`Net`."""

    def __init__(self, tensor: Tensor, persistent: bool = True) -> None:
        self.tensor, self.persistent = tensor, persistent


class Functional(nn.Module):
    """Functional, in-place and arithmetic activations between Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 7), nn.Linear(7, 6), nn.Linear(6, 5)
        self.last = nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x), inplace=True)
        h = self.second(h)
        h.mul_(2.0).add_(0.5)
        h = torch.sin(h)
        h = 1.0 - F.softplus(self.third(h)) / 3
        return self.last(h)


class Siren(nn.Module):
    """Sinusoidal network (one output per coordinate)."""

    def __init__(self, width: int = 16, depth: int = 2, omega: float = 30.0) -> None:
        super().__init__()
        sizes = [2] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head, self.omega = nn.Linear(width, 1), omega

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.head(x)


class SkipInr(nn.Module):
    """An INR that sees its coordinates again in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 10), nn.Linear(13, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.head(torch.relu(self.second(torch.cat([h, x], dim=-1))))


class SqueezeExcite(nn.Module):
    """Channels gated by a small network of their own means."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class ChannelShuffle(nn.Module):
    """ShuffleNet's (group, channel) -> (channel, group)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class UNet(nn.Module):
    """One level down, one up, joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up, self.leave = nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Conv2d(9, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.enter(x))
        h = torch.relu(self.up(torch.relu(self.down(skip))))
        return self.leave(torch.cat([skip, h], dim=1))


class Mixer(nn.Module):
    """One MLP-mixer block over 9 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 6, 2, stride=2)
        self.token_in, self.token_out = nn.Linear(9, 5), nn.Linear(5, 9)
        self.channel_in, self.channel_out = nn.Linear(6, 7), nn.Linear(7, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = h + self.token_out(F.gelu(self.token_in(h.transpose(1, 2)))).transpose(1, 2)
        h = h + self.channel_out(F.gelu(self.channel_in(h)))
        return self.head(h.mean(1))


class DenseBlock(nn.Module):
    """Every layer reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(2, 3, 3, padding=1),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(7, 5, 1),
        )
        self.norm, self.head = nn.BatchNorm2d(7), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        h = torch.cat([a, torch.relu(self.b(a))], 1)
        return self.head(torch.relu(self.c(torch.relu(self.norm(h)))).mean((2, 3)))


class TwoInputs(nn.Module):
    """Two inputs of different sizes, two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(5, 8)
        self.score, self.value = nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, left: Tensor, right: Tensor) -> Mapping[str, Tensor]:
        h = torch.tanh(self.left(left) + self.right(right))
        return {"score": self.score(h), "value": self.value(h)}


class Shared(nn.Module):
    """One Linear under two names and used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.leave = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.enter(x))
        h = torch.relu(self.first(h))
        h = torch.tanh(self.again(h))
        return self.leave(torch.relu(self.first(h)))


class Autoencoder(nn.Module):
    """The decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


class Odds(nn.Module):
    """Everything a state_dict may hold beside weights: scalars, integers, booleans, halves, empty and unused ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.randn(3, 5))
        self.halves = nn.Parameter(torch.randn(6).half())
        self.empty = nn.Parameter(torch.empty(0))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("table", torch.tensor([[3, 1], [4, 1]]))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("phase", torch.complex(torch.randn(2), torch.randn(2)))
        self.register_buffer("hidden", torch.randn(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x) * self.temperature)
        return self.last(h * self.halves.to(h.dtype))


class BatchViews(nn.Module):
    """Views that name the batch size, and a division by it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(1, 3, 3), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x)).view(x.shape[0], 12)
        h = torch.relu(self.hidden(h)).reshape(x.size(0), 1, 8).expand(x.size(0), 2, 8)
        return self.head(h.reshape(2 * x.size(0), 8)).view(x.size(0), 4) / x.size(0)
