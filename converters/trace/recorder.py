"""Writes down every ATen operation of a forward pass: no symbols, no source code, no rewriting."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from converters.errors import ExampleInputError
from converters.program import Op, Ref, Symbol
from converters.trace.shortcuts import SHORTCUTS, Zeros, reads_values, selects
from converters.trace.stand_ins import call
from converters.trace.writes import Writes, follow

__all__ = ["READ", "Recorder", "Recording", "StridesMatter", "ValuesMatter"]

MAX_CONSTANT = 2**22
MAX_GUARD = 2**12
READ = "reads the value of a tensor into Python"
METADATA = {"transpose", "t", "squeeze", "unsqueeze", "swapaxes", "swapdims", "as_strided"}
RANDOM = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "bernoulli",
    "normal",
    "uniform",
    "dropout",
    "native_dropout",
    "rand_like",
    "randn_like",
    "randint_like",
    "normal_functional",
    "exponential",
    "log_normal",
    "cauchy",
    "geometric",
    "random",
    "multinomial",
    "poisson",
    "binomial",
}
PLAIN = {type(None), bool, int, float, str, complex}
COPIES = {torch.ops.aten.clone.default, torch.ops.aten.alias.default}
STRIDED = {
    torch.ops.aten.as_strided.default,
    torch.ops.aten.view_as_complex.default,
    torch.ops.aten.view_as_real.default,
    torch.ops.aten.view.dtype,
}
"""Operations that depend on how their operand lies in memory."""
SHAPED = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default}
"""Operations whose second argument is the shape of the result; -1 is written out."""


@dataclass
class Recording:
    """What one forward pass did: operations over numbered tensors, with the shape and dtype of each."""

    ops: list[Op] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    inputs: list[tuple[tuple[int | str, ...], int]] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    baked: list[tuple[int, str]] = field(default_factory=list)
    guards: list[tuple[int, Tensor | None, str]] = field(default_factory=list)
    outputs: Any = None
    scopes: dict[str, str] = field(default_factory=dict)

    def new(self, tensor: Tensor) -> int:
        """Number a tensor."""
        self.shapes.append(tuple(tensor.shape))
        self.dtypes.append(tensor.dtype)
        return len(self.shapes) - 1


class StridesMatter(Exception):
    """An operation reads memory by its strides, so that copies count."""


class ValuesMatter(Exception):
    """What the network does depends on values that were not computed."""


class Recorder(TorchDispatchMode):
    """Sees every operation below autograd and functionalisation, hence never an in-place one.

    Nothing is written in place, so a copy is the tensor copied: with ``fold`` it gets no number of its own. Whether
    torch copies before a reshape depends on the batch size, and the program must not. With ``lazy`` costly results are
    zeros, until somebody asks for a value that depends on one.
    """

    def __init__(self, recording: Recording, dtype: torch.dtype, scope: list[str], fold: bool, lazy: bool) -> None:
        TorchDispatchMode.__init__(self)
        self.recording, self.dtype, self.scope, self.fold, self.lazy = recording, dtype, scope, fold, lazy
        self.zeros, self.made_up = Zeros(), set[int]()
        self.doubtful = False
        self.known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.writes = Writes()
        self.reading = ""
        self.seen: Tensor | None = None
        self.ragged: set[int] = set()
        self.weights: dict[int, list[Tensor]] = {}
        self.copies: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; torch would wrap each call to say so."""
        return False

    def register(self, tensor: Tensor) -> int:
        """Number a tensor and remember it by identity."""
        index = self.recording.new(tensor)
        self.known[id(tensor)] = (weakref.ref(tensor), index)
        self.writes.saw(tensor)
        return index

    def register_weight(self, tensor: Tensor) -> int:
        """Number a tensor that the network must be left with as it is."""
        if not is_fake(tensor):
            self.weights.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
        return self.register(tensor)

    def find(self, tensor: Tensor) -> int:
        """The number of a tensor; one never seen is a constant of the network."""
        entry = self.known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return self._current(tensor, entry[1]) if self.writes else entry[1]
        index = self.register(tensor)
        if tensor.numel() * tensor.element_size() > MAX_CONSTANT:
            raise ExampleInputError(
                f"a tensor of shape {list(tensor.shape)} is used in {self.scope[-1] or 'forward'} but is neither an "
                "input, a parameter nor a buffer; register it with register_buffer, or pass it as an input"
            )
        self.recording.constants[index] = tensor.detach().clone(memory_format=torch.contiguous_format)
        return index

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args)
        if self.reading or func is torch.ops.aten._local_scalar_dense.default:
            self._read(args[0])
        if func._schema.is_mutable:
            self._keep(args[0])
        shortcut = self._shortcut(func, args, kwargs) if self.lazy else None
        out = call(func, args, kwargs) if shortcut is None else shortcut
        if self.reading:
            self.seen = out
            return out
        if func is torch.ops.aten.detach.default:
            return self._alias(out, args[0])
        written = func._schema.is_mutable
        if written:
            func, written = self._functional(func, args)
        if func is torch.ops.aten.as_strided.default and _restrides(args[0], out):
            func, args, kwargs = torch.ops.aten.clone.default, args[:1], {}
        if self.fold:
            if func in COPIES:
                return self._alias(out, args[0])
            if func in STRIDED:
                raise StridesMatter
            if func is torch.ops.aten._unsafe_view.default:
                func = torch.ops.aten.view.default
        if func in SHAPED:
            args = (args[0], tuple(out.shape))
        encoded = self._encoded(args)
        named = tuple((key, self._encoded(value)) for key, value in kwargs.items())
        results = out if isinstance(out, (tuple, list)) else (out,)
        outputs = tuple(self.register(item) if isinstance(item, Tensor) else None for item in results)
        self._append(Op(str(func), encoded, named, outputs, self.scope[-1]), results)
        if selects(func, args) or (self.ragged and self.ragged.intersection(self.recording.ops[-1].refs())):
            self.ragged.update(i for i in outputs if i is not None and i not in self.recording.values)
        if shortcut is not None:
            self.made_up.update(index for index in outputs if index is not None)
        if written and isinstance(args[0], Tensor):
            self.writes.add(self.known[id(args[0])][1], args[0], str(func))
        return out

    def _keep(self, target: Any) -> None:
        """Copy the weights in a memory that is about to be written to (masked weights, clipped weights)."""
        for weight in self.weights.pop(target.untyped_storage()._cdata, ()) if isinstance(target, Tensor) else ():
            self.copies.append((weight, weight.detach().clone()))

    def put_back(self) -> None:
        """Undo what the network wrote into its weights."""
        for weight, copy in self.copies:
            weight.detach().copy_(copy)

    def _shortcut(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Zeros in place of what a costly operation computes; None for all others, and where it is a constant."""
        if self.made_up and reads_values(func, args):
            leaves = pytree.tree_leaves((args, kwargs))
            if not self.made_up.isdisjoint(self.find(leaf) for leaf in leaves if isinstance(leaf, Tensor)):
                self._doubt()
        if func._schema.is_mutable and any(self.zeros.hold(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
            self._doubt()
        make = SHORTCUTS.get(func)
        if make is None:
            return None
        known = (self.recording.values, self.recording.constants)
        if all(any(self.find(x) in table for table in known) for x in args if isinstance(x, Tensor)):
            return None
        return make(self.zeros, *args, **kwargs)

    def _doubt(self) -> None:
        self.doubtful = True  # the network may catch the exception
        raise ValuesMatter

    def _append(self, op: Op, results: Sequence[Any]) -> None:
        if self._is_constant(op):
            for index, item in zip(op.outputs, results, strict=True):
                if index is not None and item.numel() * item.element_size() <= MAX_CONSTANT:
                    self.recording.values[index] = item.detach().clone(memory_format=torch.contiguous_format)
        self.recording.ops.append(op)
        if self.made_up and not self.made_up.isdisjoint(op.refs()):
            self.made_up.update(index for index in op.outputs if index is not None)

    def _alias(self, out: Tensor, source: Tensor) -> Tensor:
        """``out`` is ``source`` under another identity."""
        self.known[id(out)] = (weakref.ref(out), self.find(source))
        self.writes.saw(out)
        return out

    def _encoded(self, tree: Any) -> Any:
        if isinstance(tree, (tuple, list)):
            return tuple([self._encoded(item) for item in tree])
        return self._encode(tree)

    def _read(self, tensor: Tensor) -> None:
        """A value or a shape that depends on values goes to Python: remembered, unless it is a constant."""
        index = self.find(tensor)
        if self.reading != "shape" and index in self.made_up:
            self._doubt()
        if self.reading == "shape":
            if index in self.ragged:
                self.recording.guards.append((index, None, self.scope[-1] or "forward"))
        elif index not in self.recording.values and index not in self.recording.constants:
            place = self.scope[-1] or "forward"
            if tensor.is_floating_point() or tensor.is_complex() or is_fake(tensor) or tensor.numel() > MAX_GUARD:
                self.recording.baked.append((index, f"{place} {READ}"))
            else:
                value = tensor.detach().clone(memory_format=torch.contiguous_format)
                self.recording.guards.append((index, value, place))

    def _functional(self, func: Any, args: Any) -> tuple[Any, bool]:
        """The same operation without its side effect, where functionalisation left one (buffers, recurrent cells).

        Also whether the operation writes to memory.
        """
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        packet = getattr(torch.ops.aten, name, None)
        overload = getattr(packet, "int" if name == "transpose" else func._overloadname, None)
        if overload is None or not any(isinstance(arg, Tensor) for arg in args):
            raise self._unfollowed(func._schema.name)
        return overload, name not in METADATA

    def _current(self, tensor: Tensor, index: int) -> int:
        """The number of a tensor whose memory may have been written to through others since."""
        for number, target, name in self.writes.since(tensor):
            found = follow(self._note, (number, target), (index, tensor))
            if found is None:
                raise self._unfollowed(name)
            index = found
        self.known[id(tensor)] = (weakref.ref(tensor), index)
        self.writes.saw(tensor)
        return index

    def _note(self, func: Any, args: tuple[Any, ...], result: Tensor) -> int:
        """An operation that nobody called."""
        index = self.recording.new(result)
        self._append(Op(str(func), args, (), (index,), self.scope[-1]), (result,))
        return index

    def _unfollowed(self, name: str) -> ExampleInputError:
        return ExampleInputError(
            f"{name} in {self.scope[-1] or 'forward'} writes into memory that other tensors see; "
            "write it without the in-place operation (torch.cat, torch.where, index_add)"
        )

    def _is_constant(self, op: Op) -> bool:
        values, constants = self.recording.values, self.recording.constants
        for index in op.refs():
            if index not in values and index not in constants:
                return False
        return op.name not in RANDOM

    def _encode(self, leaf: Any) -> Any:
        if type(leaf) in PLAIN:
            return leaf
        if isinstance(leaf, Tensor):
            return Ref(self.find(leaf))
        if isinstance(leaf, torch.dtype):
            if leaf.is_complex and leaf == self.dtype.to_complex():
                return Symbol("complex")
            return Symbol("dtype" if leaf == self.dtype else str(leaf).removeprefix("torch."))
        if isinstance(leaf, torch.device):
            return Symbol("device")
        if isinstance(leaf, (torch.layout, torch.memory_format)):
            return Symbol(str(leaf).removeprefix("torch."))
        if isinstance(leaf, (bool, int, float, str, complex)):
            return leaf
        raise ExampleInputError(f"an operation takes a {type(leaf).__name__}, which cannot be recorded")


def _restrides(before: Tensor, after: Tensor) -> bool:
    """Whether only the strides of axes of length one changed."""
    sizes = zip(before.shape, before.stride(), after.shape, after.stride(), strict=False)
    same = before.shape == after.shape and before.storage_offset() == after.storage_offset()
    return same and all(a == b for n, a, _, b in sizes if n > 1)
