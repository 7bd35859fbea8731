"""The rule table: ATen operator -> what it does to the labels. One file per family of operators."""

from converters.trace.rules import convolution, elementwise, embedding, indexing, joining, linear, norm, reshape

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
}
