"""Running a network wholly in double precision, whatever casts it has inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["widened"]

WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


class _Widened(TorchDispatchMode):
    """Every operation that names a narrower floating-point type gets the wide one."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        widest = {key: self._wide(value) for key, value in (kwargs or {}).items()}
        return func(*(self._wide(value) for value in args), **widest)

    @staticmethod
    def _wide(value: Any) -> Any:
        return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def widened() -> Iterator[None]:
    """Casts to float32 (norms, rotary embeddings, routers do it) become casts to float64, and so do new tensors.

    >>> with widened():
    ...     torch.ones(2, dtype=torch.float64).float().dtype
    torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widened():
            yield
    finally:
        torch.set_default_dtype(before)
