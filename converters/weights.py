"""Checks that weights belong to a structure: every fault is found, and all are told at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from converters.errors import StructureMismatch, WeightsError
from converters.structure import Structure

__all__ = ["checked_weights", "stack_size"]


def stack_size(stacked: Mapping[str, Tensor], structure: Structure) -> int:
    """Number of networks in a stack ``{name: [n, *shape]}``."""
    for parameter in structure.parameters:
        if parameter.name in stacked:
            return int(stacked[parameter.name].shape[0])
    raise StructureMismatch(f"{structure.name} has no parameters, so a stack of it has no length")


def checked_weights(
    weights: Mapping[str, Tensor], structure: Structure, *, stacked: bool = False, finite: bool = True
) -> dict[str, Tensor]:
    """The tensors of ``structure`` from ``weights``, detached only where they already are.

    Args:
        weights: a state_dict, or with ``stacked=True`` one whose tensors have a leading network axis.
        finite: refuse NaN and infinity in floating-point parameters.

    Raises:
        StructureMismatch: names are missing or surplus, or shapes differ; all of them are listed.
        WeightsError: a tensor is not finite.
    """
    faults: list[str] = []
    lengths: dict[int, str] = {}
    known = structure.parameter
    for name, parameter in known.items():
        if name not in weights:
            faults.append(f"{name}: missing, expected shape {list(parameter.shape)}")
            continue
        shape = tuple(weights[name].shape)
        if stacked and shape:
            lengths.setdefault(shape[0], name)
            shape = shape[1:]
        elif stacked:
            faults.append(f"{name}: has no network axis, expected [n, {', '.join(map(str, parameter.shape))}]")
            continue
        if shape != parameter.shape:
            faults.append(f"{name}: shape {list(shape)}, expected {list(parameter.shape)}")
        alias = parameter.alias_of
        if alias is not None and alias in weights and not _same(weights[name], weights[alias]):
            faults.append(f"{name}: differs from {alias}, with which it is tied in this structure")
    faults += _dtype_faults(weights, structure)
    faults += [f"{name}: not a parameter of this structure" for name in weights if name not in known]
    if len(lengths) > 1:
        faults.append(f"the stack's length differs between tensors: {lengths}")
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise StructureMismatch(
            f"these weights are not of {structure.name} ({count}):\n  "
            + "\n  ".join(faults)
            + "\nTrace the network they come from, or pass its own structure."
        )
    out = {name: weights[name] for name in known}
    if finite:
        check_finite(out, structure.name)
    return out


def _dtype_faults(weights: Mapping[str, Tensor], structure: Structure) -> list[str]:
    """The structure's main dtype may be any other, but one for all tensors that have it."""
    found: dict[torch.dtype, list[str]] = {}
    for parameter in structure.parameters:
        if parameter.dtype == structure.dtype and parameter.name in weights:
            found.setdefault(weights[parameter.name].dtype, []).append(parameter.name)
    main = max(found, key=lambda dtype: len(found[dtype])) if found else None
    return [
        f"{name}: {str(dtype).removeprefix('torch.')}, the others are {str(main).removeprefix('torch.')}"
        for dtype, names in found.items()
        if dtype != main
        for name in names
    ]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, without reading them where they share their memory."""
    if a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride():
        return True
    return torch.equal(a, b)


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Name every floating-point tensor that holds NaN or infinity.

    Raises:
        WeightsError: with tensor names and counts.
    """
    faults = []
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.device.type == "meta":
            continue
        values = tensor.detach()
        values = values.float() if values.element_size() == 1 else values
        if not bool(values.sum().isfinite()):
            bad = int((~values.isfinite()).sum())
            if bad:
                faults.append(f"{name}: {bad} of {tensor.numel()} elements are not finite")
    if faults:
        raise WeightsError(
            f"{where} has weights that are NaN or infinite:\n  "
            + "\n  ".join(faults)
            + "\nThe training that made them diverged, or the file is damaged; leave this network out."
        )
