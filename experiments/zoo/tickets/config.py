"""The configuration of a zoo of winning tickets: that of its dense networks, and how much is pruned."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.zoo.config import ZooConfig

__all__ = ["FAMILIES", "KIND", "TicketConfig"]

KIND = "tickets"
FAMILIES = ("mlp", "cnn")


@dataclass(frozen=True)
class TicketConfig(ZooConfig):
    """Which networks are trained, and how many of their weights are pruned. Made by `TicketConfig.parse`.

    Args:
        kind: always ``"tickets"``.
        sparsity: the share of parameters that a ticket does without.

    All other arguments as in `ZooConfig`; ``properties`` has no effect.
    """

    kind: str = KIND
    sparsity: float = 0.95

    def faults(self) -> list[str]:
        """What is wrong with the values, one line per fault."""
        faults = super().faults()
        if not 0 < self.sparsity < 1:
            faults.append(f"sparsity: {self.sparsity!r} does not lie between 0 and 1")
        if self.architecture.get("family") not in FAMILIES:
            faults.append(f"architecture.family: tickets are drawn of one of {', '.join(FAMILIES)}")
        if self.checkpoints != 1:
            faults.append(f"checkpoints: {self.checkpoints!r} is not 1; a ticket belongs to an initialisation")
        return faults
