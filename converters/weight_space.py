"""The dense view of weights: one tensor per parameter, channels last, keyed by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from converters.errors import StructureMismatch
from converters.neuron_graph import NeuronGraph, NeuronGraphs
from converters.structure import Structure
from converters.to_state_dict import stacked_weights

__all__ = ["WeightSpaceFeatures", "weight_space"]

Source = NeuronGraph | NeuronGraphs | Mapping[str, Tensor]


class WeightSpaceFeatures(Mapping[str, Tensor]):
    """Features of weights: parameter name -> ``[B, *parameter axes, C]``, a registered pytree.

    >>> features = WeightSpaceFeatures({"weight": torch.ones(4, 3, 2, 1)})
    >>> features.map(lambda t: 2 * t)["weight"].sum().item()
    48.0
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in self.items())
        return f"WeightSpaceFeatures({shapes})"

    @property
    def batch_size(self) -> int:
        """Number of networks B."""
        return int(next(iter(self.values())).shape[0])

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(next(iter(self.values())).shape[-1])

    def map(self, function: Callable[[Tensor], Tensor]) -> WeightSpaceFeatures:
        """Apply ``function`` to every tensor."""
        return WeightSpaceFeatures({name: function(tensor) for name, tensor in self.items()})

    def zip(self, other: Mapping[str, Tensor], function: Callable[[Tensor, Tensor], Tensor]) -> WeightSpaceFeatures:
        """Combine with ``other``, matched by name.

        Raises:
            StructureMismatch: the names differ.
        """
        if set(self) != set(other):
            raise StructureMismatch(f"features of different parameters: {sorted(set(self) ^ set(other))}")
        return WeightSpaceFeatures({name: function(tensor, other[name]) for name, tensor in self.items()})

    def __add__(self, other: Mapping[str, Tensor]) -> WeightSpaceFeatures:
        return self.zip(other, torch.add)

    def to(self, *args: Any, **kwargs: Any) -> WeightSpaceFeatures:
        """Move or cast every tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def to_weights(self) -> dict[str, Tensor]:
        """Single-channel features as stacked weights ``{name: [B, *shape]}``.

        Raises:
            StructureMismatch: there is more than one channel.
        """
        if self.channels != 1:
            raise StructureMismatch(
                f"weights have one channel, these features have {self.channels}; project them first"
            )
        return {name: tensor.squeeze(-1) for name, tensor in self.items()}


pytree.register_pytree_node(
    WeightSpaceFeatures,
    lambda features: (list(features.values()), tuple(features)),
    lambda values, names: WeightSpaceFeatures(dict(zip(names, values, strict=True))),
    serialized_type_name="converters.WeightSpaceFeatures",
)


def weight_space(
    source: Source | Sequence[Source], structure: Structure, *, buffers: bool = False
) -> WeightSpaceFeatures:
    """The weights of B networks as dense features; parameters only, running statistics too with ``buffers=True``.

    Args:
        source: a graph, a batch, a state_dict or stacked weights; a list of them (weights, masks, gradients) stacks
            as channels.
        structure: the architecture they share. Tied tensors appear once.

    Returns:
        ``{name: [B, *shape, C]}``.
    """
    sources: list[Source] = [source] if isinstance(source, (NeuronGraph, NeuronGraphs, Mapping)) else list(source)
    stacks = [stacked_weights(item, structure) for item in sources]
    names = [
        p.name
        for p in structure.parameters
        if p.alias_of is None and (buffers or not p.buffer) and getattr(torch, p.dtype).is_floating_point
    ]
    return WeightSpaceFeatures({name: torch.stack([stack[name] for stack in stacks], dim=-1) for name in names})
