"""A graph network that carries learned input signals along the weights, in the networks' own order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import ACTIVATIONS, Block, Structure, StructureMismatch
from converters.neuron_graph import block_view
from graphnets.baselines.questions import Questioner

__all__ = ["NeuronSweep", "signal_ends"]

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
    no mixing of channels, node updates that depend on the activation alone. Kernels of convolutions count by their
    sums; scale, bias and running statistics of norm layers act on the signals; what else a layer computes is left out.

    Args:
        structure: any of the networks; None takes inputs and classes from the first networks that `fit_statistics`
            sees. Networks need as many input neurons and as many outputs.
        targets: predicted numbers per network.
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

    def __init__(self, structure: Structure | None, targets: int, **options: Any) -> None:
        super().__init__(structure, targets, **options)
        self.mixtures = nn.Parameter(1 / FUNCTIONS + 0.3 * torch.randn(len(ACTIVATIONS), FUNCTIONS))

    def ends(self, structure: Structure) -> tuple[tuple[int, ...], int]:
        """See `signal_ends`."""
        return signal_ends(structure)

    def answers(self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor) -> Tensor:
        """Signals at the outputs, ``[B, probes, classes]``."""
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
        return states[-1].transpose(1, 2)

    def _mixed(self, values: Tensor, activation: str) -> Tensor:
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
