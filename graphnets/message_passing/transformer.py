"""A transformer on neuron graphs."""

from __future__ import annotations

from collections.abc import Sequence

from converters import Structure
from graphnets.message_passing.attention import NeuronAttention
from graphnets.message_passing.network import NeuronNetwork

__all__ = ["NeuronTransformer"]


class NeuronTransformer(NeuronNetwork):
    """Predicts properties of networks by attention along their weights (Kofinas et al. 2024, arXiv:2403.12143).

    `NeuronGNN` with `NeuronAttention` for its layers: each neuron weighs what arrives at it by queries and keys which
    see the weights, beside adding it up. Encodings, readouts and head are the same.

    The prediction is invariant under every true permutation of neurons, and depends on no other network of the batch.

    Args:
        structure: networks that share its layout (activations may differ); None for any architecture, also mixed ones.
        targets: predicted numbers per network; None for new weights, which are equivariant.
        channels: of node states.
        edge_channels: of edge states.
        heads: of the attention.
        gates: of every layer's linear messages; 0 leaves attention alone.
        update_edges: whether edges get new states.
        rounds: attention layers per direction.
        backward: whether rounds also run against the edges.
        order: ``"sweep"`` (layer by layer, a round carries a signal through the network) or ``"parallel"``.
        scores: channels of `OutputReadout`.
        head_channels: width of the predicting network.
        dropout: in node updates; ``head_dropout`` in the predicting network.
        weight_noise: relative Gaussian noise on weights while training.
        encodings: of neurons and edges, see `NodeEncoding` and `EdgeEncoding`.
        kernel_size: the largest kernel, if no structure is given.
        neighbourhood: what attention reaches: ``"edges"`` along weights only; ``"layer"`` the neurons of the same layer
            as well; ``"adjacent"`` all neurons of layers that any weight joins to one's own.
        probes: learned inputs on which the networks run, see `ProbeFeatures`; 0: the networks are never run.
        out_channels: of new weights.
        standardize: whether readouts are centred and scaled, see `NeuronGNN`.

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
        heads: int = 4,
        gates: int = 1,
        update_edges: bool = False,
        rounds: int = 1,
        backward: bool = True,
        order: str = "sweep",
        scores: int = 64,
        head_channels: int = 128,
        dropout: float = 0.0,
        head_dropout: float = 0.1,
        weight_noise: float = 0.0,
        encodings: Sequence[str] = NeuronNetwork.ENCODINGS,
        kernel_size: Sequence[int] = (3, 3),
        neighbourhood: str = "edges",
        probes: int = 0,
        out_channels: int = 1,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            structure,
            targets,
            lambda: NeuronAttention(channels, edge_channels, heads, update_edges, dropout, gates),
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
            neighbourhood=neighbourhood,
            probes=probes,
            out_channels=out_channels,
            standardize=standardize,
        )
        self.heads, self.gates = heads, gates

    def extra_repr(self) -> str:
        """The contract and the size."""
        return f"{super().extra_repr()}, heads={self.heads}, gates={self.gates}, neighbourhood={self.neighbourhood}"
