"""How each operation appears in the graph: its layer kind, edge type, and the numbers worth keeping."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.program import Op, Ref, map_leaves

__all__ = [
    "ACTIVATION_OF",
    "EDGE_OF",
    "ELEMENTWISE",
    "KIND_OF",
    "RESHAPES",
    "VIEWS",
    "attributes_of",
    "causal",
    "describe",
    "numbers_of",
    "pair",
    "signature",
]

VIEWS = frozenset(
    "view _unsafe_view reshape _reshape_alias unsqueeze squeeze expand clone alias _to_copy contiguous detach t "
    "transpose permute lift_fresh lift_fresh_copy slice".split()
)
"""Operations that only rearrange; where the neurons stay as they are they make no layer."""

RESHAPES = frozenset("view _unsafe_view reshape _reshape_alias expand repeat clone _to_copy alias".split())
"""Operations whose numbers are sizes alone."""

ACTIVATION_OF: dict[str, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "sin": "sin",
    "cos": "cos",
    "elu": "elu",
    "leaky_relu": "leaky_relu",
    "softplus": "softplus",
    "hardtanh": "hardtanh",
    "clamp": "hardtanh",
    "clamp_min": "hardtanh",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "mish": "mish",
    "exp": "exp",
    "log": "log",
    "abs": "abs",
    "square": "square",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "reciprocal": "reciprocal",
    "neg": "neg",
    "log_sigmoid_forward": "log_sigmoid",
    "erf": "erf",
}

ELEMENTWISE = frozenset(ACTIVATION_OF) | frozenset(
    """
    add sub rsub mul div pow where masked_fill sign ceil floor round trunc frac expm1 exp2 log1p log2 log10 sinh cosh
    tan asin acos atan asinh acosh atanh erfc erfinv sgn logit threshold hardshrink softshrink sinc relu6 celu selu
    clamp_max eq ne lt le gt ge logical_not bitwise_not bitwise_and logical_and bitwise_or logical_or isnan isinf
    remainder fmod floor_divide minimum maximum nan_to_num digamma lgamma native_dropout dropout tril triu
    """.split()
)
"""Operations that take each position by itself; with constants beside one tensor they are part of its activation."""

KIND_OF: dict[str, str] = {
    "add": "add",
    "sub": "sub",
    "rsub": "sub",
    "mul": "mul",
    "div": "div",
    "maximum": "max",
    "minimum": "min",
    "where": "where",
    "_softmax": "softmax",
    "_log_softmax": "softmax",
    "_safe_softmax": "softmax",
    "bmm": "attention",
    "baddbmm": "attention",
    "matmul": "attention",
    "embedding": "embedding",
    "_embedding_bag": "embedding",
    "_embedding_bag_forward_only": "embedding",
    "unsafe_split": "slice",
    "chunk": "slice",
    "unsafe_chunk": "slice",
    "max_pool2d_with_indices": "max_pool",
    "max_pool3d_with_indices": "max_pool",
    "avg_pool1d": "avg_pool",
    "avg_pool2d": "avg_pool",
    "avg_pool3d": "avg_pool",
    "_adaptive_avg_pool2d": "adaptive_avg_pool",
    "_adaptive_avg_pool3d": "adaptive_avg_pool",
    "adaptive_max_pool2d": "adaptive_max_pool",
    "adaptive_max_pool3d": "adaptive_max_pool",
    "mean": "mean",
    "sum": "sum",
    "amax": "amax",
    "max": "amax",
    "var": "norm",
    "linalg_vector_norm": "norm",
    "view": "flatten",
    "_unsafe_view": "flatten",
    "reshape": "flatten",
    "cat": "cat",
    "slice": "slice",
    "select": "slice",
    "split": "slice",
    "split_with_sizes": "slice",
    "unbind": "slice",
    "index": "slice",
    "constant_pad_nd": "pad",
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_fused_rms_norm": "rms_norm",
    "_prelu_kernel": "prelu",
}

EDGE_OF: dict[str, str] = {
    "add": "residual",
    "sub": "residual",
    "mul": "gate",
    "div": "gate",
    "where": "gate",
    "batch_norm": "norm",
    "layer_norm": "norm",
    "group_norm": "norm",
    "instance_norm": "norm",
    "rms_norm": "norm",
    "max_pool": "pool",
    "avg_pool": "pool",
    "adaptive_avg_pool": "pool",
    "adaptive_max_pool": "pool",
    "upsample": "pool",
    "mean": "reduce",
    "sum": "reduce",
    "amax": "reduce",
    "norm": "reduce",
    "flatten": "flatten",
    "slice": "slice",
    "cat": "cat",
    "other": "other",
}

COMMUTATIVE = frozenset(
    ("add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or", "logical_xor", "cat")
)
"""Operations whose operands may change places; cat's are told apart by where they end."""


BINARY = frozenset(("add", "sub", "mul", "div", "max", "min"))


def causal(array: np.ndarray[Any, Any]) -> bool:
    """Whether a mask lets every position see itself and those before it, and no other.

    >>> causal(np.tril(np.ones((3, 3), bool)))
    True
    """
    if array.ndim < 2 or array.shape[-2] < 2:
        return False
    rows, columns = array.shape[-2:]
    masks = array.reshape(-1, rows, columns)
    if not (masks == masks[:1]).all():
        return False
    allowed = np.tril(np.ones((rows, columns), bool), columns - rows)
    if array.dtype == bool:
        return bool(np.array_equal(masks[0], allowed) or np.array_equal(masks[0], ~allowed))
    return bool((masks[0][allowed] == 0).all() and (masks[0][~allowed] < -1e4).all() and not allowed.all())


def describe(array: np.ndarray[Any, Any]) -> Any:
    """A constant in words: equal for equal contents, short, and where it is regular without its length."""
    flat = array.reshape(-1)
    if not flat.size:
        return "empty"
    if (flat == flat[0]).all():
        return "full", str(array.dtype), flat[0].item()
    if array.size == max(array.shape):
        steps = np.diff(flat.astype(np.float64)) if array.dtype.kind in "iuf" else np.zeros(0)
        if len(steps) > 1 and (steps == steps[0]).all():
            return "range", str(array.dtype), flat[0].item(), float(steps[0])
    return array.shape, str(array.dtype), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def numbers_of(op: Op) -> tuple[Any, ...]:
    """The arguments that make an operation what it is: no tensors, no sizes, no ends that follow a length."""
    if op.name in RESHAPES:
        return ()
    if op.name == "slice":
        return (*op.args[1:3], *op.args[4:5])
    return (*_numbers(op.args), *((key, value) for key, value in op.kwargs if not isinstance(value, Ref)))


def pair(value: Any, rank: int) -> tuple[float, ...]:
    """A number or sequence as ``rank`` numbers."""
    if isinstance(value, (tuple, list)):
        return tuple(float(v) for v in value) * (rank if len(value) == 1 else 1)
    return (float(value),) * rank


def signature(*parts: Any) -> float:
    """A hash in [0, 1) of what no other column says."""
    return int(hashlib.sha256(repr(map_leaves(parts, _anonymous)).encode()).hexdigest()[:8], 16) / 2**32


def _anonymous(leaf: Any) -> Any:
    return "tensor" if isinstance(leaf, Ref) else leaf


def _numbers(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(arg for arg in args if not isinstance(arg, Ref))


def attributes_of(op: Op, kind: str) -> dict[str, float]:
    """Numeric attributes of a parameter-free operation; what has no column of its own goes into the signature."""
    out: dict[str, float] = {}
    args, kwargs = op.args, dict(op.kwargs)

    def spread(name: str, position: int, default: Any) -> None:
        value = args[position] if position < len(args) else default
        if value in ((), None):
            value = default
        for axis, number in enumerate(pair(value, 2)):
            out[f"{name}_{axis}"] = number

    if kind in ("max_pool", "avg_pool"):
        spread("kernel", 1, 1)
        spread("stride", 2, args[1])
        spread("padding", 3, 0)
        if kind == "max_pool":
            spread("dilation", 4, 1)
        ceil = 5 if kind == "max_pool" else 4
        out["ceil_mode"] = float(bool(args[ceil])) if len(args) > ceil else 0.0
        if kind == "avg_pool":
            out["count_include_pad"] = float(bool(args[5])) if len(args) > 5 else 1.0
        out["signature"] = signature(kind, args[6:])
    elif kind in ("adaptive_avg_pool", "adaptive_max_pool"):
        spread("size", 1, 1)
    elif kind != "flatten" and (kind not in BINARY or _numbers(args) or kwargs):
        out["signature"] = signature(op.target, _numbers(args), tuple(kwargs.items()))
    return out
