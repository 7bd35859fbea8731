"""Models of where latents lie: halves, samples, what they keep, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphnets.contrastive import ConditionModel, FlowModel, GivenLatents, ProjectionModel

LATENT, DATA = 3, 4

MODELS: dict[str, Callable[[], ConditionModel]] = {
    "projection": lambda: ProjectionModel(None, 2 * LATENT, DATA, hidden=[16], bins=4, result_channels=8),
    "density": lambda: ProjectionModel(None, 2 * LATENT, DATA, hidden=[16], bins=4, result_channels=8, density=True),
    "flow": lambda: FlowModel(None, 2 * LATENT, DATA, hidden=[32], bins=4, result_channels=8, steps=5),
    "nearest": lambda: GivenLatents(None, 2 * LATENT, DATA, "nearest"),
    "mean": lambda: GivenLatents(None, 2 * LATENT, DATA, "mean"),
    "noise": lambda: GivenLatents(None, 2 * LATENT, DATA, "noise", noise=0.1),
}


def rows(count: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, LATENT + DATA + 1, generator=generator)


@pytest.mark.parametrize("name", MODELS)
def test_samples_follow_the_condition_alone(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    model.fit_statistics(rows().split(15))
    model.eval()
    x = rows(9)
    drawn = model.sample(x, 6, torch.Generator().manual_seed(1))
    assert drawn.shape == (9, 6, LATENT)
    assert torch.allclose(drawn.norm(dim=2), torch.ones(9, 6), atol=1e-5)
    assert torch.equal(drawn, model.sample(x, 6, torch.Generator().manual_seed(1)))
    blind = torch.cat([torch.randn(9, LATENT), x[:, LATENT:]], 1)
    assert torch.equal(drawn, model.sample(blind, 6, torch.Generator().manual_seed(1)))
    moved = torch.cat([x[:, :LATENT], x[:, LATENT:].roll(1, 0)], 1)
    sees = not torch.allclose(drawn, model.sample(moved, 6, torch.Generator().manual_seed(1)))
    assert sees is (name not in ("mean", "noise"))
    varied = not torch.allclose(drawn[:, :1].expand_as(drawn), drawn)
    assert varied is (name not in ("projection", "mean"))


@pytest.mark.parametrize("name", MODELS)
def test_halves_and_the_state_dict(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    model.fit_statistics([rows()])
    model.eval()
    x = rows(9)
    found = model(x)
    assert found.shape == (9, 2 * LATENT)
    if name != "flow":
        assert torch.allclose(found[:, LATENT:], functional.normalize(x[:, :LATENT], dim=1))
    other = MODELS[name]()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), found)


def test_the_nearest_condition_is_found() -> None:
    model = GivenLatents(None, 2 * LATENT, DATA, "nearest")
    known = rows()
    model.fit([known], torch.zeros(40, 1))
    near = known[7:8] + 1e-3
    expected = functional.normalize(known[7:8, :LATENT], dim=1)
    assert torch.allclose(model.sample(near, 2)[:, 0], expected)
    assert not torch.allclose(model.sample(near, 2)[:, 1], expected)
    asked = known[7:8].clone()
    asked[:, -1] = known[3, -1]
    asked[:, LATENT:-1] = known[3, LATENT:-1]
    assert torch.allclose(model.sample(asked, 1)[:, 0], functional.normalize(known[3:4, :LATENT], dim=1))


def test_flow_learns_where_latents_lie() -> None:
    torch.manual_seed(0)
    result = torch.rand(512, 1)
    latents = torch.cat([result * 2 - 1, torch.ones(512, 1), torch.zeros(512, 1)], 1)
    x = torch.cat([latents, torch.randn(512, DATA), result], 1)
    model = FlowModel(None, 2 * LATENT, DATA, hidden=[64, 64], bins=8, result_channels=8, steps=20)
    model.fit_statistics([x])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        found, wanted = model(x).chunk(2, 1)
        optimizer.zero_grad()
        (found - wanted).square().mean().backward()
        optimizer.step()
    low, high = x.clone(), x.clone()
    low[:, -1], high[:, -1] = 0.05, 0.95
    drawn = [model.eval().sample(each, 1, torch.Generator().manual_seed(0))[:, 0, 0].mean() for each in (low, high)]
    assert float(drawn[0]) < -0.4 < 0.4 < float(drawn[1])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="must be two halves"):
        ProjectionModel(None, 5, DATA)
    with pytest.raises(ValueError, match="reads latents"):
        ProjectionModel(object(), 6, DATA)
    with pytest.raises(ValueError, match="kind='best' is one of nearest, mean, noise"):
        GivenLatents(None, 6, DATA, "best")
    with pytest.raises(ValueError, match="rows of 9 numbers, expected 3 of a latent, 4 of a data set and a result"):
        MODELS["flow"]().fit_statistics([torch.zeros(2, 9)])
