"""Random numbers: drawn position by position, so whatever they meet is told apart."""

from __future__ import annotations

from converters.trace.context import Context
from converters.trace.labels import Labels

__all__ = ["RULES"]

DRAWN = "random numbers are drawn for it position by position"


def drawn(context: Context) -> list[Labels]:
    """Numbers that do not depend on the values of any tensor."""
    return [Labels((), frozenset(), "constant", context.shape(i)) for i in context.op.outputs if i is not None]


def sampled(context: Context) -> list[Labels]:
    """Numbers whose distribution a tensor gives, or a tensor thinned at random: all its axes are fixed."""
    for ref in context.tensors():
        labels = context.of(ref)
        context.project(labels, range(len(labels.shape)), "fixed", DRAWN)
    return [Labels((), frozenset(), "", context.shape(i)) for i in context.op.outputs if i is not None]


DRAWN_ALONE = """
    normal_functional uniform exponential log_normal cauchy geometric random randint_like rand_like randn_like
    randperm randint rand randn
""".split()
SAMPLED = """
    bernoulli multinomial poisson normal binomial native_dropout dropout alpha_dropout feature_dropout
    feature_alpha_dropout _fused_dropout _sample_dirichlet _standard_gamma _dirichlet_grad
""".split()

RULES = {**dict.fromkeys(SAMPLED, sampled), **dict.fromkeys(DRAWN_ALONE, drawn)}
