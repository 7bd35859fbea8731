"""From the states of neurons to a fixed number of features of the whole network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import LAYER_KINDS, NODE_SLOTS, Structure, WeightSpaceFeatures
from converters.to_state_dict import read_features
from graphnets.layered import Layered, node_roles
from graphnets.message_passing.encodings import PositionEncoding

__all__ = ["OutputReadout", "PooledReadout", "WeightReadout"]

MAX_LAYERS = 16


def _softmax_by_network(scores: Tensor, owner: Tensor | None, graphs: int) -> tuple[Tensor, Tensor]:
    """Softmax over a network's nodes and its logarithm; ``scores [B, n, T]``, ``owner [n]`` if B is 1."""
    if owner is None:
        logs = scores.log_softmax(1)
        return logs.exp(), logs
    flat = scores[0]
    index = owner.unsqueeze(1).expand_as(flat)
    top = flat.detach().new_full((graphs, flat.shape[1]), -torch.inf).scatter_reduce(0, index, flat.detach(), "amax")
    shifted = flat - top[owner]
    total = shifted.new_zeros(graphs, flat.shape[1]).index_add(0, owner, shifted.exp())
    logs = (shifted - total.log()[owner]).unsqueeze(0)
    return logs.exp(), logs


class PooledReadout(nn.Module):
    """Mean and standard deviation of node states per segment of the network.

    Segments are the layers where a structure with at most 16 of them is given; otherwise the inputs, the outputs and
    the hidden neurons of each family of layer kinds (linear, convolution, norm, other).

    Shapes:
        - x: node states ``[B, n, channels]``
        - result: ``[graphs, out_channels]``
    """

    FAMILIES = (("linear",), ("convolution", "transposed_convolution"), tuple(k for k in LAYER_KINDS if "norm" in k))

    def __init__(self, structure: Structure | None, channels: int) -> None:
        super().__init__()
        self.by_layer = structure is not None and len(structure.layers) <= MAX_LAYERS
        segments = len(structure.layers) if structure is not None and self.by_layer else 3 + len(self.FAMILIES)
        self.segments, self.channels = segments, channels
        self.out_channels = 2 * segments * channels

    def extra_repr(self) -> str:
        """Segments and channels."""
        return f"segments={self.segments}, channels={self.channels}, by_layer={self.by_layer}"

    def forward(self, x: Tensor, view: Layered) -> Tensor:
        """Pool."""
        if self.by_layer and view.dense:
            moments = [torch.cat([x.mean(1), _deviation(x.var(1, unbiased=False))], -1) for x in view.split(x)]
            return torch.cat(moments, -1)
        segment = view.per_node([self._segment(s) for s in view.structures])
        cell = (view.node_owner * self.segments + segment).reshape(-1)
        x, cells = x.reshape(-1, self.channels), view.graphs * self.segments
        count = torch.bincount(cell, minlength=cells).clamp_min(1).unsqueeze(1).to(x.dtype)
        mean = x.new_zeros(cells, self.channels).index_add(0, cell, x) / count
        variance = x.new_zeros(cells, self.channels).index_add(0, cell, (x - mean[cell]).square()) / count
        return torch.cat([mean, _deviation(variance)], -1).view(view.graphs, self.out_channels)

    def _segment(self, structure: Structure) -> Tensor:
        sizes = torch.tensor([layer.size for layer in structure.layers])
        if self.by_layer:
            return torch.arange(len(sizes)).repeat_interleave(sizes)
        family = {kind: 3 + i for i, kinds in enumerate(self.FAMILIES) for kind in kinds}
        kinds = torch.tensor([family.get(layer.kind, 0) for layer in structure.layers]).repeat_interleave(sizes)
        roles = node_roles(structure)
        return torch.where(roles == 0, kinds, roles)


def _deviation(variance: Tensor) -> Tensor:
    return (variance + 1e-5).sqrt()


class OutputReadout(nn.Module):
    r"""What the output neurons say together: distributions over them, compared with learned ones.

    Channel :math:`t` of :math:`s = W x` is a score per output neuron :math:`k`, like the class scores that a network
    gives for one input. With :math:`p = \mathrm{softmax}_k(s)`, :math:`q` likewise of a third of the scores, and a
    learned distribution :math:`\ell` over the outputs, the features are :math:`\sum_k p \ell`, :math:`\sum_k q \ell`,
    the negative entropy :math:`\sum_k p \log p`, the spread of the scores, and :math:`\sum_k p\, v` with values
    :math:`v` of its own.

    Args:
        structure: see `PositionEncoding`, by which the learned distribution knows the outputs.
        channels: of the node states.
        scores: number of channels T.

    Shapes:
        - x: node states ``[B, n, channels]``
        - result: ``[graphs, 5 * scores]``
    """

    def __init__(self, structure: Structure | None, channels: int, scores: int = 64) -> None:
        super().__init__()
        self.score = nn.Linear(channels, scores)
        self.values = nn.Linear(channels, scores)
        self.label = PositionEncoding(structure, scores)
        self.out_channels = 5 * scores

    def forward(self, x: Tensor, view: Layered) -> Tensor:
        """Read the outputs out."""
        output = [node_roles(structure) == 2 for structure in view.structures]
        label = view.per_node(self.label(view.structures).split([s.num_nodes for s in view.structures]))
        owner = None
        if view.dense:
            rows = torch.nonzero(output[0]).squeeze(1).to(view.device)
        else:
            rows = torch.nonzero(view.per_node(output)[0]).squeeze(1)
            owner = view.node_owner[0, rows]
        x, label = x.index_select(1, rows), label.index_select(1, rows)
        score = self.score(x)
        soft, logs = _softmax_by_network(score, owner, view.graphs)
        softer, _ = _softmax_by_network(score / 3, owner, view.graphs)
        target, _ = _softmax_by_network(label.expand_as(score), owner, view.graphs)
        features = torch.cat([soft * target, softer * target, soft * logs, soft * self.values(x)], -1)
        ones = torch.ones_like(score[..., :1])
        total, count, mass = (_sum(v, owner, view.graphs) for v in (features, ones, score))
        mean = mass / count.clamp_min(1)
        centred = score - (mean.unsqueeze(1) if owner is None else mean[owner])
        spread = _deviation(_sum(centred.square(), owner, view.graphs) / count.clamp_min(1))
        return torch.cat([total, spread.log()], -1)


def _sum(values: Tensor, owner: Tensor | None, graphs: int) -> Tensor:
    if owner is None:
        return values.sum(1)
    return values.new_zeros(graphs, values.shape[-1]).index_add(0, owner, values[0])


class WeightReadout(nn.Module):
    r"""New weights from the states of neurons and edges; they move with the neurons, other readouts do not.

    .. math::
        w_{ij} &= A_2\, \mathrm{SiLU}(A_1 [x_j, x_i, e_{ij}] + a_1) + a_2 \\
        b_i &= B_2\, \mathrm{SiLU}(B_1 x_i + b_1) + b_2

    with all numbers of an edge's kernel in :math:`w_{ij}` and of a neuron (bias, scale and so on) in :math:`b_i`.

    Args:
        structure: of the networks.
        channels, edge_channels: of the states.
        hidden: width of both perceptrons.
        out_channels: of the result.

    Raises:
        ValueError: a parameter belongs to no neuron and no edge.

    Shapes:
        - states: ``[B, n, channels]`` by layer; edges: ``[B, E, edge_channels]`` by bundle
        - result: ``{name: [B, *parameter axes, out_channels]}``
    """

    def __init__(
        self, structure: Structure, channels: int, edge_channels: int, hidden: int, out_channels: int = 1
    ) -> None:
        super().__init__()
        self.structure, self.out_channels = structure, out_channels
        kept = {name for layer in structure.layers for _, name in layer.slots}
        kept |= {block.parameter for block in structure.blocks if block.parameter is not None}
        self.names = [p.name for p in structure.parameters if not p.buffer and p.alias_of is None]
        missing = [name for name in self.names if name not in kept]
        if missing:
            raise ValueError(f"{structure.name}: {', '.join(missing)} belong to no neuron and no edge of the graph")
        columns = math.prod(structure.kernel_size)
        self.source = nn.Linear(channels, hidden, bias=False)
        self.target = nn.Linear(channels, hidden, bias=False)
        self.edge = nn.Linear(edge_channels, hidden)
        self.edge_out = nn.Linear(hidden, columns * out_channels)
        self.node = nn.Sequential(
            nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, len(NODE_SLOTS) * out_channels)
        )

    def extra_repr(self) -> str:
        """The contract."""
        return f"{len(self.names)} tensors, {self.out_channels} channels"

    def forward(self, states: list[Tensor], edges: list[Tensor], view: Layered) -> WeightSpaceFeatures:
        """Read weights out."""
        sources, targets = [self.source(x) for x in states], [self.target(x) for x in states]
        parts = []
        for bundle, edge in zip(view.bundles[: len(self.structure.blocks)], edges, strict=False):
            source, target = sources[bundle.source], targets[bundle.target]
            if bundle.shape is not None:
                ends = (target.unsqueeze(2) + source.unsqueeze(1)).flatten(1, 2)
            else:
                ends = source[:, bundle.source_index] + target[:, bundle.target_index]
            parts.append(self.edge_out(functional.silu(ends + self.edge(edge))))
        count = len(states[0])
        x = self._copies(self.node(torch.cat(states, 1)))
        edge_attr = self._copies(torch.cat(parts, 1) if parts else x.new_zeros(count, 0, self.edge_out.out_features))
        found = read_features(x, edge_attr, self.structure, self.structure.kernel_size)
        return WeightSpaceFeatures({name: found[name].unflatten(0, (count, -1)).movedim(1, -1) for name in self.names})

    def _copies(self, values: Tensor) -> Tensor:
        """Channels ``[B, n, K * out_channels]`` as further networks, ``[B * out_channels, n, K]``."""
        copies: Tensor = values.unflatten(2, (-1, self.out_channels)).movedim(3, 1).flatten(0, 1)
        return copies
