"""A graph neural network on neuron graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.layered import Layered, Networks
from graphnets.message_passing.encodings import (
    EdgeEncoding,
    InputScaling,
    NodeEncoding,
    check_structure,
    kernel_size_of,
)
from graphnets.message_passing.layer import NeuronMessagePassing
from graphnets.message_passing.readout import OutputReadout, PooledReadout

__all__ = ["NeuronGNN"]


class NeuronGNN(nn.Module):
    """Predicts properties of networks by message passing along their weights.

    A round is one message passing layer forward along the edges and, with ``backward``, another one against them.
    With ``order="sweep"`` each runs layer by layer in the networks' own order, so that one round carries a signal from
    the inputs to the outputs, whatever the depth; ``"parallel"`` updates all neurons at once. The gated messages
    (see `NeuronMessagePassing`) are linear in the weights, so what reaches the output neurons can follow what the
    network itself does to its inputs, to which learned position encodings give distinct signals.

    The prediction is invariant under every true permutation of neurons, and depends on no other network of the batch.

    Args:
        structure: networks that share its layout (activations may differ); None for any architecture, also mixed ones.
        targets: predicted numbers per network.
        channels: of node states.
        edge_channels: of edge states.
        hidden_channels: of the messages' hidden layer; 0 leaves only the gated ones.
        gates: per message passing layer.
        update_edges: whether message passing gives edges new states.
        rounds: message passing layers per direction.
        backward: whether rounds also run against the edges.
        order: ``"sweep"`` or ``"parallel"``.
        aggr: ``"mean"`` or ``"sum"``.
        scores: channels of `OutputReadout`.
        head_channels: width of the predicting network.
        dropout: in node updates; ``head_dropout`` in the predicting network.
        weight_noise: relative Gaussian noise on weights while training.
        encodings: of neurons, see `NodeEncoding`.
        kernel_size: the largest kernel, if no structure is given.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        channels: int = 32,
        edge_channels: int = 4,
        hidden_channels: int = 0,
        gates: int = 1,
        update_edges: bool = False,
        rounds: int = 1,
        backward: bool = True,
        order: str = "sweep",
        aggr: str = "mean",
        scores: int = 64,
        head_channels: int = 128,
        dropout: float = 0.0,
        head_dropout: float = 0.1,
        weight_noise: float = 0.0,
        encodings: Sequence[str] = NodeEncoding.ENCODINGS,
        kernel_size: Sequence[int] = (3, 3),
    ) -> None:
        super().__init__()
        if order not in ("sweep", "parallel"):
            raise ValueError(f"order={order!r} is unknown; choose 'sweep' or 'parallel'")
        if rounds < 1:
            raise ValueError(f"rounds={rounds} passes no messages; use at least 1")
        self.structure, self.targets, self.order, self.weight_noise = structure, targets, order, weight_noise
        self.rounds, self.channels = rounds, channels
        self.scaling = InputScaling(structure)
        self.node_encoding = NodeEncoding(structure, channels, encodings)
        self.edge_encoding = EdgeEncoding(structure, edge_channels, tuple(kernel_size))

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                NeuronMessagePassing(
                    channels,
                    edge_channels,
                    hidden_channels,
                    aggr,
                    update_edges=update_edges,
                    gates=gates,
                    dropout=dropout,
                )
                for _ in range(rounds)
            )

        self.forward_layers = layers()
        self.backward_layers = layers() if backward else None
        self.pooled = PooledReadout(structure, channels)
        self.output = OutputReadout(structure, channels, scores)
        width = self.pooled.out_channels + self.output.out_channels
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
        return (
            f"{built_for} -> {self.targets} targets, channels={self.channels}, rounds={self.rounds}, "
            f"order={self.order}, {size} parameters"
        )

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights; see `InputScaling`."""
        self.scaling.fit(batches)

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        return self.predict(batch, Layered(batch))

    def predict(self, batch: Networks, view: Layered) -> Tensor:
        """Predict from a layered view of the batch."""
        states = torch.cat(self.embed(batch, view), 1)
        out: Tensor = self.head(torch.cat([self.pooled(states, view), self.output(states, view)], -1))
        return out

    def embed(self, batch: Networks, view: Layered) -> list[Tensor]:
        """Final states of all neurons, per layer ``[B, n, channels]``."""
        check_structure(self.structure, view, type(self).__name__)
        nodes, weights = self.scaling(batch, view)
        if self.training and self.weight_noise:
            weights = weights * (1 + self.weight_noise * torch.randn_like(weights))
        edges = view.split_edges(self.edge_encoding(weights, kernel_size_of(batch), view))
        states = view.split(self.node_encoding(nodes, view))
        for index, layer in enumerate(self.forward_layers):
            states, edges = self._pass(layer, states, edges, view, False)
            if self.backward_layers is not None:
                states, edges = self._pass(self.backward_layers[index], states, edges, view, True)
        return states

    def _pass(
        self, layer: nn.Module, states: list[Tensor], edges: list[Tensor], view: Layered, reverse: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        assert isinstance(layer, NeuronMessagePassing)
        run = layer.sweep if self.order == "sweep" else layer.parallel
        return run(states, edges, view, reverse=reverse)
