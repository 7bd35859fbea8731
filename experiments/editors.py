"""Models of the task of editing images: an editor for every operation, and what the edited networks draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, execute
from experiments.zoo.sirens.network import grid
from graphnets import Editor
from graphnets.layered import Networks

__all__ = ["EditedImages", "UneditedImages"]


class EditedImages(nn.Module):
    """An `Editor` for every operation of `experiments.tasks.InrEditing`, which have nothing in common.

    Args:
        structure: of the networks: two coordinates in, channels out.
        targets: numbers of an image times operations.
        functional: makes the functional of each editor; ``parallel`` and ``step`` are those of `Editor`.
        pixels: ``[height, width]``.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``, an operation after the other, each ``[C, H, W]`` flattened

    Raises:
        ValueError: ``targets`` are not whole images.

    >>> from functools import partial
    >>> from converters import to_graph
    >>> from graphnets import NFN
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)))
    >>> EditedImages(graph.structure, 2 * 3 * 4 * 5, partial(NFN, channels=[4]), pixels=[4, 5])(graph).shape
    torch.Size([1, 120])
    """

    def __init__(
        self,
        structure: Structure,
        targets: int,
        functional: Callable[..., nn.Module],
        pixels: Sequence[int],
        parallel: int = 1,
        step: float = 0.01,
    ) -> None:
        super().__init__()
        self.pixels, self.operations = (int(pixels[0]), int(pixels[1])), _operations(structure, targets, pixels)
        self.editors = nn.ModuleList(Editor(structure, functional, parallel, step) for _ in range(self.operations))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.operations} operations on {self.pixels[0]} x {self.pixels[1]} pixels"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn how networks look, once: what the first editor finds holds for the others."""
        first, *others = self.editors
        assert isinstance(first, Editor)
        first.fit_statistics(batches)
        for other in others:
            for mine, found in zip(other.buffers(), first.buffers(), strict=True):
                mine.copy_(found)

    def forward(self, batch: Networks) -> Tensor:
        """Draw with edited networks."""
        coordinates = grid(*self.pixels).to(batch.x)
        drawn = [editor.run(batch, coordinates) for editor in self.editors if isinstance(editor, Editor)]
        return torch.cat([each.transpose(1, 2).flatten(1) for each in drawn], 1)


class UneditedImages(nn.Module):
    """What the networks draw as they are: how much there is to edit. Nothing is learned.

    Arguments, shapes and errors as in `EditedImages`.
    """

    def __init__(self, structure: Structure, targets: int, pixels: Sequence[int]) -> None:
        super().__init__()
        self.pixels, self.operations = (int(pixels[0]), int(pixels[1])), _operations(structure, targets, pixels)

    def fit(self, batches: Iterable[Any], targets: Tensor) -> None:
        """There is nothing to fit."""

    def forward(self, batch: Networks) -> Tensor:
        """Draw."""
        drawn: Tensor = execute(batch, grid(*self.pixels).to(batch.x))
        drawn = drawn if drawn.dim() == 3 else drawn.unsqueeze(0)
        return drawn.transpose(1, 2).flatten(1).repeat(1, self.operations)


def _operations(structure: Structure, targets: int, pixels: Sequence[int]) -> int:
    channels = structure.layers[-1].size
    size = channels * int(pixels[0]) * int(pixels[1])
    if targets % size:
        raise ValueError(f"{targets} targets are no images of {pixels[0]} x {pixels[1]} pixels, {channels} channels")
    return targets // size
