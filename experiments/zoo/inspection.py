"""Looking at a zoo on disk, and checking it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import ImageData, ShapeData, load_data, load_images
from experiments.zoo.config import ZooConfig
from experiments.zoo.errors import ZooError
from experiments.zoo.importers.config import ImportConfig
from experiments.zoo.nets import architectures_of
from experiments.zoo.properties import PROPERTIES
from experiments.zoo.sampling import draw_recipe, output_of
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.signals import quality, signals_of
from experiments.zoo.storage import MASK, WEIGHTS, file_checksum, read_shard
from experiments.zoo.tickets.config import TicketConfig
from experiments.zoo.tickets.pruning import TICKET_PROPERTIES, ticket_accuracies
from experiments.zoo.training import flat_start
from experiments.zoo.zoo import Zoo, load_zoo

__all__ = ["Report", "info", "verify"]

RETRAINED = 0.03
"""How far the accuracy of a ticket that is trained again, in another stack, may lie from the recorded one."""


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Args:
        path: the zoo's folder.
        networks, shards: how many were checked.
        remeasured: how many networks were rebuilt as modules and measured again.
        faults: everything that is wrong, in words; empty if nothing is.
    """

    path: Path
    networks: int
    shards: int
    remeasured: int
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        checked = f"{self.networks} networks in {self.shards} shards, {self.remeasured} measured again"
        verdict = "no faults" if self.ok else f"{len(self.faults)} faults:"
        return "\n  ".join([f"{self.path}: {checked}; {verdict}", *self.faults])


def info(path: str | Path) -> dict[str, Any]:
    """A summary of a zoo: its header in short, its splits, and the distribution of each property."""
    zoo = load_zoo(path)
    summary = {key: value for key, value in zoo.header.items() if key not in ("structures", "shards")}
    quantiles = zoo.records[_properties(zoo)].quantile([0, 0.25, 0.5, 0.75, 1]).round(4)
    quantiles.index = ["min", "25%", "median", "75%", "max"]
    return summary | {
        "path": str(zoo.path),
        "shards": len(zoo.header["shards"]),
        "splits": zoo.records["split"].value_counts().to_dict(),
        "per_architecture": zoo.records["architecture"].value_counts().to_dict(),
        "properties": {name: column.to_dict() for name, column in quantiles.items()},
    }


def verify(path: str | Path, networks: int = 8) -> Report:
    """Checks a zoo file by file and network by network.

    Every shard must be readable, have its recorded checksum, finite tensors of the right shapes and the
    networks that the records name; splits must not share a run. Then ``networks`` of them, evenly spaced,
    are rebuilt as ordinary modules, and what they were recorded for is measured anew: the accuracy on the test and the
    shifted images, or how well a SIREN fits its image or shape; initialisations are drawn anew and what their masks
    leave is trained again. The images of an imported zoo are not at hand.

    Raises:
        ZooError: there is no complete zoo at ``path``.
    """
    zoo = load_zoo(path)
    faults: list[str] = []
    for shard in zoo.header["shards"]:
        faults += _shard_faults(zoo, shard)
    records = zoo.records
    if len(records) != len(zoo):
        faults.append(f"records.parquet has {len(records)} rows, zoo.json says {len(zoo)}")
    if not np.isfinite(records[_properties(zoo)].to_numpy()).all():
        faults.append("records.parquet has properties that are not finite")
    if records.groupby("run")["split"].nunique().max() > 1:
        faults.append("records.parquet has a run in more than one split")
    config = zoo.config
    count = 0 if isinstance(config, ImportConfig) else min(networks, len(records))
    chosen = np.unique(np.linspace(0, len(records) - 1, count).astype(int))
    if not faults and not isinstance(config, ImportConfig):
        data = load_data(config.data)
        for index in chosen:
            faults += _network_faults(zoo, int(index), data)
    return Report(zoo.path, len(records), len(zoo.header["shards"]), len(chosen), faults)


def _properties(zoo: Zoo) -> list[str]:
    """What the networks of a zoo are measured by."""
    if isinstance(zoo.config, TicketConfig):
        return [name for name in TICKET_PROPERTIES if name in zoo.records]
    known = [zoo.config.quality] if isinstance(zoo.config, SirenConfig) else PROPERTIES
    return [name for name in known if name in zoo.records]


def _shard_faults(zoo: Zoo, shard: dict[str, Any]) -> list[str]:
    path = zoo.path / WEIGHTS / shard["file"]
    if file_checksum(path) != shard["sha256"]:
        return [f"{path}: its checksum is not the recorded one"]
    try:
        content, tensors = read_shard(path)
    except ZooError as error:
        return [str(error)]
    faults = []
    shapes = zoo.architectures[shard["architecture"]].shapes
    expected = {name: (shard["networks"], *shape) for name, shape in shapes.items()}
    if isinstance(zoo.config, TicketConfig):
        expected |= {MASK + name: shape for name, shape in expected.items()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        faults.append(f"{path}: its tensors have not the names and shapes of {shard['architecture']}")
    infinite = [name for name, value in tensors.items() if not value.isfinite().all()]
    faults += [f"{path}: {name} is not finite" for name in infinite]
    rows = zoo.records[zoo.records["shard"] == shard["file"]].sort_values("row")
    if rows["id"].tolist() != [record["id"] for record in content.records]:
        faults.append(f"{path}: its networks are not those of records.parquet")
    else:
        for name in _properties(zoo):
            if rows[name].tolist() != [record[name] for record in content.records]:
                faults.append(f"{path}: its {name} is not that of records.parquet")
    return faults


def _ticket_faults(config: TicketConfig, zoo: Zoo, index: int) -> list[str]:
    """Draws one initialisation again, counts what its mask keeps, and trains that again."""
    row, data = zoo.records.iloc[index], load_images(config.data)
    recipe = draw_recipe(config, architectures_of(config.architecture, data.image_shape, data.classes), row["id"])
    stored = [zoo.weights(recipe.architecture.name), zoo.masks(recipe.architecture.name)]
    position = int(np.searchsorted(zoo.of(recipe.architecture.name)["id"].to_numpy(), row["id"]))
    start, mask = (torch.cat([tensor[position].flatten() for tensor in tensors.values()]) for tensors in stored)
    faults = []
    if not torch.equal(start, flat_start(config, recipe).to(start.dtype)):
        faults.append(f"network {row['id']}: its weights are not those of its seed's initialisation")
    kept = round((1 - config.sparsity) * len(mask))
    if int(mask.sum()) != kept:
        faults.append(f"network {row['id']}: its mask keeps {int(mask.sum())} parameters instead of {kept}")
    accuracy = float(ticket_accuracies(config, [recipe], mask.unsqueeze(0), data))
    if abs(accuracy - row["ticket_accuracy"]) > RETRAINED:
        recorded = row["ticket_accuracy"]
        faults.append(f"network {row['id']}: ticket_accuracy is recorded as {recorded:.4f}, is {accuracy:.4f}")
    return faults


def _network_faults(zoo: Zoo, index: int, data: ImageData | ShapeData) -> list[str]:
    """Rebuilds one network as a module and measures it."""
    if isinstance(zoo.config, TicketConfig):
        return _ticket_faults(zoo.config, zoo, index)
    row = zoo.records.iloc[index]
    architecture = zoo.architectures[row["architecture"]]
    position = int(np.searchsorted(zoo.of(architecture.name)["id"].to_numpy(), row["id"]))
    weights = zoo.weights(architecture.name, [position])
    module = architecture.build().eval()
    module.load_state_dict({name: tensor[0] for name, tensor in weights.items()})

    @torch.no_grad()
    def accuracy(images: Tensor, labels: Tensor) -> float:
        own = torch.from_numpy(output_of(row.get("classes"), data.classes))[labels]
        found = module(architecture.prepare(images[own >= 0])).argmax(1)
        return float((found == own[own >= 0]).double().mean())

    checks: dict[str, tuple[float, float]] = {}
    if isinstance(zoo.config, SirenConfig):
        signals = signals_of(zoo.config, data, torch.tensor([row["image"]]), unseen=True)
        with torch.no_grad():
            drawn = module(signals.coordinates.view(-1, architecture.sizes[0])).t().unsqueeze(0)
        tolerance = 0.1 if isinstance(data, ImageData) else 1e-3
        checks[zoo.config.quality] = (quality(zoo.config, drawn, signals)[0], tolerance)
    elif isinstance(data, ImageData):
        share = (zoo.config.task_classes or data.classes) / data.classes if isinstance(zoo.config, ZooConfig) else 1
        tolerance = 1.5 / (share * len(data.test))
        checks["test_accuracy"] = (accuracy(data.test, data.test_labels), tolerance)
        checks["robustness_shift"] = (accuracy(data.shifted, data.shifted_labels), tolerance)
    faults = []
    for name, (measured, tolerance) in checks.items():
        if abs(measured - row[name]) > tolerance:
            faults.append(f"network {row['id']}: {name} is recorded as {row[name]:.4f}, is {measured:.4f}")
    return faults
