"""Weight-space self-attention: every neuron's fibres attend to each other."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, WeightSpaceFeatures
from graphnets.nft.kernels import AttentionPlan, attend
from graphnets.nft.rows import Project, Rows, Unproject

__all__ = ["FibreAttention", "WeightSpaceSelfAttention"]

TERMS = ("full", "adjacent", "global")
GLOBAL_TERMS = ("mean", "sum", "full")


class FibreAttention(nn.Module):
    """`WeightSpaceSelfAttention` on rows (see `Project`), as it is used in blocks.

    Args:
        structure, channels, heads, terms, global_term, symmetry, dropout, bias, out_projection, buffers: as there.

    Raises:
        ValueError: an option is unknown, or heads do not divide the channels.

    Shapes:
        - rows: ``[B, N, channels]`` to the same
    """

    def __init__(
        self,
        structure: Structure,
        channels: int,
        heads: int = 4,
        terms: str = "full",
        global_term: str = "mean",
        symmetry: str = "np",
        dropout: float = 0.0,
        bias: bool = False,
        out_projection: bool = False,
        buffers: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads={heads} does not divide channels={channels}; choose a divisor")
        if terms not in TERMS:
            raise ValueError(f"terms={terms!r} is unknown; choose one of {', '.join(TERMS)}")
        if global_term not in GLOBAL_TERMS:
            raise ValueError(f"global_term={global_term!r} is unknown; choose one of {', '.join(GLOBAL_TERMS)}")
        self.channels, self.heads, self.dropout = channels, heads, dropout
        self.terms, self.global_term, self.symmetry = terms, global_term, symmetry
        self.rows = Rows.of(structure, symmetry, buffers)
        self.qkv = nn.Linear(channels, 3 * channels, bias)
        self.out = nn.Linear(channels, channels) if out_projection else nn.Identity()

    def extra_repr(self) -> str:
        """The contract in one line."""
        over = "" if self.terms == "adjacent" else f" over {self.global_term}"
        return (
            f"channels={self.channels}, heads={self.heads}, terms={self.terms}{over}, {self.symmetry}, "
            f"{len(self.rows.fibres)} sets of fibres, {self.rows.length} elements"
        )

    def forward(self, rows: Tensor, norm: nn.LayerNorm | None = None, residual: bool = False) -> Tensor:
        """Attend; to normalised rows if there is a ``norm``, with the rows added if ``residual``."""
        dropout = self.dropout if self.training else 0.0
        everyone = self.terms != "adjacent" and self.global_term == "full"
        plain = residual and isinstance(self.out, nn.Identity)
        plan = AttentionPlan(
            self.rows,
            self.heads,
            fibres=self.terms != "global",
            pooled=None if self.terms == "adjacent" or everyone else self.global_term,
            residual=plain,
            dropout=dropout,
        )
        affine = None if norm is None else (norm.weight, norm.bias)
        out: Tensor = attend(rows, self.qkv.weight, self.qkv.bias, affine, plan)
        if everyone:
            out = out + self._all_weights(rows if norm is None else norm(rows), dropout)
        out = self.out(out)
        return out if plain or not residual else rows + out

    def _all_weights(self, rows: Tensor, dropout: float) -> Tensor:
        """Eq. 6 as it stands: every element is a token."""
        query, key, value = self.qkv(rows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(2)


class WeightSpaceSelfAttention(nn.Module):
    r"""Self-attention that commutes with permutations of neurons (Zhou et al. 2023, arXiv:2305.13546, Eq. 4-6, 22-29).

    For every set of neurons, the tokens are all fibres along it: the columns and rows of the matrices that meet these
    neurons, and their biases. An element hears from the fibres through it along each of its axes, and from all tensors:

    .. math::
        Y^{(i)}_{jk} &= \mathrm{ATTN}(Q^{(i)}_{j,:}, KV_{i-1})_k + \mathrm{ATTN}(Q^{(i)}_{:,k}, KV_i)_j
            + \mathrm{ATTN}(Q^{(i)}_{jk}, KV_{\text{all}}) \\
        z^{(i)}_j &= \mathrm{ATTN}(q^{(i)}, KV_i)_j + \mathrm{ATTN}(q^{(i)}_j, KV_{\text{all}}) \\
        KV_i &= \{(K, V)^{(i)}_{:,q}\}_q \cup \{(K, V)^{(i+1)}_{p,:}\}_p \cup \{(k, v)^{(i)}\}

    with :math:`Q, K, V = \theta_Q W, \theta_K W, \theta_V W` and lower-case letters for biases. This is the layer on a
    chain of linear maps; on other structures more tensors meet a set of neurons, and all of them give fibres. A matrix
    from a set of neurons to itself (a recurrent one, a residual one) gives its rows and its columns. Neurons nested in
    others (the dimensions of a head) attend within each of these, and the fibres along the outer ones (the heads) hold
    means over what is nested in them.

    Deviations from the paper: dot products are divided by the root of the fibre's length times a head's channels; the
    last term runs over the mean of every tensor unless ``global_term`` says otherwise (the paper: sums, which
    grow with the widths); ``dropout``, ``bias`` and ``out_projection`` are options.

    Args:
        structure: of the networks.
        channels: of the features.
        heads: parts of the channels that attend on their own.
        terms: ``"full"``: all three terms; ``"adjacent"``: without the last; ``"global"``: the last alone.
        global_term: what attends in the last term: each tensor's ``"mean"`` or ``"sum"``, or ``"full"``: each weight.
        symmetry: ``"np"``, as in the paper, or ``"hnp"``, where input and output neurons are fixed places.
        dropout: of attention weights.
        bias: of theta.
        out_projection: a linear map of the result, as Transformers have.
        buffers: whether running statistics belong to the features.

    Raises:
        ValueError: an option is unknown, or heads do not divide the channels.

    Shapes:
        - features: ``{name: [B, *parameter axes, channels]}`` to the same; fixed places (kernels) pass through PROJ
          and UNPROJ, see `Project`

    >>> from converters import trace, weight_space
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> structure = trace(net)
    >>> features = weight_space([net.state_dict()] * 4, structure)
    >>> WeightSpaceSelfAttention(structure, 4, heads=2)(features)["0.weight"].shape
    torch.Size([1, 8, 2, 4])
    """

    def __init__(
        self,
        structure: Structure,
        channels: int,
        heads: int = 4,
        terms: str = "full",
        global_term: str = "mean",
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
        self.enter = Project(structure, channels, channels, symmetry, buffers, always=False)
        self.leave = Unproject(structure, channels, channels, symmetry, buffers, always=False)

    def forward(self, features: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        """Attend."""
        out: WeightSpaceFeatures = self.leave(self.attention(self.enter(features)))
        return out
