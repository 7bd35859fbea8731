"""The order of neurons: as networks store it, or sorted by a key that no permutation of neurons changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from converters import Structure
from converters.errors import StructureMismatch
from converters.neuron_graph import topology
from graphnets.layered import Layered

__all__ = ["POSITIONS", "NeuronTable", "PlaceEncoding", "sorted_nodes", "to_view"]

POSITIONS = ("layer", "sequence")


@dataclass(frozen=True, eq=False)
class NeuronTable:
    """Which neuron every node is, for N nodes in the order of the graph and M members of all groups.

    One structure's table serves a dense batch; in a mixed one the networks' tables follow each other. A *member* is a
    neuron as `converters.Group` counts it: its nodes (a channel before and after its BatchNorm, its pixels behind a
    flatten, every operand of a residual sum) are permuted together. Nodes of no group share one member that stays.

    Args:
        layer_start: the first node of each node's layer, ``[N]``.
        token_start: the first node of its network that has a token, ``[N]``.
        member: ``[N]``; plain: whether it belongs to no group, ``[N]``.
        rest: layer and slot of a node as one number, ``[N]``; order: nodes sorted by member, then ``rest``, ``[N]``.
        group, parent: of each member, ``[M]``; the parent is the member whose cell it lies in, or -1.
        levels: members that may be permuted, groups without a parent first.
    """

    layer_start: Tensor
    token_start: Tensor
    member: Tensor
    plain: Tensor
    rest: Tensor
    order: Tensor
    group: Tensor
    parent: Tensor
    levels: tuple[Tensor, ...]

    @classmethod
    def of(cls, view: Layered) -> NeuronTable:
        """The table of a batch."""
        tables = [_table(structure) for structure in view.structures]
        if view.dense:
            return tables[0].joined([tables[0]], view.device)
        return tables[0].joined([tables[i] for i in view.which.tolist()], view.device)

    @staticmethod
    def joined(tables: Sequence[NeuronTable], device: torch.device) -> NeuronTable:
        """Several networks' tables as one."""
        if len(tables) == 1 and device.type == "cpu":
            return tables[0]
        nodes = np.cumsum([0] + [len(table.member) for table in tables]).tolist()
        members = np.cumsum([0] + [len(table.group) for table in tables]).tolist()

        def shifted(name: str, by: Sequence[int]) -> Tensor:
            parts = [getattr(table, name) + shift for table, shift in zip(tables, by, strict=False)]
            return torch.cat(parts).to(device)

        parents = [torch.where(t.parent < 0, -1, t.parent + m) for t, m in zip(tables, members, strict=False)]
        depth = max(len(table.levels) for table in tables)
        levels = [
            torch.cat([t.levels[d] + m for t, m in zip(tables, members, strict=False) if d < len(t.levels)]).to(device)
            for d in range(depth)
        ]
        return NeuronTable(
            layer_start=shifted("layer_start", nodes),
            token_start=shifted("token_start", nodes),
            member=shifted("member", members),
            plain=torch.cat([table.plain for table in tables]).to(device),
            rest=shifted("rest", [0] * len(tables)),
            order=shifted("order", nodes),
            group=shifted("group", members),
            parent=torch.cat(parents).to(device),
            levels=tuple(levels),
        )


@lru_cache(maxsize=256)
def _table(structure: Structure) -> NeuronTable:
    top, groups = topology(structure), structure.groups
    if any(group.factors for group in groups):
        raise StructureMismatch(
            f"{structure!r} has neurons that move as pairs (query heads that share a key), "
            "which have no canonical order. Use invariant tokens, or positions=[]"
        )
    sizes = np.array([group.size for group in groups] + [1], np.int64)
    first = np.cumsum(sizes) - sizes
    number = np.arange(sizes.sum()) - np.repeat(first, sizes)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    parent = np.full(len(group_of), -1, np.int64)
    depths: dict[int, list[int]] = {}
    for g, group in enumerate(groups):
        if group.role == "hidden":
            depths.setdefault(_depth(structure, g), []).append(g)
            if group.parent is not None:
                parent[group_of == g] = first[group.parent] + number[group_of == g] // (group.size // group.cells)
    node_group = top.node_group.numpy()
    own = np.concatenate([np.zeros(0, np.int64)] + [layer.axis.member.values for layer in structure.layers])
    member = np.where(node_group < 0, first[-1], first[node_group] + own)
    slot, layer = top.node_slot.numpy(), top.node_layer.numpy()
    rest = layer * (slot.max(initial=0) + 1) + slot
    starts = np.array(structure.node_offsets[:-1], np.int64)
    levels = [np.flatnonzero(np.isin(group_of, depths[depth])) for depth in sorted(depths)]
    return NeuronTable(
        layer_start=torch.from_numpy(starts[layer]),
        token_start=torch.full((structure.num_nodes,), structure.node_offsets[1]),
        member=torch.from_numpy(member),
        plain=torch.from_numpy(node_group < 0),
        rest=torch.from_numpy(rest),
        order=torch.from_numpy(np.lexsort((rest, member))),
        group=torch.from_numpy(group_of),
        parent=torch.from_numpy(parent),
        levels=tuple(torch.from_numpy(level) for level in levels),
    )


def _depth(structure: Structure, g: int) -> int:
    parent = structure.groups[g].parent
    return 0 if parent is None else 1 + _depth(structure, parent)


def to_view(values: Tensor, view: Layered) -> Tensor:
    """A tensor of nodes ``[rows, N]`` in the order of the graph, in the order of `Layered.nodes`."""
    return values if view.dense else values[:, view.node_order]


@torch.no_grad()
def sorted_nodes(sizes: Tensor, table: NeuronTable) -> Tensor:
    """The node in whose place each node stands once every permutable group is sorted, ``[rows, N]``.

    The members of a group are sorted by the sum of their nodes' ``sizes``, those of nested groups within their cell,
    and cells as their parent's members (whose sum includes their cell's). Ties keep the stored order.

    Args:
        sizes: one number per node which moves with it, ``[rows, N]``, in the order of the graph.
        table: of the batch.
    """
    rows, members = len(sizes), len(table.group)
    key = sizes.new_zeros(rows, members).index_add_(1, table.member, sizes)
    for level in reversed(table.levels[1:]):
        key.index_add_(1, table.parent[level], key[:, level])
    place = torch.arange(members, device=sizes.device).expand(rows, -1).contiguous()
    for depth, level in enumerate(table.levels):
        by_key = key[:, level].argsort(dim=1, stable=True)
        cell = (table.group[level] * members).expand(rows, -1)
        if depth:
            cell = cell + place[:, table.parent[level].clamp_min(0)] * (table.parent[level] >= 0)
        order = by_key.gather(1, cell.gather(1, by_key).argsort(dim=1, stable=True))
        place.scatter_(1, level[order], level.expand(rows, -1))
    span = int(table.rest.max()) + 1
    known = (table.member * span + table.rest)[table.order]
    wanted = place[:, table.member] * span + table.rest
    node = table.order[torch.searchsorted(known, wanted)]
    return torch.where(table.plain, torch.arange(sizes.shape[1], device=sizes.device), node)


class PlaceEncoding(nn.Module):
    r"""Sinusoidal encodings of a neuron's place in its layer and in the whole sequence of tokens.

    .. math:: p_{2k}(i) = \sin(i / 10000^{2k / C}), \qquad p_{2k+1}(i) = \cos(i / 10000^{2k / C})

    With both, each has half of the channels. Nothing is learned.

    Args:
        kinds: which of ``"layer"``, ``"sequence"``.
        channels: of the result.

    Raises:
        ValueError: a kind is unknown.

    Shapes:
        - node: in whose place each node stands, ``[rows, N]`` in the order of the graph
        - result: ``[rows, N, channels]`` (one row may serve all), in the order of `Layered.nodes`

    >>> PlaceEncoding(["layer", "sequence"], 8)
    PlaceEncoding(layer, sequence)
    """

    def __init__(self, kinds: Iterable[str], channels: int) -> None:
        super().__init__()
        kinds = list(kinds)
        unknown = sorted(set(kinds) - set(POSITIONS))
        if unknown:
            raise ValueError(f"unknown positions {', '.join(unknown)}; known are {', '.join(POSITIONS)}")
        self.kinds, self.channels = tuple(kind for kind in POSITIONS if kind in kinds), channels

    def extra_repr(self) -> str:
        """Which places count."""
        return ", ".join(self.kinds)

    def forward(self, node: Tensor, table: NeuronTable, view: Layered, dtype: torch.dtype) -> Tensor:
        """Encode."""
        starts = {"layer": table.layer_start, "sequence": table.token_start}
        parts = []
        for number, kind in enumerate(self.kinds):
            width = (self.channels + number) // len(self.kinds)
            place = to_view(node - starts[kind], view).clamp_min(0)
            parts.append(_waves(place, width, dtype))
        return torch.cat(parts, -1)


def _waves(place: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    pair = torch.arange(width, device=place.device) // 2
    phase = place.unsqueeze(-1) * torch.exp(pair.double() * (-2 * np.log(10000.0) / width))
    return torch.where(torch.arange(width, device=place.device) % 2 == 0, phase.sin(), phase.cos()).to(dtype)
