"""The graph network of the neural graphs paper on neuron graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from converters import Structure
from graphnets.layered import Layered, networks_of
from graphnets.message_passing.network import NeuronNetwork
from graphnets.message_passing.neural_graph import NeuralGraphLayer

__all__ = ["NeuralGraphGNN"]


class NeuralGraphGNN(NeuronNetwork):
    """Predicts properties of networks by modulated messages and several aggregators (NG-GNN, arXiv:2403.12143).

    `NeuronGNN` with `NeuralGraphLayer` for its layers. Neurons hear both ends of their edges in every layer, so a round
    is one layer. Encodings, readouts and head are the same.

    The prediction is invariant under every true permutation of neurons, and depends on no other network of the batch.

    Args:
        structure: networks that share its layout (activations may differ); None for any architecture, also mixed ones.
        targets: predicted numbers per network; None for new weights, which are equivariant.
        channels: of node states.
        edge_channels: of edge states.
        hidden_channels: of the messages' perceptron; ``channels`` if None.
        aggregators, scalers: of messages, see `NeuralGraphLayer`.
        backward: whether neurons also hear those that their own edges lead to.
        update_edges: whether layers give edges new states; the last one never does, as nobody would read them.
        rounds: layers.
        order: ``"parallel"`` as in the paper, or ``"sweep"`` (layer by layer, a round carries a signal through).
        scores: channels of `OutputReadout`.
        head_channels: width of the predicting network.
        dropout: in node updates; ``head_dropout`` in the predicting network.
        weight_noise: relative Gaussian noise on weights while training.
        encodings: of neurons and edges, see `NodeEncoding` and `EdgeEncoding`.
        kernel_size: the largest kernel, if no structure is given.
        probes: learned inputs on which the networks run, see `ProbeFeatures`; 0: the networks are never run.
        out_channels: of new weights.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
        channels: int = 32,
        edge_channels: int = 8,
        hidden_channels: int | None = None,
        aggregators: Sequence[str] = NeuralGraphLayer.AGGREGATORS,
        scalers: Sequence[str] = NeuralGraphLayer.SCALERS,
        backward: bool = True,
        update_edges: bool = True,
        rounds: int = 3,
        order: str = "parallel",
        scores: int = 64,
        head_channels: int = 128,
        dropout: float = 0.0,
        head_dropout: float = 0.1,
        weight_noise: float = 0.0,
        encodings: Sequence[str] = NeuronNetwork.ENCODINGS,
        kernel_size: Sequence[int] = (3, 3),
        probes: int = 0,
        out_channels: int = 1,
    ) -> None:
        layers = (
            NeuralGraphLayer(
                channels, edge_channels, hidden_channels, aggregators, scalers, backward, update_edges and read, dropout
            )
            for read in [True] * (rounds - 1) + [False]
        )
        super().__init__(
            structure,
            targets,
            lambda: next(layers),
            channels=channels,
            edge_channels=edge_channels,
            rounds=rounds,
            backward=False,
            order=order,
            scores=scores,
            head_channels=head_channels,
            head_dropout=head_dropout,
            weight_noise=weight_noise,
            encodings=encodings,
            kernel_size=kernel_size,
            probes=probes,
            out_channels=out_channels,
        )

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights, see `InputScaling`, and of degrees, see `NeuralGraphLayer`."""
        total, count = torch.zeros(2, 2, dtype=torch.float64)

        def measured() -> Iterator[Any]:
            for item in batches:
                view = Layered(networks_of(item))
                for side, degrees in enumerate(view.degrees):
                    degree = torch.cat(degrees).double()
                    total[side] += degree.log1p().sum().cpu() * view.rows
                    count[side] += (degree > 0).sum().cpu() * view.rows
                yield item

        super().fit_statistics(measured())
        for layer in self.forward_layers:
            assert isinstance(layer, NeuralGraphLayer)
            layer.set_log_degrees(*torch.where(count > 0, total / count.clamp_min(1), 1.0))
