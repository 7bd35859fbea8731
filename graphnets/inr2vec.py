"""Networks of coordinates as one vector each: inr2vec (De Luigi et al. 2023, arXiv:2302.05438)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures
from graphnets.layered import Networks
from graphnets.weight_input import WeightInput

__all__ = ["Inr2Vec", "VectorClassifier"]


class Inr2Vec(nn.Module):
    r"""Encodes a network as one vector, from which an implicit function tells the network's values again.

    All tensors of a network are stacked to a matrix :math:`P` whose rows are as long as a hidden layer is wide. One
    perceptron with batch norm reads every row, the maximum over rows is the vector, and the decoder is a function of it
    and of a coordinate (Section 3 of the paper):

    .. math:: z = \max_r \mathrm{MLP}(P_r), \qquad \hat f(x) = \mathrm{DEC}(z, \gamma(x)) \approx f(x; W)

    with sines and cosines :math:`\gamma` of the coordinate, and a way around half of the decoder's layers. The encoder
    is kept for what is learned next, see `VectorClassifier`.

    **Not invariant under permutations of neurons**: they reorder the entries of rows. The paper counts on networks that
    all start from the same weights, whose neurons keep their places.

    Deviations from the paper: the first and the last layer are read too, as networks of one hidden layer have no other
    weights (the first layer's weights as columns, the last biases filled up with zeros); tensors are standardised, each
    with one mean and deviation; places are those of a lattice, and values are a network's own.

    Args:
        structure: of the networks: a perceptron of coordinates whose hidden layers have one width.
        targets: numbers of a drawing, channels times places.
        pixels: places along every axis; coordinates go from -1 to 1.
        widths: of the encoder's hidden layers.
        latent: size of the vector.
        hidden, layers: width of the decoder, and its hidden layers before and after the sum with what goes around.
        frequencies: of the coordinate's sines and cosines, 1, 2, 4, ...

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: values on the lattice, ``[C, *pixels]`` flattened: ``[B, targets]``

    Raises:
        ValueError: there is no structure, it is none of such networks, or the targets are not those of a drawing.

    >>> from converters import to_graph
    >>> graph = to_graph(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)))
    >>> model = Inr2Vec(graph.structure, 64, pixels=[4, 4, 4], widths=[16], latent=5, hidden=16).eval()
    >>> model(graph).shape, model.encode(graph).shape
    (torch.Size([1, 64]), torch.Size([1, 5]))
    """

    coordinates: Tensor

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        pixels: Sequence[int] = (8, 8, 8),
        widths: Sequence[int] = (512, 512, 1024, 1024),
        latent: int = 1024,
        hidden: int = 512,
        layers: Sequence[int] = (2, 2),
        frequencies: int = 10,
    ) -> None:
        super().__init__()
        self.read = WeightInput(structure)
        self.width = _row_width(self.read.structure)
        self.latent, self.targets, self.frequencies = latent, targets, frequencies
        axes, self.channels = (self.read.structure.layers[end].size for end in (0, -1))
        if len(pixels) != axes or targets != self.channels * math.prod(pixels):
            raise ValueError(
                f"targets={targets}: networks of {axes} coordinates and {self.channels} channels say "
                f"{self.channels} numbers at each of the places {list(pixels)}"
            )
        sides = [torch.linspace(-1, 1, side) for side in pixels]
        self.register_buffer("coordinates", torch.cartesian_prod(*sides).view(-1, axes), persistent=False)
        self.encoder = _RowEncoder(self.width, widths, latent)
        self.decoder = _Decoder(latent + axes * (1 + 2 * frequencies), hidden, layers, self.channels)

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        return f"rows of {self.width} -> {self.latent} -> {self.targets} values, not invariant, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights from some networks."""
        self.read.fit_statistics(batches)

    def rows(self, batch: Networks) -> Tensor:
        """The stacked tensors of every network, ``[B, rows, width]``."""
        features: WeightSpaceFeatures = self.read(batch)
        return torch.cat([_as_rows(features[name].squeeze(-1), self.width) for name in features], 1)

    def encode(self, batch: Networks) -> Tensor:
        """The vector of every network, ``[B, latent]``."""
        out: Tensor = self.encoder(self.rows(batch))
        return out

    def decode(self, vectors: Tensor, coordinates: Tensor) -> Tensor:
        """Values at coordinates ``[N, d]`` by vectors ``[B, latent]``: ``[B, N, C]``."""
        angles = coordinates.unsqueeze(-1) * 2.0 ** torch.arange(self.frequencies, device=coordinates.device)
        waves = torch.cat([coordinates, angles.sin().flatten(1), angles.cos().flatten(1)], 1)
        count = len(vectors), len(coordinates)
        both = torch.cat([vectors.unsqueeze(1).expand(*count, -1), waves.expand(*count, -1)], 2)
        out: Tensor = self.decoder(both)
        return out

    def forward(self, batch: Networks) -> Tensor:
        """Encode and tell the values again."""
        return self.decode(self.encode(batch), self.coordinates).transpose(1, 2).flatten(1)


class VectorClassifier(nn.Module):
    """A perceptron with batch norm on vectors, the classifier of inr2vec (De Luigi et al. 2023, Section 4).

    Args:
        structure: not used; vectors have none.
        targets: predicted numbers per vector.
        latent: size of the vectors.
        hidden: widths of the hidden layers, each with batch norm, ReLU and dropout.
        dropout: its share.

    Shapes:
        - vectors: ``[B, latent]``
        - result: ``[B, targets]``

    >>> VectorClassifier(None, 10, latent=5, hidden=[8]).eval()(torch.randn(3, 5)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        latent: int = 1024,
        hidden: Sequence[int] = (512, 256),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.latent, self.targets = latent, targets
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(latent, width), _BatchNorm(width), nn.ReLU(), nn.Dropout(dropout)]
            latent = width
        self.network = nn.Sequential(*layers, nn.Linear(latent, targets))

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        return f"{self.latent} -> {self.targets} targets, {size:,} parameters"

    def forward(self, vectors: Tensor) -> Tensor:
        """Predict."""
        out: Tensor = self.network(vectors)
        return out


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes its running statistics for a batch of one, which has no deviation."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise ``[B, C]``."""
        alone = self.training and len(values) == 1
        statistics = self.running_mean, self.running_var, self.weight, self.bias
        return nn.functional.batch_norm(values, *statistics, eps=self.eps) if alone else super().forward(values)


class _RowEncoder(nn.Module):
    """One perceptron on every row, and the maximum over rows."""

    def __init__(self, inputs: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv1d(inputs, width, 1), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.rows = nn.Sequential(*layers, nn.Conv1d(inputs, latent, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """From ``[B, rows, inputs]`` to ``[B, latent]``."""
        out: Tensor = self.rows(rows.transpose(1, 2)).amax(2)
        return out


class _Decoder(nn.Module):
    """A perceptron whose input is added again, projected, in its middle."""

    def __init__(self, inputs: int, hidden: int, layers: Sequence[int], outputs: int) -> None:
        super().__init__()

        def deep(first: int, count: int) -> list[nn.Module]:
            widths = [first, *[hidden] * count]
            return [part for width in widths[:-1] for part in (nn.Linear(width, hidden), nn.ReLU())]

        before, after = layers
        self.before = nn.Sequential(*deep(inputs, before + 1))
        self.around = nn.Sequential(*deep(inputs, 1))
        self.after = nn.Sequential(*deep(hidden, after), nn.Linear(hidden, outputs))

    def forward(self, values: Tensor) -> Tensor:
        """From ``[..., inputs]`` to ``[..., outputs]``."""
        out: Tensor = self.after(self.before(values) + self.around(values))
        return out


def _row_width(structure: Structure) -> int:
    """The one width of the hidden layers of a perceptron.

    Raises:
        ValueError: the structure is another one.
    """
    sizes = [layer.size for layer in structure.layers]
    shapes = [parameter.shape for parameter in structure.parameters]
    ends = list(zip(sizes[1:], sizes[:-1], strict=True))
    chain = [shape for outputs, inputs in ends for shape in ((outputs, inputs), (outputs,))]
    if len(set(sizes[1:-1])) != 1 or sizes[-1] > sizes[1] or shapes != chain:
        raise ValueError(
            f"Inr2Vec stacks tensors as rows of one width, and {structure.name} has tensors of shapes {shapes}; "
            "it reads perceptrons with biases whose hidden layers all have the same width, at least that of the output"
        )
    return sizes[1]


def _as_rows(tensor: Tensor, width: int) -> Tensor:
    """A weight ``[B, out, in]`` or bias ``[B, out]`` as rows, ``[B, rows, width]``."""
    if tensor.dim() == 2:
        return nn.functional.pad(tensor, (0, width - tensor.shape[1])).unsqueeze(1)
    return tensor if tensor.shape[2] == width else tensor.transpose(1, 2)
