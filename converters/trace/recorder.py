"""Runs a network once and writes down every ATen operation: no symbols, no source code, no rewriting."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from converters.errors import ExampleInputError
from converters.program import Op, Ref, Symbol, map_leaves
from converters.trace.stand_ins import call, is_weightless, stand_ins
from converters.trace.watch import Watch, plain_functions, quiet
from converters.trace.writes import Writes, follow

__all__ = ["Recording", "named_tensors", "record"]

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


class _StridesMatter(Exception):
    """An operation reads memory by its strides, so that copies count."""


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd and functionalisation, hence never an in-place one.

    Nothing is written in place, so a copy is the tensor copied: with ``fold`` it gets no number of its own. Whether
    torch copies before a reshape depends on the batch size, and the program must not.
    """

    def __init__(self, recording: Recording, dtype: torch.dtype, scope: list[str], fold: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording, self.dtype, self.scope, self.fold = recording, dtype, scope, fold
        self.known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.writes = Writes()
        self.reading = ""
        self.seen: Tensor | None = None
        self.ragged: set[int] = set()

    def register(self, tensor: Tensor) -> int:
        """Number a tensor and remember it by identity."""
        index = self.recording.new(tensor)
        self.known[id(tensor)] = (weakref.ref(tensor), index)
        self.writes.saw(tensor)
        return index

    def find(self, tensor: Tensor) -> int:
        """The number of a tensor; one never seen is a constant of the network."""
        entry = self.known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return self._current(tensor, entry[1])
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
        out = call(func, args, kwargs)
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
                raise _StridesMatter
            if func is torch.ops.aten._unsafe_view.default:
                func = torch.ops.aten.view.default
        if func in SHAPED:
            args = (args[0], tuple(out.shape))
        encoded = self._encoded(args)
        named = tuple((key, self._encoded(value)) for key, value in kwargs.items())
        results = out if isinstance(out, (tuple, list)) else (out,)
        outputs = tuple(self.register(item) if isinstance(item, Tensor) else None for item in results)
        self._append(Op(str(func), encoded, named, outputs, self.scope[-1]), results)
        if self.ragged.intersection(self.recording.ops[-1].refs()) or _selects(func, args):
            self.ragged.update(i for i in outputs if i is not None and i not in self.recording.values)
        if written and isinstance(args[0], Tensor):
            self.writes.add(self.known[id(args[0])][1], args[0], str(func))
        return out

    def _append(self, op: Op, results: Sequence[Any]) -> None:
        if self._is_constant(op):
            for index, item in zip(op.outputs, results, strict=True):
                if index is not None and item.numel() * item.element_size() <= MAX_CONSTANT:
                    self.recording.values[index] = item.detach().clone(memory_format=torch.contiguous_format)
        self.recording.ops.append(op)

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
        rec = self.recording
        return all(index in rec.values or index in rec.constants for index in op.refs()) and op.name not in RANDOM

    def _encode(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return Ref(self.find(leaf))
        if type(leaf) in PLAIN:
            return leaf
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


def _selects(func: Any, args: Any) -> bool:
    """Whether the shape of the result depends on values."""
    if func is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags or (func.namespace == "torchvision" and "nms" in func.name())


def _restrides(before: Tensor, after: Tensor) -> bool:
    """Whether only the strides of axes of length one changed."""
    sizes = zip(before.shape, before.stride(), after.shape, after.stride(), strict=False)
    same = before.shape == after.shape and before.storage_offset() == after.storage_offset()
    return same and all(a == b for n, a, _, b in sizes if n > 1)


def named_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """The state_dict's tensors by name, names tied to an earlier name, and which are buffers."""
    state = dict(model.state_dict(keep_vars=True))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ExampleInputError(f"{name} in the state_dict is a {type(tensor).__name__}, not a tensor")
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
        first.setdefault(id(tensor), name)
    return state, aliases, {name for name in state if name not in parameters}


def record(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype, *, weights: bool = True
) -> Recording:
    """One forward pass as a :class:`Recording`.

    Args:
        model, args, kwargs: what runs on what.
        dtype: the one that follows the weights'.
        weights: False runs without them, in shapes alone; so do parameters on the meta device.

    Raises:
        ExampleInputError: the network does not run on these inputs; torch's own error is the cause.
    """
    state, aliases, _ = named_tensors(model)
    if weights and not is_weightless(model):
        return _twice(model, args, kwargs, dtype, state, aliases)
    with stand_ins(model, state, not weights) as replaced:
        return _twice(model, args, kwargs, dtype, replaced, aliases)


def _twice(
    model: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype, state: Mapping[str, Tensor], aliases: Any
) -> Recording:
    """Without copies, or where strides matter with them."""
    try:
        return _record(model, args, kwargs, dtype, state, aliases, fold=True)
    except _StridesMatter:
        return _record(model, args, kwargs, dtype, state, aliases, fold=False)


def _record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dtype: torch.dtype,
    state: Mapping[str, Tensor],
    aliases: Mapping[str, str],
    *,
    fold: bool,
) -> Recording:
    recording, scope = Recording(), [""]
    recorder = _Recorder(recording, dtype, scope, fold)
    for name, tensor in state.items():
        if name not in aliases:
            recording.named[name] = recorder.register(tensor)
    recording.scopes = {name: type(module).__name__ for name, module in model.named_modules()}
    inputs: list[Tensor] = []
    leaves, spec = pytree.tree_flatten_with_path(({str(i): a for i, a in enumerate(args)}, dict(kwargs)))
    positions = []
    for path, leaf in leaves:
        if isinstance(leaf, Tensor):
            recording.inputs.append((_place(path), recorder.register(leaf)))
            inputs.append(leaf)
        positions.append(isinstance(leaf, Tensor))

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        queue = iter(tensors)
        full = [next(queue) if use else leaf for use, (_, leaf) in zip(positions, leaves, strict=True)]
        given, named = pytree.tree_unflatten(full, spec)
        out = _plain(model(*given.values(), **named))
        found: list[Tensor] = []
        shape.append(map_leaves(out, lambda leaf: _collect(leaf, found)))
        return tuple(found)

    shape: list[Any] = []
    with quiet(model, scope):
        try:
            with plain_functions(), recorder, Watch(recorder):
                results = torch.func.functionalize(run, remove="mutations")(*inputs)
        except (ExampleInputError, _StridesMatter):
            raise
        except Exception as error:
            raise ExampleInputError(
                f"{type(model).__name__} does not run on the example inputs "
                f"({', '.join(str(list(t.shape)) for t in inputs)}), in {scope[-1] or 'its forward'}: {error}\n"
                "Pass example_inputs that the network accepts: a tensor, a tuple, or a dict of keyword arguments."
            ) from error
    recording.outputs = map_leaves(
        shape[-1], lambda leaf: Ref(recorder.find(results[leaf])) if leaf is not None else None
    )
    return recording


def _place(path: Any) -> tuple[int | str, ...]:
    """Where a tensor stands in the call: argument number or keyword, then the way inside it."""
    keys: list[Any] = [getattr(step, "key", getattr(step, "idx", None)) for step in path]
    return tuple(int(k) if i == 0 and keys[0] == 0 else k for i, k in enumerate(keys[1:]))


def _plain(out: Any) -> Any:
    """Outputs as nested tuples and dictionaries."""
    if dataclasses.is_dataclass(out) and not isinstance(out, type):
        return {f.name: _plain(getattr(out, f.name)) for f in dataclasses.fields(out)}
    if isinstance(out, Mapping):
        return {str(key): _plain(value) for key, value in out.items()}
    if isinstance(out, (tuple, list)):
        return tuple(_plain(item) for item in out)
    return out


def _collect(leaf: Any, found: list[Tensor]) -> int | None:
    if not isinstance(leaf, Tensor):
        return None
    found.append(leaf)
    return len(found) - 1
