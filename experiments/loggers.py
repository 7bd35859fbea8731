"""Lightning's loggers by the names that configs use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

__all__ = ["LOGGERS"]


def _csv(folder: Path) -> Logger:
    return CSVLogger(folder, name="csv")


def _tensorboard(folder: Path) -> Logger:
    try:
        return TensorBoardLogger(folder, name="tensorboard")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "trainer.loggers asks for tensorboard, which is not installed; pip install 'graphnets[tensorboard]'"
        ) from error


LOGGERS: dict[str, Callable[[Path], Logger]] = {"csv": _csv, "tensorboard": _tensorboard}
"""Name to logger; keys are the values of ``trainer.loggers``."""
