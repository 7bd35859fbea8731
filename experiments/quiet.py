"""Lightning without its chatter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_lightning"]

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence banners, and warnings that do not apply to data that lie in memory."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Batches are built from memory by the task's own loader: there are no worker processes to add.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A run that is continued finds its own checkpoints and logs.
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            # The learner's loader is asked for anew every epoch, its length is the same.
            warnings.filterwarnings("ignore", message=".*`train_dataloader`.*|.*number of training batches.*")
            # Lightning itself still uses what newer versions of torch deprecate.
            warnings.filterwarnings("ignore", category=FutureWarning, module="lightning.*|torch.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning.*|torch.*")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
