"""Elementwise operations: equal axes are united, broadcast ones related, blank ones left alone."""

from __future__ import annotations

from collections.abc import Sequence

from converters.program import Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Labels

__all__ = ["BLANK_OPS", "RULES", "aligned", "blank", "elementwise"]


def aligned(
    context: Context, refs: Sequence[Ref], shape: tuple[int, ...]
) -> tuple[list[Operand], list[str], dict[str, int]]:
    """Operands broadcast to ``shape``, with letters counted from the last axis."""
    rank = len(shape)
    letters = [str(axis) for axis in range(rank)]
    sizes = dict(zip(letters, shape, strict=True))
    operands = []
    for ref in refs:
        own = context.shape(ref)
        names = {axis: letters[axis + rank - len(own)] for axis in range(len(own))}
        operands.append(Operand(context.of(ref), names, ref.index))
    return operands, letters, sizes


def elementwise(context: Context) -> list[Labels]:
    """Any number of tensors, broadcast."""
    out = context.combine(*aligned(context, context.tensors(), context.out_shape), positions=True)
    return [out] * len(context.op.outputs)


def blank(context: Context) -> list[Labels]:
    """A tensor filled with one value."""
    shape = context.out_shape
    return [Labels((), frozenset(range(len(shape))), "constant", shape)]


def same(context: Context) -> list[Labels]:
    """One tensor in, labels unchanged."""
    labels = context.of(context.tensors()[0])
    return [Labels(labels.bundles, labels.blank, labels.source, context.out_shape)]


def copy(context: Context) -> list[Labels]:
    """``copy(destination, source)``: the destination's old values do not count."""
    return [context.combine(*aligned(context, context.tensors()[1:2], context.out_shape))]


def arange(context: Context) -> list[Labels]:
    """Numbers that differ by position, counted or drawn."""
    return [Labels((), frozenset(), "constant", context.out_shape)]


UNARY = """
    relu gelu silu tanh sigmoid sin cos tan asin acos atan sinh cosh asinh acosh atanh elu leaky_relu softplus hardtanh
    hardswish hardsigmoid mish exp exp2 expm1 log log2 log10 log1p abs neg sqrt rsqrt reciprocal square sign sgn floor
    ceil round trunc frac erf erfc erfinv clamp clamp_min clamp_max log_sigmoid_forward logit nan_to_num relu6 selu celu
    rrelu_with_noise softshrink hardshrink threshold isnan isinf isfinite logical_not bitwise_not sinc lgamma digamma
    special_erfcx special_entr special_i0 special_i0e special_i1 special_i1e special_ndtri special_log_ndtr i0 ndtri
    polygamma mvlgamma isposinf isneginf signbit angle conj_physical deg2rad rad2deg frexp real imag resolve_conj
    resolve_neg _neg_view special_bessel_j0 special_bessel_j1 tanhshrink log_sigmoid
""".split()
BINARY = """
    add sub rsub mul div pow remainder fmod floor_divide maximum minimum fmax fmin atan2 eq ne lt le gt ge where
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor masked_fill lerp addcmul addcdiv
    _prelu_kernel copysign hypot heaviside xlogy logaddexp logaddexp2 complex polar nextafter ldexp float_power
    special_xlog1py special_zeta igamma igammac gcd lcm bitwise_left_shift bitwise_right_shift __lshift__ __rshift__
    true_divide
""".split()
COPIES = (
    "clone alias _to_copy lift_fresh lift_fresh_copy contiguous detach _conj positive alias_copy detach_copy".split()
)
BLANK_OPS = """
    zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    scalar_tensor empty_strided new_empty_strided fill zero
""".split()

POSITIONS = "arange linspace eye tril_indices triu_indices rand randn randint randperm rand_like randn_like".split()

RULES = {
    **dict.fromkeys(UNARY, elementwise),
    **dict.fromkeys(BINARY, elementwise),
    **dict.fromkeys(COPIES, same),
    **dict.fromkeys(BLANK_OPS, blank),
    "copy": copy,
    **dict.fromkeys(POSITIONS, arange),
}
