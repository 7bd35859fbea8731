"""The files of a zoo: shards, records and ``zoo.json``, each written whole or not at all.

::

    digits_mlp-0123456789ab/
        zoo.json                       schema version, configuration, data fingerprint, structures, shards
        records.parquet                a row per network
        weights/shard-0000-<architecture>.safetensors    each tensor stacked [n, ...]; its rows of the records
                                                         as JSON in the metadata
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from experiments.zoo.errors import ZooError

__all__ = [
    "HEADER",
    "MASK",
    "RECORDS",
    "SCHEMA_VERSION",
    "WEIGHTS",
    "ShardContent",
    "ShardFile",
    "encode_shard",
    "file_checksum",
    "read_header",
    "read_records",
    "read_shard",
    "write_durably",
    "write_header",
    "write_records",
]

SCHEMA_VERSION = 1
HEADER, RECORDS, WEIGHTS, METADATA = "zoo.json", "records.parquet", "weights", "zoo"
MASK = "mask/"
"""What the names of winning tickets' masks begin with, which lie beside their initial weights in a shard."""


@dataclass(frozen=True)
class ShardFile:
    """A shard before it is written: its file name and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class ShardContent:
    """What a shard says about itself.

    Args:
        architecture: name of the architecture of all its networks.
        records: one row per network, in the order of the rows of its tensors.
        left_out: numbers of the networks that were trained but are not finite.
    """

    architecture: str
    records: list[dict[str, Any]]
    left_out: list[int]


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file so that, whenever the machine stops, the old file or the whole new one is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def encode_shard(weights: Mapping[str, Tensor], content: ShardContent) -> bytes:
    """A shard as the bytes of a safetensors file; ``weights`` are ``{name: [n, ...]}``."""
    described = {
        "schema": SCHEMA_VERSION,
        "architecture": content.architecture,
        "records": content.records,
        "left_out": content.left_out,
    }
    # One entry: safetensors writes several in an arbitrary order, and equal shards must be equal files.
    metadata = {METADATA: json.dumps(described, allow_nan=False)}
    return save_tensors({name: tensor.contiguous() for name, tensor in weights.items()}, metadata)


def read_shard(
    path: Path, rows: Sequence[int] | None = None, *, with_weights: bool = True
) -> tuple[ShardContent, dict[str, Tensor]]:
    """Reads what a shard says about itself, and its tensors or some rows of them.

    Raises:
        ZooError: the file is missing, truncated or no shard of this schema; the message names it.
    """
    if not path.exists():
        raise ZooError(f"shard {path} is missing; generate the zoo again to restore it")
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if described.get("schema") != SCHEMA_VERSION:
                raise ZooError(
                    f"shard {path} has schema version {described.get('schema')}, this version reads "
                    f"{SCHEMA_VERSION}; generate the zoo again"
                )
            content = ShardContent(described["architecture"], described["records"], described["left_out"])
            names = list(file.keys()) if with_weights else []
            weights = {name: _rows(file, name, rows) for name in names}
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise ZooError(
            f"shard {path} ({path.stat().st_size} bytes) is truncated or damaged: {error}; delete it and "
            "generate the zoo again to restore it"
        ) from error
    return content, weights


def _rows(file: Any, name: str, rows: Sequence[int] | None) -> Tensor:
    if rows is None:
        tensor: Tensor = file.get_tensor(name)
        return tensor
    low, high = (min(rows), max(rows) + 1) if len(rows) else (0, 0)
    part: Tensor = file.get_slice(name)[low:high]
    return part[torch.tensor(rows, dtype=torch.int64) - low]


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Writes ``zoo.json``."""
    text = json.dumps({"schema": SCHEMA_VERSION, **header}, indent=1, allow_nan=False)
    write_durably(folder / HEADER, text.encode())


def read_header(folder: Path) -> dict[str, Any]:
    """Reads ``zoo.json``.

    Raises:
        ZooError: it is missing, no JSON, or of another schema version.
    """
    path = folder / HEADER
    if not path.exists():
        raise ZooError(f"{folder} is not a zoo: it has no {HEADER}; `graphnets zoo generate` makes one")
    try:
        header: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ZooError(f"{path} is damaged: {error}; delete it and generate the zoo again") from error
    if header.get("schema") != SCHEMA_VERSION:
        raise ZooError(
            f"{path} has schema version {header.get('schema')}, this version reads {SCHEMA_VERSION}; "
            "generate the zoo again or use the version that wrote it"
        )
    return header


def write_records(folder: Path, records: pd.DataFrame) -> None:
    """Writes ``records.parquet``."""
    write_durably(folder / RECORDS, records.to_parquet(index=False))


def read_records(folder: Path) -> pd.DataFrame:
    """Reads ``records.parquet``.

    Raises:
        ZooError: it is missing or damaged.
    """
    path = folder / RECORDS
    if not path.exists():
        raise ZooError(f"{path} is missing; generate the zoo again to restore it")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ZooError(f"{path} is damaged: {error}; delete it and generate the zoo again") from error
