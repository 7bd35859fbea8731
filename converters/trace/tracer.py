"""``trace``: from a module to its Structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from converters.errors import ExampleInputError, UnsupportedOperation
from converters.program import Program
from converters.structure import Structure
from converters.trace.assemble import assemble
from converters.trace.cache import Entry, are_built_in, program_key, recent, same_held
from converters.trace.fit import same_path, with_free_batch
from converters.trace.held import held_key
from converters.trace.propagate import Rule, propagate
from converters.trace.record import named_tensors, record
from converters.trace.recorder import Recording
from converters.trace.rules import DEFAULT_RULES

__all__ = ["trace"]


def trace(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    strict: bool = False,
    rules: Mapping[str, Rule] | None = None,
    cache: bool | Literal["attributes"] = True,
) -> Structure:
    """Run a network once on one small input and derive its structure.

    The network is put in eval mode and back; nothing of it changes. Every permutation of neurons that provably leaves
    the function unchanged is found for the operations in the rule table; axes that meet any other operation are kept
    fixed, with the reason in ``structure.frozen_reasons``.

    A network whose parameters are on the meta device (see :func:`~converters.without_weights`) is traced in shapes
    alone: no weight is allocated. What its forward reads from its weights into Python is not there; an error says so.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments. Inferred if the first layer is
            Linear, Conv or Embedding.
        strict: raise on operations without a rule instead of freezing.
        rules: replaces the rule table; ``{**DEFAULT_RULES, "my_op": my_rule}`` extends it.
        cache: return the structure found before for the very same program. The network is recorded in any case, and its
            operations, shapes and constants are what is compared, so a changed flag or input is never missed; a table
            of other rules is not cached. ``"attributes"`` does not record a network that holds what an earlier one
            held: the same classes with the same functions, and equal attributes, configurations, hooks, shapes of
            weights and inputs. That is nearly free, and blind to what a forward takes from elsewhere: the environment,
            files, functions of other modules that were replaced.

    Raises:
        ExampleInputError: no input could be inferred, or the network does not run on it.
        UnsupportedOperation: ``strict=True``; all places at once.

    >>> structure = trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> [(group.name, group.size) for group in structure.groups if group.permutable]
    [('0', 8)]
    """
    if not isinstance(model, nn.Module):
        raise ExampleInputError(f"trace takes a torch.nn.Module, got a {type(model).__name__}")
    args, kwargs = _arguments(model, example_inputs)
    state, aliases, buffers = named_tensors(model)
    dtype = _main_dtype(state)
    table = DEFAULT_RULES if rules is None else rules
    held = held_key(model, state, aliases, args, kwargs) if cache == "attributes" and are_built_in(table) else None
    entry = None if held is None else same_held.get(held[0])
    if entry is None:
        entry = _traced(model, args, kwargs, dtype, (state, aliases, buffers), table, bool(cache))
        program = entry[0].program
        if held is not None and program is not None and not program.baked and not program.guards:
            same_held.put(held[0], (*entry[:2], held[1]))
    if strict and entry[1]:
        raise UnsupportedOperation(type(model).__name__, entry[1])
    return entry[0]


def _traced(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype,
    tensors: tuple[dict[str, Tensor], dict[str, str], set[str]],
    rules: Mapping[str, Rule],
    cache: bool,
) -> Entry:
    """Recorded, and solved unless the program is known."""
    name, (state, aliases, buffers) = type(model).__name__, tensors
    first, program = _recorded(model, args, kwargs, dtype)
    key = program_key(name, first, program, aliases, buffers, list(state), rules) if cache else None
    entry = None if key is None else recent.get(key)
    if entry is None:
        context = propagate(first, program, rules)
        entry = assemble(name, program, context, aliases, buffers, list(state)), tuple(context.gaps), ()
        if key is not None:
            recent.put(key, entry)
    return entry


def _main_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    count: dict[torch.dtype, int] = {}
    for tensor in state.values():
        if tensor.is_floating_point():
            count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.numel()
    return max(count, key=lambda key: count[key]) if count else torch.float32


def _arguments(model: nn.Module, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example_inputs is None:
        return (_inferred(model),), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _inferred(model: nn.Module) -> Tensor:
    """An input for the first layer that tells its size."""
    sizes = {nn.Conv1d: (32,), nn.Conv2d: (32, 32), nn.Conv3d: (16, 16, 16)}
    for module in model.modules():
        for kind, spatial in sizes.items():
            if isinstance(module, kind):
                weight = module.weight
                return torch.zeros(2, module.in_channels, *spatial, dtype=weight.dtype, device=_device(weight))
        if isinstance(module, nn.Linear):
            return torch.zeros(2, module.in_features, dtype=module.weight.dtype, device=_device(module.weight))
        if isinstance(module, nn.Embedding):
            return torch.zeros(2, 8, dtype=torch.long, device=_device(module.weight))
    raise ExampleInputError(
        f"cannot infer an input for {type(model).__name__}: it has no Linear, Conv or Embedding layer. "
        "Pass example_inputs: a tensor, a tuple of positional or a dict of keyword arguments."
    )


def _device(weight: Tensor) -> torch.device:
    """Where inputs for a weight are made; those without memory compute on the CPU."""
    return torch.device("cpu") if weight.device.type == "meta" else weight.device


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]


def _recorded(model: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> tuple[Recording, Program]:
    """Two runs at different batch sizes tell which integers follow the batch; one network of the batch suffices."""
    sizes = [tensor.shape[0] for tensor in _tensors(args, kwargs) if tensor.dim()]
    batch = sizes[0] if sizes else 0
    runs: dict[int, Recording | None] = {}
    # Not the size that was given: an axis that is no batch may be broadcast from 1, and it fits whatever awaits it.
    another = 5 if batch == 3 else 3
    for small, large in dict.fromkeys([(1, another), (batch, batch + max(batch, 2))]) if batch else ():
        for size in (small, large):
            if size not in runs and (size == small or runs[small] is not None):
                runs[size] = _resized(model, args, kwargs, dtype, batch, size)
        first, second = runs[small], runs.get(large)
        if first is not None and second is not None:
            program = with_free_batch(first, second, small, large, dtype)
            if any(any(spec.free) for spec in program.inputs) and same_path(first, second, program):
                return first, program
    alone = runs.get(1) if batch == 1 else None
    alone = record(model, args, kwargs, dtype) if alone is None else alone
    again = record(model, pytree.tree_map(_perturbed, args), pytree.tree_map(_perturbed, kwargs), dtype)
    return alone, with_free_batch(alone, again, batch, batch, dtype)


def _perturbed(leaf: Any) -> Any:
    """Other values of the same shape, so that what depends on values shows."""
    return leaf * 1.25 + 0.125 if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _resized(model: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype, batch: int, size: int) -> Recording | None:
    """The network run at another batch size, or None where it does not run on one."""

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] != batch:
            return leaf
        resized = leaf.repeat(-(-size // batch), *([1] * (leaf.dim() - 1)))[:size]
        return resized if size == 1 else _perturbed(resized)

    try:
        return record(model, pytree.tree_map(resize, args), pytree.tree_map(resize, kwargs), dtype)
    except ExampleInputError:
        return None
