"""Which nodes the edges of some bundles join, cut into tiles that stay in the processor's cache.

Fused layers go through the edges tile by tile: what they build per edge is small, is used at once, and is never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from graphnets.layered import Bundle

__all__ = ["Grid", "Links", "Pairs", "Tile"]

CACHED_BYTES = 1024 * 1024
"""Of a tile's widest tensor, on a CPU."""
DEVICE_BYTES = 64 * 1024 * 1024
"""The same elsewhere, where a tile must keep thousands of cores busy."""
FEW_EDGES = 4096
"""Indexed bundles of fewer edges (of all networks) are put together, so that their number costs nothing."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Edges from every column to every row (the other way round if ``reverse``) in some networks of one layout.

    Args:
        place: of the edges among those of their part.
        graphs, rows, cols: the networks, and the nodes in the tables of the two ends.
    """

    place: slice
    graphs: slice
    rows: slice
    cols: slice
    reverse: bool

    def spread(self, values: Tensor) -> Tensor:
        """Values per edge ``[E, K]`` in the form to which `at_source` and `at_target` broadcast."""
        grid: Tensor = values.unflatten(0, [end.stop - end.start for end in (self.graphs, self.rows, self.cols)])
        return grid

    def pairs(self, table: Tensor, out: Tensor) -> None:
        """``s_j + t_i`` of a table ``[B, N, 2, K]`` of both, written to ``out [E, K]``; no gradients."""
        sources, targets = table.unbind(2)
        torch.add(self.at_source(sources), self.at_target(targets), out=self.spread(out))

    def at_source(self, table: Tensor) -> Tensor:
        """The sources' rows of a table ``[B, N, K]`` at every edge."""
        return self._at(table, not self.reverse)

    def at_target(self, table: Tensor) -> Tensor:
        """The targets' rows of a table ``[B, N, K]`` at every edge."""
        return self._at(table, self.reverse)

    def to_source(self, values: Tensor, total: Tensor) -> None:
        """Add values per edge ``[E, K]`` to their sources' rows of ``total [B, N, K]``."""
        self._to(values, total, not self.reverse)

    def to_target(self, values: Tensor, total: Tensor) -> None:
        """Add values per edge ``[E, K]`` to their targets' rows of ``total [B, N, K]``."""
        self._to(values, total, self.reverse)

    def top(self, values: Tensor, total: Tensor) -> None:
        """Raise ``total [B, N, K]`` to the largest value per edge ``[E, K]`` that arrives; no gradients."""
        here = total[self.graphs, self.cols if self.reverse else self.rows]
        torch.maximum(here, self.spread(values).amax(1 if self.reverse else 2), out=here)

    def _at(self, table: Tensor, columns: bool) -> Tensor:
        if columns:
            return table[self.graphs, self.cols].unsqueeze(1)
        return table[self.graphs, self.rows].unsqueeze(2)

    def _to(self, values: Tensor, total: Tensor, columns: bool) -> None:
        total[self.graphs, self.cols if columns else self.rows] += self.spread(values).sum(1 if columns else 2)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges with an index of either end into the tables' rows, as if the tables were ``[B * N, K]``; else as `Grid`.

    Args:
        place: of the edges among those of their part.
        source, target: ``[E]``.
        both: rows of the sources and of the targets in a table ``[B * N * 2, K]`` of both, in turns, ``[2 E]``.
        runs: where each run of equal targets starts, and its target; None where runs are too short to help.
    """

    place: slice
    source: Tensor
    target: Tensor
    both: Tensor
    runs: tuple[Tensor, Tensor] | None = None

    def spread(self, values: Tensor) -> Tensor:
        """Values per edge as they are."""
        return values

    def pairs(self, table: Tensor, out: Tensor) -> None:
        """See `Grid.pairs`."""
        out.copy_(functional.embedding_bag(self.both.view(-1, 2), table.flatten(0, 2), mode="sum"))

    def at_source(self, table: Tensor) -> Tensor:
        """See `Grid.at_source`."""
        return table.flatten(0, 1).index_select(0, self.source)

    def at_target(self, table: Tensor) -> Tensor:
        """See `Grid.at_target`."""
        return table.flatten(0, 1).index_select(0, self.target)

    def to_source(self, values: Tensor, total: Tensor) -> None:
        """See `Grid.to_source`."""
        total.flatten(0, 1).index_add_(0, self.source, values)

    def to_target(self, values: Tensor, total: Tensor) -> None:
        """See `Grid.to_target`."""
        if self.runs is None or torch.is_grad_enabled():
            total.flatten(0, 1).index_add_(0, self.target, values)
        else:
            starts, targets = self.runs
            edges = torch.arange(len(values), device=values.device)
            total.flatten(0, 1).index_add_(0, targets, functional.embedding_bag(edges, values, starts, mode="sum"))

    def top(self, values: Tensor, total: Tensor) -> None:
        """See `Grid.top`."""
        total.flatten(0, 1).scatter_reduce_(0, self.target.unsqueeze(1).expand_as(values), values, "amax")


Tile: TypeAlias = Grid | Pairs
"""Some edges and the nodes they join."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Edges that are stored together: a dense bundle, or some indexed ones.

    Args:
        numbers: of the bundles in their list; ``edges`` of all networks in each.
        block: a dense bundle's networks, rows, columns, and where its rows and columns start in their tables.
        ends: otherwise the sources and targets of all edges as in `Pairs`.
    """

    numbers: tuple[int, ...]
    edges: tuple[int, ...]
    reverse: bool
    block: tuple[int, int, int, int, int] | None = None
    ends: tuple[Tensor, Tensor] | None = None

    def tiles(self, length: int) -> list[Tile]:
        """About ``length`` edges each."""
        if self.block is not None:
            return list(self._grids(self.block, length))
        assert self.ends is not None
        count = len(self.ends[0])
        length = ceil(count / ceil(count / length)) if count else 1
        runs, both = _runs(self.ends[1], length), self._both(self.ends)
        tiles: list[Tile] = []
        for start in range(0, count, length):
            place = slice(start, min(start + length, count))
            own = None
            if runs is not None:
                first, last = torch.searchsorted(runs, torch.tensor([place.start, place.stop], device=runs.device))
                starts = runs[first:last]
                own = (starts - start, self.ends[1][starts])
            ends = self.ends[0][place], self.ends[1][place]
            tiles.append(Pairs(place, *ends, both[2 * place.start : 2 * place.stop], own))
        return tiles

    def whole(self) -> Tile:
        """All edges."""
        if self.ends is not None:
            return Pairs(slice(0, len(self.ends[0])), *self.ends, self._both(self.ends))
        assert self.block is not None
        graphs, rows, cols, row, col = self.block
        place, ends = slice(0, graphs * rows * cols), (slice(row, row + rows), slice(col, col + cols))
        return Grid(place, slice(0, graphs), *ends, self.reverse)

    @staticmethod
    def _both(ends: tuple[Tensor, Tensor]) -> Tensor:
        return torch.stack([2 * ends[0], 2 * ends[1] + 1], 1).flatten()

    def _grids(self, block: tuple[int, int, int, int, int], length: int) -> list[Grid]:
        graphs, rows, cols, first_row, first_col = block
        whole = rows * cols
        if not graphs * whole:
            return []
        together = min(graphs, max(1, length // whole))
        together = ceil(graphs / ceil(graphs / together))
        high = min(rows, max(1, length // cols))
        high = ceil(rows / ceil(rows / high))
        columns, grids = slice(first_col, first_col + cols), []
        for graph in range(0, graphs, together):
            here = slice(graph, min(graph + together, graphs))
            for row in range(0, rows, high if together == 1 else rows):
                stop = min(row + high, rows) if together == 1 else rows
                place = slice(here.start * whole + row * cols, (here.stop - 1) * whole + stop * cols)
                grids.append(Grid(place, here, slice(first_row + row, first_row + stop), columns, self.reverse))
        return grids


def _runs(target: Tensor, length: int) -> Tensor | None:
    """Where runs of equal targets start, cut every ``length`` edges; None if they are short."""
    starts = torch.ones_like(target, dtype=torch.bool)
    torch.ne(target[1:], target[:-1], out=starts[1:])
    starts[::length] = True
    found = starts.nonzero().squeeze(1)
    return found if 2 * len(found) <= len(target) else None


class Links:
    """The edges of some bundles, the nodes they join, and how to walk along them.

    Values of nodes are in tables ``[B, N, K]``, with all ``layers`` that any of the edges touches side by side.

    Attributes:
        layers: whose nodes the tables hold; ``heard_layers`` are those from the first to the last that hear any.
        nodes: N; ``heard`` is the place of the nodes of ``heard_layers``.

    Args:
        bundles: whose edges; each bundle's are ``[B, E, K]``.
        sizes: nodes per layer.
        graphs: B, the leading size of all tensors.
        reverse: messages run against the edges.
    """

    def __init__(self, bundles: Sequence[Bundle], sizes: Sequence[int], graphs: int, reverse: bool = False) -> None:
        self.graphs, self.reverse = graphs, reverse
        ends = [(b.target, b.source) if reverse else (b.source, b.target) for b in bundles]
        self.layers = sorted({layer for pair in ends for layer in pair})
        starts = list(accumulate((sizes[layer] for layer in self.layers), initial=0))
        first, self.nodes = dict(zip(self.layers, starts[:-1], strict=True)), starts[-1]
        hearing = [self.layers.index(end) for _, end in ends] or [-1]
        self.heard_layers = self.layers[min(hearing) : max(hearing) + 1]
        self.heard = slice(starts[min(hearing)], starts[max(hearing) + 1])
        self.edges = tuple(bundle.stop - bundle.start for bundle in bundles)
        self._tiles: dict[int, list[list[Tile]]] = {}
        self.parts: list[_Part] = []
        few: list[tuple[int, Tensor, Tensor]] = []
        for number, (bundle, (start, end)) in enumerate(zip(bundles, ends, strict=True)):
            places, count = (first[start], first[end]), graphs * self.edges[number]
            if bundle.shape is not None:
                block = (graphs, *bundle.shape, *(places if reverse else places[::-1]))
                self.parts.append(_Part((number,), (count,), reverse, block))
                continue
            source, target = (self._flat(*end) for end in zip(bundle.ends(reverse), places, strict=True))
            if count < FEW_EDGES:
                few.append((number, source, target))
            else:
                self.parts.append(_Part((number,), (count,), reverse, ends=(source, target)))
        if few:
            numbers, sources, targets = zip(*few, strict=True)
            pair = torch.cat(sources), torch.cat(targets)
            self.parts.append(_Part(numbers, tuple(map(len, sources)), reverse, ends=pair))

    def _flat(self, index: Tensor, first: int) -> Tensor:
        """An index within a layer as one into the rows of all networks' table."""
        if self.graphs == 1:
            return index + first if first else index
        graph = torch.arange(self.graphs, device=index.device).unsqueeze(1) * self.nodes
        return (index + first + graph).flatten()

    def tiles(self, width: int, like: Tensor) -> list[list[Tile]]:
        """Per part its tiles, of which a tensor ``[E, width]`` fits into the cache."""
        limit = CACHED_BYTES if like.device.type == "cpu" else DEVICE_BYTES
        length = max(1, limit // max(1, width * like.element_size()))
        if length not in self._tiles:
            self._tiles[length] = [part.tiles(length) for part in self.parts]
        return self._tiles[length]

    @cached_property
    def whole(self) -> list[Tile]:
        """Per part one tile with all its edges."""
        return [part.whole() for part in self.parts]

    def join(self, edges: Sequence[Tensor]) -> list[Tensor]:
        """Per part the edges' values ``[E, K]``, of per bundle ``[B, E, K]``; a view unless a part has several."""
        return [
            edges[part.numbers[0]].flatten(0, 1)
            if len(part.numbers) == 1
            else torch.cat([edges[number].flatten(0, 1) for number in part.numbers])
            for part in self.parts
        ]

    def part(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `join`, in views."""
        found: dict[int, Tensor] = {}
        for part, values in zip(self.parts, parts, strict=True):
            for number, own in zip(part.numbers, values.split(part.edges), strict=True):
                found[number] = own.view(self.graphs, self.edges[number], values.shape[1])
        return [found[number] for number in range(len(self.edges))]
