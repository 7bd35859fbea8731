"""Who hears whom beside the ends of an edge."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from converters import Structure
from converters.neuron_graph import topology

__all__ = ["NEIGHBOURHOODS", "neighbour_pairs"]

NEIGHBOURHOODS = ("edges", "layer", "adjacent")


@lru_cache(maxsize=256)
def neighbour_pairs(structure: Structure, neighbourhood: str) -> Tensor:
    """Pairs of neurons (source, target) ``[2, P]`` that are declared neighbours though no edge joins them.

    The relation is the same for all neurons that may be permuted with each other.

    Args:
        neighbourhood: ``"edges"``: none. ``"layer"``: all neurons of one layer, each its own neighbour too.
            ``"adjacent"``: all neurons of two layers between which there are any edges, along these edges.

    >>> from converters import trace
    >>> structure = trace(torch.nn.Linear(3, 2))
    >>> [neighbour_pairs(structure, name).shape[1] for name in NEIGHBOURHOODS]
    [0, 13, 0]
    """
    starts, sizes = structure.node_offsets, [layer.size for layer in structure.layers]
    if neighbourhood == "edges":
        joined = []
    elif neighbourhood == "layer":
        joined = [(layer, layer) for layer in range(len(sizes))]
    else:
        joined = sorted({(block.source, block.target) for block in structure.blocks})
    source, target = topology(structure).edge_index
    found = [torch.zeros(2, 0, dtype=torch.int64)]
    for start, end in joined:
        apart = torch.ones(sizes[end], sizes[start], dtype=torch.bool)
        here = (source >= starts[start]) & (source < starts[start] + sizes[start])
        here &= (target >= starts[end]) & (target < starts[end] + sizes[end])
        apart[target[here] - starts[end], source[here] - starts[start]] = False
        row, column = torch.nonzero(apart).unbind(1)
        found.append(torch.stack([column + starts[start], row + starts[end]]))
    return torch.cat(found, 1)
