"""The second network of an architecture costs its recording alone, or less.

What is kept is the structure of a *program*: the solver and what follows read nothing but the recorded operations with
their numbers, shapes, dtypes and constants, the names, which of them are tied or buffers, and the rules. All of that is
the key, written out in full. Two networks that differ anywhere in their Python but run the same program have the same
structure; two that run different programs, because of a flag, an input or a loop, have different keys. A network is
hence recorded every time, which is the cheaper part, and not identified by its class, its config or its source.

Who asks for it (``cache="attributes"``) is spared the recording, too, where everything that the network *holds* is as
it was (see :mod:`~converters.trace.held`) and nothing in its program depends on values.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from converters.program import Program
from converters.structure import Structure
from converters.trace.recorder import Recording
from converters.trace.rules import DEFAULT_RULES

__all__ = ["Entry", "TraceCache", "are_built_in", "program_key", "recent", "same_held"]

Entry = tuple[Structure, tuple[tuple[str, str], ...], tuple[Any, ...]]
"""A structure, the places without a rule, and objects that must live as long as the entry."""


class TraceCache:
    """The structures of the programs met last, the least recently used ones dropped.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = 32) -> None:
        self.size, self.hits = size, 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """What was kept under a key."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                self.hits += 1
            return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry."""
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.hits = 0


recent = TraceCache()
"""What ``trace(..., cache=True)`` uses."""

same_held = TraceCache()
"""What ``trace(..., cache="attributes")`` looks into first."""

_BUILT_IN = dict(DEFAULT_RULES)


def are_built_in(rules: Mapping[str, Any]) -> bool:
    """Whether a table of rules is the package's own."""
    return rules.keys() == _BUILT_IN.keys() and all(rules[key] is rule for key, rule in _BUILT_IN.items())


def program_key(
    name: str,
    recording: Recording,
    program: Program,
    aliases: Mapping[str, str],
    buffers: Iterable[str],
    order: Sequence[str],
    rules: Mapping[str, Any],
) -> bytes | None:
    """Everything that a structure is derived from, as a digest; None with rules that are not the package's own.

    Such a rule may read whatever it likes, so nothing is kept for it.
    """
    if not are_built_in(rules):
        return None
    digest = hashlib.sha256()
    parts = (
        name,
        torch.__version__,
        program.inputs,
        program.input_refs,
        program.named_refs,
        program.outputs,
        (program.batch, program.length, program.dtype, program.baked, program.guards),
        recording.shapes,
        recording.dtypes,
        sorted(recording.scopes.items()),
        list(aliases.items()),
        sorted(buffers),
        list(order),
    )
    for part in parts:
        digest.update(repr(part).encode())
    for op in (*program.ops, *recording.ops):
        digest.update(repr((op.target, op.args, op.kwargs, op.outputs, op.scope)).encode())
    for index, constant in program.constants:
        digest.update(repr((index, constant.dtype, constant.shape)).encode() + constant.data.encode())
    for values in (recording.constants, recording.values):
        for index, tensor in sorted(values.items()):
            digest.update(repr((index, tensor.dtype, tuple(tensor.shape))).encode() + _bytes(tensor))
    return digest.digest()


def _bytes(tensor: Tensor) -> bytes:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)  # a single element may keep any stride otherwise
    flat.copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()
