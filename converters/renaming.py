"""Names of tensors: from a checkpoint's to those of the network that it belongs to, every difference reported."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from converters.errors import StructureMismatch
from converters.trace.record import named_tensors

__all__ = ["renamed"]

FOREIGN = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""Prefixes that wrappers put before a network's own names."""

LISTED = 20
CONVERTED = (
    "\nOlder checkpoints of it are also reshaped when transformers loads them: "
    "load this one with its from_pretrained, and convert the module."
)


def renamed(weights: Mapping[str, Tensor], model: nn.Module, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights under the model's names, and what was done to theirs."""
    state, aliases, _ = named_tensors(model)
    base = getattr(model, "base_model_prefix", "")
    spell, converted = _conversions(model)
    prefixes = dict.fromkeys([f"{base}.", *FOREIGN] if base else FOREIGN)
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    counts: dict[str, int] = {}
    unexpected, faults = [], []
    for name, tensor in weights.items():
        target, note = next(((t, n) for t, n in _candidates(name, prefixes, spell) if t in state), (None, ""))
        if target is None:
            unexpected.append(name)
        elif target in found:
            faults.append(f"{name}: {target} is there already, as {origin[target]}")
        else:
            found[target], origin[target] = tensor, name
            if note:
                counts[note] = counts.get(note, 0) + 1
    groups: dict[str, list[str]] = {}
    for name in state:
        groups.setdefault(aliases.get(name, name), []).append(name)
    for names in groups.values():
        held = next((found[name] for name in names if name in found), None)
        for name in names:
            if held is not None:
                found.setdefault(name, held)
    missing = []
    for name, tensor in state.items():
        if name not in found and tensor.device.type != "meta" and not isinstance(tensor, nn.Parameter):
            found[name] = tensor  # a buffer that the network makes itself
        elif name not in found:
            missing.append(f"{name}: missing, expected shape {list(tensor.shape)}")
        elif found[name].shape != tensor.shape:
            faults.append(f"{name}: shape {list(found[name].shape)}, expected {list(tensor.shape)}")
    ignored = tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    unexpected = [name for name in unexpected if not _ignorable(name, ignored)]
    faults = [*missing, *faults, *(f"{name}: unexpected, not a name of this network" for name in unexpected)]
    if faults:
        raise StructureMismatch(
            f"the weights of {where} are not those of {type(model).__name__} "
            f"({len(missing)} missing, {len(unexpected)} unexpected, {len(faults)} faults in all):\n  "
            + "\n  ".join(_some(faults))
            + "\nPass architecture= with the class that they were saved from."
            + (CONVERTED if converted else "")
        )
    notes = tuple(f"{count} name{'s' * (count > 1)} {note}" for note, count in counts.items())
    return {name: found[name] for name in state}, notes


def _conversions(model: nn.Module) -> tuple[Callable[[str], str], bool]:
    """How transformers renames the tensors of older checkpoints of this network, and whether it also reshapes some."""
    if not hasattr(model, "base_model_prefix"):
        return str, False
    try:
        loading: Any = importlib.import_module("transformers.core_model_loading")
        mapping: Any = importlib.import_module("transformers.conversion_mapping")
        every = mapping.get_model_conversion_mapping(model)
        plain = [one for one in every if isinstance(one, loading.WeightRenaming)]
        return lambda name: str(loading.apply_renamings(name, plain)), len(plain) < len(every)
    except (ImportError, AttributeError):  # versions before 5 have no such table
        return str, False


def _candidates(name: str, prefixes: Iterable[str], spell: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Names that a tensor may have in the network, the nearest first."""
    head, _, last = name.rpartition(".")
    modern = {"gamma": "weight", "beta": "bias"}.get(last)
    spellings = [(name, "")]
    if modern is not None and head:
        spellings.append((f"{head}.{modern}", f"with {last} called {modern}"))
    if (spelled := spell(name)) != name:
        spellings.append((spelled, "renamed as transformers does"))
    for spelling, note in spellings:
        yield spelling, note
        for prefix in prefixes:
            if spelling.startswith(prefix):
                yield spelling.removeprefix(prefix), note or f"without {prefix!r}"
            yield prefix + spelling, note or f"with {prefix!r} before"


def _ignorable(name: str, patterns: Iterable[str]) -> bool:
    """Buffers that networks used to save, by the network's own list or by their well-known names."""
    known = name.rsplit(".", 1)[-1] in ("position_ids", "inv_freq", "masked_bias")
    return known or any(re.search(pattern, name) for pattern in patterns)


def _some(faults: list[str]) -> list[str]:
    return [*faults[:LISTED], f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else faults
