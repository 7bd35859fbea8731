"""Zoos: many small networks with known hyper-parameters and measured properties, to learn from."""

from __future__ import annotations

from experiments.zoo.config import ZooConfig
from experiments.zoo.dataset import ZooDataset, ZooLoader
from experiments.zoo.errors import ZooConfigError, ZooError
from experiments.zoo.generation import generate, get_zoo
from experiments.zoo.importers.config import ImportConfig
from experiments.zoo.importers.convert import import_zoo
from experiments.zoo.inspection import Report, info, verify
from experiments.zoo.nets import Architecture
from experiments.zoo.properties import PROPERTIES
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.sirens.network import Sine, SirenArchitecture
from experiments.zoo.splits import UNSEEN, unseen
from experiments.zoo.tickets.config import TicketConfig
from experiments.zoo.zoo import Zoo, load_zoo

__all__ = [
    "PROPERTIES",
    "UNSEEN",
    "Architecture",
    "ImportConfig",
    "Report",
    "Sine",
    "SirenArchitecture",
    "SirenConfig",
    "TicketConfig",
    "Zoo",
    "ZooConfig",
    "ZooConfigError",
    "ZooDataset",
    "ZooError",
    "ZooLoader",
    "generate",
    "get_zoo",
    "import_zoo",
    "info",
    "load_zoo",
    "unseen",
    "verify",
]
