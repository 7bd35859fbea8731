"""The configurations of ``configs/zoo``, parsed."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir

from experiments.config import CONFIG_DIR
from experiments.zoo.parsing import parse_zoo

__all__ = ["CONFIGS", "of_kind"]


def _parsed() -> dict[str, Any]:
    names = sorted(path.stem for path in (CONFIG_DIR / "zoo").glob("*.yaml"))
    with initialize_config_dir(str(CONFIG_DIR / "zoo"), version_base="1.3"):
        return {name: parse_zoo(compose(name)) for name in names}


CONFIGS: dict[str, Any] = _parsed()
"""By the names of their files."""


def of_kind(kind: type) -> list[str]:
    """The names of those of one kind, and of no narrower one."""
    return [name for name, config in CONFIGS.items() if type(config) is kind]
