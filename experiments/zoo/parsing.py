"""The configuration of a zoo of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from experiments.zoo.config import ZooConfig
from experiments.zoo.importers.config import ImportConfig
from experiments.zoo.settings import Settings
from experiments.zoo.sirens.config import KIND as SIREN
from experiments.zoo.sirens.config import SirenConfig
from experiments.zoo.tickets.config import KIND as TICKETS
from experiments.zoo.tickets.config import TicketConfig

__all__ = ["parse_zoo"]

KINDS = {TICKETS: TicketConfig, SIREN: SirenConfig}


def parse_zoo(
    config: ZooConfig | SirenConfig | ImportConfig | DictConfig | Mapping[str, Any],
) -> ZooConfig | SirenConfig | ImportConfig:
    """The checked configuration of a zoo of any kind.

    ``kind`` tells SIRENs and winning tickets from classifiers, an ``importer`` networks that others have trained.

    Raises:
        ZooConfigError: the configuration is wrong; the message lists all faults.
    """
    if isinstance(config, Settings):
        return config
    if "importer" in config:
        return ImportConfig.parse(config)
    kind: type[ZooConfig | SirenConfig] = KINDS.get(str(config.get("kind")), ZooConfig)
    return kind.parse(config)
