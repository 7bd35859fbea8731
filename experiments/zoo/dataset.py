"""Networks of a zoo as batches of neuron graphs with their properties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from converters import Structure, canonicalize, collate, to_graphs
from experiments.zoo.errors import ZooError
from experiments.zoo.zoo import Zoo

__all__ = ["ZooDataset", "ZooLoader"]


class ZooDataset:
    """The networks of one split: weights in memory, graphs made batch by batch.

    Networks whose architectures differ in the activation alone share their stacked weights, so a minibatch
    that mixes them is one ``index_select`` and one `converters.to_graphs` call, without a loop over networks.

    Args:
        zoo: where the networks come from.
        split: ``train``, ``val`` or ``test``; None for all networks.
        targets: columns of ``zoo.records`` to predict, T of them.
        canonical: symmetries of activations to remove from the weights, see `converters.canonicalize`.

    Attributes:
        ids: the networks' numbers in the zoo, ``[N]``.
        y: the targets, ``[N, T]`` float32.
    """

    def __init__(self, zoo: Zoo, split: str | None, targets: Sequence[str], canonical: Sequence[str] = ()) -> None:
        records = zoo.records
        unknown = [name for name in targets if name not in records.columns]
        if unknown:
            raise ZooError(
                f"{zoo.path} has no target {', '.join(unknown)}; its columns are {', '.join(records.columns)}"
            )
        if split is not None:
            records = records[records["split"] == split]
        if not len(records):
            splits = sorted(zoo.records["split"].unique())
            raise ZooError(f"{zoo.path} has no networks in split {split!r}; it has {', '.join(splits)}")
        self.zoo, self.split, self.targets, self.canonical = zoo, split, list(targets), tuple(canonical)
        self.ids = torch.from_numpy(records["id"].to_numpy(copy=True))
        self.y = torch.from_numpy(records[self.targets].to_numpy(dtype=np.float32, copy=True))
        self.architectures: list[str] = records["architecture"].tolist()
        self._stacks: list[dict[str, Tensor]] = []
        self._place = torch.empty(len(records), 2, dtype=torch.int64)
        self._load(records["id"].to_numpy())

    def _load(self, ids: np.ndarray) -> None:
        """Reads all weights; network i is row ``_place[i, 1]`` of stack ``_place[i, 0]``."""
        names = np.array(self.architectures)
        topologies: dict[tuple[Any, ...], list[str]] = {}
        for name in dict.fromkeys(self.architectures):
            topologies.setdefault(self.zoo.architectures[name].topology, []).append(name)
        for number, members in enumerate(topologies.values()):
            parts: list[dict[str, Tensor]] = []
            start = 0
            for name in members:
                here = np.flatnonzero(names == name)
                rows = np.searchsorted(self.zoo.of(name)["id"].to_numpy(), ids[here])
                weights = self.zoo.weights(name, rows)
                if self.canonical:
                    weights = canonicalize(weights, self.zoo.structures[name], self.canonical)
                parts.append(weights)
                self._place[here, 0] = number
                self._place[here, 1] = torch.arange(start, start + len(here))
                start += len(here)
            self._stacks.append({key: torch.cat([part[key] for part in parts]) for key in parts[0]})

    def map_weights(self, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
        """Puts what ``change`` makes of each stack of networks in its place; names and shapes must stay."""
        self._stacks = [dict(change(stack)) for stack in self._stacks]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"ZooDataset({self.zoo.name!r}, {self.split!r}, {len(self)} networks, targets={self.targets})"

    @property
    def structure(self) -> Structure | None:
        """The zoo's only structure, or None."""
        return self.zoo.structure

    def weights(self, index: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Stacked parameters of networks of one topology, ``{name: [n, *shape]}``, in the order of ``index``.

        Raises:
            ZooError: the networks have parameters of different names or shapes.
        """
        place = self._place[torch.as_tensor(index)]
        stacks = set(place[:, 0].tolist())
        if len(stacks) != 1:
            raise ZooError(f"the networks have {len(stacks)} topologies; ask for weights of one at a time")
        return {key: value.index_select(0, place[:, 1]) for key, value in self._stacks[stacks.pop()].items()}

    def structures(self, index: Sequence[int] | Tensor) -> list[Structure]:
        """The structure of every network of ``index``."""
        structures = self.zoo.structures
        return [structures[self.architectures[i]] for i in torch.as_tensor(index).tolist()]

    def batch(self, index: Sequence[int] | Tensor) -> tuple[Batch, Tensor]:
        """Graphs of some networks as one batch, and their targets ``[B, T]``, in the order of ``index``."""
        index = torch.as_tensor(index, dtype=torch.int64)
        stacks = self._place[index, 0]
        if bool((stacks == stacks[0]).all()):
            return to_graphs(self.weights(index), self._shared(index)), self.y[index]
        graphs: list[Any] = [None] * len(index)
        for stack in sorted(set(stacks.tolist())):
            here = torch.nonzero(stacks == stack).squeeze(1)
            part = to_graphs(self.weights(index[here]), self._shared(index[here]))
            for position, graph in zip(here.tolist(), part.to_data_list(), strict=True):
                graphs[position] = graph
        return collate(graphs), self.y[index]

    def _shared(self, index: Tensor) -> Structure | list[Structure]:
        structures = self.structures(index)
        distinct = {id(structure) for structure in structures}
        return structures[0] if len(distinct) == 1 else structures

    def loader(self, batch_size: int, shuffle: bool = False, seed: int = 0) -> ZooLoader:
        """Minibatches of ``(Batch, y [B, T])``."""
        return ZooLoader(self, batch_size, shuffle, seed)


class ZooLoader:
    """Minibatches of a `ZooDataset`; every pass is one epoch.

    The order depends on the seed and the number of the epoch alone, and ``state_dict`` remembers that number,
    so a resumed training sees what an uninterrupted one would have seen.

    Args:
        dataset: the networks.
        batch_size: networks in a minibatch; the last one may be smaller.
        shuffle: a new order every epoch, all architectures mixed; else the order of the ids.
        seed: of the shuffling.
    """

    def __init__(self, dataset: ZooDataset, batch_size: int, shuffle: bool, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not positive")
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The networks of an epoch in their order, ``[N]``."""
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        return torch.from_numpy(generator.permutation(len(self.dataset)))

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        order = self.order(self.epoch)
        self.epoch += 1
        for index in torch.split(order, self.batch_size):
            yield self.dataset.batch(index)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass the epoch of this number."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The number of the next epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues at the epoch that `state_dict` gave."""
        self.epoch = state["epoch"]
