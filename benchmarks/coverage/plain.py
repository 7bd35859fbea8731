"""Modules of ``torch.nn`` itself: attention, transformers, recurrent networks, embeddings and the rarer layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage.cases import Case

__all__ = ["LIBRARY", "cases"]

LIBRARY = "torch"


class Wrapped(nn.Module):
    """A layer between two linear ones, so that both its axes are hidden; ``call`` runs it."""

    def __init__(
        self,
        layer: nn.Module,
        inside: int,
        outside: int,
        call: Callable[[nn.Module, Tensor], Any] = lambda layer, x: layer(x),
    ) -> None:
        super().__init__()
        self.first, self.layer, self.last, self.call = nn.Linear(5, inside), layer, nn.Linear(outside, 3), call

    def forward(self, x: Tensor) -> Tensor:
        """``last(layer(first(x)))``; of a tuple the first entry counts."""
        out = self.call(self.layer, self.first(x))
        return self.last(out[0] if isinstance(out, tuple) else out)


class Convolved(nn.Module):
    """A layer of images between two convolutions."""

    def __init__(self, layer: nn.Module, inside: int, outside: int, dimensions: int = 2) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.first, self.layer, self.last = convolution(3, inside, 3), layer, convolution(outside, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``last(layer(relu(first(x))))``."""
        return self.last(self.layer(torch.relu(self.first(x))))


class Tokens(nn.Module):
    """Embedded tokens, a layer, a head."""

    def __init__(self, embedding: nn.Module, layer: nn.Module, outside: int) -> None:
        super().__init__()
        self.embedding, self.layer, self.last = embedding, layer, nn.Linear(outside, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """``last(layer(embedding(tokens)))``; of a tuple the first entry counts."""
        out = self.layer(self.embedding(tokens))
        return self.last(out[0] if isinstance(out, tuple) else out)


class Memory(nn.Module):
    """A layer of two inputs: the encoded one and its own."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.query, self.memory, self.layer, self.last = (
            nn.Linear(5, width),
            nn.Linear(4, width),
            layer,
            nn.Linear(width, 3),
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """``last(layer(query(x), memory(memory)))``."""
        return self.last(self.layer(self.query(x), self.memory(memory)))


class Cell(nn.Module):
    """A recurrent cell in a Python loop."""

    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.last = cell, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The last state's head; ``x [B, T, 5]``."""
        state: Any = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.last(state[0] if isinstance(state, tuple) else state)


class Attended(nn.Module):
    """``nn.MultiheadAttention`` with keys and values of their own widths."""

    def __init__(self, attention: nn.MultiheadAttention, key: int, value: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(5, attention.embed_dim), nn.Linear(5, key), nn.Linear(5, value)
        self.attention, self.last = attention, nn.Linear(attention.embed_dim, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The head of what is attended, and the attention's mean weights."""
        out, weights = self.attention(self.query(x), self.key(x), self.value(x))
        return self.last(out), weights


class Product(nn.Module):
    """``nn.Bilinear`` of two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 6), nn.Linear(5, 7)
        self.product, self.last = nn.Bilinear(6, 7, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``last(product(left(x), right(x)))``."""
        return self.last(self.product(self.left(x), self.right(x)))


def sequence(length: int = 6) -> tuple[Tensor]:
    """``[2, length, 5]``."""
    return (torch.randn(2, length, 5),)


def picture(*sides: int) -> tuple[Tensor]:
    """``[2, 3, *sides]``."""
    return (torch.randn(2, 3, *(sides or (12, 12))),)


def numbers(length: int = 6) -> tuple[Tensor]:
    """Tokens ``[2, length]``."""
    return (torch.arange(2 * length).reshape(2, length),)


def memory() -> tuple[Tensor, Tensor]:
    """A sequence and a longer one to attend to."""
    return torch.randn(2, 6, 5), torch.randn(2, 7, 4)


Maker = Callable[[], tuple[nn.Module, Any]]


def _encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _decoder(**options: Any) -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24, batch_first=True, **options), 2)


def _attention(key: int = 16, value: int = 16, **options: Any) -> nn.Module:
    return Attended(nn.MultiheadAttention(16, 4, kdim=key, vdim=value, batch_first=True, **options), key, value)


def _unbatched_first(attention: nn.Module, x: Tensor) -> Any:
    x = x.transpose(0, 1)
    return attention(x, x, x)[0].transpose(0, 1)


ATTENTION: dict[str, Maker] = {
    "Transformer": lambda: (Memory(nn.Transformer(16, 4, 1, 1, 24, batch_first=True), 16), memory()),
    "Transformer norm_first": lambda: (
        Memory(nn.Transformer(16, 4, 1, 1, 24, batch_first=True, norm_first=True), 16),
        memory(),
    ),
    "TransformerEncoder": lambda: (Wrapped(_encoder(), 16, 16), sequence()),
    "TransformerEncoder norm_first": lambda: (
        Wrapped(_encoder(norm_first=True, activation="gelu"), 16, 16),
        sequence(),
    ),
    "TransformerEncoder no bias": lambda: (Wrapped(_encoder(bias=False), 16, 16), sequence()),
    "TransformerDecoder": lambda: (Memory(_decoder(), 16), memory()),
    "TransformerDecoder norm_first": lambda: (Memory(_decoder(norm_first=True), 16), memory()),
    "MultiheadAttention": lambda: (_attention(), sequence()),
    "MultiheadAttention kdim vdim": lambda: (_attention(12, 20), sequence()),
    "MultiheadAttention add_bias_kv": lambda: (_attention(add_bias_kv=True), sequence()),
    "MultiheadAttention add_zero_attn": lambda: (_attention(add_zero_attn=True), sequence()),
    "MultiheadAttention no bias": lambda: (_attention(bias=False), sequence()),
    "MultiheadAttention time first": lambda: (
        Wrapped(nn.MultiheadAttention(16, 4), 16, 16, _unbatched_first),
        sequence(),
    ),
}

RECURRENT: dict[str, Maker] = {
    "RNN": lambda: (Wrapped(nn.RNN(6, 8, batch_first=True), 6, 8), sequence()),
    "RNN relu 2 layers": lambda: (Wrapped(nn.RNN(6, 8, 2, "relu", batch_first=True), 6, 8), sequence()),
    "GRU": lambda: (Wrapped(nn.GRU(6, 8, batch_first=True), 6, 8), sequence()),
    "GRU bidirectional 2 layers": lambda: (
        Wrapped(nn.GRU(6, 8, 2, batch_first=True, bidirectional=True), 6, 16),
        sequence(),
    ),
    "LSTM": lambda: (Wrapped(nn.LSTM(6, 8, batch_first=True), 6, 8), sequence()),
    "LSTM 3 layers": lambda: (Wrapped(nn.LSTM(6, 8, 3, batch_first=True), 6, 8), sequence()),
    "LSTM bidirectional": lambda: (Wrapped(nn.LSTM(6, 8, batch_first=True, bidirectional=True), 6, 16), sequence()),
    "LSTM projected": lambda: (Wrapped(nn.LSTM(6, 8, batch_first=True, proj_size=4), 6, 4), sequence()),
    "LSTM no bias": lambda: (Wrapped(nn.LSTM(6, 8, batch_first=True, bias=False), 6, 8), sequence()),
    "RNNCell": lambda: (Cell(nn.RNNCell(5, 8), 8), sequence(4)),
    "GRUCell": lambda: (Cell(nn.GRUCell(5, 8), 8), sequence(4)),
    "LSTMCell": lambda: (Cell(nn.LSTMCell(5, 8), 8), sequence(4)),
    "Embedding LSTM": lambda: (Tokens(nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True), 8), numbers()),
}

LAYERS: dict[str, Maker] = {
    "Embedding": lambda: (Tokens(nn.Embedding(20, 8), nn.ReLU(), 8), numbers()),
    "Embedding padding_idx": lambda: (Tokens(nn.Embedding(20, 8, padding_idx=0), nn.LayerNorm(8), 8), numbers()),
    "EmbeddingBag sum": lambda: (Tokens(nn.EmbeddingBag(20, 8, mode="sum"), nn.ReLU(), 8), numbers()),
    "EmbeddingBag mean": lambda: (Tokens(nn.EmbeddingBag(20, 8, mode="mean"), nn.ReLU(), 8), numbers()),
    "EmbeddingBag max": lambda: (Tokens(nn.EmbeddingBag(20, 8, mode="max"), nn.ReLU(), 8), numbers()),
    "Bilinear": lambda: (Product(), (torch.randn(2, 5),)),
    "PReLU": lambda: (Wrapped(nn.PReLU(8), 8, 8), (torch.randn(2, 5),)),
    "GLU": lambda: (Wrapped(nn.GLU(), 8, 4), sequence()),
    "LayerNorm": lambda: (Wrapped(nn.LayerNorm(8), 8, 8), sequence()),
    "RMSNorm": lambda: (Wrapped(nn.RMSNorm(8), 8, 8), sequence()),
    "Softmax": lambda: (Wrapped(nn.Softmax(-1), 8, 8), sequence()),
    "weight norm": lambda: (
        Wrapped(nn.utils.parametrizations.weight_norm(nn.Linear(8, 7)), 8, 7),
        sequence(),
    ),
    "spectral norm": lambda: (
        Wrapped(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 7)), 8, 7),
        sequence(),
    ),
    "orthogonal": lambda: (Wrapped(nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), 8, 8), sequence()),
    "Conv1d": lambda: (Convolved(nn.Conv1d(8, 6, 3, 2), 8, 6, 1), picture(16)),
    "Conv2d groups": lambda: (Convolved(nn.Conv2d(8, 12, 3, groups=4), 8, 12), picture()),
    "Conv2d depthwise": lambda: (Convolved(nn.Conv2d(8, 8, 3, groups=8), 8, 8), picture()),
    "Conv3d": lambda: (Convolved(nn.Conv3d(4, 6, 3), 4, 6, 3), picture(7, 7, 7)),
    "ConvTranspose2d": lambda: (Convolved(nn.ConvTranspose2d(8, 6, 3, 2), 8, 6), picture()),
    "ConvTranspose2d groups": lambda: (Convolved(nn.ConvTranspose2d(8, 6, 3, 2, groups=2), 8, 6), picture()),
    "BatchNorm2d": lambda: (Convolved(nn.BatchNorm2d(8), 8, 8), picture()),
    "GroupNorm": lambda: (Convolved(nn.GroupNorm(2, 8), 8, 8), picture()),
    "InstanceNorm2d": lambda: (Convolved(nn.InstanceNorm2d(8, affine=True), 8, 8), picture()),
    "LocalResponseNorm": lambda: (Convolved(nn.LocalResponseNorm(3), 8, 8), picture()),
    "PixelShuffle": lambda: (Convolved(nn.PixelShuffle(2), 8, 2), picture()),
    "ChannelShuffle": lambda: (Convolved(nn.ChannelShuffle(2), 8, 8), picture()),
    "Upsample": lambda: (Convolved(nn.Upsample(scale_factor=2, mode="bilinear"), 8, 8), picture()),
    "MaxPool2d": lambda: (Convolved(nn.MaxPool2d(2), 8, 8), picture()),
    "AdaptiveAvgPool2d": lambda: (Convolved(nn.AdaptiveAvgPool2d(3), 8, 8), picture()),
    "Unfold": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unfold(2), nn.Flatten(), nn.Linear(16 * 81, 3)),
        picture(),
    ),
}


def cases() -> dict[str, Case]:
    """All modules by name."""
    kinds = {"attention": ATTENTION, "recurrent": RECURRENT, "layers": LAYERS}
    return {
        name: Case(name, kind, lambda make=make: _seeded(make))
        for kind, makers in kinds.items()
        for name, make in makers.items()
    }


def _seeded(make: Maker) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, inputs = make()
    return model.eval(), inputs
