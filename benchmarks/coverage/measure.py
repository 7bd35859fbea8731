"""One row of the survey: what the converters make of one network."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.coverage.cases import Case, Unavailable
from converters import Structure, execute, to_graph, to_state_dict, trace, verify
from converters.symmetry.verify import coverage, randomized
from converters.symmetry.widened import widened

__all__ = ["measure"]

MOST_REASONS = 5
"""How many reasons a row keeps, each with the number of places and the first of them; and how many unsound groups."""

UNUSED = "never used in the forward pass"

MOST_ENTRIES = 3 * 10**8
"""Edges times kernel entries up to which the graph's tensors are written out; above it stays made of views."""


def measure(case: Case, source: str) -> dict[str, Any]:
    """All measurements of one case; ``failed`` names the step that raised, with the error in ``message``."""
    row: dict[str, Any] = {"source": source, "name": case.name, "kind": case.kind, "note": case.note}
    step = "build"
    try:
        model, inputs = case.make()
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        step = "run"
        _forward(model, model.state_dict(), inputs)
        step = "trace"
        start = time.process_time()
        structure = trace(model, inputs)
        row["trace_ms"] = 1e3 * (time.process_time() - start)
        row |= _sizes(structure)
        step = "verify"
        row |= _symmetry(model, inputs, structure)
        step = "round trip"
        row["written"] = structure.num_edges * math.prod(structure.kernel_size) <= MOST_ENTRIES
        row["exact"] = _comes_back(model, structure, materialize=row["written"])
        step = "execute"
        row["execute_error"] = _execute_error(model, inputs, structure)
    except Unavailable as error:
        row |= {"failed": "unavailable", "message": str(error)}
    except Exception as error:
        row |= {"failed": step, "message": f"{type(error).__name__}: {error}"[:400]}
    return row


def _sizes(structure: Structure) -> dict[str, Any]:
    counts = Counter(reason for _, reason in structure.frozen_reasons)
    first = {reason: place for place, reason in reversed(structure.frozen_reasons)}
    return {
        "nodes": structure.num_nodes,
        "edges": structure.num_edges,
        "units": sum(group.permutable for group in structure.groups),
        "frozen": len(structure.frozen_reasons),
        "reasons": [[reason, count, first[reason]] for reason, count in counts.most_common(MOST_REASONS)],
    }


def _symmetry(model: nn.Module, inputs: Any, structure: Structure) -> dict[str, Any]:
    report = verify(model, inputs, structure)
    return {
        "coverage": report.coverage,
        "coverage_used": _coverage_used(structure),
        "sound": report.sound,
        "unsound": len(report.unsound),
        "unsound_names": list(report.unsound[:MOST_REASONS]),
        "error": report.error,
        "control": report.control if report.units else None,
        "tolerance": report.tolerance,
    }


def _coverage_used(structure: Structure) -> float:
    """The coverage without the parameters that the forward pass never uses."""
    unused = {place for place, reason in structure.frozen_reasons if reason == UNUSED}
    parameters = tuple(parameter for parameter in structure.parameters if parameter.name not in unused)
    return coverage(replace(structure, parameters=parameters))


def _comes_back(model: nn.Module, structure: Structure, materialize: bool) -> bool:
    """Whether the graph gives every entry of the state_dict back bit for bit."""
    state = model.state_dict()
    found = to_state_dict(to_graph(model, structure=structure, materialize=materialize))
    return list(found) == list(state) and all(_bits(found[name]) == _bits(state[name]) for name in state)


def _bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
    return tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _execute_error(model: nn.Module, inputs: Any, structure: Structure) -> float:
    """Largest difference of an output run from the graph, relative to the largest value; float64, random weights."""
    network, wide = copy.deepcopy(model).double().eval(), _double(inputs)
    weights = randomized(structure, network.state_dict(), torch.Generator().manual_seed(1))
    try:
        with widened():
            expected = _forward(network, weights, wide)
    except RuntimeError:  # the network does not run in float64
        network, wide = model, inputs
        weights = randomized(structure, network.state_dict(), torch.Generator().manual_seed(1))
        expected = _forward(network, weights, wide)
    args, kwargs = _arguments(wide)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # as in _forward: some networks draw random numbers
        found = execute(weights, *args, structure=structure, **kwargs)
    return _difference(_leaves(expected), _leaves(found))


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _double(tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.double() if _is_float(leaf) else leaf, tree)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _forward(model: nn.Module, weights: Mapping[str, Tensor], inputs: Any) -> Any:
    args, kwargs = _arguments(inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.func.functional_call(model, dict(weights), args, kwargs, tie_weights=False)


def _leaves(tree: Any) -> list[Tensor]:
    if hasattr(tree, "to_tuple"):
        tree = tree.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _difference(left: list[Tensor], right: list[Tensor]) -> float:
    if len(left) != len(right):
        raise ValueError(f"the network gives {len(left)} tensors, its graph {len(right)}")
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"an output has shape {list(a.shape)}, from the graph {list(b.shape)}")
        if a.numel():
            a, b = a.double(), b.double()
            scale = max(float(a.abs().max()), 1e-6)
            worst = max(worst, float((a - b).abs().max()) / scale)
    return worst
