"""What every reader of a published format hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from experiments.zoo.nets import Architecture

__all__ = ["Published"]


@dataclass(frozen=True)
class Published:
    """Networks of a published zoo; the weights are read when they are asked for.

    Args:
        records: a row per network: ``id``, ``run``, ``architecture``, hyper-parameters and properties; with a column
            ``split`` if the publication fixes it.
        architectures: by name.
        weights: parameters of networks of one architecture, given its name and some ids, ``{name: [n, *shape]}``.
        fingerprint: of the files.
        classes: of labels, where networks have them.
    """

    records: pd.DataFrame
    architectures: dict[str, Architecture]
    weights: Callable[[str, Sequence[int]], dict[str, Tensor]]
    fingerprint: str
    classes: int | None = None
