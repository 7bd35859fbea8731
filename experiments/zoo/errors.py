"""What can go wrong with a zoo."""

from __future__ import annotations

__all__ = ["ZooConfigError", "ZooError"]


class ZooError(RuntimeError):
    """A zoo, or its generation, is not as it should be; the message says where, why and what to do."""


class ZooConfigError(ValueError):
    """A zoo's configuration is wrong; the message lists every fault."""
