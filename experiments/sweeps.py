"""The settings that a method may try: a list, or a grid from which all or some are taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from omegaconf import OmegaConf

__all__ = ["listed_settings"]


def listed_settings(tuning: Any, trials: int) -> list[dict[str, Any]]:
    """What each of the first ``trials`` settings changes; fewer where there are not as many.

    Args:
        tuning: a list of changes; or ``{"grid": {"dotted.key": [values]}}``, all combinations of these values, last key
            fastest. Of a grid with more than ``trials`` settings the first one and a random choice of others are taken
            (Bergstra and Bengio 2012, random search), always the same ones.
        trials: how many are asked for.

    Raises:
        ValueError: the grid is none, or has no values for a key.

    >>> listed_settings({"grid": {"model.blocks": [4, 6], "optim.warmup": [0.0, 0.1]}}, 4)[1]
    {'model': {'blocks': 4}, 'optim': {'warmup': 0.1}}
    >>> listed_settings([{}, {"model": {"blocks": 6}}], 1)
    [{}]
    """
    if not isinstance(tuning, Mapping):
        return list(tuning or [{}])[:trials]
    grid = tuning.get("grid")
    if set(tuning) != {"grid"} or not isinstance(grid, Mapping) or not grid:
        raise ValueError("is neither a list of changes nor {grid: {dotted.key: [values]}}")
    empty = [key for key, values in grid.items() if not isinstance(values, list) or not values]
    if empty:
        raise ValueError(f"grid.{empty[0]} is not a list of values")
    count = math.prod(len(values) for values in grid.values())
    others = np.random.default_rng(0).permutation(count - 1) + 1
    chosen = [0, *sorted(others[: trials - 1].tolist())]
    combinations = list(product(*grid.values()))
    return [_nested(dict(zip(grid, combinations[number], strict=True))) for number in chosen]


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    tree = OmegaConf.create()
    for key, value in changes.items():
        OmegaConf.update(tree, key, value)
    return OmegaConf.to_container(tree)  # type: ignore[return-value]
