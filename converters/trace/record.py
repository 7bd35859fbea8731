"""Runs a network once, on its example inputs, under a recorder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from converters.errors import ExampleInputError
from converters.program import Ref, map_leaves
from converters.trace.recorder import Recorder, Recording, StridesMatter, ValuesMatter
from converters.trace.stand_ins import is_weightless, stand_ins
from converters.trace.watch import Watch, plain_functions, quiet

__all__ = ["named_tensors", "record"]


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
        return _cheapest(model, args, kwargs, dtype, state, aliases, lazy=True)
    with stand_ins(model, state, not weights) as replaced:
        return _cheapest(model, args, kwargs, dtype, replaced, aliases, lazy=False)


def _cheapest(
    model: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype, state: Mapping[str, Tensor], aliases: Any, lazy: bool
) -> Recording:
    """Without costly values and without copies, or with them where they matter."""
    fold = True
    while True:
        try:
            return _record(model, args, kwargs, dtype, state, aliases, fold=fold, lazy=lazy)
        except StridesMatter:
            fold = False
        except ValuesMatter:
            lazy = False


def _record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dtype: torch.dtype,
    state: Mapping[str, Tensor],
    aliases: Mapping[str, str],
    *,
    fold: bool,
    lazy: bool,
) -> Recording:
    recording, scope = Recording(), [""]
    recorder = Recorder(recording, dtype, scope, fold, lazy)
    for name, tensor in state.items():
        if name not in aliases:
            recording.named[name] = recorder.register_weight(tensor)
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
        except (StridesMatter, ValuesMatter):
            raise
        except Exception as error:
            if recorder.made_up:
                raise ValuesMatter from error
            if isinstance(error, ExampleInputError):
                raise
            raise ExampleInputError(
                f"{type(model).__name__} does not run on the example inputs "
                f"({', '.join(str(list(t.shape)) for t in inputs)}), in {scope[-1] or 'its forward'}: {error}\n"
                "Pass example_inputs that the network accepts: a tensor, a tuple, or a dict of keyword arguments."
            ) from error
        finally:
            recorder.put_back()
    if recorder.doubtful:
        raise ValuesMatter
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
