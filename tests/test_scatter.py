"""Results do not depend on whether the compiled torch-scatter extra is installed."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.typing
from torch import Tensor, nn
from torch_geometric.utils import scatter, segment, softmax

from converters import collate, same_structure, to_graph
from graphnets import NeuralGraphGNN, NeuronGNN, NeuronTransformer
from graphnets.layered import Bundle
from graphnets.message_passing.neural_graph import edge_extreme

pytestmark = pytest.mark.scatter
REDUCTIONS = ("sum", "mean", "min", "max", "mul")


@pytest.fixture
def edges() -> tuple[Tensor, Tensor, int]:
    """Edge features, their targets in random order, and the number of targets; every third has no edge."""
    reached = torch.arange(43)[torch.arange(43) % 3 != 1]
    return torch.randn(300, 5, dtype=torch.float64), reached[torch.randint(len(reached), (300,))], 43


@pytest.fixture
def batch():
    """Networks of different architectures, so that models take their irregular path."""
    nets = [
        nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 3))
        for width in (5, 8, 8, 11)
    ]
    return collate([to_graph(net) for net in nets])


def with_and_without(monkeypatch: pytest.MonkeyPatch, compute) -> tuple[list[Tensor], list[Tensor]]:
    results = []
    for installed in (True, False):
        monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", installed)
        results.append(compute())
    return results[0], results[1]


def test_the_extra_is_installed() -> None:
    import torch_scatter

    assert torch_geometric.typing.WITH_TORCH_SCATTER
    assert torch_geometric.typing.torch_scatter is torch_scatter


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_reductions_and_their_gradients(edges: tuple[Tensor, Tensor, int], reduce: str) -> None:
    import torch_scatter

    values, targets, size = edges
    compiled, native = values.clone().requires_grad_(), values.clone().requires_grad_()
    ours = torch_scatter.scatter(compiled, targets, 0, dim_size=size, reduce=reduce)
    theirs = scatter(native, targets, 0, dim_size=size, reduce=reduce)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(compiled.grad, native.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduce", ["sum", "mean", "min", "max"])
def test_segments(monkeypatch: pytest.MonkeyPatch, reduce: str) -> None:
    values, ptr = torch.randn(30, 4, dtype=torch.float64), torch.tensor([0, 3, 4, 11, 30])
    ours, theirs = with_and_without(monkeypatch, lambda: [segment(values, ptr, reduce=reduce)])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_softmax_over_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    values, ptr = torch.randn(30, 4, dtype=torch.float64), torch.tensor([0, 3, 4, 11, 30])
    ours, theirs = with_and_without(monkeypatch, lambda: [softmax(values, ptr=ptr)])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduce", ["min", "max"])
def test_extremes_over_edges_and_their_gradients(
    monkeypatch: pytest.MonkeyPatch, edges: tuple[Tensor, Tensor, int], reduce: str
) -> None:
    values, targets, size = edges
    bundle = Bundle(0, 1, 0, len(targets), None, torch.zeros_like(targets), targets)
    stacked = torch.stack([values, values.flip(0)]).requires_grad_()

    def compute() -> list[Tensor]:
        found = edge_extreme(stacked, size, bundle, reduce)
        (gradient,) = torch.autograd.grad((found[:, 0::3] * torch.linspace(-1, 1, 5)).sum(), stacked)
        return [found.detach(), gradient]

    ours, theirs = with_and_without(monkeypatch, compute)
    assert bool(ours[0][:, 1::3].isinf().all())
    assert int((ours[1] != 0).sum()) > 50
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [NeuronGNN, NeuralGraphGNN, NeuronTransformer])
def test_predictions_and_gradients_of_a_model(monkeypatch: pytest.MonkeyPatch, batch, kind: type[nn.Module]) -> None:
    assert same_structure(batch) is None
    model = kind(None, targets=2)
    model.fit_statistics([batch])
    model.eval().double()
    for key in ("x", "edge_attr", "node_attributes"):
        batch[key] = batch[key].double()

    def compute() -> list[Tensor]:
        model.zero_grad()
        predictions = model(batch)
        predictions.square().sum().backward()
        return [predictions.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    ours, theirs = with_and_without(monkeypatch, compute)
    assert ours[0].std() > 1e-9
    assert len(ours) > 5
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
