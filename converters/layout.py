"""Whether two structures hold their weights alike."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from converters.structure import Structure

__all__ = ["same_layout"]


def same_layout(a: Structure, b: Structure) -> bool:
    """Whether two structures differ in nothing but what their layers compute."""
    return a is b or _layout(a) == _layout(b)


@lru_cache(maxsize=256)
def _layout(structure: Structure) -> tuple[Any, ...]:
    layers = tuple((layer.kind, layer.axis, layer.slots) for layer in structure.layers)
    return layers, structure.blocks, structure.parameters, structure.groups, structure.extras
