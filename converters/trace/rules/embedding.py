"""Tables of vectors that are looked up by number: rows are told apart by their numbers, columns are neurons."""

from __future__ import annotations

from converters.trace.context import Context
from converters.trace.labels import Bundle, Labels

__all__ = ["RULES"]

ROWS = "its rows are chosen by number"


def embedding(context: Context) -> list[Labels]:
    """``embedding(weight, indices)``: the neurons of a row, at every place of ``indices``."""
    weight, indices = context.tensors()[:2]
    table, places = context.of(weight), context.of(indices)
    context.freeze(places, "its values are the numbers of rows of a table")
    chosen = "input" if places.source == "input" else "kernel" if places.source == "constant" else "fixed"
    labels = context.project(table, range(len(table.shape) - 1), chosen, ROWS)
    last, rank = len(table.shape) - 1, len(context.out_shape) - 1
    kept = tuple(Bundle((rank,), bundle.ids) for bundle in labels.bundles if bundle.axes == (last,))
    return [Labels(kept, frozenset(), "", context.out_shape)]


def embedding_bag(context: Context) -> list[Labels]:
    """``_embedding_bag(weight, indices, offsets, ...)``: sums, means or maxima of rows."""
    weight, *others = context.tensors()
    for other in others:
        context.freeze(context.of(other), "its values are the numbers of rows of a table")
    labels = context.project(context.of(weight), [0], "input", ROWS)
    kept = tuple(Bundle((1,), bundle.ids) for bundle in labels.bundles if bundle.axes == (1,))
    first = Labels(kept, frozenset(), "", context.out_shape)
    rest = [Labels((), frozenset(), "constant", context.shape(i)) for i in context.op.outputs[1:] if i is not None]
    return [first, *rest]


RULES = {
    "embedding": embedding,
    "_embedding_bag": embedding_bag,
    "_embedding_bag_forward_only": embedding_bag,
}
