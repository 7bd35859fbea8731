"""Invariant linear layers: what no permutation of neurons changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.nfn.plan import plan_layer
from graphnets.nfn.reading import Reader

__all__ = ["HNPPool", "NPPool", "PermutationPool"]


class PermutationPool(nn.Module):
    r"""All linear invariants of weights: every linear invariant function is a linear function of these numbers.

    Means over all neurons of a tensor (and of its diagonals, where it has two axes of the same neurons), for every
    tensor, fixed place and channel (Zhou et al. 2023, arXiv:2302.14040, Proposition 2 and Eq. 20).

    Args:
        structure: of the networks.
        channels: feature channels per weight.
        symmetry: ``"np"`` or ``"hnp"``.
        aggr: ``"mean"``, ``"sum"`` or ``"max"`` (invariant, not linear).
        buffers: whether running statistics belong to the features.

    Attributes:
        out_features: how many numbers there are.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}``; result: ``[B, out_features]``
    """

    def __init__(
        self, structure: Structure, channels: int, symmetry: str, aggr: str = "mean", buffers: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.symmetry, self.aggr = channels, symmetry, aggr
        plan = plan_layer(structure, channels, 1, symmetry, aggr=aggr, buffers=buffers)
        self._read = next(exchange.read for exchange in plan.exchanges if not exchange.key)
        self.pieces = plan.pieces
        self.out_features = sum(plan.width(pattern, channels) for pattern in self._read)

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.symmetry}, {self.aggr}, {self.channels} channels -> {self.out_features} numbers"

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Pool."""
        return self.on_pieces(self.pieces.split(features))

    def on_pieces(self, parts: Sequence[Tensor]) -> Tensor:
        """Pool ``[B, *unit sizes, F * channels]`` per piece."""
        read = Reader(self.pieces, parts, self.aggr, {})
        return torch.cat([read(pattern) for pattern in self._read], -1)


class NPPool(PermutationPool):
    """Invariant to permutations of all neurons (Proposition 2); two numbers per layer and channel on perceptrons.

    Arguments and shapes as in `PermutationPool`.
    """

    def __init__(self, structure: Structure, channels: int, aggr: str = "mean", buffers: bool = False) -> None:
        super().__init__(structure, channels, "np", aggr, buffers)


class HNPPool(PermutationPool):
    """Invariant to permutations of hidden neurons; inputs and outputs keep numbers of their own (Eq. 20).

    Arguments and shapes as in `PermutationPool`.
    """

    def __init__(self, structure: Structure, channels: int, aggr: str = "mean", buffers: bool = False) -> None:
        super().__init__(structure, channels, "hnp", aggr, buffers)
