"""Images for a predictor to begin with that asks networks questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from experiments.data.images import stratified_split
from experiments.data.load import load_images

__all__ = ["probe_examples"]


def probe_examples(data: Mapping[str, Any], probes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of a data set's training pool with their classes, every class in its proportion.

    The pool is what the zoo's networks may be trained on; the held-out images, on which their accuracy is measured,
    are not touched.

    Args:
        data: see `load_images`.
        probes: how many.
        seed: decides which.

    Shapes:
        - result: ``[probes, C, H, W]`` and ``[probes]``

    >>> inputs, classes = probe_examples({"name": "digits", "pooling": 2}, probes=20)
    >>> inputs.shape, sorted(set(classes.tolist())) == list(range(10))
    (torch.Size([20, 1, 4, 4]), True)

    Raises:
        ValueError: the pool has not that many images.
    """
    images = load_images(data)
    if probes >= len(images.pool):
        raise ValueError(
            f"probe_examples: probes={probes}, but {images.name} has a pool of {len(images.pool)} images; ask for fewer"
        )
    _, chosen = stratified_split(images.pool_labels.numpy(), probes, seed)
    order = np.random.default_rng(seed).permutation(chosen)
    return images.pool[order], images.pool_labels[order]
