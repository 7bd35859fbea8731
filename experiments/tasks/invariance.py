"""How far predictions of a zoo's networks are from permutation invariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from converters import canonicalize
from experiments.evaluation.metrics import permutation_delta
from experiments.zoo import Zoo

__all__ = ["zoo_permutation_delta"]


def zoo_permutation_delta(
    predict: Callable[[Any], Tensor], zoo: Zoo, draws: int, canonical: Sequence[str] = ()
) -> float:
    """The largest change of any prediction when hidden neurons of the zoo's test networks are permuted.

    Args:
        predict: from a batch of neuron graphs to predictions ``[B, T]``.
        zoo: whose test networks.
        draws: random true permutations of every network.
        canonical: symmetries of activations to remove from permuted weights, see `converters.canonicalize`.
    """
    given = (lambda graphs: predict(canonicalize(graphs, kinds=canonical))) if canonical else predict
    worst = 0.0
    for architecture, structure in zoo.structures.items():
        records = zoo.of(architecture)
        rows = records.index[records["split"] == "test"].to_numpy()
        if len(rows):
            worst = max(worst, permutation_delta(given, zoo.weights(architecture, rows), structure, draws=draws))
    return worst
