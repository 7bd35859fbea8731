"""The linear layers of neural functional networks, for every structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure
from graphnets.nfn.fused import fused_layer
from graphnets.nfn.patterns import Exchange, Pattern
from graphnets.nfn.plan import MAX_PARAMETERS, plan_layer
from graphnets.nfn.reading import Reader, written
from graphnets.pieces import PieceLayer, Pieces

__all__ = ["HNPLinear", "NPLinear", "PermutationLinear", "Pointwise"]


class PermutationLinear(PieceLayer):
    r"""What `NPLinear` and `HNPLinear` share: all affine maps that commute with a structure's permutations.

    Every piece of the weights (see `Pieces`) is read in every way that leaves out neurons (means over axes, diagonals),
    features of the same neurons lie side by side, and one matrix product per set of neurons makes of them what is
    written back over every piece that has these neurons:

    .. math:: X_T = \big[\operatorname{mean}_{p \to T} U_p\big]_p, \qquad
              H(U)_q = \sum_T \operatorname{spread}_{T \to q} \big(X_T W_T\big)_q + b_q

    On chains, with T running over nothing, each layer's neurons and pairs of adjacent layers, these are the sums of
    Eq. 3.

    Deviations from the paper: stars are means, so that the scale does not grow with the width; the weights of each
    product are drawn with the variance 1 / (features * products that reach the same result).

    Args:
        structure: of the networks.
        in_channels, out_channels: feature channels per weight.
        symmetry: ``"np"`` or ``"hnp"``.
        terms: ``"all"``, or ``"local"``: features of all neurons at once reach other tensors only through
            ``out_channels`` pooled numbers, which makes the size linear in the number of tensors.
        bias: whether a constant is added, one per tensor, fixed place and channel.
        aggr: how neurons are left out: ``"mean"``, ``"sum"`` or ``"max"`` (which is equivariant but not linear).
        rank: instead of a matrix for every input and output neuron (``"hnp"``), tell them apart by so many learned
            weighted means and patterns; None is the full layer.
        buffers: whether running statistics belong to the features.
        max_parameters: more are refused.

    Shapes:
        - features: ``{name: [B, *parameter axes, in_channels]}`` to the same with ``out_channels``

    Raises:
        ValueError: an argument is unknown, or the layer would have more than ``max_parameters`` parameters; the message
            says how many and what helps.
    """

    def __init__(
        self,
        structure: Structure,
        in_channels: int,
        out_channels: int,
        symmetry: str,
        terms: str = "all",
        bias: bool = True,
        aggr: str = "mean",
        rank: int | None = None,
        buffers: bool = False,
        max_parameters: int = MAX_PARAMETERS,
    ) -> None:
        super().__init__()
        self.plan = plan_layer(structure, in_channels, out_channels, symmetry, terms, aggr, rank, buffers)
        self.pieces = self.plan.pieces
        count = self.plan.count(bias)
        if count > max_parameters:
            raise ValueError(
                f"{type(self).__name__} on {structure!r} would have {count:,} parameters, {4 * count / 2**30:.1f} GiB "
                f"(max_parameters={max_parameters:,}). Use fewer channels, terms='local', HNPLinear(..., rank=8) or "
                "NPLinear after an IOEncoding"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.symmetry, self.aggr = symmetry, aggr
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.empty(shape)) for e in self.plan.exchanges for shape in self.plan.shapes(e)
        )
        self.bias = nn.Parameter(torch.empty(self.plan.constants)) if bias else None
        sizes = [(unit.size, rank or 0) for unit in self.plan.told_apart]
        self.means = nn.ParameterList(nn.Parameter(torch.empty(size)) for size in sizes)
        self.patterns = nn.ParameterList(nn.Parameter(torch.empty(size)) for size in sizes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew from torch's global generator."""
        plan = self.plan
        reaching = [sum(p.piece == i for e in plan.exchanges for p in e.written) for i in range(len(plan.pieces))]
        for exchange, matrices in self._by_exchange():
            for matrix in matrices:
                matrix.uniform_(-1, 1).mul_((3 / max(matrix.shape[1], 1)) ** 0.5)
            start = 0
            for pattern in exchange.written if len(matrices) == 1 else ():
                stop = start + plan.width(pattern, self.out_channels)
                matrices[0][start:stop] /= reaching[pattern.piece] ** 0.5
                start = stop
        if self.bias is not None:
            self.bias.zero_()
        for mean, spread in zip(self.means, self.patterns, strict=True):
            mean.normal_(std=1 / mean.shape[0])
            spread.normal_()

    def _by_exchange(self) -> Iterator[tuple[Exchange, list[Tensor]]]:
        matrices = iter(self.matrices)
        for exchange in self.plan.exchanges:
            yield exchange, list(islice(matrices, len(self.plan.shapes(exchange))))

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(parameter.numel() for parameter in self.parameters())
        options = f"terms={self.plan.terms}" + ("" if self.plan.rank is None else f", rank={self.plan.rank}")
        options += "" if self.aggr == "mean" else f", aggr={self.aggr}"
        return (
            f"{self.symmetry}, {self.in_channels} -> {self.out_channels} channels, {options}, "
            f"{len(self.pieces)} pieces, {size:,} parameters"
        )

    def on_pieces(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Apply the map to ``[B, *unit sizes, F * in_channels]`` per piece."""
        plain = self.aggr != "max" and self.plan.terms == "all" and not self.plan.told_apart
        if not plain:
            return self.reference(parts)
        return fused_layer(self.plan, self.aggr, parts, list(self.matrices), self.bias)

    def reference(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The same, operation by operation: the textbook layer, differentiable as often as one likes."""
        plan = self.plan
        read = Reader(plan.pieces, parts, self.aggr, dict(zip(plan.told_apart, self.means, strict=True)))
        results: list[list[tuple[Pattern, Tensor]]] = [[] for _ in parts]
        for exchange, matrices in self._by_exchange():
            features = [read(pattern) for pattern in exchange.read]
            bias = None if exchange.key else self.bias
            if len(matrices) == 1:
                values = _product(features, matrices[0], bias)
            else:
                values = _shared(exchange, features, matrices, bias)
            start = 0
            for pattern in exchange.written:
                width = plan.width(pattern, self.out_channels)
                part = values if len(exchange.written) == 1 else values.narrow(-1, start, width)
                results[pattern.piece].append((pattern, part))
                start += width
        columns = dict(zip(plan.told_apart, self.patterns, strict=True))
        return [written(piece, each, columns) for piece, each in zip(plan.pieces, results, strict=True)]


def _product(features: Sequence[Tensor], matrix: Tensor, bias: Tensor | None) -> Tensor:
    joined = features[0] if len(features) == 1 else torch.cat(list(features), -1)
    return functional.linear(joined, matrix, bias)


def _shared(exchange: Exchange, features: Sequence[Tensor], matrices: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """Each piece's own features, and everybody's through a few numbers."""
    *own, pooled, spread = matrices
    together = functional.linear(_product(features, pooled, None), spread, bias)
    by_piece: dict[int, list[Tensor]] = {}
    for pattern, feature in zip(exchange.read, features, strict=True):
        by_piece.setdefault(pattern.piece, []).append(feature)
    alone = [_product(values, matrix, None) for values, matrix in zip(by_piece.values(), own, strict=True)]
    return together + torch.cat(alone, -1)


class NPLinear(PermutationLinear):
    r"""Linear map equivariant to permutations of all neurons, inputs and outputs too (Zhou et al. 2023, Eq. 3).

    arXiv:2302.14040. On perceptrons, with stars for means and a matrix for every letter,

    .. math::
        Y^i_{jk} &= \sum_s \left(a_{is} W^s_{\star\star} + \bar a_{is} v^s_\star\right) + b_{ii} W^i_{\star k}
            + b_{i,i-1} W^{i-1}_{k\star} + \bar b_i v^i_j + c_{ii} W^i_{j\star} + c_{i,i+1} W^{i+1}_{\star j}
            + \bar c_i v^{i-1}_k + d_i W^i_{jk} + e_i \\
        z^i_j &= \sum_s \left(f_{is} W^s_{\star\star} + \bar f_{is} v^s_\star\right) + g_{ii} W^i_{j\star}
            + g_{i,i+1} W^{i+1}_{\star j} + \bar g_i v^i_j + h_i

    and on every other structure all affine maps that commute with its permutations and with those of its input and
    output neurons. Arguments, shapes, errors and deviations as in `PermutationLinear`.

    >>> from converters import trace, weight_space
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> structure = trace(network)
    >>> layer = NPLinear(structure, 1, 4)
    >>> layer.extra_repr()
    'np, 1 -> 4 channels, terms=all, 4 pieces, 144 parameters'
    >>> layer(weight_space(network.state_dict(), structure))["0.weight"].shape
    torch.Size([1, 8, 2, 4])
    """

    def __init__(
        self,
        structure: Structure,
        in_channels: int,
        out_channels: int,
        terms: str = "all",
        bias: bool = True,
        aggr: str = "mean",
        buffers: bool = False,
        max_parameters: int = MAX_PARAMETERS,
    ) -> None:
        super().__init__(structure, in_channels, out_channels, "np", terms, bias, aggr, None, buffers, max_parameters)

    @staticmethod
    def count(structure: Structure, in_channels: int, out_channels: int, terms: str = "all", bias: bool = True) -> int:
        """Number of parameters that such a layer has; nothing is allocated."""
        return plan_layer(structure, in_channels, out_channels, "np", terms).count(bias)


class HNPLinear(PermutationLinear):
    r"""Linear map equivariant to permutations of hidden neurons, as traced (Zhou et al. 2023, App. C).

    arXiv:2302.14040, Tables 8 to 11. Every input and every output neuron has matrices of its own, which makes the
    layer's size grow with the square of their number. With ``rank``, they are told apart by that many learned weighted
    means where they are left out, and as many learned patterns where results are spread over them, beside the even mean
    and pattern of `NPLinear`: a subspace of the full layer whose size grows linearly. Other arguments, shapes, errors
    and deviations as in `PermutationLinear`.

    >>> from converters import trace
    >>> structure = trace(nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)))
    >>> HNPLinear.count(structure, 16, 16), HNPLinear.count(structure, 16, 16, rank=8)
    (327705680, 308064)
    """

    def __init__(
        self,
        structure: Structure,
        in_channels: int,
        out_channels: int,
        terms: str = "all",
        bias: bool = True,
        aggr: str = "mean",
        rank: int | None = None,
        buffers: bool = False,
        max_parameters: int = MAX_PARAMETERS,
    ) -> None:
        super().__init__(structure, in_channels, out_channels, "hnp", terms, bias, aggr, rank, buffers, max_parameters)

    @staticmethod
    def count(
        structure: Structure,
        in_channels: int,
        out_channels: int,
        terms: str = "all",
        bias: bool = True,
        rank: int | None = None,
    ) -> int:
        """Number of parameters that such a layer has; nothing is allocated."""
        return plan_layer(structure, in_channels, out_channels, "hnp", terms, rank=rank).count(bias)


class Pointwise(PieceLayer):
    """Every weight by itself: one linear map per tensor, the same for all of its neurons (Zhou et al. 2023, NFN_PT).

    Fixed places (kernel positions, pixels) act as channels.

    Args:
        structure: of the networks.
        in_channels, out_channels: feature channels per weight.
        buffers: whether running statistics belong to the features.

    Shapes:
        - features: ``{name: [B, *parameter axes, in_channels]}`` to the same with ``out_channels``
    """

    def __init__(self, structure: Structure, in_channels: int, out_channels: int, buffers: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.pieces = Pieces.of(structure, "np", buffers)
        self.maps = nn.ModuleList(nn.Linear(p.fixed * in_channels, p.fixed * out_channels) for p in self.pieces)

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.in_channels} -> {self.out_channels} channels, {len(self.pieces)} pieces"

    def on_pieces(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Apply the maps to ``[B, *unit sizes, F * in_channels]`` per piece."""
        return [linear(part) for linear, part in zip(self.maps, parts, strict=True)]
