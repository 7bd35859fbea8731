"""Networks of equivariant layers on weight-space features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures
from graphnets.layered import Networks
from graphnets.nfn.encodings import lifted
from graphnets.nfn.linear import HNPLinear, NPLinear, Pointwise
from graphnets.nfn.normalisation import ChannelDropout
from graphnets.nfn.pooling import PermutationPool
from graphnets.pieces import PieceLayer
from graphnets.weight_input import WeightInput

__all__ = ["NFN", "VARIANTS", "NeuralFunctional", "check_variant", "linear_layer", "prediction_head"]

VARIANTS = ("np", "hnp", "pt")


def prediction_head(inputs: int, widths: Sequence[int], targets: int, dropout: float = 0.0) -> nn.Sequential:
    """A perceptron with ReLU and dropout after every hidden layer."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, targets))


def check_variant(variant: str) -> None:
    """Refuse an unknown variant.

    Raises:
        ValueError: it is not one of ``VARIANTS``.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is unknown; choose one of {', '.join(VARIANTS)}")


def linear_layer(
    variant: str,
    structure: Structure,
    in_channels: int,
    out_channels: int,
    terms: str = "all",
    rank: int | None = None,
    buffers: bool = False,
) -> PieceLayer:
    """The linear layer of a variant: `NPLinear`, `HNPLinear` or `Pointwise`; arguments are theirs."""
    if variant == "pt":
        return Pointwise(structure, in_channels, out_channels, buffers)
    if variant == "np":
        return NPLinear(structure, in_channels, out_channels, terms, buffers=buffers)
    return HNPLinear(structure, in_channels, out_channels, terms, rank=rank, buffers=buffers)


class NeuralFunctional(nn.Module, ABC):
    """Equivariant layers with ReLU between, then either invariants and a perceptron, or one more layer.

    A subclass says in `layer` what its layers are. With ``targets`` the model is invariant; without, equivariant: its
    last layer has ``out_channels``: one for new weights, more for several sets of them.

    Args:
        structure: what the networks share (activations may differ).
        targets: predicted numbers per network; None for an equivariant model.
        channels: of the equivariant layers.
        head: widths of the predicting perceptron.
        symmetry: ``"np"`` or ``"hnp"``, of what is pooled; ``pool``: ``"mean"``, ``"sum"`` or ``"max"``.
        io_encoding: None, ``"sinusoidal"`` or ``"learned"``: mark input and output neurons before the first layer.
        fourier: None, or the scale of random Fourier features of the weights.
        fourier_channels: how many of them; None: as many as the first layer's channels.
        perceptron: widths of a `WeightPerceptron` ahead of the first layer; empty: none.
        skip: whether every layer but the first and last adds its input to its result (where their channels are equal).
        dropout: in the head; ``channel_dropout`` after every equivariant layer.
        activations, weight_noise, buffers: see `WeightInput`.
        out_channels: of an equivariant model's result.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``

    Raises:
        ValueError: there are no layers, or no structure.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        channels: Sequence[int],
        head: Sequence[int],
        symmetry: str,
        pool: str,
        io_encoding: str | None = None,
        fourier: float | None = None,
        fourier_channels: int | None = None,
        perceptron: Sequence[int] = (),
        skip: bool = False,
        dropout: float = 0.0,
        channel_dropout: float = 0.0,
        activations: bool = False,
        weight_noise: float = 0.0,
        buffers: bool = False,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels=() leaves no layer; name at least one width")
        self.targets, self.skip = targets, skip
        self.read = WeightInput(structure, buffers, activations, weight_noise)
        structure = self.read.structure
        count = fourier_channels or channels[0]
        self.encode, width = lifted(structure, fourier, count, io_encoding, perceptron, buffers)
        widths = [width, *channels, *([] if targets is not None else [out_channels])]
        self.layers = nn.ModuleList(self.layer(structure, i, o) for i, o in pairwise(widths))
        self.drop = ChannelDropout(channel_dropout)
        if targets is not None:
            self.pool = PermutationPool(structure, channels[-1], symmetry, pool, buffers)
            inputs = self.pool.out_features + self.read.known_features
            self.head = prediction_head(inputs, head, targets, dropout)

    @abstractmethod
    def layer(self, structure: Structure, in_channels: int, out_channels: int) -> PieceLayer:
        """One equivariant layer; every model says which."""

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        result = "new weights" if self.targets is None else f"{self.targets} targets"
        return f"{self.read.structure.name} -> {result}, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights; see `ScaleTensors`."""
        self.read.fit_statistics(batches)

    def transform(self, features: WeightSpaceFeatures) -> list[Tensor]:
        """The equivariant layers on features of one channel; results per piece, see `Pieces`."""
        features = self.encode(features)
        layers = [cast(PieceLayer, layer) for layer in self.layers]
        parts = layers[0].pieces.split(features)
        for number, layer in enumerate(layers):
            before, parts = parts, layer.on_pieces(parts)
            if self.skip and number > 0 and layer.in_channels == layer.out_channels:
                parts = [new + old for new, old in zip(parts, before, strict=True)]
            if self.targets is not None or number < len(layers) - 1:
                parts = self.drop.on_pieces([part.relu() for part in parts], layer.out_channels)
        return parts

    def forward(self, batch: Networks) -> Tensor | WeightSpaceFeatures:
        """Predict, or transform."""
        parts = self.transform(self.read(batch))
        if self.targets is None:
            return cast(PieceLayer, self.layers[-1]).pieces.join(parts)
        out: Tensor = self.head(torch.cat([self.pool.on_pieces(parts), self.read.known(batch)], -1))
        return out


class NFN(NeuralFunctional):
    """A neural functional network (Zhou et al. 2023, arXiv:2302.14040): equivariant linear layers with ReLU between.

    The defaults are those of the paper's prediction of generalization (Appendix D.1): channels 16, 16, 5, mean pooling
    and a head of three times 1000.

    Deviations from the paper: weights are standardised tensor by tensor; ``activations`` lets the head know what the
    networks compute, which their weights do not tell.

    Args:
        structure: what the networks share (activations may differ).
        targets: predicted numbers per network; None for an equivariant network.
        variant: ``"hnp"``, ``"np"``, or ``"pt"`` (every weight by itself).
        channels: of the equivariant layers.
        head: widths of the predicting perceptron.
        pool: ``"mean"``, ``"sum"`` or ``"max"``.
        terms, rank: of the linear layers, see `PermutationLinear`.
        io_encoding: None, ``"sinusoidal"`` or ``"learned"``: mark input and output neurons before the first layer.
        fourier: None, or the scale of random Fourier features of the weights.
        fourier_channels: how many of them; None: as many as the first layer's channels.
        perceptron: widths of a `WeightPerceptron` ahead of the first layer; empty: none.
        dropout: in the head; ``channel_dropout`` after every equivariant layer.
        activations, weight_noise, buffers: see `WeightInput`.
        out_channels: of an equivariant model's result.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``

    Raises:
        ValueError: an argument is unknown, or a layer would be too large.

    >>> from converters import to_graph, trace
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> graph = to_graph(network)
    >>> NFN(trace(network), targets=2, head=[16]).eval()(graph).shape
    torch.Size([1, 2])
    >>> NFN(trace(network), targets=None)(graph)["0.weight"].shape
    torch.Size([1, 8, 2, 1])
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        variant: str = "hnp",
        channels: Sequence[int] = (16, 16, 5),
        head: Sequence[int] = (1000, 1000, 1000),
        pool: str = "mean",
        terms: str = "all",
        rank: int | None = None,
        io_encoding: str | None = None,
        fourier: float | None = None,
        fourier_channels: int | None = None,
        perceptron: Sequence[int] = (),
        dropout: float = 0.0,
        channel_dropout: float = 0.0,
        activations: bool = False,
        weight_noise: float = 0.0,
        buffers: bool = False,
        out_channels: int = 1,
    ) -> None:
        check_variant(variant)
        self.variant, self.terms, self.rank, self.buffers_too = variant, terms, rank, buffers
        super().__init__(
            structure,
            targets,
            channels,
            head,
            symmetry="hnp" if variant == "hnp" and rank is None else "np",
            pool=pool,
            io_encoding=io_encoding,
            fourier=fourier,
            fourier_channels=fourier_channels,
            perceptron=perceptron,
            dropout=dropout,
            channel_dropout=channel_dropout,
            activations=activations,
            weight_noise=weight_noise,
            buffers=buffers,
            out_channels=out_channels,
        )

    def layer(self, structure: Structure, in_channels: int, out_channels: int) -> PieceLayer:
        """The variant's linear layer."""
        return linear_layer(self.variant, structure, in_channels, out_channels, self.terms, self.rank, self.buffers_too)

    def extra_repr(self) -> str:
        """The contract and the size."""
        return f"{super().extra_repr()}, {self.variant}"
