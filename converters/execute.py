"""Runs a network from its weights and its structure alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric.data import Batch

from converters.errors import StructureMismatch
from converters.neuron_graph import NeuronGraph, NeuronGraphs, same_structure
from converters.program import Constant, Op, Program, Ref, Size, Symbol, map_leaves
from converters.structure import Structure
from converters.to_state_dict import to_state_dict

__all__ = ["execute"]


def execute(
    source: NeuronGraph | NeuronGraphs | Mapping[str, Tensor],
    *inputs: Any,
    structure: Structure | None = None,
    chunk_size: int | None = None,
    own_inputs: bool = False,
    batch_statistics: bool = False,
    **named_inputs: Any,
) -> Any:
    """What the network computes, in eval mode; equals ``model(*inputs)``.

    Args:
        source: a graph, a state_dict with ``structure``, or many networks at once: a batch of one architecture or
            stacked weights ``{name: [B, *shape]}``.
        inputs, named_inputs: as the network was traced; all networks get the same. The batch axis may have any size
            wherever ``structure.program.inputs[i].free`` says so.
        chunk_size: networks run together (None: all), to bound memory.
        own_inputs: every network gets inputs of its own, which have an axis more, in front, of length B.
        batch_statistics: batch normalisation takes mean and variance of its batch, as in training; running statistics
            are neither read nor changed.

    Returns:
        The network's outputs, with a leading axis B for many networks. Differentiable in weights and inputs.

    Raises:
        StructureMismatch: no program, other inputs than the traced ones, weights of another architecture, or values
            that the network's Python read and that are not those of the trace.
    """
    many = isinstance(source, Batch)
    if isinstance(source, (NeuronGraph, Batch)):
        structure = structure or same_structure(source)
        weights: Mapping[str, Tensor] = to_state_dict(source)
    elif structure is None:
        raise StructureMismatch("weights alone do not say how to run them; pass structure=trace(model)")
    else:
        weights = source
        many = _stacked(weights, structure)
    if structure is None or structure.program is None:
        raise StructureMismatch("this structure was not traced and holds no program; trace the module itself")
    program = structure.program.with_batch_statistics if batch_statistics else structure.program
    if own_inputs and not many:
        raise StructureMismatch("own_inputs is for many networks: a batch of graphs, or stacked weights")
    networks = next((len(weights[name]) for name, _ in program.named_refs), None) if own_inputs else None
    tensors = _bind(program, inputs, named_inputs, networks)
    if program.baked:
        raise StructureMismatch(f"{structure.name} cannot be run from its graph: {'; '.join(program.baked)}")
    buffers = {parameter.name for parameter in structure.parameters if parameter.buffer}
    named = {name: weights[name].detach() if name in buffers else weights[name] for name, _ in program.named_refs}
    if not many:
        return _run(program, named, tensors)
    return _run_many(program, named, tensors, chunk_size, own_inputs)


def _stacked(weights: Mapping[str, Tensor], structure: Structure) -> bool:
    """Whether weights have a leading network axis; every parameter must be there."""
    missing = [parameter.name for parameter in structure.parameters if parameter.name not in weights]
    if missing:
        raise StructureMismatch(f"weights of {structure.name} lack {', '.join(missing)}")
    return any(weights[p.name].dim() == len(p.shape) + 1 for p in structure.parameters[:1])


def _run_many(
    program: Program, named: Mapping[str, Tensor], inputs: list[Tensor], chunk_size: int | None, own_inputs: bool
) -> Any:
    """All networks at once; one by one where torch cannot batch an operation."""
    if not program.named_refs:
        raise StructureMismatch("this network has no parameters, so there is no stack of them to run")
    axes = (0, 0 if own_inputs else None)
    run = torch.func.vmap(lambda weights, given: _run(program, weights, given), axes, chunk_size=chunk_size)
    try:
        return run(dict(named), inputs)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
    count = next(iter(named.values())).shape[0]
    given = zip(*inputs, strict=True) if own_inputs else [inputs] * count
    each = [
        _run(program, {name: tensor[i] for name, tensor in named.items()}, list(own)) for i, own in enumerate(given)
    ]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *each)


def _bind(
    program: Program, inputs: tuple[Any, ...], named: Mapping[str, Any], networks: int | None = None
) -> list[Tensor]:
    """Find every traced input among the arguments and check its shape; with ``networks``, one of it for each."""
    found: list[Tensor] = []
    batches: set[int] = set()
    for spec in program.inputs:
        value: Any = inputs if isinstance(spec.path[0], int) else named
        try:
            for step in spec.path:
                value = value[step]
        except (IndexError, KeyError, TypeError):
            raise StructureMismatch(
                f"{spec.where} is missing; the network was traced on {_signature(program)}"
            ) from None
        if not isinstance(value, Tensor):
            raise StructureMismatch(f"{spec.where} must be a tensor, got a {type(value).__name__}")
        if networks is not None and (not value.dim() or len(value) != networks):
            raise StructureMismatch(f"{spec.where} has shape {list(value.shape)}, expected {networks} in front")
        shape = tuple(value.shape if networks is None else value.shape[1:])
        fits = len(shape) == len(spec.shape) and all(
            a == b or free for a, b, free in zip(shape, spec.shape, spec.free, strict=True)
        )
        if not fits:
            raise StructureMismatch(
                f"{spec.where} has shape {list(shape)}; the network was traced on {_signature(program)}"
            )
        batches.update(a for a, free in zip(shape, spec.free, strict=True) if free)
        found.append(value)
    known = {spec.path[0] for spec in program.inputs}
    given = [*enumerate(inputs), *named.items()]
    surplus = [f"input {key}" for key, value in given if isinstance(value, Tensor) and key not in known]
    if surplus:
        raise StructureMismatch(f"{', '.join(surplus)}: surplus; the network was traced on {_signature(program)}")
    if len(batches) > 1:
        raise StructureMismatch(f"the inputs have different batch sizes: {sorted(batches)}")
    return found


def _signature(program: Program) -> str:
    shapes = [
        f"{spec.where} [{', '.join('*' if free else str(n) for n, free in zip(spec.shape, spec.free, strict=True))}]"
        for spec in program.inputs
    ]
    return ", ".join(shapes)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(v, dim=[axis for axis in range(v.dim()) if axis != dim], keepdim=True)
    return v * (g / norm), norm


REPLACED: dict[str, Any] = {
    "aten.view.default": torch.reshape,
    "aten._unsafe_view.default": torch.reshape,
    "aten._weight_norm_interface.default": _weight_norm,
}
"""Operations re-run in another form: views of batched tensors may need a copy, fused kernels cannot be batched."""


@lru_cache(maxsize=4096)
def _operator(target: str) -> Any:
    if target in REPLACED:
        return REPLACED[target]
    namespace, name, overload = target.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


def _run(program: Program, named: Mapping[str, Tensor], inputs: list[Tensor]) -> Any:
    environment: list[Any] = [None] * program.length
    for name, index in program.named_refs:
        environment[index] = named[name]
    for index, tensor in zip(program.input_refs, inputs, strict=True):
        environment[index] = tensor
    floats = [tensor for tensor in named.values() if tensor.is_floating_point()]
    like = floats[0] if floats else next(iter(inputs), torch.zeros(()))
    traced = [t for t, spec in zip(inputs, program.inputs, strict=True) if any(spec.free)]
    batch = traced[0].shape[0] if traced else program.batch
    for index, constant in program.constants:
        tensor = constant.tensor().to(like.device)
        environment[index] = tensor.to(like.dtype) if constant.dtype == program.dtype else tensor

    def resolve(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return environment[leaf.index]
        if isinstance(leaf, Size):
            return leaf.coefficient * batch + leaf.offset
        return leaf.resolve(like) if isinstance(leaf, Symbol) else leaf

    traced_dtype: torch.dtype = getattr(torch, program.dtype)
    guards = {index: (map_leaves(value, resolve), where) for index, value, where in program.guards}
    for index in guards.keys() & {*program.input_refs, *(index for _, index in program.named_refs)}:
        _unchanged(environment[index], *guards[index])
    for op, dead in zip(program.ops, program.last_uses, strict=True):
        results = _call(op, resolve)
        if like.dtype != traced_dtype:
            results = tuple(_as_weights(op, value, environment, traced_dtype, like.dtype) for value in results)
        if len(results) != len(op.outputs):
            raise StructureMismatch(
                f"{op.scope or 'forward'} takes {len(results)} parts, in the trace {len(op.outputs)}"
            )
        for number, value in zip(op.outputs, results, strict=True):
            if number is not None:
                environment[number] = value
            if number in guards:
                _unchanged(value, *guards[number])
        for spent in dead:
            environment[spent] = None
    return map_leaves(program.outputs, resolve)


def _as_weights(op: Op, value: Any, environment: list[Any], traced: torch.dtype, wanted: torch.dtype) -> Any:
    """A quotient of integers has the default dtype; where that is the one the weights had, it has the one they have."""
    if not isinstance(value, Tensor) or value.dtype != traced or traced != torch.get_default_dtype():
        return value
    exact = not any(environment[i].is_floating_point() or environment[i].is_complex() for i in op.refs())
    return value.to(wanted) if exact else value


def _unchanged(value: Tensor, known: Constant | tuple[int, ...], where: str) -> None:
    """Refuse to go on where Python may have read something else than in the trace: it may do something else with it."""
    if not isinstance(known, Constant):
        if tuple(value.shape) != known:
            raise StructureMismatch(f"{where} selects {list(value.shape)} by value, in the trace {list(known)}")
        return
    before = known.tensor().to(value.device)
    if before.shape != value.shape or not bool((before == value).all()):
        raise StructureMismatch(f"{where} reads the value of a tensor into Python, and it is not the one traced")


def _call(op: Op, resolve: Any) -> tuple[Any, ...]:
    args = [map_leaves(arg, resolve) for arg in op.args]
    args = [list(arg) if isinstance(arg, tuple) else arg for arg in args]
    kwargs = {key: map_leaves(value, resolve) for key, value in op.kwargs}
    out = _operator(op.target)(*args, **kwargs)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)
