"""How the benchmarks measure: CPU time of one process, interleaved, medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["interleaved"]


def interleaved(work: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each piece of work; every round runs all of them, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for i in range(rounds + 1):
        for name, function in work.items():
            gc.collect()
            start = time.process_time()
            result = function()
            stop = time.process_time()
            del result
            if i:
                seconds[name].append(stop - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
