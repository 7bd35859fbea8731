"""Networks brought into one order of neurons, so that what they have in common can be averaged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from converters import Structure, aligned

__all__ = ["align_to_mean"]


def align_to_mean(
    weights: Mapping[str, Tensor], structure: Structure, rounds: int = 2, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Align all networks to their own mean, which aligning makes a better one, again and again.

    The first reference is the first network. Linear compressions of weights are only as good as the order of neurons is
    common: networks from independent starts have none before. Functions do not change (see `converters.align`).

    Args:
        weights: a stack ``{name: [n, *shape]}``.
        structure: of the networks.
        rounds: how often the mean is taken and aligned to.
        seed: of the order in which groups are matched.

    Returns:
        the aligned stack, and the mean as a state_dict to align others to.

    Raises:
        StructureMismatch: weights are of another structure.
    """
    reference = {name: tensor[0] for name, tensor in weights.items()}
    for _ in range(max(rounds, 1)):
        found = aligned(weights, reference, structure, seed=seed)
        reference = {name: _mean(tensor) for name, tensor in found.items()}
    return found, reference


def _mean(stack: Tensor) -> Tensor:
    return stack.mean(0) if stack.is_floating_point() else torch.round(stack.double().mean(0)).to(stack.dtype)
