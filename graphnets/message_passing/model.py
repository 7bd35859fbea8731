"""A graph neural network on neuron graphs."""

from __future__ import annotations

from collections.abc import Sequence

from converters import Structure
from graphnets.message_passing.layer import NeuronMessagePassing
from graphnets.message_passing.network import NeuronNetwork

__all__ = ["NeuronGNN"]


class NeuronGNN(NeuronNetwork):
    """Predicts properties of networks by message passing along their weights.

    A round is one message passing layer forward along the edges and, with ``backward``, another one against them.
    With ``order="sweep"`` each runs layer by layer in the networks' own order, so that one round carries a signal from
    the inputs to the outputs, whatever the depth; ``"parallel"`` updates all neurons at once. The gated messages
    (see `NeuronMessagePassing`) are linear in the weights, so what reaches the output neurons can follow what the
    network itself does to its inputs, to which learned position encodings give distinct signals.

    The prediction is invariant under every true permutation of neurons, and depends on no other network of the batch.

    Args:
        structure: networks that share its layout (activations may differ); None for any architecture, also mixed ones.
        targets: predicted numbers per network; None for new weights, which are equivariant.
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
        encodings: of neurons and edges, see `NodeEncoding` and `EdgeEncoding`.
        kernel_size: the largest kernel, if no structure is given.
        probes: learned inputs on which the networks run, see `ProbeFeatures`; 0: the networks are never run.
        out_channels: of new weights.
        standardize: whether what the predicting network reads is centred and scaled by what `fit_statistics` saw;
            helps where networks differ little, as those of one architecture with wide layers do.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, or ``{name: [B, *parameter axes, out_channels]}``
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None,
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
        encodings: Sequence[str] = NeuronNetwork.ENCODINGS,
        kernel_size: Sequence[int] = (3, 3),
        probes: int = 0,
        out_channels: int = 1,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            structure,
            targets,
            lambda: NeuronMessagePassing(
                channels, edge_channels, hidden_channels, aggr, update_edges=update_edges, gates=gates, dropout=dropout
            ),
            channels=channels,
            edge_channels=edge_channels,
            rounds=rounds,
            backward=backward,
            order=order,
            scores=scores,
            head_channels=head_channels,
            head_dropout=head_dropout,
            weight_noise=weight_noise,
            encodings=encodings,
            kernel_size=kernel_size,
            probes=probes,
            out_channels=out_channels,
            standardize=standardize,
        )
