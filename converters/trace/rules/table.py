"""The rule table: ATen operator -> what it does to the labels. One file per family of operators."""

from converters.trace.rules import (
    attention,
    convolution,
    elementwise,
    embedding,
    gather,
    indexing,
    joining,
    linalg,
    linear,
    norm,
    order,
    recurrent,
    resampling,
    reshape,
    sampling,
    scan,
    scatter,
)

__all__ = ["DEFAULT_RULES"]

DEFAULT_RULES = {
    **elementwise.RULES,
    **linear.RULES,
    **convolution.RULES,
    **norm.RULES,
    **reshape.RULES,
    **indexing.RULES,
    **joining.RULES,
    **embedding.RULES,
    **attention.RULES,
    **gather.RULES,
    **scatter.RULES,
    **order.RULES,
    **scan.RULES,
    **linalg.RULES,
    **sampling.RULES,
    **resampling.RULES,
    **recurrent.RULES,
}
