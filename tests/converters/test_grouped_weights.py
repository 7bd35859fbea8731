"""Weights of grouped convolutions that are computed: what a row lists changes places only if it is treated alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import execute, trace, verify
from tests.converters.laws import difference, outputs, random_state

Weight = Callable[["Grouped"], Tensor]


class Grouped(nn.Module):
    """Six channels in two groups, read by eight; ``weight`` computes the kernel."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 1), nn.Conv2d(8, 2, 1)
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.rows, self.columns = nn.Parameter(torch.randn(8, 1, 1, 1)), nn.Parameter(torch.randn(1, 3, 1, 1))
        self.window = nn.Parameter(torch.randn(1, 1, 3, 3))
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.conv2d(self.first(x).relu(), self.weight(self), groups=2).relu()).mean((2, 3))


def standardised(n: Grouped) -> Tensor:
    flat, gain = n.kernel.reshape(1, 8, -1), n.rows.view(-1)
    return functional.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0).reshape_as(n.kernel)


def standardised_in_parts(n: Grouped) -> Tensor:
    flat = n.kernel.reshape(1, 24, -1)
    return functional.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(n.kernel)


ALIKE: dict[str, Weight] = {
    "rows": lambda n: n.kernel * n.rows,
    "window": lambda n: n.kernel * n.window,
    "standardised": standardised,
}
APART: dict[str, Weight] = {
    "columns": lambda n: n.kernel * n.columns,
    "constant_columns": lambda n: n.kernel / torch.arange(1.0, 4.0).view(1, 3, 1, 1).to(n.kernel),
    "normed_columns": lambda n: torch._weight_norm(n.kernel, n.columns, 1),
}


def network(weight: Weight) -> tuple[Grouped, Tensor]:
    torch.manual_seed(0)
    return Grouped(weight).eval(), torch.randn(1, 2, 5, 5)


def exchanged(weight: Weight) -> float:
    """How far the outputs move when the first two channels, and what reads them, change places."""
    model, x = network(weight)
    state, order = random_state(model), [1, 0, 2]
    moved = dict(state)
    for name in ("first.weight", "first.bias"):
        moved[name] = state[name][[*order, 3, 4, 5]]
    moved["kernel"] = torch.cat([state["kernel"][:4, order], state["kernel"][4:]])
    return difference(outputs(model, state, (x,), {}), outputs(model, moved, (x,), {}))


@pytest.mark.parametrize("name", ALIKE)
def test_channels_within_a_group_change_places(name: str) -> None:
    model, x = network(ALIKE[name])
    structure = trace(model, x)
    assert verify(model, x, structure).sound
    sizes = sorted((g.size, g.cells) for g in structure.groups if g.permutable)
    assert sizes == [(2, 1), (6, 2), (8, 2)]
    assert exchanged(ALIKE[name]) < 1e-10


@pytest.mark.parametrize("name", APART)
def test_channels_that_a_row_tells_apart_stay(name: str) -> None:
    model, x = network(APART[name])
    structure = trace(model, x)
    assert verify(model, x, structure).sound
    assert not any(structure.groups[g].permutable for g in structure.parameter["first.weight"].axes[0].groups)
    assert exchanged(APART[name]) > 1e-3


def test_what_is_not_followed_stays() -> None:
    model, x = network(standardised_in_parts)
    assert verify(model, x).sound
    assert not any(group.size == 6 and group.permutable for group in trace(model, x).groups)


class Modulated(nn.Module):
    """A convolution whose weights are scaled anew for every sample, all samples in one grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.style = nn.Conv2d(2, 6, 1), nn.Linear(6, 6)
        self.kernel, self.last = nn.Parameter(torch.randn(8, 6, 3, 3)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        scaled = self.kernel[None] * self.style(x.mean((2, 3)))[:, None, :, None, None]
        scaled = scaled * (scaled.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        flat = x.reshape(1, -1, *x.shape[2:])
        out = functional.conv2d(flat, scaled.flatten(0, 1), groups=len(x))
        return self.last(out.view(len(x), 8, *out.shape[2:]).relu().mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 3])
def test_samples_may_have_kernels_of_their_own(batch: int) -> None:
    torch.manual_seed(0)
    model, x = Modulated().eval(), torch.randn(batch, 2, 5, 5)
    structure = trace(model, x)
    assert sorted(group.size for group in structure.groups if group.permutable) == [6, 8]
    report = verify(model, x, structure)
    assert report.sound, str(report)
    assert report.coverage == 1
    state, more = random_state(model), torch.randn(4, 2, 5, 5)
    found = execute(state, more.double(), structure=structure)
    assert difference(outputs(model, state, (more,), {}), found) < 1e-10


class Fused(nn.Module):
    """Two ways through a network, weighed by numbers that are picked one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.share = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.share[0] * h.relu() + self.share[1] * h.tanh() + self.share[2] * h)


def test_entries_that_are_picked_one_by_one_have_a_reason() -> None:
    structure = trace(Fused())
    assert ("share", "its entries are used one by one") in structure.frozen_reasons
    assert [group.size for group in structure.groups if group.permutable] == [6]
