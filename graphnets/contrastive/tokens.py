"""Weights as a sequence of tokens, each with its layer and its place in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure
from converters.weights import checked_weights

__all__ = ["WeightTokens"]


class WeightTokens(nn.Module):
    """Cuts networks into tokens and puts them together again (Schürholt et al. 2024, arXiv:2406.09997, Section 3).

    All tensors of a module that have an entry per neuron stand side by side, a row per neuron (its incoming weights,
    its bias, its statistics). Rows are cut into tokens of ``size`` numbers, the last one of each filled up with zeros,
    which `mask` tells. Every tensor is standardised by one mean and one deviation of the networks it is fitted to.

    Deviations: tensors of single numbers, such as counters of batches, are in no token and come back as their mean.

    Args:
        structure: of the networks.
        size: numbers of a token.

    Shapes:
        - weights: ``{name: [n, *shape]}``; tokens: ``[n, T, size]``; `mask`: ``[T, size]``; `places`: ``[T, 2]``, the
          layer's number and the token's place in it

    Raises:
        ValueError: ``size`` is not positive.
        StructureMismatch: weights are of another structure.

    >>> from converters import trace
    >>> structure = trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> tokens = WeightTokens(structure, size=4)
    >>> tokens.count, tokens({p.name: torch.randn(2, *p.shape) for p in structure.parameters}).shape
    (25, torch.Size([2, 25, 4]))
    """

    mask: Tensor
    places: Tensor
    means: Tensor
    deviations: Tensor

    def __init__(self, structure: Structure, size: int = 32) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size} must be positive")
        self.structure, self.size = structure, size
        own = [p for p in structure.parameters if p.alias_of is None]
        self.names = [p.name for p in own]
        layers: dict[tuple[str, int], list[str]] = {}
        for p in own:
            if p.shape and p.numel:
                layers.setdefault((p.name.rpartition(".")[0], p.shape[0]), []).append(p.name)
        self.layers = [(rows, names) for (_, rows), names in layers.items()]
        masks, places = [], []
        for number, (rows, names) in enumerate(self.layers):
            width = sum(structure.parameter[name].numel // rows for name in names)
            each = -(-width // size)
            filled = torch.arange(each * size) < width
            masks.append(filled.view(each, size).repeat(rows, 1))
            places.append(torch.stack([torch.full((rows * each,), number), torch.arange(rows * each)], 1))
        self.register_buffer("mask", torch.cat(masks))
        self.register_buffer("places", torch.cat(places))
        self.register_buffer("means", torch.zeros(len(own)))
        self.register_buffer("deviations", torch.ones(len(own)))

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.structure.name}: {self.count} tokens of {self.size} numbers, {len(self.layers)} layers"

    @property
    def count(self) -> int:
        """Tokens of a network."""
        return len(self.mask)

    @torch.no_grad()
    def fit(self, batches: Iterable[Mapping[str, Tensor]]) -> WeightTokens:
        """Take the mean and the deviation of every tensor over all networks.

        Raises:
            ValueError: there are no networks.
        """
        sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=self.means.device)
        counts = torch.zeros(len(self.names), dtype=torch.float64, device=self.means.device)
        for batch in batches:
            weights = checked_weights(batch, self.structure, stacked=True)
            for number, name in enumerate(self.names):
                numbers = weights[name].double()
                sums[0, number] += numbers.sum()
                sums[1, number] += numbers.square().sum()
                counts[number] += numbers.numel()
        if not bool((counts > 0).any()):
            raise ValueError("there are no networks to take statistics of")
        means = sums[0] / counts.clamp_min(1)
        variances = (sums[1] / counts.clamp_min(1) - means.square()).clamp_min(0)
        self.means.copy_(means)
        self.deviations.copy_(torch.where(variances > 1e-12, variances.sqrt(), 1.0))
        return self

    def forward(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Cut."""
        checked = checked_weights(weights, self.structure, stacked=True)
        found = []
        for rows, names in self.layers:
            parts = [self._standardised(name, checked[name]).unflatten(1, (rows, -1)) for name in names]
            row = torch.cat(parts, 2)
            padding = row.new_zeros(*row.shape[:2], -row.shape[2] % self.size)
            found.append(torch.cat([row, padding], 2).reshape(len(row), -1, self.size))
        return torch.cat(found, 1)

    def join(self, tokens: Tensor) -> dict[str, Tensor]:
        """Put together; what fills tokens up is not looked at.

        Raises:
            ValueError: tokens of other shapes.
        """
        if tuple(tokens.shape[1:]) != tuple(self.mask.shape):
            raise ValueError(f"tokens of shape {list(tokens.shape)}, expected [n, {self.count}, {self.size}]")
        found: dict[str, Tensor] = {}
        parts = tokens.split([int((self.places[:, 0] == i).sum()) for i in range(len(self.layers))], 1)
        for (rows, names), part in zip(self.layers, parts, strict=True):
            widths = [self.structure.parameter[name].numel // rows for name in names]
            row = part.reshape(len(part), rows, -1)[:, :, : sum(widths)]
            found.update(zip(names, row.split(widths, 2), strict=True))
        out: dict[str, Tensor] = {}
        for p in self.structure.parameters:
            if p.alias_of is not None:
                out[p.name] = out[p.alias_of]
                continue
            value = found.get(p.name, tokens.new_zeros(len(tokens), p.numel))
            number = self.names.index(p.name)
            value = value.reshape(len(tokens), *p.shape) * self.deviations[number] + self.means[number]
            dtype: Any = getattr(torch, p.dtype)
            value = value if dtype.is_floating_point else value.round()
            out[p.name] = value if p.dtype == self.structure.dtype else value.to(dtype)
        return out

    def _standardised(self, name: str, tensor: Tensor) -> Tensor:
        number = self.names.index(name)
        return ((tensor.to(self.means) - self.means[number]) / self.deviations[number]).flatten(1)
