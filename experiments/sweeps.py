"""The settings that a method may try: a list, or a grid from which all or some are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf

__all__ = ["listed_settings"]


def listed_settings(tuning: Sequence[Any] | None, trials: int) -> list[dict[str, Any]]:
    """What each of the first ``trials`` settings changes; fewer where there are not as many.

    Args:
        tuning: a list of changes; or ``[{"grid": {"dotted.key": [values]}}]``, all combinations of these values, last
            key fastest. Of a grid with more than ``trials`` settings the first one and a random choice of others are
            taken (Bergstra and Bengio 2012, random search), always the same ones.
        trials: how many are asked for.

    Raises:
        ValueError: a grid does not stand alone, is empty, or has no values for a key.

    >>> listed_settings([{"grid": {"model.blocks": [4, 6], "optim.warmup": [0.0, 0.1]}}], 4)[1]
    {'model': {'blocks': 4}, 'optim': {'warmup': 0.1}}
    >>> listed_settings([{}, {"model": {"blocks": 6}}], 1)
    [{}]
    """
    listed = list(tuning or [{}])
    if not any(isinstance(each, Mapping) and "grid" in each for each in listed):
        return listed[:trials]
    if len(listed) > 1 or set(listed[0]) != {"grid"}:
        raise ValueError("a grid stands alone, as in tuning: [{grid: {dotted.key: [values]}}]")
    grid = listed[0]["grid"]
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError("grid: names no keys, as in tuning: [{grid: {dotted.key: [values]}}]")
    empty = [key for key, values in grid.items() if not isinstance(values, list) or not values]
    if empty:
        raise ValueError(f"grid.{empty[0]}: is not a list of values")
    combinations = list(product(*grid.values()))
    others = np.random.default_rng(0).permutation(len(combinations) - 1) + 1
    chosen = [0, *sorted(others[: trials - 1].tolist())]
    return [_nested(dict(zip(grid, combinations[number], strict=True))) for number in chosen]


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    tree = OmegaConf.create()
    for key, value in changes.items():
        OmegaConf.update(tree, key, value)
    return cast(dict[str, Any], OmegaConf.to_container(tree))
