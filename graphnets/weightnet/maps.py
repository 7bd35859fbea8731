"""Attention of WeightNet, cut up by network and layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphnets.layered import Layered
from graphnets.weightnet.tokens import TokenSets

__all__ = ["AttentionMaps", "Recorded"]


@dataclass(frozen=True)
class AttentionMaps:
    """Who attends to whom in one forward pass of `WeightNet`; the rows of every matrix sum to one.

    Args:
        predictions: of that pass, ``[B, targets]``.
        intra: ``intra[block][network][layer]`` is the attention among a layer's n neurons, ``[heads, n, n]``; entry
            ``[h, i, j]`` is how much neuron i hears of neuron j, neurons being numbered as in the graph, whatever the
            kind of tokens. Layers are numbered as in ``Structure.layers``; layer 0 has no tokens.
        cross: ``cross[block][network]`` is the attention among a network's layers from layer 1 on,
            ``[heads, layers - 1, layers - 1]``.
        cls: whether a learned token joined each set (``pooling="cls"``). It is then row and column 0 of every matrix,
            each matrix is one larger, and neuron i (or layer i + 1) is row ``i + 1``.

    >>> from converters import to_graph
    >>> from torch import nn
    >>> from graphnets import WeightNet
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> maps = WeightNet(None, targets=1).eval().attention_maps(graph)
    >>> maps.intra[0][0][1].shape, maps.intra[0][0][2].shape, maps.cross[0][0].shape
    (torch.Size([2, 8, 8]), torch.Size([2, 3, 3]), torch.Size([2, 2, 2]))
    """

    predictions: Tensor
    intra: tuple[tuple[dict[int, Tensor], ...], ...]
    cross: tuple[tuple[Tensor, ...], ...]
    cls: bool


@dataclass
class Recorded:
    """What one forward pass met: per group of sets and block ``[S, heads, n, n]``, per block ``[B, heads, L, L]``."""

    sets: list[TokenSets] = field(default_factory=list)
    intra: list[list[Tensor]] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)

    def neurons(self, sets: TokenSets) -> list[Tensor]:
        """A list to append each block's maps of these sets to."""
        self.sets.append(sets)
        self.intra.append([])
        return self.intra[-1]

    def sorted_out(self, view: Layered, predictions: Tensor, cls: bool) -> AttentionMaps:
        """Every network's maps without padding."""
        extra = int(cls)
        intra: list[list[dict[int, Tensor]]] = [
            [{} for _ in range(view.graphs)] for _ in range(max(map(len, self.intra), default=0))
        ]
        for sets, maps in zip(self.sets, self.intra, strict=True):
            sizes = torch.full_like(sets.owner, sets.index.shape[1]) if sets.mask is None else sets.mask.sum(1)
            for row, (owner, layer, size) in enumerate(torch.stack([sets.owner, sets.layers, sizes], 1).tolist()):
                for networks, attention in zip(intra, maps, strict=True):
                    networks[owner][layer] = attention[row, :, : size + extra, : size + extra]
        ordered = tuple(tuple(dict(sorted(found.items())) for found in networks) for networks in intra)
        counts = [len(view.structures[which].layers) - 1 + extra for which in view.which.tolist()]
        cross = tuple(
            tuple(attention[row, :, :count, :count] for row, count in enumerate(counts)) for attention in self.cross
        )
        return AttentionMaps(predictions, ordered, cross, cls)
