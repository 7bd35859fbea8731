"""Networks written out here: what papers and tutorials define by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.coverage.cases import Case

__all__ = ["LIBRARY", "cases"]

LIBRARY = "torch"


def perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[module for layer in layers for module in (layer, activation())][:-1])


def convolutional() -> nn.Module:
    """Three convolutions with BatchNorm, flattened into a perceptron."""
    convolutions = [
        module
        for a, b in ((3, 8), (8, 12), (12, 16))
        for module in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


class Sine(nn.Module):
    """``sin(30 x)`` (Sitzmann et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """The activation."""
        return torch.sin(30 * x)


class Field(nn.Module):
    """A radiance field: Fourier features of the place, a skip connection, the direction joined late (NeRF)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = perceptron(18, 24, 24), perceptron(18 + 24, 24, 25)
        self.colour = perceptron(24 + 3, 12, 3)

    def forward(self, place: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Density ``[B, 1]`` and colour ``[B, 3]`` at places and directions ``[B, 3]``."""
        angles = torch.cat([place * 2**octave for octave in range(3)], -1)
        features = torch.cat([angles.sin(), angles.cos()], -1)
        hidden = self.second(torch.cat([features, self.first(features)], -1))
        density, hidden = hidden[:, :1], hidden[:, 1:]
        return functional.softplus(density), torch.sigmoid(self.colour(torch.cat([hidden, direction], -1)))


class Residual(nn.Module):
    """A block with a shortcut (He et al. 2016)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer))
        self.second = nn.Sequential(nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer))
        short = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.short: nn.Module = short if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``relu(second(relu(first(x))) + short(x))``."""
        out: Tensor = functional.relu(self.second(functional.relu(self.first(x))) + self.short(x))
        return out


def residual() -> nn.Module:
    """A stem, four blocks, a head."""
    blocks = [Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 12, 1), Residual(12, 16, 2)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class UNet(nn.Module):
    """Down, up, and what was seen on the way down joined on the way up (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._pair(3, 8), self._pair(8, 12)
        self.middle = self._pair(12, 16)
        self.rise2, self.up2 = nn.ConvTranspose2d(16, 12, 2, 2), self._pair(24, 12)
        self.rise1, self.up1 = nn.ConvTranspose2d(12, 8, 2, 2), self._pair(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _pair(inner: int, outer: int) -> nn.Sequential:
        first, second = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        return nn.Sequential(first, nn.GroupNorm(2, outer), nn.SiLU(), second, nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Classes of every pixel."""
        fine = self.down1(x)
        coarse = self.down2(functional.max_pool2d(fine, 2))
        low = self.middle(functional.max_pool2d(coarse, 2))
        middle = self.up2(torch.cat([self.rise2(low), coarse], 1))
        out: Tensor = self.head(self.up1(torch.cat([self.rise1(middle), fine], 1)))
        return out


class Autoencoder(nn.Module):
    """Means and variances, the decoder's first weight tied to the encoder's last."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.scale = perceptron(12, 20, 16), nn.Linear(16, 6), nn.Linear(16, 6)
        self.decoder = perceptron(16, 20, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean's reconstruction, the means, the logarithms of the variances."""
        hidden = functional.relu(self.encoder(x))
        mean = self.mean(hidden)
        return self.decoder(functional.relu(functional.linear(mean, self.mean.weight.T))), mean, self.scale(hidden)


class Mixer(nn.Module):
    """Perceptrons over patches and over channels in turn (Tolstikhin et al. 2021)."""

    def __init__(self, patches: int = 16, channels: int = 12) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, channels, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.tokens = perceptron(patches, 24, patches, activation=nn.GELU)
        self.channels = perceptron(channels, 20, channels, activation=nn.GELU)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``[B, 3, 16, 16]``."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        out: Tensor = self.head(self.norms[2](x).mean(1))
        return out


class Attention(nn.Module):
    """Heads cut out of one fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``x [B, T, width]`` plus what its tokens attend to."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))


class Language(nn.Module):
    """A small decoder whose head is the embedding (Radford et al. 2019)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(30, width), nn.Embedding(12, width)
        self.attention = nn.ModuleList(Attention(width, 4) for _ in range(2))
        self.inner = nn.ModuleList(perceptron(width, 24, width, activation=nn.GELU) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 30, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[B, T, 30]``."""
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for attention, inner in zip(self.attention, self.inner, strict=True):
            x = attention(x)
            x = x + inner(x)
        out: Tensor = self.head(self.norm(x))
        return out


class Waves(nn.Module):
    """Dilated causal convolutions with gates and skips (van den Oord et al. 2016)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(width, 12, 1) for _ in range(3))
        self.backs = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(12, 10, 1), nn.ReLU(), nn.Conv1d(10, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next sample."""
        x, total = self.first(x), torch.zeros(())
        for i, gate in enumerate(self.gates):
            filtered, opened = gate(functional.pad(x, (2**i, 0))).chunk(2, 1)
            hidden = filtered.tanh() * opened.sigmoid()
            total = total + self.skips[i](hidden)
            x = x + self.backs[i](hidden)
        out: Tensor = self.head(total)
        return out


class Experts(nn.Module):
    """Soft mixture of experts held in stacked parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(6, 10), nn.Linear(10, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 10, 12)), nn.Parameter(torch.randn(4, 12, 10))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``[B, 6]``."""
        x = functional.relu(self.first(x))
        hidden = functional.gelu(torch.einsum("bi,eih->beh", x, self.up))
        each = torch.einsum("beh,eho->beo", hidden, self.down)
        out: Tensor = self.head((self.router(x).softmax(-1)[..., None] * each).sum(1) + x)
        return out


class Sets(nn.Module):
    """A function of sets: each element alone, their sum, what comes of it (Zaheer et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = perceptron(4, 12, 8), perceptron(8, 12, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Of sets ``[B, N, 4]``."""
        out: Tensor = self.all(self.each(x).sum(1))
        return out


class GraphConvolution(nn.Module):
    """Two graph convolutions over an edge list (Kipf & Welling 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 3]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the nodes ``[5, 5]``."""
        source, target = self.edges
        for layer in (self.first, self.second):
            x = layer(x)
            x = functional.relu(x + torch.zeros_like(x).index_add(0, target, x[source]))
        out: Tensor = self.head(x)
        return out


class Squeezed(nn.Module):
    """An inverted bottleneck with squeeze and excitation (Sandler et al. 2018; Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.wide = nn.Sequential(nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.BatchNorm2d(24), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1))
        self.narrow, self.head = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8)), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        x = self.stem(x)
        hidden = self.deep(self.wide(x))
        x = x + self.narrow(hidden * self.squeeze(hidden).sigmoid())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


MAKERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "perceptron": lambda: (perceptron(6, 16, 16, 3), torch.randn(2, 6)),
    "convolutions": lambda: (convolutional(), torch.randn(2, 3, 16, 16)),
    "residual": lambda: (residual(), torch.randn(2, 3, 16, 16)),
    "siren": lambda: (perceptron(2, 16, 16, 1, activation=Sine), torch.randn(2, 2)),
    "radiance field": lambda: (Field(), (torch.randn(2, 3), torch.randn(2, 3))),
    "u-net": lambda: (UNet(), torch.randn(2, 3, 16, 16)),
    "tied autoencoder": lambda: (Autoencoder(), torch.randn(2, 12)),
    "mlp-mixer": lambda: (Mixer(), torch.randn(2, 3, 16, 16)),
    "tied language model": lambda: (Language(), torch.arange(14).reshape(2, 7)),
    "gated dilated convolutions": lambda: (Waves(), torch.randn(2, 1, 20)),
    "soft experts": lambda: (Experts(), torch.randn(2, 6)),
    "deep sets": lambda: (Sets(), torch.randn(2, 5, 4)),
    "graph convolution": lambda: (GraphConvolution(), torch.randn(5, 5)),
    "inverted bottleneck": lambda: (Squeezed(), torch.randn(2, 3, 16, 16)),
}


def _make(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, inputs = MAKERS[name]()
    return model.eval(), inputs


def cases() -> dict[str, Case]:
    """All networks by name."""
    return {name: Case(name, "by hand", partial(_make, name)) for name in MAKERS}
