"""Which networks a predictor learns from, is chosen on, and is tested on: fixed once, by run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

__all__ = ["split_runs"]


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
