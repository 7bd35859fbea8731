"""What a network holds, as a key: everything in its memory that its forward may go by, but for the weights' values.

Modules, their classes with all functions, every attribute however deep, hooks, configurations, tensors outside the
state_dict with their content, which weights are tied, the inputs, and the globals that the classes' functions name.
What cannot be written out (an open file, an object that says itself how it is pickled) leaves the network without a
key, and it is recorded.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import io
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pickle import Pickler, PicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["held_key"]

MAX_INPUT = 2**16
SINGLE = (enum.Enum, types.ModuleType, types.BuiltinFunctionType, types.CodeType, torch.dtype)
"""What is itself and nothing else."""

CONTENTS = {bool, int, float, complex, str, type(None), tuple, list, dict, set}
"""Globals that are compared by content."""

HOOKS = {key for key, value in vars(nn.Module()).items() if type(value) is OrderedDict}
"""Hooks, of which a module has many kinds and mostly none."""

DEPTH = 3
"""How many attributes one after another are looked up in an object outside the network."""

Key = tuple[bytes, tuple[Any, ...]]
"""A digest, and the objects whose identities are in it; as long as they are kept, no other object has these."""


class _Unwritten(Exception):
    """Something that cannot be compared."""


def held_key(
    model: nn.Module, state: Mapping[str, Tensor], aliases: Mapping[str, str], args: Any, kwargs: Any
) -> Key | None:
    """The key of a network on its inputs, or None where it has none.

    Args:
        model: the network.
        state, aliases: see :func:`~converters.trace.record.named_tensors`.
        args, kwargs: what it is called with; integers and truth values count by value, other numbers by shape.
    """
    inputs = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    file = io.BytesIO()
    writer = _Writer(file, {id(tensor): aliases.get(name, name) for name, tensor in state.items()}, inputs)
    weights = [(name, *_layout(tensor), tensor.requires_grad, type(tensor)) for name, tensor in state.items()]
    try:
        writer.dump((weights, list(aliases.items()), _flags(), args, kwargs, model))
    except (_Unwritten, TypeError, ValueError, AttributeError, RecursionError, RuntimeError, PicklingError):
        return None
    return hashlib.sha256(file.getbuffer()).digest(), tuple(writer.kept)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    strided = tensor.layout is torch.strided
    return tuple(tensor.shape), tensor.stride() if strided else None, tensor.dtype, str(tensor.device)


def _flags() -> tuple[Any, ...]:
    """Settings of torch that choose between operations."""
    cuda = torch.backends.cuda
    return (
        str(torch.get_default_dtype()),
        str(torch.empty(0).device),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
    )


class _Writer(Pickler):
    """Writes objects out by content; functions and classes by identity, with what they refer to."""

    def __init__(self, file: io.BytesIO, weights: Mapping[int, str], inputs: set[int]) -> None:
        super().__init__(file, protocol=4)
        self.weights, self.inputs = weights, inputs
        self.kept: list[Any] = []
        self.seen: set[int] = set()
        self.texts: dict[str, str] = {}
        self.plain: set[type] = set()
        self.writers: dict[type, Any] = {}
        self.special: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
            (Tensor, self._tensor),
            (type, lambda kind: self._once(kind, self._class)),
            (types.FunctionType, lambda function: self._once(function, self._function)),
            (types.MethodType, lambda method: ("method", method.__func__, method.__self__)),
            (weakref.ref, lambda reference: ("reference", reference())),
            (SINGLE, self._identity),
        )

    def persistent_id(self, obj: Any) -> Any:
        """What stands for an object; None writes it out."""
        kind = type(obj)
        if kind is str:
            return self.texts.setdefault(obj, obj)  # equal texts are written as one, whichever objects they are
        found = self.writers.get(kind, self)
        if found is self:
            found = next((write for base, write in self.special if issubclass(kind, base)), None)
            found = self.writers[kind] = self._identity if kind.__module__ == "typing" else found
        return None if found is None else found(obj)

    def reducer_override(self, obj: Any) -> Any:
        """Modules as what they hold; nothing that leaves out what it likes when it is pickled."""
        kind = type(obj)
        if isinstance(obj, nn.Module):
            return _made, (kind,), {key: value for key, value in obj.__dict__.items() if value or key not in HOOKS}
        if kind not in self.plain:
            own = (getattr(kind, name, None) for name in ("__reduce__", "__reduce_ex__", "__getstate__"))
            if any(isinstance(function, types.FunctionType) for function in own):
                raise _Unwritten
            self.plain.add(kind)
        return NotImplemented

    def _identity(self, obj: Any) -> int:
        self.kept.append(obj)
        return id(obj)

    def _once(self, obj: Any, describe: Callable[[Any], Any]) -> Any:
        if id(obj) in self.seen:
            return id(obj)
        self.seen.add(id(obj))
        return self._identity(obj), describe(obj)

    def _class(self, kind: type) -> Any:
        """Every attribute of a class, by identity; those that can change inside, by content or by what is named."""
        if kind.__flags__ & 1 << 8:  # immutable: built in
            return None
        members = vars(kind)
        found: list[Any] = [(name, self._identity(value)) for name, value in members.items()]
        if not _is_torch(kind.__module__):
            functions = [value for value in map(_function_of, members.values()) if value is not None]
            names = _named_in(kind)
            found += functions
            above = {name: value for each in reversed(kind.__mro__) for name, value in vars(each).items()}
            found += [self._part(above[name], names) for name in names if name in above]
        found += [v for name, v in members.items() if type(v) in CONTENTS and not name.startswith("__")]
        return found, kind.__bases__

    def _function(self, function: types.FunctionType) -> Any:
        """The code, what it closes over, its defaults and attributes, and the globals that it names."""
        code, table = function.__code__, function.__globals__
        names = () if _is_torch(function.__module__) else _names(code)
        cells = [self._cell(cell, names) for cell in function.__closure__ or ()]
        parts = [(name, self._global(table[name], function.__module__, names)) for name in names if name in table]
        held = [(name, self._part(value, names)) for name, value in function.__dict__.items()]
        return self._identity(code), cells, function.__defaults__, function.__kwdefaults__, parts, held

    def _cell(self, cell: types.CellType, names: tuple[str, ...]) -> Any:
        """What a function closes over."""
        try:
            value = cell.cell_contents
        except ValueError:
            return None
        followed = isinstance(value, (types.FunctionType, Tensor, nn.Module))
        return (value,) if followed else self._part(value, names)

    def _global(self, value: Any, module: str, names: tuple[str, ...]) -> Any:
        """A global; functions of the same module are followed."""
        if type(value) is types.FunctionType and value.__module__ == module:
            return (value,)
        return self._part(value, names)

    def _part(self, value: Any, names: tuple[str, ...], depth: int = DEPTH) -> Any:
        """Numbers and collections by content; of other objects their identity, and what the names find in them."""
        if type(value) in CONTENTS:
            return value, ()
        mine = () if not depth or _is_torch(getattr(value, "__module__", "")) else names
        if isinstance(value, types.ModuleType) and _is_torch(value.__name__):
            mine = ()
        held = getattr(value, "__dict__", {}) if mine and type(value) is not types.FunctionType else {}
        inner = [(name, self._part(held[name], names, depth - 1)) for name in mine if name in held]
        return self._identity(value), inner

    def _tensor(self, tensor: Tensor) -> Any:
        name = self.weights.get(id(tensor))
        if name is not None:
            return "weight", name
        whole = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
        if not whole or tensor.device.type == "meta":
            raise _Unwritten
        about = ("tensor", *_layout(tensor))
        if id(tensor) in self.inputs:
            if tensor.is_floating_point() or tensor.is_complex():
                return about
            if tensor.numel() > MAX_INPUT:
                raise _Unwritten
        flat = tensor.detach().reshape(-1).cpu()
        return *about, hashlib.sha256(flat.clone().view(torch.uint8).numpy().tobytes()).digest()


def _is_torch(module: Any) -> bool:
    return str(module).split(".")[0] == "torch"


def _made(kind: type[nn.Module]) -> nn.Module:
    """A module without what it holds, as pickle would begin it; what is written here is never read."""
    return kind.__new__(kind)


def _function_of(member: Any) -> types.FunctionType | None:
    """The function in a method of any kind."""
    inner = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
    return inner if type(inner) is types.FunctionType else None


def _named_in(kind: type) -> tuple[str, ...]:
    """Names in all functions of a class and of the ones below it but torch's."""
    own = [each for each in kind.__mro__ if not _is_torch(each.__module__)]
    functions = [
        function for each in own for function in map(_function_of, vars(each).values()) if function is not None
    ]
    return tuple(dict.fromkeys(name for function in functions for name in _names(function.__code__)))


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Global names in a function, those of the functions written inside it included."""
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))
