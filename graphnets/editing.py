"""Editing networks through their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch, WeightSpaceFeatures, execute, weight_space
from converters.to_state_dict import stacked_weights
from graphnets.layered import Networks, structures_of
from graphnets.statistics import take_statistics

__all__ = ["Editor"]


class Editor(nn.Module):
    r"""Changes networks by what a functional of their weights says (Zhou et al. 2023, arXiv:2302.14040, Section 3.4).

    .. math:: U'_{tk} = U_t + \gamma_{tk} F(U)_{tk}, \qquad
              y(x) = \tfrac1K \sum_k \mathrm{network}(x; U'_k)

    for every tensor t, with a learned step :math:`\gamma` for each. Everything is differentiable in the functional, so
    that a loss of what edited networks compute trains it. If the functional is equivariant, so is the editor: what the
    edited networks compute does not depend on the order of neurons.

    With ``parallel`` K > 1 the functional gives K changes, from as many channels of its last layer, and what the K
    edited networks compute is averaged: together they are one network that is K times as wide.

    Deviations from the paper: a step per tensor, as in the published configurations, where the text has a single one.

    Args:
        structure: of the networks.
        functional: makes the functional, called with ``structure``, ``targets=None`` and ``out_channels=parallel``: any
            model that gives new weights, such as `NFN`, `NFT`, `DWSNet`, `NeuronGNN` or `FlatMLP`.
        parallel: how many edited networks there are of each.
        step: the steps at first.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: the new weights, ``{name: [B, *parameter axes, parallel]}``

    >>> from functools import partial
    >>> from converters import to_graph
    >>> from graphnets.nfn import NFN
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)))
    >>> editor = Editor(graph.structure, partial(NFN, channels=[4]), parallel=2)
    >>> editor(graph)["0.weight"].shape
    torch.Size([1, 8, 2, 2])
    >>> editor.run(graph, torch.randn(5, 2)).shape
    torch.Size([1, 5, 3])
    """

    def __init__(
        self, structure: Structure, functional: Callable[..., nn.Module], parallel: int = 1, step: float = 0.01
    ) -> None:
        super().__init__()
        self.structure, self.parallel = structure, parallel
        self.functional = functional(structure=structure, targets=None, out_channels=parallel)
        self.names = [p.name for p in structure.parameters if not p.buffer and p.alias_of is None]
        self.steps = nn.Parameter(torch.full((len(self.names), parallel), step))

    def extra_repr(self) -> str:
        """The contract."""
        size = sum(p.numel() for p in self.parameters())
        return f"{self.structure.name} -> {self.parallel} x new weights, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Let the functional take the statistics of its inputs, if it has any."""
        take_statistics(self.functional, batches)

    def forward(self, batch: Networks) -> WeightSpaceFeatures:
        """Edit."""
        changes: WeightSpaceFeatures = self.functional(batch)
        weights = weight_space(batch, structures_of(batch)[0])
        steps = dict(zip(self.names, self.steps, strict=True))
        return WeightSpaceFeatures({name: weights[name] + steps[name] * changes[name] for name in self.names})

    def run(self, batch: Networks, *inputs: Tensor) -> Tensor:
        """What the edited networks compute on inputs (see `converters.execute`), averaged: ``[B, *output axes]``.

        Raises:
            StructureMismatch: networks of the batch differ in their activations.
        """
        structure, *others = {id(each): each for each in structures_of(batch)}.values()
        if any(other != structure for other in others):
            raise StructureMismatch("these networks share weights' shapes only; run those of one structure at a time")
        edited, before = self(batch), stacked_weights(batch, structure)
        stack = {}
        for parameter in structure.parameters:
            own = parameter.alias_of or parameter.name
            if own in edited:
                stack[parameter.name] = edited[own].movedim(-1, 1).flatten(0, 1)
            else:
                stack[parameter.name] = before[own].repeat_interleave(self.parallel, 0)
        outputs: Tensor = execute(stack, *inputs, structure=structure)
        averaged: Tensor = outputs.unflatten(0, (-1, self.parallel)).mean(1)
        return averaged
