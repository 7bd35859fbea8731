"""The stored rows: one per source and name, newest measurement wins."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["merged", "read", "write"]

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Old rows with the new ones in place of those of the same source and name; sorted."""
    rows = {(row["source"], row["name"]): row for row in (*old, *new)}
    return [rows[key] for key in sorted(rows)]


def write(path: Path, rows: Iterable[Row]) -> None:
    """One row a line, keys sorted, numbers to four digits, so that changes can be read in a comparison."""
    lines = [json.dumps(_rounded(row), sort_keys=True, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    partial.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
