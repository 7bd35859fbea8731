"""All pieces of weight-space features in one row: the form in which an NFT computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures
from graphnets.pieces import Piece, Pieces, Unit

__all__ = ["Bundle", "Fibres", "Project", "Rows", "Unproject"]


@dataclass(frozen=True)
class Bundle:
    """One way to see a piece as fibres along a set of neurons.

    Args:
        piece: number of the piece.
        along: the axis that a fibre runs along.
        within: axes of the sets that these neurons are nested in; only fibres at the same place there meet.
        across: axes that tell fibres apart; every place is a token.
        inside: axes nested in the neurons, whose labels mean nothing to other tensors; fibres hold their mean.
        start, stop: which tokens these fibres are among all along the set.
        shape: places of ``within`` and ``across``, members, and a one for each axis of ``inside``.
        nested: number of elements inside a member.
        first: whether no bundle before this one holds the piece.
    """

    piece: int
    along: int
    within: tuple[int, ...]
    across: tuple[int, ...]
    inside: tuple[int, ...]
    start: int
    stop: int
    shape: tuple[int, ...]
    nested: int
    first: bool


@dataclass(frozen=True)
class Fibres:
    """All fibres along one set of neurons, from every tensor that meets it: they attend to each other.

    Args:
        units: the set of neurons, last, behind those that it is nested in.
        bundles: where the fibres are.
    """

    units: tuple[Unit, ...]
    bundles: tuple[Bundle, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Places within other sets, tokens, members."""
        *within, unit = self.units
        return _product(u.size for u in within), self.bundles[-1].stop, unit.size


class Rows:
    """Where each piece of a structure's weights lies in a row ``[B, N, C]`` that holds them one after the other.

    Args:
        structure: of the networks.
        symmetry: see `Pieces`.
        buffers: whether running statistics belong to the features.

    Attributes:
        pieces: the pieces.
        lengths: elements of each piece; ``length`` is N.
        axes: the sets of neurons that each piece meets, those of one neuron last; ``sizes`` are their sizes.
        bare: numbers of the pieces that meet none.
        fibres: what self-attention compares.

    >>> from converters import trace
    >>> rows = Rows.of(trace(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))), "np")
    >>> rows.length, [[bundle.along for bundle in fibres.bundles] for fibres in rows.fibres]
    (51, [[0, 0, 1], [1], [0, 0]])
    """

    def __init__(self, structure: Structure, symmetry: str, buffers: bool = False) -> None:
        self.pieces = Pieces.of(structure, symmetry, buffers)
        self.axes = [(*piece.units, *_single(structure, piece, symmetry)) for piece in self.pieces.pieces]
        self.sizes = [tuple(unit.size for unit in units) for units in self.axes]
        self.lengths = [_product(sizes) for sizes in self.sizes]
        self.length = sum(self.lengths)
        self.bare = [number for number, units in enumerate(self.axes) if not units]
        found: dict[tuple[Unit, ...], list[tuple[int, int]]] = {}
        for number, units in enumerate(self.axes):
            for axis, unit in enumerate(units):
                found.setdefault((*(units[a] for a in self._within(number, axis)), unit), []).append((number, axis))
        seen: set[int] = set()
        self.fibres = tuple(Fibres(units, self._bundles(places, seen)) for units, places in found.items())

    def _within(self, piece: int, axis: int) -> tuple[int, ...]:
        """The axes that an axis of a piece is nested in."""
        parents = self.pieces[piece].parents
        return parents[axis] if axis < len(parents) else ()

    def _bundles(self, places: Iterable[tuple[int, int]], seen: set[int]) -> tuple[Bundle, ...]:
        """Bundles of pieces along axes; ``seen`` collects the pieces."""
        bundles: list[Bundle] = []
        for piece, axis in places:
            sizes, within = self.sizes[piece], self._within(piece, axis)
            inside = tuple(a for a in range(len(sizes)) if axis in self._within(piece, a))
            across = tuple(a for a in range(len(sizes)) if a != axis and a not in within and a not in inside)
            start = bundles[-1].stop if bundles else 0
            stop = start + _product(sizes[a] for a in across)
            shape = (*(sizes[a] for a in (*within, *across, axis)), *(1 for _ in inside))
            nested = _product(sizes[a] for a in inside)
            bundles.append(
                Bundle(piece, axis, within, across, inside, start, stop, shape, nested, first=piece not in seen)
            )
            seen.add(piece)
        return tuple(bundles)

    @staticmethod
    @lru_cache(maxsize=64)
    def of(structure: Structure, symmetry: str, buffers: bool = False) -> Rows:
        """The rows of a structure, remembered."""
        return Rows(structure, symmetry, buffers)

    def split(self, rows: Tensor, *channels: int) -> list[Tensor]:
        """From ``[B, N, C]`` to a view ``[B, *sizes, *channels]`` for every piece."""
        return [
            part.view(len(part), *sizes, *channels) for part, sizes in zip(self.flat(rows), self.sizes, strict=True)
        ]

    def flat(self, rows: Tensor) -> list[Tensor]:
        """From ``[B, N, C]`` to a view ``[B, elements, C]`` for every piece."""
        return list(rows.split(self.lengths, 1))

    def pool(self, rows: Tensor, mean: bool = True) -> Tensor:
        """The mean or the sum of every piece, ``[B, pieces, C]``."""
        return torch.stack([part.mean(1) if mean else part.sum(1) for part in self.flat(rows)], 1)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """From ``[B, *unit sizes, C]`` for every piece to ``[B, N, C]``."""
        return torch.cat([part.reshape(len(part), -1, part.shape[-1]) for part in parts], 1)


def _product(sizes: Iterable[int]) -> int:
    return int(torch.Size(sizes).numel())


def _single(structure: Structure, piece: Piece, symmetry: str) -> list[Unit]:
    """Sets of one neuron that a piece meets: nothing to permute, but a set like others in the equations."""
    roles = ("hidden", "input", "output") if symmetry == "np" else ("hidden",)
    parameter, units = structure.parameter[piece.parameter], []
    for axis in parameter.axes if parameter.grouped is None else ():
        (g, *others) = axis.groups or (None,)
        if g is None or others or not bool((axis.group.values == g).all()):
            continue
        group = structure.groups[g]
        if group.size == 1 and group.parent is None and group.role in roles:
            units.append(Unit(0, g, 0, 1, group.role != "hidden"))
    return units


class Project(nn.Module):
    r"""Features of weights in one row, every element with the same number of channels (PROJ of Section 3.3).

    Kernel positions and other fixed places F act as channels, and each piece has a map of its own, so that dot products
    between tensors with different kernels are defined. Its constant is the layer encoding of Eq. 8.

    Args:
        structure, symmetry, buffers: see `Rows`.
        in_channels: of the features.
        channels: of the rows.
        always: map pieces without fixed places, too; else they stay as they are, which asks for equal channels.

    Raises:
        ValueError: ``always=False`` with ``in_channels`` other than ``channels``.

    Shapes:
        - features: ``{name: [B, *parameter axes, in_channels]}``
        - result: ``[B, N, channels]``

    >>> from converters import trace, weight_space
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> structure = trace(net)
    >>> Project(structure, 1, 4)(weight_space(net.state_dict(), structure)).shape
    torch.Size([1, 51, 4])
    """

    def __init__(
        self,
        structure: Structure,
        in_channels: int,
        channels: int,
        symmetry: str = "np",
        buffers: bool = False,
        always: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.channels = in_channels, channels
        self.rows = Rows.of(structure, symmetry, buffers)
        self.maps = _maps(self.rows, in_channels, channels, always, out=False)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return f"{self.in_channels} -> {self.channels} channels, {self.rows.length} elements"

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Project."""
        parts = self.rows.pieces.split(features)
        return self.rows.join([project(part) for project, part in zip(self.maps, parts, strict=True)])


class Unproject(nn.Module):
    """From rows back to features of weights (UNPROJ of Section 3.3): the counterpart of `Project`.

    Args:
        structure, symmetry, buffers: see `Rows`.
        channels: of the rows.
        out_channels: of the features.
        always: as in `Project`.

    Raises:
        ValueError: ``always=False`` with ``out_channels`` other than ``channels``.

    Shapes:
        - rows: ``[B, N, channels]``
        - result: ``{name: [B, *parameter axes, out_channels]}``
    """

    def __init__(
        self,
        structure: Structure,
        channels: int,
        out_channels: int,
        symmetry: str = "np",
        buffers: bool = False,
        always: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.out_channels = channels, out_channels
        self.rows = Rows.of(structure, symmetry, buffers)
        self.maps = _maps(self.rows, out_channels, channels, always, out=True)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return f"{self.channels} -> {self.out_channels} channels, {self.rows.length} elements"

    def forward(self, rows: Tensor) -> WeightSpaceFeatures:
        """Project back."""
        parts = self.rows.flat(rows)
        outs = [project(part) for project, part in zip(self.maps, parts, strict=True)]
        sizes = [piece.sizes for piece in self.rows.pieces.pieces]
        return self.rows.pieces.join(
            [out.reshape(len(out), *size, out.shape[-1]) for out, size in zip(outs, sizes, strict=True)]
        )


def _maps(rows: Rows, outer: int, inner: int, always: bool, out: bool) -> nn.ModuleList:
    """A map per piece between ``fixed places * outer`` and ``inner`` channels."""
    if not always and outer != inner:
        raise ValueError(f"features of {outer} channels do not fit rows of {inner} channels unless all are mapped")
    maps: list[nn.Module] = []
    for fixed in (piece.fixed for piece in rows.pieces.pieces):
        ends = (inner, fixed * outer) if out else (fixed * outer, inner)
        maps.append(nn.Linear(*ends) if always or fixed > 1 else nn.Identity())
    return nn.ModuleList(maps)
