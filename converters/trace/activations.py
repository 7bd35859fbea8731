"""Chains of elementwise functions as the activation of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.program import Op, Ref
from converters.trace.kinds import ACTIVATION_OF, signature

__all__ = ["finish_activation", "step"]


def step(op: Op, constants: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """One function of a chain: name, numbers, keywords, whether the tensor comes first; constants in words."""
    numbers = tuple(a for a in op.args if not isinstance(a, Ref))
    places = tuple(isinstance(a, Ref) for a in op.args) if constants else ()
    return (op.name, (*numbers, *constants, *places), op.kwargs, isinstance(op.args[0], Ref))


def finish_activation(activations: Sequence[tuple[Any, ...]]) -> tuple[str, dict[str, float]]:
    """A layer's chain of functions as one name and its numbers."""
    scale, shift, rest = 1.0, 0.0, list(activations)
    while rest and rest[0][0] in ("mul", "div", "add", "sub", "neg") and _affine(rest[0]) is not None:
        a, b = _affine(rest.pop(0)) or (1.0, 0.0)
        scale, shift = scale * a, shift * a + b
    out: dict[str, float] = {}
    if (scale, shift) != (1.0, 0.0):
        out.update(activation_scale=scale, activation_shift=shift)
    if not rest:
        return ("scale" if out else "identity"), out
    if len(rest) > 1:
        return "chain", out | {"signature": signature(rest)}
    name, numbers, kwargs, _ = rest[0]
    activation = ACTIVATION_OF.get(name, "other")
    if name == "gelu" and dict(kwargs).get("approximate") == "tanh":
        activation = "gelu_tanh"
    plain = [float(n) for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool)]
    for key, number in zip(("activation_parameter", "activation_parameter_2"), plain, strict=False):
        out[key] = number
    if activation == "other" or len(plain) > 2 or len(plain) != len(numbers):
        out["signature"] = signature(rest)
    return activation, out


def _affine(step: Sequence[Any]) -> tuple[float, float] | None:
    name, numbers, kwargs, first = step
    if name == "neg":
        return -1.0, 0.0
    if len(numbers) != 1 or not isinstance(numbers[0], (int, float)) or kwargs or not first:
        return None
    number = float(numbers[0])
    table = {"mul": (number, 0.0), "add": (1.0, number), "sub": (1.0, -number)}
    return (1 / number, 0.0) if name == "div" and number else table.get(name)
