"""What predictors that pass messages along the weights of networks share: all but their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures
from graphnets.layered import Layered, Networks, networks_of
from graphnets.message_passing.encodings import (
    EdgeEncoding,
    InputScaling,
    NodeEncoding,
    check_structure,
    kernel_size_of,
    known_encodings,
)
from graphnets.message_passing.neighbourhood import NEIGHBOURHOODS, neighbour_pairs
from graphnets.message_passing.passing import EdgeLayer
from graphnets.message_passing.probes import ProbeFeatures
from graphnets.message_passing.readout import OutputReadout, PooledReadout, WeightReadout
from graphnets.standardise import ScaleColumns, fit_spread
from graphnets.statistics import READ, kept_first

__all__ = ["NeuronNetwork"]


class NeuronNetwork(nn.Module):
    """Scaled and encoded weights, rounds of layers along and against the edges, two readouts and a head.

    Args:
        structure: networks that share its layout (activations may differ); None for any architecture, also mixed ones.
        targets: predicted numbers per network; None for new weights, see `WeightReadout`.
        layer: makes one layer from nothing; it is called once per round and direction.
        channels: of node states.
        edge_channels: of edge states.
        rounds: layers per direction.
        backward: whether rounds also run against the edges.
        order: ``"sweep"`` or ``"parallel"``.
        scores: channels of `OutputReadout`.
        head_channels: width of the predicting network; ``head_dropout`` is its dropout.
        weight_noise: relative Gaussian noise on weights while training.
        encodings: of neurons and edges, see `NodeEncoding` and `EdgeEncoding`.
        kernel_size: the largest kernel, if no structure is given.
        neighbourhood: who hears whom, see `neighbour_pairs`; pairs without an edge have one learned state at first.
        probes: learned inputs on which the networks run, see `ProbeFeatures`; 0: the networks are never run.
        out_channels: of new weights.
        standardize: whether readouts are centred and scaled by those of the first 16 batches that `fit_statistics` saw.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``

    Raises:
        ValueError: ``order``, ``neighbourhood`` or an encoding is unknown, there are no rounds, or probes or
            new weights have no structure that would say what inputs or weights there are.
    """

    ENCODINGS = (*NodeEncoding.ENCODINGS, *EdgeEncoding.ENCODINGS)

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        layer: Callable[[], EdgeLayer],
        *,
        channels: int,
        edge_channels: int,
        rounds: int,
        backward: bool,
        order: str,
        scores: int,
        head_channels: int,
        head_dropout: float,
        weight_noise: float,
        encodings: Sequence[str],
        kernel_size: Sequence[int],
        neighbourhood: str = "edges",
        probes: int = 0,
        out_channels: int = 1,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        if order not in ("sweep", "parallel"):
            raise ValueError(f"order={order!r} is unknown; choose 'sweep' or 'parallel'")
        if rounds < 1:
            raise ValueError(f"rounds={rounds} passes no messages; use at least 1")
        if neighbourhood not in NEIGHBOURHOODS:
            raise ValueError(f"neighbourhood={neighbourhood!r} is unknown; choose one of {', '.join(NEIGHBOURHOODS)}")
        if probes and structure is None:
            raise ValueError(f"probes={probes} are inputs of one architecture's networks; pass structure=")
        known_encodings(encodings, self.ENCODINGS)
        self.structure, self.targets, self.order, self.weight_noise = structure, targets, order, weight_noise
        self.rounds, self.channels = rounds, channels
        self.scaling = InputScaling(structure)
        of_nodes, of_edges = (
            [name for name in encodings if name in kind.ENCODINGS] for kind in (NodeEncoding, EdgeEncoding)
        )
        self.node_encoding = NodeEncoding(structure, channels, of_nodes)
        self.edge_encoding = EdgeEncoding(structure, edge_channels, tuple(kernel_size), of_edges)
        self.forward_layers = nn.ModuleList(layer() for _ in range(rounds))
        self.backward_layers = nn.ModuleList(layer() for _ in range(rounds)) if backward else None
        self.neighbourhood = neighbourhood
        self.stranger = None if neighbourhood == "edges" else nn.Parameter(torch.randn(edge_channels))
        self.probes = None if structure is None or not probes else ProbeFeatures(structure, probes, channels)
        if targets is None:
            if structure is None:
                raise ValueError("new weights are those of one architecture; pass structure=")
            self.leave = WeightReadout(structure, channels, edge_channels, head_channels, out_channels)
            return
        self.pooled = PooledReadout(structure, channels)
        self.output = OutputReadout(structure, channels, scores)
        width = self.pooled.out_channels + self.output.out_channels
        self.spread = ScaleColumns(width, firm=0, gaps=False) if standardize else None
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, head_channels),
            nn.SiLU(),
            nn.Dropout(head_dropout),
            nn.Linear(head_channels, targets),
        )

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        built_for = "any architecture" if self.structure is None else self.structure.name
        result = "new weights" if self.targets is None else f"{self.targets} targets"
        return (
            f"{built_for} -> {result}, channels={self.channels}, rounds={self.rounds}, "
            f"order={self.order}, {size} parameters"
        )

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights, see `InputScaling`, and how far networks' readouts lie apart."""
        kept: list[Any] = []
        self.scaling.fit(kept_first(batches, kept, 0 if self.targets is None or self.spread is None else READ))
        if self.targets is not None and self.spread is not None:
            fit_spread(self, self.spread, [networks_of(item) for item in kept], self.features)

    def features(self, batch: Networks, view: Layered) -> Tensor:
        """What the prediction is made from, ``[B, features]``."""
        return self._read(self.embed(batch, view), view)

    def _read(self, by_layer: list[Tensor], view: Layered) -> Tensor:
        states = torch.cat(by_layer, 1)
        return torch.cat([self.pooled(states, view), self.output(states, view)], -1)

    def forward(self, batch: Networks) -> Tensor | WeightSpaceFeatures:
        """Predict, or give new weights."""
        return self.predict(batch, Layered(batch))

    def predict(self, batch: Networks, view: Layered) -> Tensor | WeightSpaceFeatures:
        """The same from a layered view of the batch."""
        by_layer, edges = self._embed(batch, view)
        if self.targets is None:
            new: WeightSpaceFeatures = self.leave(by_layer, edges, view)
            return new
        features = self._read(by_layer, view)
        out: Tensor = self.head(features if self.spread is None else self.spread(features))
        return out

    def embed(self, batch: Networks, view: Layered) -> list[Tensor]:
        """Final states of all neurons, per layer ``[B, n, channels]``."""
        return self._embed(batch, view)[0]

    def _embed(self, batch: Networks, view: Layered) -> tuple[list[Tensor], list[Tensor]]:
        """Final states of neurons by layer, and of edges by bundle."""
        check_structure(self.structure, view, type(self).__name__)
        nodes, weights = self.scaling(batch, view)
        if self.training and self.weight_noise:
            weights = weights * (1 + self.weight_noise * torch.randn_like(weights))
        edges = view.split_edges(self.edge_encoding(weights, kernel_size_of(batch), view))
        encoded = self.node_encoding(nodes, view)
        states = view.split(encoded if self.probes is None else encoded + self.probes(batch, view))
        if self.stranger is not None:
            known = len(view.bundles)
            view = view.with_pairs([neighbour_pairs(s, self.neighbourhood) for s in view.structures])
            edges += [self.stranger.repeat(view.rows, b.stop - b.start, 1) for b in view.bundles[known:]]
        for index, layer in enumerate(self.forward_layers):
            states, edges = self._pass(layer, states, edges, view, False)
            if self.backward_layers is not None:
                states, edges = self._pass(self.backward_layers[index], states, edges, view, True)
        return states, edges

    def _pass(
        self, layer: nn.Module, states: list[Tensor], edges: list[Tensor], view: Layered, reverse: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        assert isinstance(layer, EdgeLayer)
        run = layer.sweep if self.order == "sweep" else layer.parallel
        return run(states, edges, view, reverse=reverse)
