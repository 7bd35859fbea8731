"""Models of where the latents of weights lie, given a data set and a result; and what needs no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphnets.contrastive.encoders import ResultsEncoder, SharedEncoder
from graphnets.contrastive.sampling import ConditionalFlow, ResidualDensity

__all__ = ["ConditionModel", "FlowModel", "GivenLatents", "ProjectionModel"]


class ConditionModel(nn.Module, ABC):
    """From rows of latent, data set and result to two halves that belong together, and to new latents.

    Args:
        structure: None; latents are no networks.
        targets: twice the numbers of a latent.

    Shapes:
        - x: rows ``[B, latent + data + 1]``; result: ``[B, targets]``

    Raises:
        ValueError: there is a structure, or an odd number of targets.
    """

    known: Tensor
    data_mean: Tensor
    data_scale: Tensor

    def __init__(self, structure: Any, targets: int, data_channels: int) -> None:
        super().__init__()
        if structure is not None or targets % 2:
            raise ValueError(f"{type(self).__name__} reads latents, and {targets} targets must be two halves")
        self.latent, self.data_channels = targets // 2, data_channels
        self.register_buffer("known", torch.zeros(0, self.latent + data_channels + 1))
        self.register_buffer("data_mean", torch.zeros(data_channels))
        self.register_buffer("data_scale", torch.ones(()))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Both halves."""

    @abstractmethod
    def sample(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """New latents for the conditions of ``x``, whose latents are not looked at: ``[B, count, latent]``."""

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Keep the rows of training networks, and take mean and size of their data sets' vectors.

        Raises:
            ValueError: rows have other numbers.
        """
        found = torch.cat(list(batches)).to(self.known)
        if found.shape[1] != self.known.shape[1]:
            expected = f"{self.latent} of a latent, {self.data_channels} of a data set and a result"
            raise ValueError(f"rows of {found.shape[1]} numbers, expected {expected}")
        self.known = found
        data = found[:, self.latent : -1]
        self.data_mean.copy_(data.mean(0))
        self.data_scale.copy_((data - self.data_mean).square().mean().sqrt().clamp_min(1e-6))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of norm 1, data sets' vectors centred and of one size, results."""
        latents = functional.normalize(x[:, : self.latent], dim=1)
        return latents, (x[:, self.latent : -1] - self.data_mean) / self.data_scale, x[:, -1]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if prefix + "known" in state_dict:  # as many rows as the one that was saved
            self.known = torch.empty_like(state_dict[prefix + "known"])
        super()._load_from_state_dict(state_dict, prefix, *args)


class ProjectionModel(ConditionModel):
    """`SharedEncoder`, trained by NT-Xent against latents that stay (Swanevelder 2025, Section 3.3).

    Its samples are where a condition is projected to, the paper's way (Section 3.4), or with ``density`` around it as
    training networks lie around their projections, see `ResidualDensity`.

    Args:
        structure, targets: see `ConditionModel`.
        data_channels: of a data set's vector.
        hidden, bins, result_channels, dropout: see `SharedEncoder`.
        density: whether samples are drawn.
        bandwidth: see `ResidualDensity`.
    """

    def __init__(
        self,
        structure: Any,
        targets: int,
        data_channels: int,
        hidden: Sequence[int] = (512, 512),
        bins: int = 16,
        result_channels: int = 512,
        dropout: float = 0.1,
        density: bool = False,
        bandwidth: float = 1.0,
    ) -> None:
        super().__init__(structure, targets, data_channels)
        self.encoder = SharedEncoder(data_channels, self.latent, hidden, bins, result_channels, dropout)
        self.density, self.bandwidth = density, bandwidth

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Also the bins of results."""
        super().fit_statistics(batches)
        self.encoder.results.fit(self.known[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        """Projections of conditions, and latents."""
        latents, data, results = self.parts(x)
        return torch.cat([self.encoder(data, results), latents], 1)

    @torch.no_grad()
    def sample(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """The projection ``count`` times, or draws around it."""
        projected: Tensor = self(x)[:, : self.latent]
        if not self.density:
            return projected.unsqueeze(1).expand(-1, count, -1)
        places, latents = self(self.known).chunk(2, 1)
        density = ResidualDensity(self.latent, len(latents), self.bandwidth).to(projected)
        drawn: Tensor = density.fit(places, latents).sample(projected, count, generator)
        return drawn


class FlowModel(ConditionModel):
    """`ConditionalFlow` on the sphere of latents; its halves are the velocity and the one that is wanted.

    Args:
        structure, targets: see `ConditionModel`.
        data_channels: of a data set's vector.
        hidden: see `ConditionalFlow`.
        bins, result_channels: see `ResultsEncoder`; its vectors are trained with the rest.
        steps: of sampling.
    """

    def __init__(
        self,
        structure: Any,
        targets: int,
        data_channels: int,
        hidden: Sequence[int] = (512, 512),
        bins: int = 16,
        result_channels: int = 64,
        steps: int = 50,
    ) -> None:
        super().__init__(structure, targets, data_channels)
        self.results = ResultsEncoder(bins, result_channels)
        self.flow = ConditionalFlow(self.latent, data_channels + result_channels, hidden)
        self.steps = steps

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Also the bins of results, and mean and deviation of latents."""
        super().fit_statistics(batches)
        self.results.fit(self.known[:, -1])
        self.flow.fit_statistics(self.parts(self.known)[0])

    def forward(self, x: Tensor) -> Tensor:
        """Velocities at random times, found and wanted; the same times and noise in every evaluation."""
        latents, data, results = self.parts(x)
        target = (latents - self.flow.mean) / self.flow.deviation
        drawn = None if self.training else torch.Generator().manual_seed(0)
        noise = torch.randn(target.shape, generator=drawn).to(target)
        time = torch.rand(len(target), 1, generator=drawn).to(target)
        condition = torch.cat([data, self.results(results).to(data)], 1)
        return torch.cat([self.flow.velocity((1 - time) * noise + time * target, time, condition), target - noise], 1)

    @torch.no_grad()
    def sample(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Follow the flow from noise."""
        _, data, results = self.parts(x)
        condition = torch.cat([data, self.results(results).to(data)], 1)
        return self.flow.sample(condition, count, self.steps, generator)


class GivenLatents(ConditionModel):
    """What needs no training: the latents of training networks.

    Args:
        structure, targets: see `ConditionModel`.
        data_channels: of a data set's vector.
        kind: ``"nearest"``: of the networks whose conditions are nearest to the one asked for (data sets in units of
            their size, results of their deviation); ``"mean"``: the mean of all, on the sphere; ``"noise"``: of any
            networks, with noise.
        noise: its norm in units of a latent's; of ``"noise"`` alone.

    Raises:
        ValueError: the kind is unknown.
    """

    KINDS = ("nearest", "mean", "noise")

    def __init__(
        self, structure: Any, targets: int, data_channels: int, kind: str = "nearest", noise: float = 0.3
    ) -> None:
        super().__init__(structure, targets, data_channels)
        if kind not in self.KINDS:
            raise ValueError(f"kind={kind!r} is one of {', '.join(self.KINDS)}")
        self.kind, self.noise = kind, noise

    def fit(self, batches: Iterable[Tensor], targets: Tensor) -> None:
        """Keep the rows of training networks; the targets are not looked at."""
        self.fit_statistics(batches)

    def forward(self, x: Tensor) -> Tensor:
        """One of each condition's latents, and the network's own."""
        chosen = self.sample(x, 1, torch.Generator().manual_seed(0))[:, 0]
        return torch.cat([chosen, self.parts(x)[0]], 1)

    @torch.no_grad()
    def sample(self, x: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latents of training networks: the ``count`` nearest, the mean, or any."""
        latents, data, results = self.parts(self.known)
        if self.kind == "mean":
            return functional.normalize(latents.mean(0), dim=0).expand(len(x), count, -1)
        if self.kind == "noise":
            chosen = latents[torch.randint(len(latents), (len(x), count), generator=generator)]
            noise = torch.randn(chosen.shape, generator=generator).to(chosen)
            return functional.normalize(chosen + self.noise * noise / self.latent**0.5, dim=2)
        _, wanted, asked = self.parts(x)
        apart = torch.cdist(wanted, data).square() / self.data_channels
        apart = apart + ((asked.unsqueeze(1) - results) / results.std().clamp_min(1e-6)).square()
        return latents[apart.topk(min(count, len(latents)), largest=False).indices]
