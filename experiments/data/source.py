"""Where data sets lie on disk, and what is wrong with their files."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DATA_VARIABLE", "DataError", "data_folder"]

DATA_VARIABLE = "GRAPHNETS_DATA"


class DataError(RuntimeError):
    """A data set, or one of its files, is missing or damaged; the message names the file and the remedy."""


def data_folder(folder: str | Path | None, dataset: str, remedy: str) -> Path:
    """The folder of a data set: ``folder``, else the folder ``dataset`` in the environment's ``GRAPHNETS_DATA``.

    Raises:
        DataError: neither is set, or it does not exist; the message ends with ``remedy``.
    """
    root = os.environ.get(DATA_VARIABLE)
    if folder is None and root is None:
        raise DataError(
            f"the data set {dataset} has no folder: set data.folder, or the environment variable {DATA_VARIABLE} "
            f"to the folder that holds {dataset}/; {remedy}"
        )
    path = Path(folder) if folder is not None else Path(str(root)) / dataset
    if not path.is_dir():
        raise DataError(f"the data set {dataset} should be in {path}, which is not a folder; {remedy}")
    return path
