"""Every error the converters raise, each saying where, what, why and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArchitectureError",
    "ConversionError",
    "ExampleInputError",
    "GraphTooLarge",
    "StructureMismatch",
    "UnsupportedOperation",
    "WeightsError",
]


class ConversionError(Exception):
    """Base class of everything that can go wrong between a network and its graph."""


class ExampleInputError(ConversionError):
    """No example input could be inferred, or the network does not run on the one given."""


class ArchitectureError(ConversionError):
    """Weights came without an architecture that could be built, or with one that would need foreign code."""


class GraphTooLarge(ConversionError):
    """Writing a graph out would take more edges than were asked for; the message estimates its memory."""


class StructureMismatch(ConversionError):
    """Weights, inputs or graphs do not belong to the structure they were used with."""


class WeightsError(ConversionError):
    """A file or a dictionary of weights is damaged, incomplete, not finite or not safe to read."""


class UnsupportedOperation(ConversionError):
    """``strict=True`` met operations without a rule; all places are listed at once.

    Args:
        network: class name of the network.
        places: ``(where, why)`` of every place that has no rule.
    """

    def __init__(self, network: str, places: Sequence[tuple[str, str]]) -> None:
        self.network, self.places = network, tuple(places)
        noun = "place has" if len(places) == 1 else "places have"
        lines = [f"cannot convert {network}; {len(places)} {noun} no rule:"]
        lines += [f"  {where}: {why}" for where, why in places]
        lines.append("Those axes are kept fixed when strict=False; pass rules={**DEFAULT_RULES, ...} to add a rule.")
        super().__init__("\n".join(lines))
