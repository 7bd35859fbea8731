"""What neurons do on learned inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch, execute
from converters.program import Ref
from graphnets.baselines.probing import by_structure
from graphnets.layered import Layered, Networks, node_roles
from graphnets.message_passing.encodings import squash

__all__ = ["ProbeFeatures", "input_shape", "watched"]

OPERANDS = {"addmm": (1, 2), "mm": (0, 1), "convolution": (0, 1)}
"""Where operators that meet a whole weight tensor have their input and the tensor."""
TURNS = ("t", "transpose", "permute")


def input_shape(structure: Structure) -> tuple[int, ...]:
    """Shape of one input without its batch axis.

    Raises:
        StructureMismatch: the network was not traced, or does not take one batch of real-valued inputs of any size.
    """
    inputs = () if structure.program is None else structure.program.inputs
    if len(inputs) != 1 or not inputs[0].free[:1] == (True,) or not getattr(torch, inputs[0].dtype).is_floating_point:
        raise StructureMismatch(
            f"{structure.name} cannot be probed: that needs a traced network of one real-valued input whose first axis "
            "is a batch of free size; use probes=0"
        )
    return inputs[0].shape[1:]


@lru_cache(maxsize=256)
def watched(structure: Structure) -> tuple[Structure, tuple[int, ...]]:
    """The structure with a program that answers with what layers hold, and which layers these are.

    Seen are the layers that a dense weight tensor reads, and the outputs where they are one layer. Tensors are
    ``[inputs, neurons]``, or ``[inputs, neurons, *space]`` before convolutions.
    """
    program = structure.program
    assert program is not None
    tensor = {index: name for name, index in program.named_refs}
    readers = {b.parameter: b for b in structure.blocks if b.pattern == "dense" and not b.index and not b.span}
    holds: dict[int, Ref] = {}
    for op in program.ops:
        if op.name in TURNS and op.args[0].index in tensor and op.outputs[0] is not None:
            tensor[op.outputs[0]] = tensor[op.args[0].index]
        if op.name in OPERANDS:
            given, weight = (op.args[place] for place in OPERANDS[op.name])
            block = readers.get(tensor.get(weight.index))
            if block is not None and block.parameter is not None and given.index not in tensor:
                holds.setdefault(block.source, given)
    offsets, roles = structure.node_offsets, node_roles(structure)
    outputs = [layer for layer, start in enumerate(offsets[: len(structure.layers)]) if roles[start] == 2]
    if len(outputs) == 1 and isinstance(program.outputs, Ref):
        holds.setdefault(outputs[0], program.outputs)
    layers = tuple(sorted(holds))
    return replace(structure, program=replace(program, outputs=tuple(holds[i] for i in layers))), layers


class ProbeFeatures(nn.Module):
    """Features of neurons from what they hold while the networks run on learned inputs.

    The probe features of Kofinas et al. 2024 (arXiv:2403.12143): for implicit neural representations the inputs are
    coordinates, uniform in [-1, 1] at first. Every network is run by `converters.execute`; what a neuron holds for the
    P inputs (over space: its mean) is squashed, see `squash`, and mapped linearly. Layers that nothing is seen of, see
    `watched`, get nothing, nor do those that hold several rows per input.

    Args:
        structure: gives the shape of the inputs.
        probes: number of inputs P.
        channels: of the result.

    Shapes:
        - result: ``[rows, n, channels]``, see `Layered`

    Raises:
        StructureMismatch: networks cannot be probed, see `input_shape`.
    """

    def __init__(self, structure: Structure, probes: int, channels: int) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.rand(probes, *input_shape(structure)) * 2 - 1)
        self.project = nn.Linear(2 * probes, channels, bias=False)

    def extra_repr(self) -> str:
        """How many inputs, of which shape."""
        return f"{len(self.inputs)} probes of shape {tuple(self.inputs.shape[1:])}"

    def forward(self, batch: Networks, view: Layered) -> Tensor:
        """Run the networks and encode what their neurons hold."""
        each: list[Any] = [None] * view.graphs
        for structure, places, weights in by_structure(batch):
            for place, held in zip(places.tolist(), self.held(structure, weights), strict=True):
                each[place] = held
        encoded: Tensor = self.project(squash(view.nodes(torch.cat(each))))
        return encoded

    def held(self, structure: Structure, weights: Any) -> Tensor:
        """What neurons hold, ``[B, N, P]`` for stacked weights; zero where nothing is seen."""
        seen, layers = watched(structure)
        like = next(value for value in weights.values() if value.is_floating_point())
        found = dict(zip(layers, execute(weights, self.inputs.to(like.dtype), structure=seen), strict=True))
        parts = []
        for number, layer in enumerate(structure.layers):
            values = found.get(number)
            if values is None or values.shape[1:3] != (len(self.inputs), layer.size):
                parts.append(like.new_zeros(len(like), layer.size, len(self.inputs)))
            else:  # [B, P, n] or [B, P, n, *space]
                values = values.flatten(3).mean(3) if values.dim() > 3 else values
                parts.append(values.transpose(1, 2))
        return torch.cat(parts, 1)
