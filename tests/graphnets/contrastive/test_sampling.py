"""What is drawn follows what was fitted, and the condition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graphnets.contrastive import ConditionalFlow, ResidualDensity, interpolated


def test_interpolation_goes_along_the_arc() -> None:
    torch.manual_seed(0)
    first, second = functional.normalize(torch.randn(2, 6, 5, dtype=torch.float64), dim=2)
    shares = torch.linspace(0, 1, 5)
    way = interpolated(first, second, shares)
    assert torch.allclose(way.norm(dim=2), torch.ones(()).double())
    assert torch.allclose(way[:, 0], first)
    assert torch.allclose(way[:, -1], second)
    steps = (way[:, 1:] * way[:, :-1]).sum(2).arccos()
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-9), "equal angles"
    assert torch.allclose(interpolated(first, first, shares), first.unsqueeze(1).expand(-1, 5, -1))


def test_residuals_are_those_of_training_around_the_projection() -> None:
    torch.manual_seed(0)
    projected = functional.normalize(torch.randn(400, 3), dim=1)
    latents = functional.normalize(projected + torch.tensor([0.1, 0.0, 0.0]) * torch.randn(400, 3), dim=1)
    density = ResidualDensity(3, bandwidth=0.0).fit(projected, latents)
    new = torch.tensor([[0.0, 0.0, 1.0]])
    drawn = density.sample(new, 2000, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 2000, 3)
    assert torch.allclose(drawn.norm(dim=2), torch.ones(()))
    spread = (drawn[0] - new).std(0)
    assert 0.05 < float(spread[0]) < 0.15
    assert float(spread[1]) < 0.5 * float(spread[0])
    same = density.sample(new, 2000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, same)
    wider = ResidualDensity(3, bandwidth=3.0).fit(projected, latents).sample(new, 2000)
    assert float((wider[0] - new).std(0).sum()) > 1.2 * float(spread.sum())


def test_too_many_residuals_are_thinned_and_all_are_stored() -> None:
    projected, latents = torch.zeros(50, 2), torch.arange(100.0).view(50, 2)
    density = ResidualDensity(2, count=5).fit(projected, latents)
    assert density.residuals[:, 0].tolist() == [0.0, 24.0, 48.0, 72.0, 98.0]
    other = ResidualDensity(2, count=5)
    with pytest.raises(RuntimeError, match="call fit"):
        other.sample(torch.zeros(1, 2), 1)
    other.load_state_dict(density.state_dict())
    new = torch.ones(1, 2)
    first, second = (d.sample(new, 3, torch.Generator().manual_seed(1)) for d in (density, other))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="expected"):
        density.fit(projected, latents[:3])


def test_a_flow_draws_the_distribution_of_its_condition() -> None:
    """Under the one condition two points on opposite sides, under the other one between: no shift makes that."""
    torch.manual_seed(0)
    sign = torch.randint(2, (600, 1)) * 2.0 - 1
    condition = (torch.arange(600) % 2).float().unsqueeze(1)
    latents = torch.where(condition == 1, torch.cat([sign, 0 * sign], 1), torch.tensor([[0.0, 1.0]]))
    latents = latents + 0.05 * torch.randn(600, 2)
    flow = ConditionalFlow(2, 1, hidden=(64, 64), unit=False)
    flow.fit_statistics(latents)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        flow.loss(latents, condition).backward()
        optimizer.step()
    drawn = flow.sample(torch.tensor([[0.0], [1.0]]), 300, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 300, 2)
    assert torch.allclose(drawn[0].mean(0), torch.tensor([0.0, 1.0]), atol=0.1)
    assert float(drawn[0].std(0).max()) < 0.3
    sides = drawn[1, :, 0]
    assert 0.3 < float((sides > 0).float().mean()) < 0.7
    assert float((sides.abs() - 1).abs().median()) < 0.15
    again = flow.sample(torch.tensor([[0.0], [1.0]]), 300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_samples_lie_on_the_sphere_where_latents_do() -> None:
    flow = ConditionalFlow(4, 2, hidden=(8,))
    assert torch.allclose(flow.sample(torch.randn(3, 2), 5).norm(dim=2), torch.ones(()), atol=1e-5)
