"""Models that read the parameters tensor by tensor, by name, and what they must know of the networks beforehand."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch, weight_space
from converters.layout import same_layout
from converters.to_state_dict import read_features
from graphnets.layered import Networks, networks_of, structures_of

__all__ = ["ParameterModel", "Reading", "in_order", "parameter_names", "read_tensors"]


class Reading(NamedTuple):
    """Parameters of n networks of a batch that share one layout.

    Args:
        structure: of one of them.
        places: where they are in the batch, ``[n]``.
        tensors: every trainable tensor in the order of the structure, flattened: ``[n, numbers]`` each.
    """

    structure: Structure
    places: Tensor
    tensors: list[Tensor]


def parameter_names(structure: Structure) -> list[str]:
    """Trainable tensors in the order of the structure, tied ones once."""
    return [p.name for p in structure.parameters if not p.buffer and p.alias_of is None]


def read_tensors(batch: Networks) -> list[Reading]:
    """All networks of a batch, those of one layout together."""
    everyone = structures_of(batch)
    first = everyone[0]
    if all(_alike(first, other) for other in {id(s): s for s in everyone}.values()):
        features = weight_space(batch, first)
        places = torch.arange(len(everyone), device=batch.x.device)
        return [Reading(first, places, [features[name].flatten(1) for name in parameter_names(first)])]
    members: dict[Structure, list[int]] = {}
    for place, structure in enumerate(everyone):
        own = next((known for known in members if _alike(known, structure)), structure)
        members.setdefault(own, []).append(place)
    nodes = torch.tensor([structure.num_nodes for structure in everyone]).cumsum(0)
    edges = torch.tensor([structure.num_edges for structure in everyone]).cumsum(0)
    return [
        _read(
            batch, structure, torch.tensor(each), nodes[each] - structure.num_nodes, edges[each] - structure.num_edges
        )
        for structure, each in members.items()
    ]


def _read(batch: Networks, structure: Structure, places: Tensor, nodes: Tensor, edges: Tensor) -> Reading:
    """Networks of one layout, whose first nodes and edges are at ``nodes`` and ``edges``, ``[n]`` each."""
    device = batch.x.device
    x = batch.x[(nodes.unsqueeze(1) + torch.arange(structure.num_nodes)).to(device)]
    edge_attr = batch.edge_attr[(edges.unsqueeze(1) + torch.arange(structure.num_edges)).to(device)]
    weights = read_features(x, edge_attr, structure, batch.kernel_size[0])
    names = parameter_names(structure)
    for name in names:
        if name not in weights:
            weights[name] = torch.stack([batch.extras[place].tensors[name] for place in places.tolist()])
    return Reading(structure, places.to(device), [weights[name].reshape(len(places), -1) for name in names])


@lru_cache(maxsize=4096)
def _alike(a: Structure, b: Structure) -> bool:
    return same_layout(a, b)


def in_order(rows: Sequence[Tensor], readings: Sequence[Reading]) -> Tensor:
    """Rows ``[n, D]`` of every reading as one tensor ``[B, D]`` in the order of the batch."""
    if len(rows) == 1:
        return rows[0]
    together = torch.cat(list(rows))
    order = torch.cat([reading.places for reading in readings])
    return torch.zeros_like(together).index_copy(0, order, together)


class ParameterModel(nn.Module, ABC):
    """A model that is built either for one layout or, with ``structure=None``, for what `fit_statistics` sees.

    If all networks seen share a layout, the model is one of this layout and refuses others. If not, it is one of
    *mixed* networks, reads any network, and knows only the largest `extent` that it has seen. Which of both it is, and
    the structure or that extent, are part of the ``state_dict`` (as JSON), so a model made with ``structure=None`` can
    be loaded.

    Attributes:
        structure: of the one layout; else None.
        largest: the extent that a model of mixed networks is built for; else None.
    """

    UNIT = "numbers"
    """What `extent` counts."""

    structure: Structure | None = None
    largest: int | None = None

    def adopt(self, known: Structure | int) -> None:
        """Become a model of networks with this layout, or of mixed networks of at most this extent."""
        if isinstance(known, Structure):
            self.structure = known
        else:
            self.largest = known
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make submodules for ``structure`` or ``largest``; every model says how."""

    @abstractmethod
    def extent(self, structure: Structure) -> int:
        """How much of a network there is to read; every model says what counts."""

    @property
    def is_built(self) -> bool:
        """Whether the model knows what it reads."""
        return self.structure is not None or self.largest is not None

    @property
    def built_for(self) -> str:
        """What the model reads, for `extra_repr`."""
        if self.largest is not None:
            return f"mixed networks of up to {self.largest} {self.UNIT}"
        return "no structure yet" if self.structure is None else self.structure.name

    def settle(self, batches: Iterable[Any]) -> Iterable[Networks]:
        """The graphs of the batches; after the last one, a model not yet built is built for all structures seen."""
        seen: dict[Structure, None] = {}
        device = None
        for item in batches:
            batch = networks_of(item)
            if not self.is_built:
                seen.update(dict.fromkeys(structures_of(batch)))
                device = batch.x.device
            yield batch
        if seen and not self.is_built:
            first, *others = seen
            alike = all(_alike(first, other) for other in others)
            self.adopt(first if alike else max(self.extent(structure) for structure in seen))
            self.to(device)

    def readings(self, batch: Networks) -> list[Reading]:
        """The parameters of all networks; see `read_tensors`.

        Raises:
            StructureMismatch: the model is one of a single layout and a network has another.
        """
        if self.structure is not None:
            for other in {id(s): s for s in structures_of(batch)}.values():
                if not _alike(self.structure, other):
                    raise StructureMismatch(
                        f"{type(self).__name__} was built for {self.structure!r} and cannot read {other!r}; make it "
                        "with structure=None and call fit_statistics on networks of several layouts to read any"
                    )
        return read_tensors(batch)

    def require_built(self) -> None:
        """Refuse to predict before the model knows what it reads.

        Raises:
            RuntimeError: there is no structure yet.
        """
        if not self.is_built:
            raise RuntimeError(
                f"{type(self).__name__} was made with structure=None and has not seen networks; "
                "call fit_statistics or load a state_dict first, or pass the structure"
            )

    def get_extra_state(self) -> str:
        """The structure as JSON, or ``{"largest": extent}``; empty if neither is known."""
        if self.largest is not None:
            return json.dumps({"largest": self.largest})
        return "" if self.structure is None else self.structure.to_json()

    def set_extra_state(self, state: str) -> None:
        """Adopt what is stored where nothing is known.

        Raises:
            StructureMismatch: the state is that of mixed networks, the model one of a single layout, or the reverse.
        """
        if not state:
            return
        largest = json.loads(state).get("largest")
        if not self.is_built:
            self.adopt(Structure.from_json(state) if largest is None else largest)
        elif (largest is None) != (self.largest is None):
            stored = "one layout" if largest is None else f"mixed networks of up to {largest} {self.UNIT}"
            raise StructureMismatch(
                f"the state_dict is of a {type(self).__name__} for {stored}, this one is for {self.built_for}; "
                "load it into one made with structure=None"
            )
