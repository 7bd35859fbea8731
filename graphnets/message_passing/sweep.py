"""A graph network that carries learned input signals along the weights, in the networks' own order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import ACTIVATIONS, Block, Structure, StructureMismatch
from converters.neuron_graph import block_view
from graphnets.baselines.probing import POINTS, interpolate
from graphnets.baselines.questions import Questioner

__all__ = ["NeuronSweep", "SignalUpdate", "moments_width", "signal_ends", "signal_moments"]

LIMIT = 1e4
EPSILON = 1e-5


class NeuronSweep(Questioner):
    r"""Predicts properties of classifiers from their weights alone, by one linear sweep of messages per layer.

    Input neurons hold P learned signals each, one channel per signal. Layer by layer, in the networks' own order,

    .. math:: s_i = \sum_k \alpha_{a,k} \, f_k\Big(b_i + \sum_{j \to i} w_{ij} s_j\Big)

    with bias :math:`b_i` and fixed functions :math:`f_k` (identity, relu, tanh, a centred sigmoid, silu, one), whose
    mixture :math:`\alpha_a` is **learned** for every activation :math:`a`; the network itself is never run. What
    arrives at the outputs is read as by `graphnets.Prober`: every signal has a learned label, and how far the outputs
    agree with it, how sure they are, and a few statistics of the weights are what a perceptron predicts from.

    It is the message passing of `NeuronGNN` reduced to what a classifier's weights do to signals: one gate per weight,
    node updates that depend on the activation alone and do not mix channels (``update="perceptron"`` does). Kernels of
    convolutions count by their sums; scale, bias and running statistics of norm layers act on the signals; what else a
    layer computes is left out.

    With images as ``examples`` the mixture is a learned surrogate of running the network on them, and what it reads is
    close to what `graphnets.Prober` reads; with random signals and ``update="perceptron"`` it knows weights and nothing
    else.

    Args:
        structure: any of the networks; None takes inputs and classes from the first networks that `fit_statistics`
            sees. Networks need as many input neurons and as many outputs.
        targets: predicted numbers per network.
        update: ``"mixture"`` as above, or ``"perceptron"``: `SignalUpdate`, which knows no activation function but only
            a learned vector for each, and mixes signals. It serves best with 64 random signals and ``hidden_moments``.
        hidden_moments: whether the perceptron also hears the moments of the signals at hidden neurons, see
            `signal_moments`.
        options: ``probes`` (the signals), ``hidden``, ``temperatures``, ``dropout``, ``weight_noise``, ``shakes``,
            ``shake``, ``spread``, ``sharpness``, ``gain``, ``examples``: see `graphnets.Prober`. Examples whose numbers
            are as many as the input neurons are signals at the start, such as pixels of images.

    Raises:
        StructureMismatch: a network has no input neurons, several output layers, or other numbers of either.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``

    >>> from converters import to_graph
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> NeuronSweep(graph.structure, targets=1, probes=16).eval()(graph).shape
    torch.Size([1, 1])
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        update: str = "mixture",
        hidden_moments: bool = False,
        **options: Any,
    ) -> None:
        if update not in ("mixture", "perceptron"):
            raise ValueError(f"update={update!r} is unknown; choose 'mixture' or 'perceptron'")
        super().__init__(structure, targets, summary_columns=moments_width() if hidden_moments else 0, **options)
        self.mixtures: nn.Parameter | None = None
        self.perceptron: SignalUpdate | None = None
        if update == "mixture":
            self.mixtures = nn.Parameter(1 / FUNCTIONS + 0.3 * torch.randn(len(ACTIVATIONS), FUNCTIONS))
        else:
            self.perceptron = SignalUpdate(self.probes)

    def ends(self, structure: Structure) -> tuple[tuple[int, ...], int]:
        """See `signal_ends`."""
        return signal_ends(structure)

    def answers(self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor) -> Tensor:
        """Signals at the outputs, ``[B, probes, classes]``."""
        return self._states(weights, structure, probes)[-1].transpose(1, 2)

    def respond(
        self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Signals at the outputs, and with ``hidden_moments`` moments of those at the layers before."""
        states = self._states(weights, structure, probes)
        inner = [state for layer, state in zip(structure.layers, states, strict=True) if layer.kind != "input"][:-1]
        told = signal_moments(inner, states[-1]) if self.summary_columns else None
        return states[-1].transpose(1, 2), told

    def _states(self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor) -> list[Tensor]:
        networks = len(next(iter(weights.values())))
        states: list[Tensor] = []
        for number, layer in enumerate(structure.layers):
            if layer.kind == "input":
                states.append(probes.t().expand(networks, -1, -1))
                continue
            total = probes.new_full((networks, layer.size, len(probes)), 1.0 if layer.kind == "mul" else 0.0)
            for block in structure.blocks:
                if block.target == number:
                    heard = carried(weights, block, states[block.source], layer.size)
                    total = total * heard if layer.kind == "mul" else total + heard
            own = {slot: weights[name].reshape(networks, -1, 1) for slot, name in layer.slots}
            if "running_mean" in own:
                total = (total - own["running_mean"]) * torch.rsqrt(own["running_var"] + EPSILON)
            if "scale" in own:
                total = total * own["scale"]
            if "bias" in own:
                total = total + own["bias"]
            total = total.clamp(-LIMIT, LIMIT)
            states.append(total if layer.activation == "identity" else self._mixed(total, layer.activation))
        return states

    def _mixed(self, values: Tensor, activation: str) -> Tensor:
        if self.mixtures is None:
            assert self.perceptron is not None
            updated: Tensor = self.perceptron(values, ACTIVATIONS.index(activation))
            return updated
        share = self.mixtures[ACTIVATIONS.index(activation)].to(values.dtype)
        mixed: Tensor = (
            share[0] * values
            + share[1] * values.relu()
            + share[2] * values.tanh()
            + share[3] * (values / 2).tanh()
            + share[4] * functional.silu(values)
            + share[5]
        )
        return mixed


class SignalUpdate(nn.Module):
    r"""New signals of neurons by a perceptron that knows their activation as a learned vector :math:`t_a`.

    .. math:: s' = V\, \mathrm{LN}(s + \mathrm{MLP}[s, t_a])

    Args:
        signals: channels P.
        activation_channels: length of :math:`t_a`.

    Shapes:
        - values: ``[B, n, P]``; activation: index into ``ACTIVATIONS``; result: ``[B, n, P]``

    >>> SignalUpdate(4)(torch.randn(2, 3, 4), 0).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, signals: int, activation_channels: int = 8) -> None:
        super().__init__()
        self.activation = nn.Embedding(len(ACTIVATIONS), activation_channels)
        self.change = nn.Sequential(
            nn.Linear(signals + activation_channels, 2 * signals), nn.SiLU(), nn.Linear(2 * signals, signals)
        )
        self.norm = nn.LayerNorm(signals)
        self.value = nn.Linear(signals, signals, bias=False)
        nn.init.eye_(self.value.weight)

    def forward(self, values: Tensor, activation: int) -> Tensor:
        """Update."""
        kind = self.activation.weight[activation].expand(*values.shape[:-1], -1)
        out: Tensor = self.value(self.norm(values + self.change(torch.cat([values, kind], -1))))
        return out


def moments_width() -> int:
    """Columns of `signal_moments`."""
    return 4 * POINTS


def signal_moments(states: Sequence[Tensor], like: Tensor) -> Tensor:
    """How signals are spread over the neurons of layers: mean and deviation over signals of both moments over neurons.

    Interpolated at `POINTS` places, so that networks of any depth have as many columns; zeros without layers.

    Shapes:
        - states: per layer ``[B, n, P]``; like: ``[B, ...]``; result: ``[B, 4 * POINTS]``

    >>> signal_moments([torch.ones(2, 3, 4)], torch.ones(2)).shape[1] == moments_width()
    True
    """
    if not states:
        return like.new_zeros(len(like), moments_width())
    layers = []
    for state in states:
        mean, spread = state.mean(1), (state.var(1, unbiased=False) + EPSILON).sqrt()
        layers.append(torch.stack([m for v in (mean, spread) for m in (v.mean(1), _deviation(v))], 1))
    return interpolate(torch.stack(layers, 1))


def _deviation(values: Tensor) -> Tensor:
    return (values.var(1, unbiased=False) + EPSILON).sqrt()


FUNCTIONS = 6


def carried(weights: Mapping[str, Tensor], block: Block, signals: Tensor, size: int) -> Tensor:
    """What a block's edges bring to its target layer of ``size`` neurons: ``[B, n, P]`` to ``[B, size, P]``.

    Kernels count by their sums, edges without weights by one; where every source meets every target without a weight,
    what arrives is the mean.
    """
    if block.pattern == "diagonal":
        moved = signals
        if block.sources:
            moved = signals.index_select(1, torch.tensor(block.sources.values, device=signals.device))
        if block.parameter is not None:
            moved = moved * block_view(weights[block.parameter], block).sum(-1).unsqueeze(-1)
        if not block.targets:
            return moved
        targets = torch.tensor(block.targets.values, device=signals.device)
        return moved.new_zeros(len(moved), size, moved.shape[2]).index_add(1, targets, moved)
    if block.parameter is None:
        return signals.mean(1, keepdim=True).expand(-1, size, -1)
    matrix = block_view(weights[block.parameter], block).sum(-1)
    cells = signals if block.pattern == "dense" else signals.unflatten(1, (block.groups, -1))
    brought: Tensor = matrix @ cells
    return brought if block.pattern == "dense" else brought.flatten(1, 2)


@lru_cache(maxsize=256)
def signal_ends(structure: Structure) -> tuple[tuple[int, ...], int]:
    """How many neurons take the inputs, as a shape, and how many give the outputs.

    Raises:
        StructureMismatch: the inputs have no neurons, or there are several input or output layers.
    """
    left = {block.source for block in structure.blocks}
    inputs = [layer for layer in structure.layers if layer.kind == "input"]
    last = len(structure.layers) - 1
    outputs = [number for number, layer in enumerate(structure.layers) if number not in left and layer.kind != "input"]
    if len(inputs) != 1 or outputs != [last] or structure.layers[last].size < 2:
        raise StructureMismatch(
            f"{structure.name} cannot be swept: it needs one layer of input neurons and one last layer of at least two "
            f"outputs, but has {len(inputs)} and layers {outputs} that nothing leaves; use NeuronGNN"
        )
    return (inputs[0].size,), structure.layers[last].size
