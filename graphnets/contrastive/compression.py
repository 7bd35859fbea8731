"""Weights as short codes: a linear compression per parameter, with its exact inverse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.contrastive.rows import from_rows, held, to_rows

__all__ = ["WeightCompression"]

MEAN, CENTRED, COMPONENTS = range(3)
MODES = ("mean", "centred", "components")
PER = ("parameter", "network")
SCALES = ("each", "together", "none")


class WeightCompression(nn.Module):
    r"""Compresses every named parameter by itself (Swanevelder 2025, Section 3.2.1, Algorithm 3.1).

    Over the networks it is fitted to, a parameter whose entries vary by less than ``variance_threshold`` keeps its mean
    alone; one of at most ``dimension_limit`` entries is centred; of all others :math:`w` the principal components
    :math:`V` of highest variance are found, and

    .. math:: c = V^\top (w - \mu), \qquad \hat w = V c + \mu.

    All coefficients, one parameter after another, are the network's code :math:`C`. They are centred and scaled by
    statistics of the networks that were fitted. Running statistics of normalisation layers are compressed as parameters
    are, so that decoded networks run; integer buffers keep their mean, rounded.

    Components are found by scikit-learn's ``IncrementalPCA``, which never holds more than a few batches of networks.

    Deviations: ``per="network"`` takes all parameters as one; ``scale="together"`` divides all coefficients by one
    number, so that those of larger variance count for more in what comes after, where ``"each"`` (the paper's) makes
    all alike.

    Args:
        structure: of the networks.
        rank: components of a parameter at most; there are no more than networks or entries.
        variance_threshold: mean variance of a parameter's entries below which its mean is kept alone.
        dimension_limit: entries up to which a parameter is only centred.
        per: ``"parameter"`` or ``"network"``.
        scale: ``"each"``, ``"together"`` or ``"none"``.

    Shapes:
        - weights: ``{name: [n, *shape]}``; codes: ``[n, code_size]``

    Raises:
        ValueError: an argument is unknown or not positive.
        StructureMismatch: weights are of another structure.
        RuntimeError: it is used before it is fitted.

    >>> from converters import trace
    >>> structure = trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> stack = {p.name: torch.randn(20, *p.shape) for p in structure.parameters}
    >>> compression = WeightCompression(structure, rank=5).fit([stack])
    >>> compression.code_size, compression.encode(stack).shape
    (18, torch.Size([20, 18]))
    """

    means: Tensor
    centre: Tensor
    spread: Tensor
    modes: Tensor
    ranks: Tensor

    def __init__(
        self,
        structure: Structure,
        rank: int = 16,
        variance_threshold: float = 1e-8,
        dimension_limit: int = 4,
        per: str = "parameter",
        scale: str = "each",
    ) -> None:
        super().__init__()
        if per not in PER or scale not in SCALES:
            raise ValueError(f"per={per!r} is one of {', '.join(PER)}, scale={scale!r} one of {', '.join(SCALES)}")
        if rank < 1:
            raise ValueError(f"rank={rank} must be positive")
        self.structure, self.rank, self.per, self.scale = structure, rank, per, scale
        self.variance_threshold, self.dimension_limit = variance_threshold, dimension_limit
        own = held(structure)
        self.blocks = [[p.name] for p in own] if per == "parameter" else [[p.name for p in own]]
        self.lengths = [p.numel for p in own] if per == "parameter" else [sum(p.numel for p in own)]
        limits = [min(rank, length) if length > dimension_limit else length for length in self.lengths]
        self.register_buffer("modes", torch.full((len(self.blocks),), -1))
        self.register_buffer("ranks", torch.zeros(len(self.blocks), dtype=torch.long))
        self.register_buffer("means", torch.zeros(sum(self.lengths)))
        self.register_buffer("centre", torch.zeros(sum(limits)))
        self.register_buffer("spread", torch.ones(sum(limits)))
        for number, (length, limit) in enumerate(zip(self.lengths, limits, strict=True)):
            columns = limit if length > dimension_limit else 0
            self.register_buffer(f"components_{number}", torch.zeros(columns, length))

    def extra_repr(self) -> str:
        """The contract."""
        state = f"code of {self.code_size}" if self.is_fitted else "not fitted"
        return f"{self.structure.name}: {sum(self.lengths)} numbers, {state}, rank={self.rank}, per={self.per}"

    @property
    def is_fitted(self) -> bool:
        """Whether the modes are known."""
        return bool((self.modes >= 0).all())

    @property
    def code_size(self) -> int:
        """Numbers in the code of a network."""
        self._check_fitted()
        return int(self.ranks.sum())

    @property
    def code_limit(self) -> int:
        """Numbers in a code at most, known before anything is fitted."""
        return len(self.centre)

    def mode_of(self, name: str) -> str:
        """How a parameter is compressed: ``mean``, ``centred`` or ``components``."""
        self._check_fitted()
        (number,) = (i for i, block in enumerate(self.blocks) if name in block)
        return MODES[int(self.modes[number])]

    @torch.no_grad()
    def fit(self, batches: Iterable[Mapping[str, Tensor]]) -> WeightCompression:
        """Fit to stacks of networks, which are gone through twice.

        Args:
            batches: stacks ``{name: [n, *shape]}``; a sequence or a loader, not an iterator.

        Raises:
            ValueError: there are fewer than two networks.
        """
        count, total, squares = 0, torch.zeros_like(self.means, dtype=torch.float64), torch.zeros(())
        for batch in batches:
            rows = self._rows(batch).double()
            before, count = count, count + len(rows)
            mean = rows.mean(0)
            shift = mean - total
            squares = squares + (rows - mean).square().sum(0) + shift.square() * before * len(rows) / count
            total = total + shift * len(rows) / count
        if count < 2:
            raise ValueError(f"{count} networks have no variance; fit to two or more")
        self.means.copy_(total)
        variances = [part.mean() / (count - 1) for part in squares.split(self.lengths)]
        for number, (variance, length) in enumerate(zip(variances, self.lengths, strict=True)):
            if variance < self.variance_threshold:
                self.modes[number], self.ranks[number] = MEAN, 0
            elif length <= self.dimension_limit:
                self.modes[number], self.ranks[number] = CENTRED, length
            else:
                self.modes[number], self.ranks[number] = COMPONENTS, min(self.rank, length, count)
        self._fit_components(batches)
        self._fit_scale(batches)
        return self

    def _fit_components(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        from sklearn.decomposition import IncrementalPCA

        wanted = [number for number, mode in enumerate(self.modes.tolist()) if mode == COMPONENTS]
        analyses = {number: IncrementalPCA(int(self.ranks[number])) for number in wanted}
        least = max((int(self.ranks[number]) for number in wanted), default=1)
        for rows in _in_chunks((self._rows(batch) for batch in batches), least):
            parts = rows.double().split(self.lengths, 1)
            for number, analysis in analyses.items():
                analysis.partial_fit(parts[number].cpu().numpy())
        for number, analysis in analyses.items():
            found = torch.from_numpy(analysis.components_)
            self._components(number)[: len(found)] = found.to(self.means)

    def _fit_scale(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        self.centre.zero_()
        self.spread.fill_(1)
        codes = torch.cat([self.encode(batch).double() for batch in batches])
        if self.scale == "none" or not codes.shape[1]:
            return
        self.centre[: codes.shape[1]] = codes.mean(0).to(self.centre)
        deviations = codes.std(0)
        if self.scale == "together":
            deviations = deviations.square().mean().sqrt().expand_as(deviations)
        self.spread[: codes.shape[1]] = torch.where(deviations > 1e-12, deviations, 1.0).to(self.spread)

    def encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Codes of a stack of networks, differentiable."""
        self._check_fitted()
        parts = (self._rows(weights) - self.means).split(self.lengths, 1)
        codes = []
        for number, part in enumerate(parts):
            mode, rank = int(self.modes[number]), int(self.ranks[number])
            if mode == COMPONENTS:
                part = part @ self._components(number)[:rank].T
            codes.append(part[:, :rank])
        code = torch.cat(codes, 1)
        return (code - self.centre[: code.shape[1]]) / self.spread[: code.shape[1]]

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """A stack of networks from codes, tied tensors under each of their names; differentiable.

        Raises:
            ValueError: codes of another size.
        """
        if codes.dim() != 2 or codes.shape[1] != self.code_size:
            raise ValueError(f"codes of shape {list(codes.shape)}, expected [n, {self.code_size}]")
        plain = codes * self.spread[: codes.shape[1]] + self.centre[: codes.shape[1]]
        rows = []
        for number, part in enumerate(plain.split(self.ranks.tolist(), 1)):
            mode = int(self.modes[number])
            if mode == MEAN:
                part = part.new_zeros(len(part), self.lengths[number])
            elif mode == COMPONENTS:
                part = part @ self._components(number)[: part.shape[1]]
            rows.append(part)
        return from_rows(torch.cat(rows, 1) + self.means, self.structure)

    def _rows(self, weights: Mapping[str, Tensor]) -> Tensor:
        """All numbers of every network, ``[n, N]``."""
        return to_rows(weights, self.structure, self.means.dtype).to(self.means.device)

    def _components(self, number: int) -> Tensor:
        return self.get_buffer(f"components_{number}")

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise RuntimeError("the compression is not fitted; call fit, or load a state_dict of a fitted one")


def _in_chunks(rows: Iterable[Tensor], least: int) -> Iterator[Tensor]:
    """The rows of all batches, in chunks of at least ``least``; the last one takes what is left over."""
    ready: Tensor | None = None
    waiting: list[Tensor] = []
    for batch in rows:
        waiting.append(batch)
        if sum(map(len, waiting)) >= least:
            if ready is not None:
                yield ready
            ready, waiting = torch.cat(waiting), []
    last = ([] if ready is None else [ready]) + waiting
    if last:
        yield torch.cat(last)
