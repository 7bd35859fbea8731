"""From the states of neurons to a fixed number of features of the whole network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converters import LAYER_KINDS, Structure
from graphnets.layered import Layered, node_roles
from graphnets.message_passing.encodings import PositionEncoding

__all__ = ["OutputReadout", "PooledReadout"]

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
