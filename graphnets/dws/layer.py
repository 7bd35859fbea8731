"""The layer of deep weight-space networks."""

from __future__ import annotations

import torch

from converters import Structure
from graphnets.nfn.linear import PermutationLinear
from graphnets.nfn.plan import MAX_PARAMETERS

__all__ = ["DWSLayer"]


class DWSLayer(PermutationLinear):
    """An equivariant layer for deep weight spaces (Navon et al. 2023, arXiv:2301.12780, section 4).

    The paper composes it of blocks between every two tensors that pool, mix channels and broadcast. Here it is
    `HNPLinear` with another pooling (the blocks are the same maps, their matrices side by side) and two of its own
    choices: maxima over neurons, which make it equivariant but not linear, and matrices between different tensors that
    begin smaller than those from a tensor to itself.

    Deviations from the paper: every structure, not perceptrons alone; one matrix per block, no deeper maps in it.

    Args:
        structure: of the networks.
        in_channels, out_channels: feature channels per weight.
        aggr: ``"max"``, ``"mean"`` or ``"sum"``.
        off_diagonal: what the weights between different tensors are multiplied by in the beginning.
        terms, rank, buffers, max_parameters: see `PermutationLinear`, as are shapes and errors.
    """

    def __init__(
        self,
        structure: Structure,
        in_channels: int,
        out_channels: int,
        aggr: str = "max",
        off_diagonal: float = 1.0,
        terms: str = "all",
        rank: int | None = None,
        buffers: bool = False,
        max_parameters: int = MAX_PARAMETERS,
    ) -> None:
        self.off_diagonal = off_diagonal
        super().__init__(structure, in_channels, out_channels, "hnp", terms, True, aggr, rank, buffers, max_parameters)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew from torch's global generator."""
        super().reset_parameters()
        for exchange, matrices in self._by_exchange():
            if len(matrices) > 1:  # local terms keep a tensor's own matrix by itself
                matrices[-2].mul_(self.off_diagonal)
                continue
            row = 0
            for written in exchange.written:
                height = self.plan.width(written, self.out_channels)
                column = 0
                for read in exchange.read:
                    width = self.plan.width(read, self.in_channels)
                    if read.piece != written.piece:
                        matrices[0][row : row + height, column : column + width] *= self.off_diagonal
                    column += width
                row += height
