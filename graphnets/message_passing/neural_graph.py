"""Modulated messages and several aggregators: the graph network of the neural graphs paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_geometric.typing
from torch import Tensor, nn
from torch.nn import functional

from graphnets.layered import Bundle, Layered
from graphnets.message_passing.kernels import at_edges, edge_sum, pair_terms
from graphnets.message_passing.passing import PassingLayer

__all__ = ["ModulatedMessages", "NeuralGraphLayer", "edge_extreme"]

Heard = Sequence[tuple[Bundle, Tensor, Tensor]]
EPSILON = 1e-5


def edge_extreme(values: Tensor, nodes: int, bundle: Bundle, reduce: str, reverse: bool = False) -> Tensor:
    """Largest (``reduce="max"``) or smallest (``"min"``) value over the edges that arrive at each node, ``[B, n, K]``.

    Minus or plus infinity where none does. Indexed edges go through torch-scatter where it is installed. Of equal
    extremes one gets the gradient; indexed edges share it where torch-scatter is missing.

    Shapes:
        - values: ``[B, rows, cols, K]`` for a dense bundle, else ``[B, E, K]``
    """
    if bundle.shape is not None:
        dim = 1 if reverse else 2  # with indices: differentiated two to three times as fast as amax and amin
        return (values.max(dim) if reduce == "max" else values.min(dim)).values
    end = bundle.ends(reverse)[1]
    nothing = values.new_full((len(values), nodes, values.shape[-1]), -torch.inf if reduce == "max" else torch.inf)
    if torch_geometric.typing.WITH_TORCH_SCATTER:
        found: Tensor = torch_geometric.typing.torch_scatter.scatter(values, end, 1, nothing, reduce=reduce)
        return found
    return nothing.scatter_reduce(1, end.view(1, -1, 1).expand_as(values), values, f"a{reduce}")


class ModulatedMessages(nn.Module):
    r"""Messages of one direction, scaled and shifted by their edges, and aggregated in several ways.

    .. math::
        m_{ij} &= (W e_{ij}) \odot M_2\, \mathrm{relu}(M_1 [x_j, x_i] + c_1) + U e_{ij} + u \\
        a_i &= \big\Vert_{s}\, \big\Vert_{\oplus}\; s(d_i) \bigoplus_{j \to i} m_{ij}

    Args:
        node_channels, edge_channels, hidden_channels, aggregators, scalers: see `NeuralGraphLayer`.

    Attributes:
        log_degree: :math:`\delta`, the mean of :math:`\log(d + 1)` over neurons that hear any; 1 at first.
    """

    AGGREGATORS = ("mean", "min", "max", "std", "sum")
    SCALERS = ("identity", "amplification", "attenuation")

    log_degree: Tensor

    def __init__(
        self,
        node_channels: int,
        edge_channels: int,
        hidden_channels: int,
        aggregators: Sequence[str],
        scalers: Sequence[str],
    ) -> None:
        super().__init__()
        self.aggregators = _chosen("aggregators", aggregators, self.AGGREGATORS)
        self.scalers = _chosen("scalers", scalers, self.SCALERS)
        self.out_channels = len(self.aggregators) * len(self.scalers) * node_channels
        self.source = nn.Linear(node_channels, hidden_channels)
        self.target = nn.Linear(node_channels, hidden_channels, bias=False)
        self.message = nn.Linear(hidden_channels, node_channels)
        self.scale = nn.Linear(edge_channels, node_channels, bias=False)
        self.shift = nn.Linear(edge_channels, node_channels)
        self.register_buffer("log_degree", torch.ones(()))

    def extra_repr(self) -> str:
        """How messages are aggregated."""
        return f"aggregators={'+'.join(self.aggregators)}, scalers={'+'.join(self.scalers)}"

    def forward(self, x: Tensor, heard: Heard, degree: Tensor, reverse: bool = False) -> Tensor:
        """What the neurons ``x [B, n, node_channels]`` of one layer hear, ``[B, n, out_channels]``.

        Zero where nothing arrives; the arguments are those of `PassingLayer.step`.
        """
        if not heard:
            return x.new_zeros(*x.shape[:2], self.out_channels)
        target = self.target(x)
        messages = [(self._messages(target, origin, edge, bundle, reverse), bundle) for bundle, origin, edge in heard]
        found = self._aggregate(messages, x.shape[1], degree.clamp_min(1).to(x.dtype), reverse)
        if len(heard) > 1 or heard[0][0].shape is None:  # some neuron may hear nothing
            found = found.masked_fill(degree == 0, 0)
        size = degree.clamp_min(1).to(x.dtype).log1p() / self.log_degree
        factors = {"identity": None, "amplification": size, "attenuation": size.reciprocal()}
        scaled = [found if (by := factors[scaler]) is None else found * by for scaler in self.scalers]
        return torch.cat(scaled, -1)

    def _messages(self, target: Tensor, origin: Tensor, edge: Tensor, bundle: Bundle, reverse: bool) -> Tensor:
        """The messages of one bundle, ``[B, rows, cols, node_channels]`` or ``[B, E, node_channels]``."""
        hidden = at_edges(self.source(origin), bundle, not reverse) + at_edges(target, bundle, reverse)
        grid = edge if bundle.shape is None else edge.unflatten(1, bundle.shape)
        return torch.addcmul(self.shift(grid), self.scale(grid), self.message(hidden.relu_()))

    def _aggregate(self, messages: Sequence[tuple[Tensor, Bundle]], nodes: int, count: Tensor, reverse: bool) -> Tensor:
        """All aggregators side by side, ``[B, n, len(aggregators) * node_channels]``."""
        found: dict[str, Tensor] = {}
        if {"mean", "std", "sum"} & set(self.aggregators):
            found["sum"] = _total([edge_sum(values, nodes, bundle, reverse) for values, bundle in messages])
            found["mean"] = found["sum"] / count
        if "std" in self.aggregators:
            squares = []
            for values, bundle in messages:
                centred = values - at_edges(found["mean"], bundle, reverse)
                squares.append(edge_sum(centred.square(), nodes, bundle, reverse))
            found["std"] = (_total(squares) / count + EPSILON).sqrt()
        for reduce in {"min", "max"} & set(self.aggregators):
            ends = [edge_extreme(values, nodes, bundle, reduce, reverse) for values, bundle in messages]
            pair = torch.maximum if reduce == "max" else torch.minimum
            extreme = ends[0]
            for end in ends[1:]:
                extreme = pair(extreme, end)
            found[reduce] = extreme
        return torch.cat([found[name] for name in self.aggregators], -1)


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _chosen(what: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names, if there are any and all are known.

    Raises:
        ValueError: otherwise.
    """
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise ValueError(f"{what}={list(names)} must be one or more of {', '.join(known)}")
    return tuple(names)


class NeuralGraphLayer(PassingLayer):
    r"""The layer of NG-GNN: modulated messages, several aggregators, edge updates.

    The graph network of Kofinas et al. 2024 (arXiv:2403.12143): principal neighbourhood aggregation (Corso et al. 2020,
    arXiv:2004.05718) of messages that edges modulate (FiLM, Perez et al. 2018, arXiv:1709.07871),

    .. math::
        m_{ij} &= (W e_{ij}) \odot M_2\, \mathrm{relu}(M_1 [x_j, x_i] + c_1) + U e_{ij} + u \\
        a_i &= \big\Vert_{s}\, \big\Vert_{\oplus}\; s(d_i) \bigoplus_{j \to i} m_{ij}, \qquad
        s(d) \in \{1,\ \log(d + 1) / \delta,\ \delta / \log(d + 1)\} \\
        x'_i &= \mathrm{LN}(x_i + \mathrm{MLP}[x_i, a_i, a^\leftarrow_i]) \\
        e'_{ij} &= \mathrm{LN}(e_{ij} + U_2\, \mathrm{SiLU}(U_1 [x'_j, x'_i, e_{ij}] + c_2) + c_3)

    where :math:`\delta` is the mean of :math:`\log(d + 1)` over training networks, see :meth:`set_log_degrees`. With
    ``backward``, :math:`a^\leftarrow_i` is the same of the edges that leave :math:`i`, with parameters of its own.
    A neuron that no message reaches keeps its state.

    Deviations from the paper: edges are a list and not a matrix over all pairs of neurons, so a weight of zero keeps
    its edge and no network sees the padding of another; normalisation is per neuron and per edge, never over a batch;
    :math:`10^{-5}` is added to variances before their root is taken.

    Args:
        node_channels, edge_channels: feature channels of nodes and edges.
        hidden_channels: of the messages' perceptron; ``node_channels`` if None.
        aggregators: any of ``"mean"``, ``"min"``, ``"max"``, ``"std"``, ``"sum"``.
        scalers: any of ``"identity"``, ``"amplification"``, ``"attenuation"``.
        backward: whether neurons also hear those that their own edges lead to.
        update_edges: whether edges get new features; otherwise they are handed back as they came.
        dropout: inside the node update.

    Shapes:
        - x: ``[N, node_channels]``, edge_index: ``[2, E]`` (source, target), edge_attr: ``[E, edge_channels]``
        - result: the new ``x`` and ``edge_attr``, of the same shapes

    Raises:
        ValueError: an aggregator or a scaler is unknown, or there is none.

    >>> layer = NeuralGraphLayer(8, 4)
    >>> x, edge_attr = layer(torch.randn(3, 8), torch.tensor([[0, 1], [2, 2]]), torch.randn(2, 4))
    >>> x.shape, edge_attr.shape
    (torch.Size([3, 8]), torch.Size([2, 4]))
    """

    AGGREGATORS = ("mean", "min", "max", "std")
    SCALERS = ("identity", "amplification")

    def __init__(
        self,
        node_channels: int,
        edge_channels: int,
        hidden_channels: int | None = None,
        aggregators: Sequence[str] = AGGREGATORS,
        scalers: Sequence[str] = SCALERS,
        backward: bool = False,
        update_edges: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(node_channels, edge_channels, update_edges)
        self.hidden_channels = node_channels if hidden_channels is None else hidden_channels

        def messages() -> ModulatedMessages:
            return ModulatedMessages(node_channels, edge_channels, self.hidden_channels, aggregators, scalers)

        self.messages = messages()
        self.backward_messages = messages() if backward else None
        width = node_channels + (2 if backward else 1) * self.messages.out_channels
        self.update = nn.Sequential(
            nn.Linear(width, 2 * node_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * node_channels, node_channels),
        )
        self.node_norm = nn.LayerNorm(node_channels)
        self._build_edge_update(node_channels)

    def extra_repr(self) -> str:
        """The contract in one line."""
        return (
            f"nodes={self.node_channels}, edges={self.edge_channels}, hidden={self.hidden_channels}, "
            f"backward={self.backward_messages is not None}, update_edges={self.update_edges}"
        )

    @torch.no_grad()
    def set_log_degrees(self, along: Tensor, against: Tensor) -> None:
        r"""The :math:`\delta` of messages along the edges and of those against them: means of :math:`\log(d + 1)`."""
        self.messages.log_degree.copy_(along)
        if self.backward_messages is not None:
            self.backward_messages.log_degree.copy_(against)

    def step(
        self,
        x: Tensor,
        heard: Heard,
        degree: Tensor,
        reverse: bool = False,
        back: tuple[Heard, Tensor] | None = None,
    ) -> Tensor:
        """New states of one layer; see `PassingLayer.step`.

        Args:
            back: what arrives from the other side and how much of it, as ``heard`` and ``degree``.
        """
        if not heard and (back is None or not back[0]):
            return x
        inputs, hears = [x, self.messages(x, heard, degree, reverse)], degree > 0
        if self.backward_messages is not None and back is not None:
            inputs.append(self.backward_messages(x, *back, not reverse))
            hears = hears | (back[1] > 0)
        out: Tensor = self.node_norm(x + self.update(torch.cat(inputs, -1)))
        return out if bool(hears.all()) else torch.where(hears, out, x)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """All nodes at once, as any PyTorch Geometric layer."""
        bundle = Bundle(0, 0, 0, edge_index.shape[1], None, edge_index[0], edge_index[1])
        incoming, outgoing = (torch.bincount(edge_index[end], minlength=len(x)).unsqueeze(1) for end in (1, 0))
        states, edges = [x.unsqueeze(0)], [edge_attr.unsqueeze(0)]
        heard = [(bundle, states[0], edges[0])]
        states = [self.step(states[0], heard, incoming, back=(heard, outgoing))]
        if self.update_edges:
            edges = self.step_edges(states, edges, [bundle])
        return states[0].squeeze(0), edges[0].squeeze(0)

    def _layer_step(
        self, layer: int, states: Sequence[Tensor], edges: Sequence[Tensor], batch: Layered, reverse: bool
    ) -> Tensor:
        sides = []
        for against in (reverse, not reverse):
            numbers = (batch.outgoing if against else batch.incoming)[layer]
            bundles = [batch.bundles[number] for number in numbers]
            origins = [states[bundle.target if against else bundle.source] for bundle in bundles]
            heard = list(zip(bundles, origins, [edges[number] for number in numbers], strict=True))
            sides.append((heard, batch.degrees[1 if against else 0][layer]))
        return self.step(states[layer], *sides[0], reverse, back=sides[1])

    def step_edges(
        self, states: Sequence[Tensor], edges: Sequence[Tensor], bundles: Sequence[Bundle], reverse: bool = False
    ) -> list[Tensor]:
        """New states of all edges, per bundle ``[B, E, edge_channels]``; ``reverse`` swaps their ends."""
        new = []
        for bundle, edge in zip(bundles, edges, strict=True):
            start, end = (bundle.target, bundle.source) if reverse else (bundle.source, bundle.target)
            source, target = self.edge_source(states[start]), self.edge_target(states[end])
            hidden = functional.silu(pair_terms(source, target, self.edge_edge(edge), bundle, reverse))
            new.append(self.edge_norm(edge + self.edge_message(hidden.flatten(1, -2))))
        return new
