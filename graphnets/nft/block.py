"""The block that neural functional Transformers are stacked of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from converters import Structure
from graphnets.nft.attention import FibreAttention
from graphnets.nft.kernels import feed_forward

__all__ = ["NFTBlock"]


class NFTBlock(nn.Module):
    r"""Weight-space self-attention and a pointwise perceptron (Zhou et al. 2023, arXiv:2305.13546, Eq. 10-11).

    .. math::
        Z &= W + \mathrm{SA}(\mathrm{LN}(W)) \\
        \mathrm{Block}(W) &= Z + \mathrm{MLP}(\mathrm{LN}(Z))

    It works on rows, which `Project` makes once, ahead of all blocks. So every pair of neurons has ``channels``
    channels whatever the kernel size, and the LayerNorms and the perceptron, one for all tensors, act on these.

    Deviations from the paper: those of `WeightSpaceSelfAttention`.

    Args:
        structure: of the networks.
        channels: of the rows.
        heads, terms, global_term, symmetry, bias, out_projection, buffers: of the `WeightSpaceSelfAttention`.
        hidden: width of the perceptron; four times ``channels`` if None, as the paper's 256 and 1024.
        dropout: of attention weights and inside the perceptron.

    Raises:
        ValueError: an option is unknown, or heads do not divide the channels.

    Shapes:
        - rows: ``[B, N, channels]`` to the same

    >>> from converters import trace, weight_space
    >>> from graphnets.nft.rows import Project, Unproject
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> structure = trace(net)
    >>> model = nn.Sequential(Project(structure, 1, 16), NFTBlock(structure, 16), Unproject(structure, 16, 1))
    >>> model(weight_space(net.state_dict(), structure))["0.weight"].shape
    torch.Size([1, 8, 1, 5, 5, 1])
    """

    def __init__(
        self,
        structure: Structure,
        channels: int,
        heads: int = 4,
        terms: str = "full",
        global_term: str = "mean",
        hidden: int | None = None,
        symmetry: str = "np",
        dropout: float = 0.0,
        bias: bool = False,
        out_projection: bool = False,
        buffers: bool = False,
    ) -> None:
        super().__init__()
        self.attention = FibreAttention(
            structure, channels, heads, terms, global_term, symmetry, dropout, bias, out_projection, buffers
        )
        hidden = 4 * channels if hidden is None else hidden
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.inner, self.outer = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.dropout = dropout

    def extra_repr(self) -> str:
        """The contract in one line."""
        size = sum(p.numel() for p in self.parameters())
        return f"dropout={self.dropout}, {size} parameters"

    def forward(self, rows: Tensor) -> Tensor:
        """Attend and transform."""
        rows = self.attention(rows, self.norm_attention, residual=True)
        norm, inner, outer = self.norm_perceptron, self.inner, self.outer
        if self.training and self.dropout:
            out: Tensor = rows + outer(functional.dropout(functional.gelu(inner(norm(rows))), self.dropout))
            return out
        return feed_forward(rows, (inner.weight, inner.bias), (outer.weight, outer.bias), (norm.weight, norm.bias))
