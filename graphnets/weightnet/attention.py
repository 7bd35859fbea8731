"""WeightNet's two kinds of attention, each a Transformer block on sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AttentionBlock", "CrossLayerAttention", "IntraLayerAttention"]


class AttentionBlock(nn.Module):
    r"""Self-attention over a set and a feed-forward network, each with a residual.

    .. math::
        H' &= \mathrm{LN}(H + \mathrm{MHA}(H, H, H)) \\
        H'' &= \mathrm{LN}(H' + \mathrm{FF}(H'))

    as the paper writes it (post-norm); ``pre_norm=True`` normalises the inputs of both instead. Without positions it
    commutes with every permutation of the set.

    Args:
        channels: of the tokens.
        heads: of the attention.
        hidden: width of the feed-forward network; twice ``channels`` if None.
        dropout: of attention's output and inside the feed-forward network.
        pre_norm: see above.

    Shapes:
        - tokens: ``[S, n, channels]``, S sets of n tokens
        - mask: ``[S, n]``, False for padding; None if there is none
        - result: like tokens; rows of padding hold nothing of use

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 2,
        hidden: int | None = None,
        dropout: float = 0.0,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads={heads} does not divide channels={channels}; choose a divisor")
        self.channels, self.heads, self.pre_norm = channels, heads, pre_norm
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        hidden = 2 * channels if hidden is None else hidden
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, channels)
        )
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return f"channels={self.channels}, heads={self.heads}, {'pre' if self.pre_norm else 'post'}-norm"

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend and transform."""
        if self.pre_norm:
            tokens = tokens + self.attend(self.norm_attention(tokens), mask)
            out: Tensor = tokens + self.feed_forward(self.norm_feed_forward(tokens))
            return out
        tokens = self.norm_attention(tokens + self.attend(tokens, mask))
        out = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return out

    def attend(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention alone."""
        query, key, value = self._split(tokens)
        seen = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        out: Tensor = self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return out

    def weights(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""How much each token hears of each other in :meth:`attend`: :math:`\mathrm{softmax}(QK^T / \sqrt{d})`.

        Shapes:
            - result: ``[S, heads, n, n]``; rows (who hears) sum to one, columns of padding are zero
        """
        query, key, _ = self._split(tokens)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        out: Tensor = scores.softmax(-1)
        return out

    def weights_in(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """:meth:`weights` as they are inside :meth:`forward` of these tokens."""
        return self.weights(self.norm_attention(tokens) if self.pre_norm else tokens, mask)

    def _split(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values, ``[3, S, heads, n, channels / heads]``."""
        out: Tensor = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return out


class IntraLayerAttention(AttentionBlock):
    """Attention among the neurons of one layer: S is networks x layers, n the neurons.

    Equivariant to permutations of a layer's neurons, provided each token moves with its neuron.

    >>> block, tokens = IntraLayerAttention(8).eval(), torch.randn(3, 5, 8)
    >>> order = torch.randperm(5)
    >>> torch.allclose(block(tokens[:, order]), block(tokens)[:, order], atol=1e-5)
    True
    """


class CrossLayerAttention(AttentionBlock):
    """Attention among layers, each represented by one token: S is networks, n the layers.

    >>> CrossLayerAttention(8)(torch.randn(3, 4, 8)).shape
    torch.Size([3, 4, 8])
    """
