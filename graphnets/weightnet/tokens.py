"""Invariant neuron tokens, and sets of them with padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.layered import Layered, Networks
from graphnets.message_passing.encodings import EdgeEncoding, InputScaling, NodeEncoding, kernel_size_of
from graphnets.message_passing.layer import NeuronMessagePassing
from graphnets.weightnet.order import NeuronTable, PlaceEncoding

__all__ = ["NeuronTokens", "TokenSets"]


class NeuronTokens(nn.Module):
    r"""One token per neuron, built from its incoming weights together with their source neurons.

    The paper concatenates a neuron's incoming weights :math:`W_l[j, :]` and projects them: a linear map with one
    learned column per source position. Positions of hidden neurons mean nothing, so here the columns are the source
    neurons' own tokens, layer by layer:

    .. math:: t_{l,j} = \mathrm{LN}\big(u_{l,j} + \mathrm{MLP}[u_{l,j},\ \tfrac{1}{\sqrt{n}}
        \textstyle\sum_i W_l[j, i]\, V t_{l-1,i}]\big)

    where :math:`u` holds the neuron's bias and other own parameters and what is known of it without weights. On the
    first layer, whose sources are the inputs with their learned vectors, this is the paper's projection. The tokens of
    a layer move with its neurons, so that set attention over them is invariant.

    Args:
        structure: see `graphnets.NeuronGNN`.
        channels: of the tokens.
        edge_channels: features of a weight.
        gates: linear combinations of these features that multiply the source's token.
        encodings: of neurons, see `NodeEncoding`.
        kernel_size: the largest kernel, if no structure is given.
        weight_noise: relative Gaussian noise on weights while training.
        positions: see `PlaceEncoding`; any of them ends the invariance, since neurons count as stored.

    Shapes:
        - result: per layer ``[B, n, channels]``
    """

    def __init__(
        self,
        structure: Structure | None,
        channels: int,
        edge_channels: int = 4,
        gates: int = 1,
        encodings: Iterable[str] = NodeEncoding.ENCODINGS,
        kernel_size: tuple[int, ...] = (3, 3),
        weight_noise: float = 0.0,
        positions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.weight_noise = weight_noise
        self.scaling = InputScaling(structure)
        self.node_encoding = NodeEncoding(structure, channels, encodings)
        self.edge_encoding = EdgeEncoding(structure, edge_channels, kernel_size, ["edge_type"])
        self.gather = NeuronMessagePassing(channels, edge_channels, hidden_channels=0, update_edges=False, gates=gates)
        self.places = PlaceEncoding(positions, channels)

    def extra_repr(self) -> str:
        """Noise while training."""
        return f"weight_noise={self.weight_noise}"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights; see `InputScaling`."""
        self.scaling.fit(batches)

    def forward(self, batch: Networks, view: Layered) -> list[Tensor]:
        """Make the tokens."""
        nodes, weights = self.scaling(batch, view)
        if self.training and self.weight_noise:
            weights = weights * (1 + self.weight_noise * torch.randn_like(weights))
        edges = view.split_edges(self.edge_encoding(weights, kernel_size_of(batch), view))
        states = view.split(self.node_encoding(nodes, view))
        tokens = self.gather.sweep(states, edges, view)[0]
        if not self.places.kinds:
            return tokens
        stored, table = torch.arange(nodes.shape[1], device=view.device).unsqueeze(0), NeuronTable.of(view)
        places = view.split(self.places(stored, table, view, nodes.dtype))
        return [token + place for token, place in zip(tokens, places, strict=True)]


@dataclass(frozen=True)
class TokenSets:
    """Neurons as sets, one per network and layer, padded to equal size only where networks differ.

    Args:
        layers: the layer of each set ``[S]``; owner: its network ``[S]``; size: its neurons ``[S, 1]``.
        index: where each of a set's neurons lies among all neurons ``[rows, n]`` flattened, ``[S, m]``.
        mask: which places of ``index`` are neurons and no padding; None if all are.
    """

    layers: Tensor
    owner: Tensor
    index: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, view: Layered, skip: Iterable[int] = ()) -> list[TokenSets]:
        """All sets of a batch, in groups of equal size (networks of one layout) or as one padded group.

        Args:
            skip: layers to leave out.
        """
        left_out = set(skip)
        kept = [layer for layer in range(view.layers) if layer not in left_out]
        starts = torch.tensor([0, *view.sizes]).cumsum(0).tolist()
        device = view.device
        if view.dense:
            groups: dict[int, list[int]] = {}
            for layer in kept:
                groups.setdefault(view.sizes[layer], []).append(layer)
            base = torch.arange(view.graphs, device=device).view(-1, 1, 1) * starts[-1]
            found = []
            for size, layers in groups.items():
                first = torch.tensor([starts[layer] for layer in layers], device=device)
                index = base + first.view(1, -1, 1) + torch.arange(size, device=device)
                owner = torch.arange(view.graphs, device=device).repeat_interleave(len(layers))
                which = torch.tensor(layers, device=device).repeat(view.graphs)
                found.append(cls(which, owner, index.flatten(0, 1), None))
            return found
        layer_of = torch.arange(view.layers, device=device).repeat_interleave(torch.tensor(view.sizes, device=device))
        key = view.node_owner[0] * view.layers + layer_of
        use = torch.isin(layer_of, torch.tensor(kept, device=device))
        order = torch.argsort(key, stable=True)
        order = order[use[order]]
        sets, counts = torch.unique_consecutive(key[order], return_counts=True)
        width = int(counts.max())
        begin = counts.cumsum(0) - counts
        place = torch.arange(width, device=device)
        mask = place < counts.unsqueeze(1)
        index = order[(begin.unsqueeze(1) + place).clamp_max(len(order) - 1)]
        return [cls(sets % view.layers, sets // view.layers, index, mask)]
