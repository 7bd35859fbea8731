"""What is added to weights before equivariant layers: which input or output they belong to, and to which tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, WeightSpaceFeatures
from graphnets.pieces import Pieces

__all__ = ["FourierFeatures", "IOEncoding", "LayerEncoding", "WeightPerceptron", "lifted"]

ROLES = ("input", "output")


class IOEncoding(nn.Module):
    r"""Marks the weights of input and output neurons, which are not permutable, for layers that permute them.

    Zhou et al. 2023 (arXiv:2302.14040), section 2.2. Hidden neurons get nothing, so equivariance to their permutations
    stays, and equivariance to permutations of inputs and outputs ends. Neurons of other fixed groups are channels of
    `NPLinear` already and need no mark.

    ``"sinusoidal"`` appends, for input and output neurons apart, :math:`\sin \pi f p` and :math:`\cos \pi f p` of the
    neuron's place :math:`p \in [-1, 1]` and ``bands`` frequencies :math:`f` spaced evenly in the logarithm from 1 to
    ``max_frequency``; zeros where a tensor has no such axis. ``"learned"`` adds a vector per input and output neuron.

    Args:
        structure: of the networks.
        channels: feature channels per weight.
        kind: ``"sinusoidal"`` or ``"learned"``.
        bands, max_frequency: of the sinusoidal encoding.
        buffers: whether running statistics belong to the features.

    Attributes:
        out_channels: channels of the result.

    Raises:
        ValueError: the kind is unknown.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}`` to the same with ``out_channels``
    """

    def __init__(
        self,
        structure: Structure,
        channels: int,
        kind: str = "sinusoidal",
        bands: int = 6,
        max_frequency: float = 10.0,
        buffers: bool = False,
    ) -> None:
        super().__init__()
        if kind not in ("sinusoidal", "learned"):
            raise ValueError(f"kind={kind!r} is unknown; choose 'sinusoidal' or 'learned'")
        self.kind, self.bands, self.max_frequency, self.channels = kind, bands, max_frequency, channels
        groups = [g for g, group in enumerate(structure.groups) if group.role in ROLES]
        offsets = dict(zip(groups, [0, *_running([structure.groups[g].size for g in groups])], strict=False))
        self._places: dict[str, list[tuple[int, str]]] = {}
        """Per parameter: the axes with such neurons, and the buffer that says which row of the table each has."""
        for name in Pieces.of(structure, "hnp", buffers).names:
            for number, axis in enumerate(structure.parameter[name].axes):
                group = torch.from_numpy(axis.group.values.copy())
                rows = torch.full((len(axis),), -1)
                for g in set(axis.groups) & set(groups):
                    member = torch.from_numpy(axis.member.values.copy())
                    rows[group == g] = offsets[g] + member[group == g]
                if bool((rows >= 0).any()):
                    key = f"rows_{len(list(self.buffers()))}"
                    self.register_buffer(key, rows, persistent=False)
                    self._places.setdefault(name, []).append((number, key))
        if kind == "learned":
            count = sum(structure.groups[g].size for g in groups)
            self.table = nn.Parameter(0.02 * torch.randn(count, channels))
            self.out_channels = channels
        else:
            waves = [self._waves(structure.groups[g].size, structure.groups[g].role) for g in groups]
            self.register_buffer("table", torch.cat(waves) if waves else torch.zeros(0, 4 * bands), persistent=False)
            self.out_channels = channels + 4 * bands

    def _waves(self, size: int, role: str) -> Tensor:
        """Rows ``[size, 4 * bands]``: the first half is for inputs, the second for outputs."""
        place = torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
        frequency = torch.logspace(0, math.log10(self.max_frequency), self.bands)
        angle = torch.pi * place.unsqueeze(1) * frequency
        waves = torch.cat([angle.sin(), angle.cos()], 1)
        pair = [waves, torch.zeros_like(waves)]
        return torch.cat(pair if role == ROLES[0] else pair[::-1], 1)

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.kind}, {self.channels} -> {self.out_channels} channels"

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Encode."""
        return WeightSpaceFeatures({name: self._encoded(name, tensor) for name, tensor in features.items()})

    def _encoded(self, name: str, tensor: Tensor) -> Tensor:
        marks: Tensor | None = None
        table = torch.cat([self.table, self.table.new_zeros(1, self.table.shape[1])]).to(tensor.dtype)
        for number, key in self._places.get(name, []):
            mark = table[getattr(self, key)]  # row -1: none
            mark = mark.view(-1, *[1] * (tensor.dim() - number - 3), table.shape[1])
            marks = mark if marks is None else marks + mark
        if self.kind == "learned":
            return tensor if marks is None else tensor + marks
        if marks is None:
            marks = table[-1]
        return torch.cat([tensor, marks.expand(*tensor.shape[:-1], -1)], -1)


def _running(sizes: list[int]) -> list[int]:
    return torch.tensor(sizes, dtype=torch.long).cumsum(0).tolist()


class LayerEncoding(nn.Module):
    r"""Adds a learned vector to all weights of a tensor: :math:`W^{(i)}_{jk} + \phi^{(i)}` (Zhou et al. 2023, Eq. 8).

    arXiv:2305.13546. It ends equivariance to permutations across tensors, which are no symmetries of networks.

    Args:
        structure: of the networks.
        channels: feature channels per weight.
        buffers: whether running statistics belong to the features.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}``; result: the same
    """

    def __init__(self, structure: Structure, channels: int, buffers: bool = False) -> None:
        super().__init__()
        self.names = Pieces.of(structure, "hnp", buffers).names
        self.vectors = nn.Parameter(0.02 * torch.randn(len(self.names), channels))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{len(self.names)} tensors, {self.vectors.shape[1]} channels"

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Encode."""
        return WeightSpaceFeatures({n: features[n] + self.vectors[i] for i, n in enumerate(self.names)})


class FourierFeatures(nn.Module):
    r"""Random Fourier features of every weight, :math:`[\sin 2\pi B x, \cos 2\pi B x]` with fixed Gaussian :math:`B`.

    Tancik et al. 2020 (arXiv:2006.10739), as neural functionals lift few channels to many (arXiv:2305.13546, 3.4).

    Args:
        in_channels: channels per weight.
        out_channels: channels of the result, even.
        scale: deviation of the entries of B.
        seed: of B, which is stored with the model.

    Raises:
        ValueError: ``out_channels`` is odd.

    Shapes:
        - features: ``{name: [B, *parameter axes, in_channels]}`` to the same with ``out_channels``
    """

    frequencies: Tensor

    def __init__(self, in_channels: int, out_channels: int, scale: float = 3.0, seed: int = 0) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels={out_channels} is odd; sines and cosines come in pairs")
        generator = torch.Generator().manual_seed(seed)
        self.scale = scale
        self.register_buffer("frequencies", scale * torch.randn(in_channels, out_channels // 2, generator=generator))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.frequencies.shape[0]} -> {2 * self.frequencies.shape[1]} channels, scale={self.scale}"

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Lift."""
        return WeightSpaceFeatures({name: self._lifted(tensor) for name, tensor in features.items()})

    def _lifted(self, tensor: Tensor) -> Tensor:
        angle = 2 * torch.pi * tensor @ self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)


class WeightPerceptron(nn.Module):
    r"""A perceptron of every weight by itself, the same for all weights: what it does to one depends on no other.

    .. math:: h_0 = w, \qquad h_{l} = \mathrm{GELU}(A_l h_{l-1} + b_l)

    Lifts few channels to many as `FourierFeatures` does, but learned.

    Args:
        in_channels: channels per weight.
        widths: of its layers; the last one's is that of the result.

    Raises:
        ValueError: there are no layers.

    Shapes:
        - features: ``{name: [B, *parameter axes, in_channels]}`` to the same with ``widths[-1]``
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths=() leaves no layer; name at least one width")
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise([in_channels, *widths]))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{' -> '.join(str(layer.in_features) for layer in self.layers)} -> {self.layers[-1].out_features}"

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Lift; all tensors in one go, as they share the maps."""
        flat = torch.cat([tensor.reshape(len(tensor), -1, tensor.shape[-1]) for tensor in features.values()], 1)
        for layer in self.layers:
            flat = functional.gelu(layer(flat))
        parts = flat.split([math.prod(tensor.shape[1:-1]) for tensor in features.values()], 1)
        named = zip(features.items(), parts, strict=True)
        return WeightSpaceFeatures({name: part.reshape(*tensor.shape[:-1], -1) for (name, tensor), part in named})


def lifted(
    structure: Structure,
    fourier: float | None,
    fourier_channels: int,
    io_encoding: str | None,
    perceptron: Sequence[int],
    buffers: bool,
) -> tuple[nn.Sequential, int]:
    """What models put ahead of their first layer, on features of one channel, and how many channels it gives.

    Args:
        structure: of the networks.
        fourier, fourier_channels: of `FourierFeatures`; None: none.
        io_encoding: of `IOEncoding`; None: none.
        perceptron: widths of a `WeightPerceptron`; empty: none.
        buffers: whether running statistics belong to the features.
    """
    parts, width = nn.Sequential(), 1
    if fourier is not None:
        parts.append(FourierFeatures(1, fourier_channels, fourier))
        width = fourier_channels
    if io_encoding is not None:
        encoding = IOEncoding(structure, width, io_encoding, buffers=buffers)
        parts.append(encoding)
        width = encoding.out_channels
    if perceptron:
        parts.append(WeightPerceptron(width, perceptron))
        width = perceptron[-1]
    return parts, width
