"""Once from a published format to a folder in this project's format, which everything else reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from experiments.zoo.errors import ZooError
from experiments.zoo.folder import finish, shard_entry, zoo_root
from experiments.zoo.importers.config import FORMATS, ImportConfig
from experiments.zoo.importers.published import Published
from experiments.zoo.importers.siren_set import read_siren_set
from experiments.zoo.importers.small_cnn_zoo import read_small_cnn_zoo
from experiments.zoo.properties import PROPERTIES
from experiments.zoo.splits import split_runs
from experiments.zoo.storage import HEADER, WEIGHTS, ShardContent, encode_shard, read_header, write_durably
from experiments.zoo.zoo import Zoo, load_zoo

__all__ = ["IMPORTERS", "import_zoo"]

IMPORTERS: dict[str, Callable[..., Published]] = {"small_cnn_zoo": read_small_cnn_zoo, "siren_set": read_siren_set}
"""The reader of every format by its name; it takes a folder and the format's options."""

assert IMPORTERS.keys() == set(FORMATS)

SHARD_NETWORKS = 1000


def import_zoo(config: ImportConfig, root: str | Path | None = None) -> Zoo:
    """The zoo of a configuration: read from the cache, or converted now and kept.

    Networks with weights or properties that are not finite are left out and named in ``zoo.json``.

    Args:
        config: what to import.
        root: the folder of zoos; else the environment's ``GRAPHNETS_ZOO_ROOT``, else the configuration's.

    Raises:
        ZooError: published files are missing, truncated or not as the format says, or other files were imported
            under this name before.
    """
    parent = zoo_root(root, config.root)
    folder = parent / config.folder_name
    with FileLock(parent / f".{config.folder_name}.lock"):
        source = None if config.folder is None else Path(config.folder)
        if (folder / HEADER).exists() and (source is None or not source.is_dir()):
            return load_zoo(folder)
        if source is None:
            raise ZooError(
                f"the zoo {config.name} is not in {parent}, and no folder of its published files is named: set "
                f"zoo.folder, or run graphnets zoo import {config.importer} FOLDER --name {config.name}"
            )
        published = IMPORTERS[config.importer](source, **config.options)
        if (folder / HEADER).exists():
            earlier = read_header(folder)["data"]["fingerprint"]
            if earlier != published.fingerprint:
                raise ZooError(
                    f"{folder} was imported from other files than those in {source}; choose another name, "
                    "or move the folder away"
                )
        else:
            _convert(config, published, folder)
    return load_zoo(folder)


def _convert(config: ImportConfig, published: Published, folder: Path) -> None:
    """Shards of at most 1000 networks of one architecture, then the records and the header."""
    measured = [name for name in PROPERTIES if name in published.records]
    records = published.records
    if "split" not in records:
        splits = split_runs(records["run"], config.splits, config.seed)
        records = records.assign(split=records["run"].map(splits))
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    left_out: list[int] = []
    for architecture, networks in records.groupby("architecture", sort=True):
        for start in range(0, len(networks), SHARD_NETWORKS):
            part = networks.iloc[start : start + SHARD_NETWORKS]
            weights = published.weights(str(architecture), part["id"].tolist())
            finite = np.isfinite(part[measured].to_numpy(dtype=np.float64)).all(1)
            for tensor in weights.values():
                finite &= tensor.flatten(1).isfinite().all(1).numpy()
            left_out += part.loc[~finite, "id"].tolist()
            part = part[finite]
            content = ShardContent(str(architecture), part[["id", *measured]].to_dict("records"), [])
            kept = {key: value[np.flatnonzero(finite)] for key, value in weights.items()}
            path = folder / WEIGHTS / f"shard-{len(shards):04d}-{architecture}.safetensors"
            write_durably(path, encode_shard(kept, content))
            rows += part.assign(shard=path.name, row=range(len(part))).to_dict("records")
            shards.append(shard_entry(path, str(architecture), len(part)))
    if not rows:
        raise ZooError(f"{config.folder}: none of {len(left_out)} networks is finite")
    data = {"name": config.name, "fingerprint": published.fingerprint}
    header = {
        "name": config.name,
        "fingerprint": config.fingerprint,
        "config": config.to_dict(),
        "data": data if published.classes is None else data | {"classes": published.classes},
    }
    finish(folder, header, rows, shards, left_out, sorted(published.architectures.values()))
