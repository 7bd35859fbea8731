"""Deep weight-space networks."""

from __future__ import annotations

from collections.abc import Sequence

from converters import Structure
from graphnets.dws.layer import DWSLayer
from graphnets.nfn.model import NeuralFunctional
from graphnets.pieces import PieceLayer

__all__ = ["DWSNet"]


class DWSNet(NeuralFunctional):
    """A deep weight-space network (Navon et al. 2023, arXiv:2301.12780): DWS layers, ReLU, invariants, a perceptron.

    Args:
        structure: what the networks share (activations may differ).
        targets: predicted numbers per network; None for an equivariant network.
        channels: of the layers.
        head: widths of the predicting perceptron.
        aggr: how layers pool, ``pool``: how the invariants do; ``"max"``, ``"mean"`` or ``"sum"``.
        off_diagonal, terms, rank: see `DWSLayer`.
        skip: whether inner layers add their input to their result.
        dropout: in the head; ``channel_dropout`` after every equivariant layer.
        activations, weight_noise, buffers: see `WeightInput`.
        out_channels: of an equivariant network's result.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``

    Raises:
        ValueError: an argument is unknown, or a layer would be too large.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        channels: Sequence[int] = (32, 32, 32, 32),
        head: Sequence[int] = (32,),
        aggr: str = "max",
        pool: str = "max",
        off_diagonal: float = 1.0,
        terms: str = "all",
        rank: int | None = None,
        skip: bool = False,
        dropout: float = 0.0,
        channel_dropout: float = 0.0,
        activations: bool = False,
        weight_noise: float = 0.0,
        buffers: bool = False,
        out_channels: int = 1,
    ) -> None:
        self.aggr, self.off_diagonal, self.terms, self.rank, self.buffers_too = aggr, off_diagonal, terms, rank, buffers
        super().__init__(
            structure,
            targets,
            channels,
            head,
            symmetry="hnp" if rank is None else "np",
            pool=pool,
            skip=skip,
            dropout=dropout,
            channel_dropout=channel_dropout,
            activations=activations,
            weight_noise=weight_noise,
            buffers=buffers,
            out_channels=out_channels,
        )

    def layer(self, structure: Structure, in_channels: int, out_channels: int) -> PieceLayer:
        """A DWS layer."""
        return DWSLayer(
            structure, in_channels, out_channels, self.aggr, self.off_diagonal, self.terms, self.rank, self.buffers_too
        )
