"""Tickets that nothing is learned for: everything, what pruning found, chance, and the largest initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.nfn.tickets import Tickets, in_a_row
from graphnets.weight_input import WeightInput

__all__ = ["TICKETS", "GivenTicket"]


class GivenTicket(nn.Module):
    """Masks by rule, behind the contract of `TicketVAE`, for comparison (Zhou et al. 2023, arXiv:2302.14040, Table 5).

    A score that is infinite says for certain that a weight stays or goes, however many others do.

    Args:
        structure: what the networks share.
        targets: numbers per network in the result, weights + 1; not needed.
        kind: ``"dense"``: all weights stay; ``"imp"``: the mask that comes with the initialisation, from pruning the
            trained network; ``"random"``: each stays with the probability ``kept``, as in the paper;
            ``"magnitude"``: the initial weight's size, in deviations of its tensor, is its score.
        kept: for ``"random"``, the share of weights that stay.

    Shapes:
        - tickets: of B networks
        - result: ``[B, weights + 1]`` as of `TicketVAE`, the divergence 0

    Raises:
        ValueError: the kind is unknown, or there is no structure.
    """

    def __init__(self, structure: Structure | None, targets: int | None = None, kind: str = "imp", kept: float = 0.05):
        super().__init__()
        if kind not in TICKETS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(TICKETS)}")
        self.kind, self.kept = kind, kept
        self.read = WeightInput(structure)
        self.chance = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def extra_repr(self) -> str:
        """The rule."""
        return f"{self.read.structure.name}, {self.kind}"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of initial weights."""
        self.read.fit_statistics(batches)

    def fit(self, batches: Iterable[Any], targets: Tensor) -> None:
        """There is nothing to fit."""

    def forward(self, tickets: Tickets) -> Tensor:
        """Scores by the rule."""
        scores = TICKETS[self.kind](self, tickets)
        return torch.cat([scores, scores.new_zeros(len(scores), 1)], 1)

    def _sizes(self, tickets: Tickets) -> Tensor:
        """Of the initial weights in deviations of their tensors, ``[B, weights]``."""
        return in_a_row(self.read(tickets.networks), self.read.structure).abs()

    def _drawn(self, tickets: Tickets) -> Tensor:
        """Which weights stay by chance, ``[B, weights]``; new draws at every call."""
        like = self._sizes(tickets)
        return torch.rand(like.shape, generator=self.chance).to(like) < self.kept


def _certain(stay: Tensor) -> Tensor:
    return torch.where(stay.bool(), float("inf"), float("-inf"))


TICKETS: dict[str, Callable[[GivenTicket, Tickets], Tensor]] = {
    "dense": lambda model, tickets: _certain(torch.ones_like(model._sizes(tickets))),
    "imp": lambda model, tickets: _certain(in_a_row(tickets.masks, model.read.structure)),
    "random": lambda model, tickets: _certain(model._drawn(tickets)),
    "magnitude": lambda model, tickets: model._sizes(tickets),
}
"""Kind to rule."""
