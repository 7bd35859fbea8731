"""WeightNet: attention within layers, then between layers, on tokens of neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import LAYER_KINDS, Structure
from graphnets.layered import Layered, Networks
from graphnets.message_passing.encodings import check_structure
from graphnets.weightnet.attention import AttentionBlock, CrossLayerAttention, IntraLayerAttention
from graphnets.weightnet.maps import AttentionMaps, Recorded
from graphnets.weightnet.order import POSITIONS
from graphnets.weightnet.sequences import SequenceTokens
from graphnets.weightnet.tokens import NeuronTokens, TokenSets

__all__ = ["WeightNet"]

TOKENS = ("invariant", "paper", "sorted")
POOLINGS = ("cls", "mean", "max", "moments")
ENCODINGS = ("segment", "layer_type", "depth")
MAX_SEGMENTS = 64


class WeightNet(nn.Module):
    """Predicts properties of networks by attention over their neurons (papers/weightnet).

    Tokens of neurons attend to the tokens of their own layer; each layer is then pooled to one token, layers attend to
    each other, and their pooled result goes to one head per property. Input neurons have no weights and no token.

    What a token is decides whether the prediction is invariant under permutations of neurons:

    - ``"invariant"`` (`NeuronTokens`), a deviation from the paper: incoming weights are combined with their source
      neurons, and there are no positions. Truly invariant.
    - ``"paper"`` (`SequenceTokens`): incoming weights in the stored order of their sources, projected, with positions
      in the layer and in the sequence. The paper calls the result invariant, but only its attention is.
    - ``"sorted"`` (`SequenceTokens`): the same after the neurons were put in canonical order, which the paper names as
      an alternative. Invariant, but discontinuous where the order changes.

    Args:
        structure: networks that share its layout (activations may differ); None for any architecture, also mixed ones.
        targets: predicted numbers per network, each with a head of its own.
        channels: the paper's d_model.
        intra_heads, cross_heads, intra_blocks, cross_blocks: of the attention within and between layers.
        hidden: width of the feed-forward networks; twice ``channels`` if None.
        pooling: ``"cls"`` (a learned token joins each set), ``"mean"``, ``"max"``, or ``"moments"`` (a linear map of
            mean and standard deviation), of neurons and of layers.
        encodings: which of ``"segment"`` (the layer's number), ``"layer_type"``, ``"depth"`` (relative) to add to
            tokens of neurons and layers.
        pre_norm: see `AttentionBlock`; the paper is post-norm.
        dropout: in the attention blocks and heads.
        weight_noise: relative Gaussian noise on weights while training.
        edge_channels, gates, kernel_size: of invariant tokens, see `NeuronTokens`.
        tokens: ``"invariant"``, ``"paper"`` or ``"sorted"``.
        positions: which of ``"layer"`` (place in the layer), ``"sequence"`` (place among all tokens) to add to tokens;
            None takes both, or none with invariant tokens, whose invariance any position ends.
        max_inputs: of the paper's and of sorted tokens, see `SequenceTokens`.

    Raises:
        ValueError: an option is unknown, or heads do not divide the channels.
        StructureMismatch: networks of another layout than the model was built for.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        channels: int = 64,
        intra_heads: int = 2,
        cross_heads: int = 2,
        intra_blocks: int = 1,
        cross_blocks: int = 1,
        hidden: int | None = None,
        pooling: str = "mean",
        encodings: Sequence[str] = ENCODINGS,
        pre_norm: bool = False,
        dropout: float = 0.0,
        weight_noise: float = 0.0,
        edge_channels: int = 4,
        gates: int = 1,
        kernel_size: Sequence[int] = (3, 3),
        tokens: str = "invariant",
        positions: Sequence[str] | None = None,
        max_inputs: int | None = None,
    ) -> None:
        super().__init__()
        if tokens not in TOKENS:
            raise ValueError(f"tokens={tokens!r} is unknown; choose one of {', '.join(TOKENS)}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
        unknown = sorted(set(encodings) - set(ENCODINGS))
        if unknown:
            raise ValueError(f"unknown encodings {', '.join(unknown)}; known are {', '.join(ENCODINGS)}")
        self.structure, self.targets, self.channels, self.pooling = structure, targets, channels, pooling
        self.encodings = tuple(encodings)
        known = ["activation", *(["layer_type"] if "layer_type" in encodings else [])]
        known += ["attributes"] if "depth" in encodings else []
        self.tokens: NeuronTokens | SequenceTokens
        if tokens == "invariant":
            known.insert(1, "position")
            self.tokens = NeuronTokens(
                structure, channels, edge_channels, gates, known, tuple(kernel_size), weight_noise, positions or ()
            )
        else:
            positions = POSITIONS if positions is None else positions
            self.tokens = SequenceTokens(
                structure, channels, known, positions, tokens == "sorted", max_inputs, weight_noise
            )
        self.intra = nn.ModuleList(
            IntraLayerAttention(channels, intra_heads, hidden, dropout, pre_norm) for _ in range(intra_blocks)
        )
        self.cross = nn.ModuleList(
            CrossLayerAttention(channels, cross_heads, hidden, dropout, pre_norm) for _ in range(cross_blocks)
        )
        if "segment" in encodings:
            self.segment = nn.Embedding(MAX_SEGMENTS, channels)
        if "layer_type" in encodings:
            self.layer_type = nn.Embedding(len(LAYER_KINDS), channels)
        if "depth" in encodings:
            self.depth = nn.Linear(6, channels)
        if pooling == "cls":
            self.neuron_cls = nn.Parameter(torch.randn(channels) / channels**0.5)
            self.layer_cls = nn.Parameter(torch.randn(channels) / channels**0.5)
        if pooling == "moments":
            self.neuron_moments = nn.Linear(2 * channels, channels)
            self.layer_moments = nn.Linear(2 * channels, channels)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Dropout(dropout), nn.Linear(channels, 1))
            for _ in range(targets)
        )

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        built_for = "any architecture" if self.structure is None else self.structure.name
        return (
            f"{built_for} -> {self.targets} targets, channels={self.channels}, pooling={self.pooling}, "
            f"encodings={self.encodings}, {size} parameters"
        )

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of weights (see `InputScaling`) and, without a structure, the paper tokens' width."""
        self.tokens.fit_statistics(batches)

    def forward(self, batch: Networks) -> Tensor:
        """Predict."""
        return self.predict(batch, Layered(batch))

    def predict(self, batch: Networks, view: Layered) -> Tensor:
        """Predict from a layered view of the batch."""
        return self._predict(batch, view, None)

    @torch.no_grad()
    def attention_maps(self, batch: Networks) -> AttentionMaps:
        """Who attends to whom, from one forward pass over the batch; see `AttentionMaps` for shapes.

        In the mode the model is in: call ``eval()`` first, or weight noise and dropout are part of it.
        """
        view, recorded = Layered(batch), Recorded()
        predictions = self._predict(batch, view, recorded)
        return recorded.sorted_out(view, predictions, cls=self.pooling == "cls")

    def _predict(self, batch: Networks, view: Layered, recorded: Recorded | None) -> Tensor:
        check_structure(self.structure, view, type(self).__name__)
        neurons = torch.cat(self.tokens(batch, view), 1).flatten(0, 1)
        lengths = [len(structure.layers) for structure in view.structures]
        layers = neurons.new_zeros(view.graphs, view.layers, self.channels)
        present = torch.zeros(view.graphs, view.layers, dtype=torch.bool, device=view.device)
        encoding = self._encode(view, lengths, neurons)
        for sets in TokenSets.of(view, skip=[0]):
            tokens = neurons[sets.index] + encoding[sets.owner, sets.layers].unsqueeze(1)
            found = None if recorded is None else recorded.neurons(sets)
            pooled = self._pool(tokens, sets.mask, self.intra, "neuron", found)
            layers = layers.index_put((sets.owner, sets.layers), pooled)
            present[sets.owner, sets.layers] = True
        used = slice(1, None)
        mask = None if view.dense else present[:, used]
        found = None if recorded is None else recorded.cross
        summary = self._pool((layers + encoding)[:, used], mask, self.cross, "layer", found)
        return torch.cat([head(summary) for head in self.heads], 1)

    def _pool(
        self, tokens: Tensor, mask: Tensor | None, blocks: nn.ModuleList, what: str, found: list[Tensor] | None
    ) -> Tensor:
        """Attention blocks over sets ``[S, n, C]`` and one token of each, ``[S, C]``; ``found`` takes the maps."""
        if self.pooling == "cls":
            cls: Tensor = getattr(self, f"{what}_cls")
            tokens = torch.cat([cls.expand(len(tokens), 1, -1), tokens], 1)
            mask = None if mask is None else torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        for block in blocks:
            assert isinstance(block, AttentionBlock)
            if found is not None:
                found.append(block.weights_in(tokens, mask))
            tokens = block(tokens, mask)
        if self.pooling == "cls":
            return tokens[:, 0]
        kept = torch.ones_like(tokens[..., :1], dtype=torch.bool) if mask is None else mask.unsqueeze(-1)
        if self.pooling == "max":
            return tokens.masked_fill(~kept, -torch.inf).amax(1)
        count = kept.sum(1)
        mean = torch.where(kept, tokens, 0).sum(1) / count
        if self.pooling == "mean":
            return mean
        centred = torch.where(kept, tokens - mean.unsqueeze(1), 0)
        deviation = (centred.square().sum(1) / count + 1e-5).sqrt()
        moments: nn.Linear = getattr(self, f"{what}_moments")
        out: Tensor = moments(torch.cat([mean, deviation], -1))
        return out

    def _encode(self, view: Layered, lengths: list[int], like: Tensor) -> Tensor:
        """What layers are, ``[graphs, layers, channels]``."""
        known = like.new_zeros(len(view.structures), view.layers, self.channels)
        number = torch.arange(view.layers, device=like.device)
        if "segment" in self.encodings:
            known = known + self.segment(number.clamp_max(MAX_SEGMENTS - 1))
        if "layer_type" in self.encodings:
            kinds = torch.zeros(len(view.structures), view.layers, dtype=torch.int64)
            for row, structure in enumerate(view.structures):
                kinds[row, : lengths[row]] = torch.tensor([LAYER_KINDS.index(layer.kind) for layer in structure.layers])
            known = known + self.layer_type(kinds.to(like.device))
        if "depth" in self.encodings:
            last = torch.tensor([max(n - 1, 1) for n in lengths], device=like.device)
            depth = (number / last.unsqueeze(1)).to(like.dtype).unsqueeze(-1)
            waves = [wave(depth * torch.pi * 2**k) for k in range(3) for wave in (torch.sin, torch.cos)]
            known = known + self.depth(torch.cat(waves, -1))
        return known.index_select(0, view.which)
