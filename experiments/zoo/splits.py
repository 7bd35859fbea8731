"""Which networks a predictor learns from, is chosen on, and is tested on: fixed once, by run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from experiments.zoo.errors import ZooError

__all__ = ["UNSEEN", "split_runs", "unseen"]

UNSEEN = ("topology", "family", "depth", "width", "activation")
"""Columns of the records whose values a predictor may be kept from seeing."""


def split_runs(runs: Iterable[int], shares: Mapping[str, float], seed: int) -> dict[int, str]:
    """Assigns whole training runs to splits, so checkpoints of one run never lie on both sides.

    Runs are ordered by a hash of seed and run number, and the order is cut by the shares: the numbers are
    exact, and the same on every machine.

    >>> splits = split_runs(range(20), {"train": 0.7, "val": 0.15, "test": 0.15}, seed=0)
    >>> sorted(splits.values()).count("train"), sorted(splits.values()).count("test")
    (14, 3)
    """
    distinct = sorted(set(runs), key=lambda run: (hashlib.sha256(f"{seed}:{run}".encode()).digest(), run))
    assigned: dict[int, str] = {}
    upto = 0.0
    start = 0
    for name, share in shares.items():
        upto += share
        stop = round(upto * len(distinct))
        assigned.update(dict.fromkeys(distinct[start:stop], name))
        start = stop
    return assigned


def unseen(
    records: pd.DataFrame,
    by: str,
    held_out: Iterable[Any] | Callable[[Any], bool] | None = None,
    *,
    share: float = 0.25,
    validation: float = 0.15,
    seed: int = 0,
) -> dict[int, str]:
    """Splits in which the test networks have a value of ``by`` that no other network has.

    Give the result to `Zoo.resplit`. The networks that are left are split into ``train`` and ``val`` by run.

    Args:
        records: of a zoo.
        by: ``topology`` (unseen architectures), ``family``, ``depth``, ``width``, ``activation``, or any other
            column.
        held_out: the values to hold out, or a function that says so of a value; None draws ``share`` of the
            distinct values by ``seed``.
        share: of the distinct values, at least one.
        validation: share of validation runs among those that are not held out.
        seed: of both draws.

    Returns:
        The split of every network by its id.

    Raises:
        ZooError: there is no such column, a value does not occur, or one side would be empty.

    >>> zoo = pd.DataFrame({"id": range(6), "run": range(6), "depth": [1, 1, 2, 2, 3, 3]})
    >>> unseen(zoo, "depth", [3], validation=0.25)
    {0: 'train', 1: 'val', 2: 'train', 3: 'train', 4: 'test', 5: 'test'}
    """
    if by not in records.columns:
        raise ZooError(f"unseen: the records have no column {by!r}; usual ones are {', '.join(UNSEEN)}")
    values = sorted(records[by].unique().tolist())
    if held_out is None:
        ordered = sorted(values, key=lambda value: hashlib.sha256(f"{seed}:{by}:{value}".encode()).digest())
        chosen = set(ordered[: max(1, math.ceil(share * len(values) - 1e-9))])
    elif callable(held_out):
        chosen = {value for value in values if held_out(value)}
    else:
        chosen = set(held_out)
    absent = [repr(value) for value in chosen if value not in values]
    if absent:
        raise ZooError(f"unseen: no network has {by} {', '.join(absent)}; there are {', '.join(map(str, values))}")
    if not 0 < len(chosen) < len(values):
        raise ZooError(
            f"unseen: {len(chosen)} of {len(values)} values of {by!r} are held out; "
            "networks must be left on both sides, so hold out some values, but not all"
        )
    test = records[by].isin(chosen)
    if set(records.loc[test, "run"]) & set(records.loc[~test, "run"]):
        raise ZooError(f"unseen: some runs have networks with held-out and with other values of {by!r}")
    rest = split_runs(records.loc[~test, "run"], {"train": 1 - validation, "val": validation}, seed)
    return {
        int(row): "test" if out else rest[run]
        for row, run, out in zip(records["id"], records["run"], test, strict=True)
    }
