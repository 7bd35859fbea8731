"""Weight-space cross-attention: learned queries that read all weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure
from graphnets.nft.rows import Project

__all__ = ["QueryPool", "WeightSpaceCrossAttention"]


class QueryPool(nn.Module):
    """`WeightSpaceCrossAttention` on rows (see `Project`), as it is used behind blocks.

    Args:
        channels, out_channels, queries, heads: as there.

    Raises:
        ValueError: heads do not divide ``out_channels``.

    Shapes:
        - rows: ``[B, N, channels]``
        - result: ``[B, queries, out_channels]``
    """

    def __init__(self, channels: int, out_channels: int, queries: int = 16, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or out_channels % heads:
            raise ValueError(f"heads={heads} does not divide out_channels={out_channels}; choose a divisor")
        self.channels, self.out_channels, self.heads = channels, out_channels, heads
        self.queries = nn.Parameter(torch.randn(queries, out_channels))
        self.key = nn.Linear(channels, out_channels, bias=False)
        self.value = nn.Linear(channels, out_channels, bias=False)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return (
            f"channels={self.channels}, out_channels={self.out_channels}, queries={len(self.queries)}, "
            f"heads={self.heads}"
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Read."""
        # theta_K moves to the queries and theta_V behind the weighted sum: no key and no value is made per element.
        width = self.out_channels // self.heads
        keys, values = (layer.weight.view(self.heads, width, -1) for layer in (self.key, self.value))
        query = torch.einsum("mhd,hdc->hmc", self.queries.view(-1, self.heads, width), keys).flatten(0, 1)
        query = query.expand(len(rows), 1, -1, -1)
        seen = rows.unsqueeze(1)
        heard = functional.scaled_dot_product_attention(query, seen, seen, scale=width**-0.5)
        by_head = heard.unflatten(2, (self.heads, -1)).squeeze(1)
        return torch.einsum("bhmc,hdc->bmhd", by_head, values).flatten(2)


class WeightSpaceCrossAttention(nn.Module):
    r"""Attention of learned queries to all weights, which is invariant (Zhou et al. 2023, arXiv:2305.13546, Eq. 9).

    .. math:: \mathrm{CA}(W)_m = \mathrm{ATTN}\big(e_m, \{(\theta_K W^{(s)}_{pq}, \theta_V W^{(s)}_{pq})\}_{s,p,q}\big)

    Biases are tokens like weights. Scores are divided by the root of a head's channels.

    Args:
        structure: of the networks.
        channels: of the features.
        out_channels: of the queries and the result, d.
        queries: M.
        heads: parts of ``out_channels`` that attend on their own.
        symmetry: see `Project`.
        buffers: whether running statistics belong to the features.

    Raises:
        ValueError: heads do not divide ``out_channels``.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}``; fixed places (kernels) pass through PROJ
        - result: ``[B, queries, out_channels]``

    >>> from converters import trace, weight_space
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> structure = trace(net)
    >>> WeightSpaceCrossAttention(structure, 1, 8, queries=5)(weight_space(net.state_dict(), structure)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        structure: Structure,
        channels: int,
        out_channels: int,
        queries: int = 16,
        heads: int = 4,
        symmetry: str = "np",
        buffers: bool = False,
    ) -> None:
        super().__init__()
        self.enter = Project(structure, channels, channels, symmetry, buffers, always=False)
        self.pool = QueryPool(channels, out_channels, queries, heads)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Read."""
        out: Tensor = self.pool(self.enter(features))
        return out
