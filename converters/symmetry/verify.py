"""Numerical proof of the symmetries: every unit, jointly, in float64, on random weights, with a negative control."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from converters.structure import UNUSED, Structure
from converters.symmetry.permutation import Permutation, permute, sample_permutation
from converters.symmetry.widened import widened

__all__ = ["SymmetryReport", "randomized", "verify"]

TOLERANCE = 1e-9
ROUNDING, COARSEST = 100.0, 1e-4
ROUNDS = 6
ROUNDED = 8
"""Copies with rounded weights that tell how far a network amplifies rounding."""


@dataclass(frozen=True)
class SymmetryReport:
    """What :func:`verify` measured.

    Args:
        error: largest relative change of an output when all units are permuted at once (float64).
        control: the same under an uncoupled permutation; a proof needs it to be large. NaN where nothing is permutable.
        unsound: names of groups that change the function when permuted alone.
        frozen: ``(where, why)`` for every axis kept fixed.
        coverage: share of parameter axes, kernels and inputs/outputs not counted, that lie in permutable groups.
    """

    network: str
    error: float
    control: float
    units: int
    unsound: tuple[str, ...]
    frozen: tuple[tuple[str, str], ...]
    coverage: float
    tolerance: float = field(default=TOLERANCE)

    @property
    def sound(self) -> bool:
        """Whether every unit leaves the function unchanged and the control does not."""
        return not self.unsound and self.error < self.tolerance and (self.units == 0 or self.control > 1e-3)

    def __str__(self) -> str:
        lines = [
            f"{self.network}: {'sound' if self.sound else 'NOT SOUND'}, {self.units} permutable groups, "
            f"coverage {self.coverage:.0%}",
            f"  relative error {self.error:.1e} (all units at once), negative control {self.control:.1e}",
        ]
        lines += [f"  unsound: {name}" for name in self.unsound]
        lines += [f"  frozen: {where}: {why}" for where, why in self.frozen]
        return "\n".join(lines)


def verify(
    model: nn.Module,
    example_inputs: Any = None,
    structure: Structure | None = None,
    *,
    seed: int = 0,
) -> SymmetryReport:
    """Permute randomised copies of the network and compare what they compute.

    A network may amplify rounding (products of many layers do): an error counts if it is above the tolerance and above
    a hundred times what rounding the weights does, which is measured on several draws where it matters; nothing above
    1e-4 passes.

    Weights are drawn at random first: zero biases, unit norm scales and tiny layer scales would hide errors. Six draws
    of weights and permutations: a single one can commute with an error, or meet a dead unit.

    Args:
        model, example_inputs: as for :func:`~converters.trace`.
        structure: what to test (default: trace it).
        seed: of weights, inputs and permutations.
    """
    from converters.trace import trace
    from converters.trace.tracer import _arguments

    structure = structure or trace(model, example_inputs)
    args, kwargs = _arguments(model, example_inputs)
    generator = torch.Generator().manual_seed(seed)
    network, args, kwargs, tolerance = _in_float64(model, args, kwargs, generator)
    error, control, unsound = 0.0, 0.0, dict[str, None]()
    movable = sample_permutation(structure, generator)
    for _ in range(ROUNDS):
        weights = randomized(structure, network.state_dict(), generator)
        expected = _outputs(network, weights, args, kwargs)

        def change(
            permutation: Permutation, weights: dict[str, Tensor] = weights, expected: list[Tensor] = expected
        ) -> float:
            return _distance(expected, _outputs(network, permute(weights, permutation), args, kwargs))

        every = sample_permutation(structure, generator)
        found = change(every)
        error = max(error, found)
        if found >= tolerance:
            # One draw of roundings may cancel out by chance, several do not.
            near = [_outputs(network, _rounded(weights, generator), args, kwargs) for _ in range(ROUNDED)]
            rounded = max(_distance(expected, each) for each in near)
            tolerance = max(tolerance, min(ROUNDING * rounded, COARSEST))
        if found >= tolerance:
            for g in (g for g in every if not structure.groups[g].factors):
                if change(sample_permutation(structure, generator, groups={g})) >= tolerance:
                    unsound[structure.groups[g].name] = None
        if movable and control <= 1e-3:
            control = max(control, change(sample_permutation(structure, generator, coupled=False)))
    control = control if movable else float("nan")
    return SymmetryReport(
        network=structure.name,
        error=error,
        control=control,
        units=sum(group.permutable and not group.factors for group in structure.groups),
        unsound=tuple(unsound),
        frozen=structure.frozen_reasons,
        coverage=coverage(structure),
        tolerance=tolerance,
    )


def _in_float64(
    model: nn.Module, args: Any, kwargs: Any, generator: torch.Generator
) -> tuple[nn.Module, Any, Any, float]:
    """A copy to experiment on, and random inputs; a network that casts to a dtype of its own stays in it."""
    network = copy.deepcopy(model).double().eval()
    wide = [pytree.tree_map(lambda leaf: _random_input(leaf, generator, torch.float64), t) for t in (args, kwargs)]
    try:
        _outputs(network, network.state_dict(), *wide)
    except RuntimeError:
        network = copy.deepcopy(model).eval()
        floats = [t.dtype for t in network.state_dict().values() if t.is_floating_point()]
        tolerance = 100 * max((torch.finfo(dtype).eps for dtype in floats), default=TOLERANCE)
        own = [pytree.tree_map(lambda leaf: _random_input(leaf, generator, None), t) for t in (args, kwargs)]
        return network, own[0], own[1], tolerance
    return network, wide[0], wide[1], TOLERANCE


def coverage(structure: Structure) -> float:
    """Share of the parameters' axes that lie in permutable groups.

    Axes of kernels, tables of positions, inputs and outputs do not count, nor do parameters that are never used.
    """
    covered = total = 0
    for parameter in structure.parameters:
        if parameter.alias_of is not None:
            continue
        for axis in parameter.axes:
            roles = {structure.groups[g].role for g in axis.groups}
            if len(axis) < 2 or not roles or roles <= {"input", "output"}:
                continue
            if all(structure.groups[g].reason == UNUSED for g in axis.groups):
                continue
            total += 1
            covered += any(structure.groups[g].permutable for g in axis.groups)
    return covered / total if total else 1.0


def randomized(structure: Structure, state: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights of the same shapes: generic, and of a scale at which no layer saturates or dies."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        alias = structure.parameter[name].alias_of
        if alias is not None:
            out[name] = out[alias]
        elif not tensor.is_floating_point():
            out[name] = tensor.clone()
        elif name.rsplit(".", 1)[-1] in ("running_var", "var"):
            out[name] = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
        else:
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            fan_in = max(1, tensor[0].numel() if tensor.dim() > 1 else 1)
            out[name] = noise / fan_in**0.5 + (1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0)
    return out


def _rounded(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights off by half a unit in the last place: as far as sums in another order may be."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 0.5
        exact = not tensor.is_floating_point()
        out[name] = tensor if exact else (tensor * (1 + 2 * torch.finfo(tensor.dtype).eps * noise)).to(tensor.dtype)
    return out


def _random_input(leaf: Any, generator: torch.Generator, dtype: torch.dtype | None) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return torch.randn(leaf.shape, generator=generator).to(dtype or leaf.dtype)
    return leaf


def _outputs(network: nn.Module, weights: Mapping[str, Tensor], args: Any, kwargs: Any) -> list[Tensor]:
    wide = any(tensor.dtype == torch.float64 for tensor in weights.values())
    with torch.no_grad(), torch.random.fork_rng(devices=[]), widened() if wide else nullcontext():
        torch.manual_seed(0)
        own = {id(tensor): tensor.clone() for tensor in weights.values()}  # a forward pass may write to its weights
        state = {name: own[id(tensor)] for name, tensor in weights.items()}
        out = torch.func.functional_call(network, state, args, kwargs, tie_weights=False)
    if hasattr(out, "to_tuple"):
        out = out.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference relative to the largest value; outputs of other shapes (other detections) differ wholly."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            worst = max(worst, 1.0)
            continue
        if not x.is_floating_point():
            worst = max(worst, float((x != y).double().mean()) if x.numel() else 0.0)
            continue
        scale = float(x.abs().max()) if x.numel() else 0.0
        if scale:
            worst = max(worst, float((x - y).abs().max()) / scale)
    return worst
