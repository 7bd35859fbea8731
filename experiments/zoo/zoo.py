"""A zoo on disk, read lazily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from converters import Structure
from experiments.zoo.config import ZooConfig
from experiments.zoo.errors import ZooError
from experiments.zoo.importers.config import ImportConfig
from experiments.zoo.nets import Architecture
from experiments.zoo.parsing import parse_zoo
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.network import SirenArchitecture
from experiments.zoo.storage import MASK, WEIGHTS, read_header, read_records, read_shard

__all__ = ["Zoo", "load_zoo", "with_architecture"]


class Zoo:
    """Trained networks with their hyper-parameters and properties.

    Weights are read when they are asked for; the header and the records when they are first used.

    Args:
        path: the folder.
        header: the content of its ``zoo.json``.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header

    def __len__(self) -> int:
        return int(self.header["networks"]["kept"])

    def __repr__(self) -> str:
        return f"Zoo({self.name!r}, {len(self)} networks, {len(self.architectures)} architectures)"

    @property
    def name(self) -> str:
        """The zoo's name."""
        return str(self.header["name"])

    @property
    def fingerprint(self) -> str:
        """A hash of the configuration and the data: equal fingerprints mean the same zoo."""
        return f"{self.header['fingerprint']}-{self.header['data']['fingerprint']}"

    @property
    def config(self) -> ZooConfig | SirenConfig | ImportConfig:
        """How it was generated, or imported."""
        return parse_zoo(self.header["config"])

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row per network, ordered by ``id``.

        Columns: id, run, split (train, val, test), shard and row (where the weights lie), architecture,
        what it is made of (topology, family, depth, width, activation); of classifiers the hyper-parameters and the
        properties of `experiments.zoo.properties.measure`, of SIRENs label, image (or shape), copy, and psnr
        or distance_error.
        """
        return with_architecture(read_records(self.path), self.architectures)

    @cached_property
    def architectures(self) -> dict[str, Architecture]:
        """The architectures by name."""
        kinds: dict[str, type[Architecture]] = {"siren": SirenArchitecture}
        described = self.header["architectures"].items()
        return {name: kinds.get(values["family"], Architecture).from_dict(values) for name, values in described}

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """The structure of every architecture by its name."""
        return {name: Structure.from_json(text) for name, text in self.header["structures"].items()}

    @property
    def structure(self) -> Structure | None:
        """The structure if the zoo has only one, else None."""
        structures = list(self.structures.values())
        return structures[0] if len(structures) == 1 else None

    def resplit(self, splits: Mapping[int, str]) -> Zoo:
        """The same zoo with other splits, such as those of `experiments.zoo.splits.unseen`.

        Args:
            splits: the split of every network by its id; networks that are not in it are in none.
        """
        other = Zoo(self.path, self.header)
        records = self.records.copy()
        records["split"] = records["id"].map(splits).fillna("none")
        other.__dict__["records"] = records
        return other

    def of(self, architecture: str) -> pd.DataFrame:
        """The records of one architecture, ordered by id and numbered from 0.

        Raises:
            ZooError: the zoo has no such architecture.
        """
        if architecture not in self.architectures:
            raise ZooError(f"{self.path} has no architecture {architecture!r}; it has {', '.join(self.architectures)}")
        return self.records[self.records["architecture"] == architecture].reset_index(drop=True)

    def weights(self, architecture: str, rows: Sequence[int] | np.ndarray | None = None) -> dict[str, Tensor]:
        """The parameters and buffers of networks of one architecture, ``{name: [n, *shape]}``.

        Only the shards that hold them are read.

        Args:
            architecture: a key of `architectures`.
            rows: which networks, as row numbers of ``zoo.of(architecture)``, in any order; all if None.

        Raises:
            ZooError: a shard is missing or damaged, holds other networks than the records say, or has a
                parameter of another shape or that is not finite; the message names it.
        """
        return self._tensors(architecture, rows)

    def masks(self, architecture: str, rows: Sequence[int] | np.ndarray | None = None) -> dict[str, Tensor]:
        """Of a zoo of winning tickets: which parameters stay, ``{name: [n, *shape]}`` boolean; see `weights`.

        Raises:
            ZooError: as in `weights`; a zoo of another kind has no masks.
        """
        found = self._tensors(architecture, rows, MASK, torch.bool)
        return {name.removeprefix(MASK): mask for name, mask in found.items()}

    def _tensors(
        self,
        architecture: str,
        rows: Sequence[int] | np.ndarray | None,
        prefix: str = "",
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        records = self.of(architecture)
        if rows is not None:
            records = records.iloc[np.asarray(rows, dtype=np.int64)].reset_index(drop=True)
        described = self.architectures[architecture]
        shapes = {prefix + name: shape for name, shape in described.shapes.items()}
        weights = {
            name: torch.empty(len(records), *shape, dtype=dtype or described.dtype(name))
            for name, shape in shapes.items()
        }
        for shard, part in records.groupby("shard", sort=True):
            path = self.path / WEIGHTS / str(shard)
            inside = part["row"].to_numpy()
            content, tensors = read_shard(path, inside.tolist())
            ids = [record["id"] for record in content.records]
            if [ids[row] for row in inside if row < len(ids)] != part["id"].tolist():
                raise ZooError(f"shard {path} holds other networks than records.parquet says; verify the zoo")
            for name, shape in shapes.items():
                if name not in tensors or tensors[name].shape[1:] != shape:
                    found = tuple(tensors[name].shape[1:]) if name in tensors else "nothing"
                    raise ZooError(f"shard {path}: {name} should have shape {shape}, found {found}")
                if not tensors[name].isfinite().all():
                    raise ZooError(f"shard {path}: {name} has values that are not finite; verify the zoo")
                weights[name][torch.tensor(part.index.tolist())] = tensors[name]
        return weights


def load_zoo(path: str | Path) -> Zoo:
    """Opens a generated zoo.

    Raises:
        ZooError: there is none, it is of another schema version, its generation has not finished, or files
            are missing or have changed their size; the message names them all.
    """
    folder = Path(path)
    header = read_header(folder)
    if header["status"] != "complete":
        done = len(list((folder / WEIGHTS).glob("shard-*.safetensors")))
        raise ZooError(
            f"the generation of {folder} has not finished ({done} shards so far); "
            "generate the zoo again with the same configuration to continue"
        )
    faults = []
    for shard in header["shards"]:
        file = folder / WEIGHTS / shard["file"]
        size = file.stat().st_size if file.exists() else None
        if size is None:
            faults.append(f"{file} is missing")
        elif size != shard["bytes"]:
            faults.append(f"{file} is truncated or damaged: {size} bytes instead of {shard['bytes']}")
    if faults:
        raise ZooError(
            "\n  ".join([f"the zoo {folder} is incomplete:", *faults])
            + "\ngenerate the zoo again with the same configuration to restore what is damaged"
        )
    return Zoo(folder, header)


def with_architecture(records: pd.DataFrame, architectures: Mapping[str, Architecture]) -> pd.DataFrame:
    """Records with columns that say what each network's architecture is made of."""
    names = records["architecture"]
    columns = {
        "topology": names.map({name: each.geometry for name, each in architectures.items()}),
        "family": names.map({name: each.family for name, each in architectures.items()}),
        "depth": names.map({name: each.depth for name, each in architectures.items()}),
        "width": names.map({name: each.width for name, each in architectures.items()}),
    }
    return records.assign(**columns)
