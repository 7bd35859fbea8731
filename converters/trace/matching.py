"""Which node of one layer is which node of another."""

from __future__ import annotations

import numpy as np

from converters.trace.labels import Ids, Labels
from converters.trace.tables import distinct

__all__ = ["equal_pairs", "flat_ids", "match"]


def flat_ids(labels: Labels, sole: bool = False) -> Ids | None:
    """The neurons of a tensor as one list: those of its largest bundle."""
    bundles = [b for b in labels.bundles if b.ids.size > 1] or list(labels.bundles)
    if not bundles or (sole and len(bundles) > 1):
        return None
    ids: Ids = max(bundles, key=lambda bundle: bundle.ids.size).ids.reshape(-1)
    return ids


def equal_pairs(a: Ids, b: Ids) -> Ids:
    """All pairs (i, j) with ``a[i] == b[j]``."""
    order = np.argsort(a, kind="stable")
    lo, hi = np.searchsorted(a[order], b, "left"), np.searchsorted(a[order], b, "right")
    counts = hi - lo
    j = np.repeat(np.arange(len(b)), counts)
    within = np.arange(len(j)) - np.repeat(np.cumsum(counts) - counts, counts)
    i = order[np.repeat(lo, counts) + within] if len(j) else np.zeros(0, np.int64)
    return np.stack([i, j], axis=1).astype(np.int64)


def _through(first: Ids, second: Ids) -> Ids:
    """Pairs (a, row of second) and second's (relation, b) as pairs (a, b)."""
    return np.stack([first[:, 0], second[first[:, 1], 1]], axis=1) if len(first) else np.zeros((0, 2), np.int64)


def match(a: Ids, b: Ids, child: Ids, parent: Ids) -> Ids:
    """Pairs (position in ``a``, position in ``b``) that are the same element, or piece and whole; by target.

    Args:
        a, b: roots of the two layers' nodes.
        child, parent: roots of all relations.
    """
    pairs = equal_pairs(a, b)
    if not len(pairs):
        up = equal_pairs(child, b)
        pairs = _through(equal_pairs(a, parent[up[:, 0]]), up)
    if not len(pairs):
        down = equal_pairs(a, child)
        inner = equal_pairs(parent[down[:, 1]], b)
        pairs = np.stack([down[inner[:, 0], 0], inner[:, 1]], axis=1)
    by_target = distinct(pairs[:, 1], pairs[:, 0])
    return np.stack(by_target[::-1], axis=1)
