"""Neural functional Transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures
from graphnets.layered import Networks
from graphnets.nfn.encodings import lifted
from graphnets.nfn.model import prediction_head
from graphnets.nfn.pooling import HNPPool
from graphnets.nft.block import NFTBlock
from graphnets.nft.cross_attention import QueryPool
from graphnets.nft.rows import Project, Rows, Unproject
from graphnets.weight_input import WeightInput

__all__ = ["NFT"]

POOLS = ("attention", "mean", "hnp")


class NFT(nn.Module):
    """A neural functional Transformer (Zhou et al. 2023, arXiv:2305.13546): blocks of attention between weights.

    Weights are lifted to random Fourier features, inputs and outputs are marked, every tensor is projected to the same
    channels (with its layer encoding, Eq. 8), and the blocks follow. With ``targets`` the model is invariant: learned
    queries read the result (Eq. 9), or means are taken, and a perceptron predicts. Without, it is
    equivariant and gives ``out_channels`` per weight: one for new weights, more for several sets of them.

    Deviations from the paper: weights are standardised tensor by tensor; the last block is followed by a LayerNorm; and
    those of `WeightSpaceSelfAttention`.

    Args:
        structure: what the networks share (activations may differ).
        targets: predicted numbers per network; None for an equivariant model.
        channels, blocks, heads, terms, global_term, hidden: of the blocks, see `NFTBlock`.
        pool: ``"attention"``; ``"mean"`` of every tensor; or ``"hnp"``, in which inputs and outputs keep means of their
            own (`HNPPool`).
        queries, pooled_channels: of the attention's result; ``pooled_channels`` is ``channels`` if None, also of what
            ``"hnp"`` pools.
        head: widths of the predicting perceptron; None: no perceptron, the ``queries * pooled_channels`` numbers that
            the queries read are the result.
        fourier: None, or the scale of the random Fourier features; ``fourier_channels`` says how many.
        perceptron: widths of a `WeightPerceptron` behind them; empty: none.
        io_encoding: None, ``"sinusoidal"`` or ``"learned"``, see `IOEncoding`.
        symmetry: ``"np"``, as in the paper, or ``"hnp"``, see `Pieces`.
        dropout: in the blocks; ``head_dropout`` in the head.
        activations, weight_noise, buffers: see `WeightInput`.
        out_channels: of an equivariant model's result.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``

    Raises:
        ValueError: an option is unknown, heads do not divide the channels, there is no structure, or without a head the
            targets are not the numbers that the queries read.
        StructureMismatch: a network has another layout.

    >>> from converters import to_graph, trace
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> graph, structure = to_graph(network), trace(network)
    >>> NFT(structure, targets=2, channels=8, blocks=1).eval()(graph).shape
    torch.Size([1, 2])
    >>> NFT(structure, targets=None, channels=8, blocks=1)(graph)["0.weight"].shape
    torch.Size([1, 8, 2, 1])
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        channels: int = 256,
        blocks: int = 4,
        heads: int = 4,
        terms: str = "full",
        global_term: str = "mean",
        hidden: int | None = None,
        pool: str = "attention",
        queries: int = 16,
        pooled_channels: int | None = None,
        head: Sequence[int] | None = (1000,),
        fourier: float | None = 3.0,
        fourier_channels: int = 128,
        perceptron: Sequence[int] = (),
        io_encoding: str | None = "sinusoidal",
        symmetry: str = "np",
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        activations: bool = False,
        weight_noise: float = 0.0,
        buffers: bool = False,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} is unknown; choose one of {', '.join(POOLS)}")
        self.targets, self.channels, self.symmetry = targets, channels, symmetry
        self.read = WeightInput(structure, buffers, activations, weight_noise)
        structure = self.read.structure
        self.rows = Rows.of(structure, symmetry, buffers)
        self.encode, width = lifted(structure, fourier, fourier_channels, io_encoding, perceptron, buffers)
        self.enter = Project(structure, width, channels, symmetry, buffers)
        self.blocks = nn.Sequential(
            *(
                NFTBlock(structure, channels, heads, terms, global_term, hidden, symmetry, dropout, buffers=buffers)
                for _ in range(blocks)
            )
        )
        self.norm = nn.LayerNorm(channels)
        if targets is None:
            self.leave = Unproject(structure, channels, out_channels, symmetry, buffers)
            return
        pooled_channels = channels if pooled_channels is None else pooled_channels
        self.pool: QueryPool | _PlacePool | None = None
        inputs = len(self.rows.lengths) * channels
        if pool == "attention":
            self.pool, inputs = QueryPool(channels, pooled_channels, queries, heads), queries * pooled_channels
        elif pool == "hnp":
            self.pool = _PlacePool(structure, channels, pooled_channels, symmetry, buffers)
            inputs = self.pool.pool.out_features
        inputs += self.read.known_features
        if head is None and inputs != targets:
            raise ValueError(f"head=None gives {inputs} numbers, not {targets}; change queries or pooled_channels")
        self.head = nn.Identity() if head is None else prediction_head(inputs, head, targets, head_dropout)

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        result = "new weights" if self.targets is None else f"{self.targets} targets"
        return f"{self.read.structure.name} -> {result}, {self.symmetry}, channels={self.channels}, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights; see `ScaleTensors`."""
        self.read.fit_statistics(batches)

    def transform(self, features: WeightSpaceFeatures) -> Tensor:
        """The equivariant part on features of one channel, ``[B, N, channels]``; see `Rows`."""
        out: Tensor = self.norm(self.blocks(self.enter(self.encode(features))))
        return out

    def forward(self, batch: Networks) -> Tensor | WeightSpaceFeatures:
        """Predict, or transform."""
        rows = self.transform(self.read(batch))
        if self.targets is None:
            new: WeightSpaceFeatures = self.leave(rows)
            return new
        pooled = self.rows.pool(rows) if self.pool is None else self.pool(rows)
        out: Tensor = self.head(torch.cat([pooled.flatten(1), self.read.known(batch)], -1))
        return out


class _PlacePool(nn.Module):
    """Rows as weights again, which `HNPPool` reads: inputs and outputs keep numbers of their own."""

    def __init__(
        self, structure: Structure, channels: int, out_channels: int, symmetry: str, buffers: bool = False
    ) -> None:
        super().__init__()
        self.leave = Unproject(structure, channels, out_channels, symmetry, buffers)
        self.pool = HNPPool(structure, out_channels, buffers=buffers)

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, N, channels]`` to ``[B, out_features]``."""
        out: Tensor = self.pool(self.leave(rows))
        return out
