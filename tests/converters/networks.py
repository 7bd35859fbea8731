"""The table every law is tested on: networks by name, their inputs, and their permutable groups annotated by hand."""

from __future__ import annotations

from tests.converters.convolutional import CONVOLUTIONAL, GROUPED
from tests.converters.entry import Nested, Network
from tests.converters.hostile import FROZEN, WILD
from tests.converters.perceptrons import MLP

__all__ = ["ALL", "NETWORKS", "UNANNOTATED", "Nested", "Network"]

NETWORKS: dict[str, Network] = {network.name: network for network in (*MLP, *CONVOLUTIONAL, *FROZEN)}
UNANNOTATED: dict[str, Network] = {network.name: network for network in (*WILD, *GROUPED)}
ALL: dict[str, Network] = {**NETWORKS, **UNANNOTATED}
