"""The operations of a network in order, as data: what lets a graph run without the class it came from."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

__all__ = ["Constant", "Input", "Op", "Program", "Ref", "Size", "Symbol", "map_leaves"]


@dataclass(frozen=True)
class Ref:
    """The tensor with this index in the program's environment."""

    index: int


@dataclass(frozen=True)
class Size:
    """An integer that follows the batch size: ``coefficient * batch + offset``."""

    coefficient: int
    offset: int = 0


@dataclass(frozen=True)
class Symbol:
    """A torch constant by name: a dtype or layout; ``dtype``, ``complex`` and ``device`` mean "as the weights"."""

    name: str

    def resolve(self, like: Tensor) -> Any:
        """The object itself, ``like`` giving the dtype and device where the program leaves them open."""
        if self.name == "device":
            return like.device
        if self.name == "complex":
            return like.dtype.to_complex()
        return like.dtype if self.name == "dtype" else getattr(torch, self.name)


@dataclass(frozen=True)
class Constant:
    """A tensor that the network holds outside its state_dict or makes from Python numbers."""

    dtype: str
    shape: tuple[int, ...]
    data: str

    @classmethod
    def of(cls, tensor: Tensor) -> Constant:
        """Encode a tensor bit for bit."""
        flat = torch.empty(tensor.numel(), dtype=tensor.dtype)  # a single element may keep any stride otherwise
        flat.copy_(tensor.detach().reshape(-1))
        data = base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode("ascii")
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)

    def tensor(self) -> Tensor:
        """Decode; the inverse of :meth:`of`."""
        raw = bytearray(base64.b64decode(self.data))
        dtype: torch.dtype = getattr(torch, self.dtype)
        if not raw:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).reshape(self.shape)


@dataclass(frozen=True)
class Input:
    """One tensor the network was traced on: its place in the call, shape, dtype, and which axes may change."""

    path: tuple[int | str, ...]
    shape: tuple[int, ...]
    dtype: str
    free: tuple[bool, ...]

    @property
    def where(self) -> str:
        """The input's place in words."""
        return "input " + ".".join(str(step) for step in self.path)


@dataclass(frozen=True)
class Op:
    """One ATen call: ``outputs = target(*args, **kwargs)``; ``scope`` is the module it was made in."""

    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    outputs: tuple[int | None, ...]
    scope: str = ""

    @cached_property
    def name(self) -> str:
        """The operator without namespace and overload: ``convolution``."""
        return self.target.split(".")[1]

    def refs(self) -> list[int]:
        """Indices of all tensors it reads, in order."""
        return [*self._refs]

    @cached_property
    def _refs(self) -> tuple[int, ...]:
        found: list[int] = []
        _collect(self.args, found)
        _collect(self.kwargs, found)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Program:
    """Inputs, named tensors, constants, operations and outputs of one forward pass.

    ``batch`` is the batch size of the trace, ``dtype`` the one that follows the weights'; an output is a nested
    tuple/dict of :class:`Ref`. ``baked`` says why it cannot be run again: values that were read into Python.
    ``guards`` say where it is the same program: truths and integers that were read, and shapes of what was selected
    by value, as ``(tensor, value or shape, where)``.
    """

    inputs: tuple[Input, ...]
    input_refs: tuple[int, ...]
    named_refs: tuple[tuple[str, int], ...]
    constants: tuple[tuple[int, Constant], ...]
    ops: tuple[Op, ...]
    outputs: Any
    batch: int
    length: int
    dtype: str = "float32"
    baked: tuple[str, ...] = ()
    guards: tuple[tuple[int, Constant | tuple[int | Size, ...], str], ...] = ()

    @cached_property
    def last_uses(self) -> tuple[tuple[int, ...], ...]:
        """Per operation, the tensors nobody reads afterwards."""
        keep: set[int] = set()
        map_leaves(self.outputs, lambda leaf: keep.add(leaf.index) if isinstance(leaf, Ref) else None)
        dead: list[tuple[int, ...]] = []
        for op in reversed(self.ops):
            ends = tuple({index for index in op.refs() if index not in keep})
            keep.update(ends)
            dead.append(ends)
        return tuple(reversed(dead))

    @cached_property
    def with_batch_statistics(self) -> Program:
        """The same, normalising by the statistics of the batch, as in training; running ones are not read."""
        return replace(self, ops=tuple(map(_by_batch, self.ops)))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dictionaries, numbers and strings."""
        return {
            "inputs": [[list(i.path), list(i.shape), i.dtype, list(i.free)] for i in self.inputs],
            "input_refs": list(self.input_refs),
            "named_refs": [list(pair) for pair in self.named_refs],
            "constants": [[i, c.dtype, list(c.shape), c.data] for i, c in self.constants],
            "ops": [[op.target, encode(op.args), encode(op.kwargs), list(op.outputs), op.scope] for op in self.ops],
            "outputs": encode(self.outputs),
            "batch": self.batch,
            "length": self.length,
            "dtype": self.dtype,
            "baked": list(self.baked),
            "guards": [
                [i, [c.dtype, list(c.shape), c.data] if isinstance(c, Constant) else encode(c), where]
                for i, c, where in self.guards
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Program:
        """The inverse of :meth:`to_json`."""
        return cls(
            inputs=tuple(Input(tuple(p), tuple(s), d, tuple(f)) for p, s, d, f in data["inputs"]),
            input_refs=tuple(data["input_refs"]),
            named_refs=tuple((name, index) for name, index in data["named_refs"]),
            constants=tuple((i, Constant(d, tuple(s), raw)) for i, d, s, raw in data["constants"]),
            ops=tuple(Op(t, decode(a), decode(k), tuple(o), scope) for t, a, k, o, scope in data["ops"]),
            outputs=decode(data["outputs"]),
            batch=data["batch"],
            length=data["length"],
            dtype=data["dtype"],
            baked=tuple(data["baked"]),
            guards=tuple((i, _guard(value), where) for i, value, where in data.get("guards", ())),
        )


def _by_batch(op: Op) -> Op:
    if op.name == "native_batch_norm":
        x, weight, bias, _, _, _, *rest = op.args
        return replace(op, args=(x, weight, bias, None, None, True, *rest))
    if op.name == "_native_batch_norm_legit_no_training":
        x, weight, bias, _, _, *rest = op.args
        return replace(op, target="aten.native_batch_norm.default", args=(x, weight, bias, None, None, True, *rest))
    return op


def _guard(data: list[Any]) -> Constant | tuple[int | Size, ...]:
    """A value, which names its dtype first, or a shape."""
    if data and isinstance(data[0], str):
        return Constant(data[0], tuple(data[1]), data[2])
    shape: tuple[int | Size, ...] = decode(data)
    return shape


def _collect(items: Iterable[Any], found: list[int]) -> None:
    for item in items:
        if isinstance(item, Ref):
            found.append(item.index)
        elif isinstance(item, (tuple, list)):
            _collect(item, found)


def map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to every leaf of nested tuples, lists and dictionaries; lists become tuples."""
    if isinstance(tree, (tuple, list)):
        return tuple(map_leaves(item, function) for item in tree)
    if isinstance(tree, dict):
        return {key: map_leaves(item, function) for key, item in tree.items()}
    return function(tree)


def encode(tree: Any) -> Any:
    """Arguments as JSON; the tags keep apart what JSON would confuse."""
    if isinstance(tree, (tuple, list)):
        return [encode(item) for item in tree]
    if isinstance(tree, dict):
        return {"dict": [[key, encode(item)] for key, item in tree.items()]}
    if isinstance(tree, Ref):
        return {"ref": tree.index}
    if isinstance(tree, Size):
        return {"size": [tree.coefficient, tree.offset]}
    if isinstance(tree, Symbol):
        return {"torch": tree.name}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}
    if isinstance(tree, complex):
        return {"complex": [tree.real, tree.imag]}
    return tree


def decode(tree: Any) -> Any:
    """The inverse of :func:`encode`."""
    if isinstance(tree, list):
        return tuple(decode(item) for item in tree)
    if not isinstance(tree, dict):
        return tree
    ((tag, value),) = tree.items()
    match tag:
        case "dict":
            return {key: decode(item) for key, item in value}
        case "ref":
            return Ref(value)
        case "size":
            return Size(*value)
        case "torch":
            return Symbol(value)
        case "float":
            return float(value)
        case _:
            return complex(*value)
