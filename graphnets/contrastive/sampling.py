"""Latents of new networks, drawn where networks of a condition lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ConditionalFlow", "ResidualDensity", "interpolated"]


def interpolated(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    r"""Points of the shorter arcs between latents of norm 1.

    .. math:: \frac{\sin((1 - s) \phi)}{\sin \phi} z_1 + \frac{\sin(s \phi)}{\sin \phi} z_2, \qquad
              \cos \phi = \langle z_1, z_2 \rangle

    Shapes:
        - first, second: ``[n, d]``; shares: ``[s]``; result: ``[n, s, d]``

    >>> interpolated(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.0, 0.5, 1.0]))[0, 1]
    tensor([0.7071, 0.7071])
    """
    first, second = (functional.normalize(each, dim=1).unsqueeze(1) for each in (first, second))
    shares = shares.to(first).view(1, -1, 1)
    angle = (first * second).sum(2, keepdim=True).clamp(-1, 1).arccos()
    near = angle < 1e-4
    width = torch.where(near, torch.ones_like(angle), angle.sin())
    arc = (torch.sin((1 - shares) * angle) * first + torch.sin(shares * angle) * second) / width
    return functional.normalize(torch.where(near, (1 - shares) * first + shares * second, arc), dim=2)


class ResidualDensity(nn.Module):
    r"""Networks lie around where a condition is projected to as those of training do.

    .. math:: z = \Pi\big(z_{proj} + \epsilon + h \eta\big), \qquad
              \epsilon \sim \{z_i - z_{proj,i}\}_i, \quad \eta \sim N(0, \Sigma)

    a kernel density of the residuals of training networks, taken to be independent of the condition; :math:`\Pi` puts
    the sum on the sphere, :math:`\Sigma` holds the residuals' variances, and the bandwidth h is Silverman's,
    :math:`(4 / ((d + 2) n))^{1 / (d + 4)}`, times ``bandwidth``. What it needs beside a deterministic projection is the
    residuals; what it cannot know is that some conditions leave more open than others.

    Args:
        latent: numbers of a latent.
        count: residuals that are kept at most.
        bandwidth: factor of Silverman's.

    Raises:
        RuntimeError: it is used before it is fitted.
    """

    residuals: Tensor
    held: Tensor

    def __init__(self, latent: int, count: int = 10_000, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.register_buffer("residuals", torch.zeros(count, latent))
        self.register_buffer("held", torch.tensor(0))

    @torch.no_grad()
    def fit(self, projected: Tensor, latents: Tensor) -> ResidualDensity:
        """Keep the residuals of training networks, ``[n, latent]`` both; of too many, evenly spaced ones.

        Raises:
            ValueError: the shapes differ, or there are fewer than two.
        """
        if projected.shape != latents.shape or len(latents) < 2:
            raise ValueError(f"projections {list(projected.shape)} and latents {list(latents.shape)}, expected [n, d]")
        found = latents - projected
        if len(found) > len(self.residuals):
            found = found[torch.linspace(0, len(found) - 1, len(self.residuals)).long().to(found.device)]
        self.residuals[: len(found)] = found
        self.held.fill_(len(found))
        return self

    def sample(self, projected: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``count`` latents for every projection: ``[n, count, latent]``, of norm 1."""
        held = int(self.held)
        if not held:
            raise RuntimeError("there are no residuals; call fit with projections and latents of training networks")
        own, size = self.residuals[:held], self.residuals.shape[1]
        width = self.bandwidth * (4 / ((size + 2) * held)) ** (1 / (size + 4))
        chosen = torch.randint(held, (len(projected), count), generator=generator).to(own.device)
        noise = torch.randn(len(projected), count, size, generator=generator).to(own)
        return functional.normalize(projected.unsqueeze(1) + own[chosen] + width * own.std(0) * noise, dim=2)


class ConditionalFlow(nn.Module):
    r"""A flow from noise to latents given a condition (rectified flow, Liu et al. 2022, arXiv:2209.03003).

    A perceptron learns the velocity of straight ways from noise to latents,

    .. math:: \mathcal L = E\, \lVert v((1 - t)\, \eta + t\, z,\, t,\, c) - (z - \eta) \rVert^2,
              \qquad \dot x = v(x, t, c),

    and sampling follows it from noise. The condition may decide the whole distribution, where `ResidualDensity` moves
    one and the same. Latents are standardised by those it is fitted to.

    Args:
        latent: numbers of a latent.
        condition: numbers of a condition.
        hidden: widths of hidden layers.
        frequencies: of the time's sinusoidal encoding.
        unit: whether samples are put on the sphere, as latents of `CodeAutoencoder` are.

    Shapes:
        - latents: ``[n, latent]``; conditions: ``[n, condition]``
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, latent: int, condition: int, hidden: Sequence[int] = (256, 256), frequencies: int = 8, unit: bool = True
    ) -> None:
        super().__init__()
        self.latent, self.frequencies, self.unit = latent, frequencies, unit
        width = latent + condition + 2 * frequencies
        layers: list[nn.Module] = []
        for channels in hidden:
            layers += [nn.Linear(width, channels), nn.SiLU()]
            width = channels
        self.network = nn.Sequential(*layers, nn.Linear(width, latent))
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("deviation", torch.ones(latent))

    def fit_statistics(self, latents: Tensor) -> None:
        """Take mean and deviation of the latents of training networks."""
        self.mean.copy_(latents.mean(0))
        self.deviation.copy_(latents.std(0).clamp_min(1e-6))

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Where points of ``[n, latent]`` move at times ``[n, 1]``, in standardised latents."""
        angles = time * math.pi * 2.0 ** torch.arange(self.frequencies, device=x.device)
        found: Tensor = self.network(torch.cat([x, condition, angles.sin(), angles.cos()], 1))
        return found

    def loss(self, latents: Tensor, condition: Tensor) -> Tensor:
        """The loss; noise and times come from torch's global generator."""
        target = (latents - self.mean) / self.deviation
        noise, time = torch.randn_like(target), torch.rand(len(target), 1, device=target.device)
        moved = self.velocity((1 - time) * noise + time * target, time, condition)
        return functional.mse_loss(moved, target - noise)

    @torch.no_grad()
    def sample(
        self, condition: Tensor, count: int, steps: int = 50, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``count`` latents for every condition, by ``steps`` midpoint steps: ``[n, count, latent]``."""
        given = condition.repeat_interleave(count, 0)
        x = torch.randn(len(given), self.latent, generator=generator).to(given)
        for step in range(steps):
            time = torch.full((len(given), 1), step / steps, device=given.device)
            middle = x + self.velocity(x, time, given) / (2 * steps)
            x = x + self.velocity(middle, time + 1 / (2 * steps), given) / steps
        x = (x * self.deviation + self.mean).unflatten(0, (-1, count))
        return functional.normalize(x, dim=2) if self.unit else x
