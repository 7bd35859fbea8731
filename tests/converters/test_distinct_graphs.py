"""Networks that compute different functions of the same weights have different graph tensors; equal ones do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters import NeuronGraph, to_graph, trace
from tests.converters.entry import draw
from tests.converters.modules import ChannelShuffle, Net

MLP_INPUT, IMAGE = draw(3, 4), draw(2, 1, 9, 9)
Make = Callable[..., nn.Module]


def mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), *between, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def cnn(*middle: nn.Module, **conv: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=2),
        *middle,
        nn.Conv2d(4, 4, 3, **conv),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def net(forward: Callable[[Net, Tensor], Tensor], **parts: Callable[[], Any]) -> nn.Module:
    layers = {"a": nn.Linear(4, 8), "b": nn.Linear(4, 8), "last": nn.Linear(8, 2)}
    return Net(forward, **layers, **{key: make() for key, make in parts.items()})


def two(n: Any, x: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``join`` of two hidden layers that are made in the same order whatever it is."""
    a, b = n.a(x).relu(), n.b(x).sigmoid()
    return n.last(join(a, b))


def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


# Every row: variants of one network whose weights have the same names and shapes.
VARIANTS: dict[str, list[Callable[[], nn.Module]]] = {
    "activation": [
        lambda: mlp(nn.ReLU()),
        lambda: mlp(nn.Tanh()),
        lambda: mlp(nn.GELU()),
        lambda: mlp(nn.GELU(approximate="tanh")),
        lambda: mlp(nn.Identity()),
        lambda: mlp(nn.LeakyReLU(0.01)),
        lambda: mlp(nn.LeakyReLU(0.2)),
        lambda: mlp(nn.ELU(1.0)),
        lambda: mlp(nn.ELU(2.0)),
        lambda: mlp(nn.CELU(2.0)),
        lambda: mlp(nn.SELU()),
        lambda: mlp(nn.Softplus(1.0)),
        lambda: mlp(nn.Softplus(3.0)),
        lambda: mlp(nn.Hardtanh()),
        lambda: mlp(nn.Hardtanh(-2.0, 2.0)),
        lambda: mlp(nn.ReLU6()),
        lambda: mlp(nn.Softmax(-1)),
        lambda: mlp(nn.LogSoftmax(-1)),
        lambda: mlp(nn.Softshrink(0.5)),
        lambda: mlp(nn.Hardshrink(0.5)),
        lambda: mlp(nn.Threshold(0.1, 0.0)),
    ],
    "order_of_functions": [
        lambda: net(lambda n, x: n.last(relu(2 * n.a(x) + 1) + n.b(x))),
        lambda: net(lambda n, x: n.last(2 * relu(n.a(x)) + 1 + n.b(x))),
        lambda: net(lambda n, x: n.last(relu(n.a(x) + 1) * 2 + n.b(x))),
        lambda: net(lambda n, x: n.last(relu(1 - n.a(x)) + n.b(x))),
        lambda: net(lambda n, x: n.last(n.a(x) ** 2 + n.b(x))),
        lambda: net(lambda n, x: n.last(n.a(x) ** 3 + n.b(x))),
        lambda: net(lambda n, x: n.last(2 ** n.a(x) + n.b(x))),
        lambda: net(lambda n, x: n.last(n.a(x).clamp(min=0.1) + n.b(x))),
        lambda: net(lambda n, x: n.last(n.a(x).clamp(max=0.1) + n.b(x))),
        lambda: net(lambda n, x: n.last(n.a(x).clamp(-0.1, 0.1) + n.b(x))),
        lambda: net(lambda n, x: n.last(1 / (n.a(x).abs() + 1) + n.b(x))),
        lambda: net(lambda n, x: n.last((n.a(x) * 30).sin() + n.b(x))),
        lambda: net(lambda n, x: n.last((n.a(x) * 10).sin() + n.b(x))),
    ],
    "combination": [
        lambda: net(lambda n, x: n.last(relu(n.a(x)) + relu(n.b(x)))),
        lambda: net(lambda n, x: n.last(relu(n.a(x)) - relu(n.b(x)))),
        lambda: net(lambda n, x: n.last(-relu(n.a(x)) + relu(n.b(x)))),
        lambda: net(lambda n, x: n.last(relu(n.a(x)) * relu(n.b(x)))),
        lambda: net(lambda n, x: n.last(relu(n.a(x)) / (1 + relu(n.b(x))))),
        lambda: net(lambda n, x: n.last(torch.maximum(n.a(x), n.b(x)))),
        lambda: net(lambda n, x: n.last(torch.minimum(n.a(x), n.b(x)))),
        lambda: net(lambda n, x: n.last(torch.add(n.a(x).relu(), n.b(x).relu(), alpha=2))),
        lambda: net(lambda n, x: n.last(torch.lerp(n.a(x).relu(), n.b(x).relu(), 0.3))),
        lambda: net(lambda n, x: n.last(torch.where(n.a(x) > 0, n.a(x), n.b(x)))),
        lambda: net(lambda n, x: n.last(torch.where(n.a(x) > 1, n.a(x), n.b(x)))),
        lambda: net(lambda n, x: n.last(torch.where(n.a(x) < 0, n.a(x), n.b(x)))),
    ],
    "operands": [
        lambda: net(lambda n, x: two(n, x, lambda a, b: a - b)),
        lambda: net(lambda n, x: two(n, x, lambda a, b: b - a)),
        lambda: net(lambda n, x: two(n, x, lambda a, b: a / (b + 1))),
        lambda: net(lambda n, x: two(n, x, lambda a, b: (b + 1) / a)),
        lambda: net(lambda n, x: two(n, x, lambda a, b: torch.where(a > 1, a, b))),
        lambda: net(lambda n, x: two(n, x, lambda a, b: torch.where(a > 1, b, a))),
    ],
    "geometry": [
        lambda: cnn(),
        lambda: cnn(stride=2),
        lambda: cnn(stride=(1, 2)),
        lambda: cnn(padding=1),
        lambda: cnn(padding=(0, 1)),
        lambda: cnn(dilation=2),
        lambda: cnn(padding=1, padding_mode="reflect"),
        lambda: cnn(padding=1, padding_mode="replicate"),
        lambda: cnn(nn.ZeroPad2d((1, 0, 0, 0))),
        lambda: cnn(nn.ConstantPad2d((1, 0, 0, 0), 1.0)),
        lambda: cnn(nn.ZeroPad2d((0, 1, 0, 0))),
    ],
    "pooling": [
        lambda: cnn(),
        lambda: cnn(nn.MaxPool2d(2)),
        lambda: cnn(nn.AvgPool2d(2)),
        lambda: cnn(nn.LPPool2d(2, 2)),
        lambda: cnn(nn.MaxPool2d(3)),
        lambda: cnn(nn.MaxPool2d(2, stride=1)),
        lambda: cnn(nn.MaxPool2d(2, padding=1)),
        lambda: cnn(nn.MaxPool2d(2, dilation=2)),
        lambda: cnn(nn.MaxPool2d(2, ceil_mode=True)),
        lambda: cnn(nn.AvgPool2d(2, ceil_mode=True)),
        lambda: cnn(nn.AvgPool2d(2, padding=1)),
        lambda: cnn(nn.AvgPool2d(2, padding=1, count_include_pad=False)),
        lambda: cnn(nn.AvgPool2d(2, divisor_override=3)),
        lambda: cnn(nn.AdaptiveAvgPool2d(4)),
        lambda: cnn(nn.AdaptiveMaxPool2d(4)),
        lambda: cnn(nn.AdaptiveAvgPool2d((4, 3))),
        lambda: cnn(nn.Upsample(scale_factor=2)),
        lambda: cnn(nn.Upsample(scale_factor=2, mode="bilinear")),
        lambda: cnn(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    ],
    "norm": [
        lambda: cnn(nn.BatchNorm2d(4, eps=1e-5, track_running_stats=False)),
        lambda: cnn(nn.BatchNorm2d(4, eps=1e-3, track_running_stats=False)),
        lambda: cnn(nn.GroupNorm(1, 4)),
        lambda: cnn(nn.GroupNorm(2, 4)),
        lambda: cnn(nn.GroupNorm(4, 4)),
        lambda: cnn(nn.GroupNorm(2, 4, eps=1e-2)),
        lambda: cnn(nn.InstanceNorm2d(4, affine=True)),
    ],
    "norm_statistics": [
        lambda: cnn(nn.BatchNorm2d(4, eps=1e-5)),
        lambda: cnn(nn.BatchNorm2d(4, eps=1e-3)),
    ],
    "layer_norm": [
        lambda: mlp(nn.LayerNorm(8)),
        lambda: mlp(nn.LayerNorm(8, eps=1e-2)),
        lambda: mlp(nn.BatchNorm1d(8, track_running_stats=False)),
    ],
    "bare_norm": [
        lambda: mlp(),
        lambda: mlp(nn.LayerNorm(8, elementwise_affine=False)),
        lambda: mlp(nn.RMSNorm(8, eps=1e-5, elementwise_affine=False)),
        lambda: mlp(nn.BatchNorm1d(8, affine=False, track_running_stats=False)),
        lambda: mlp(nn.GroupNorm(2, 8, affine=False)),
        lambda: mlp(nn.GroupNorm(4, 8, affine=False)),
    ],
    "reduction": [
        lambda: net(lambda n, x: n.last(n.a(x).view(-1, 8) + n.b(x).mean(0, keepdim=True))),
        lambda: net(lambda n, x: n.last(n.a(x).view(-1, 8) + n.b(x).sum(0, keepdim=True))),
        lambda: net(lambda n, x: n.last(n.a(x).view(-1, 8) + n.b(x).amax(0, keepdim=True))),
        lambda: net(lambda n, x: n.last(n.a(x).view(-1, 8) + n.b(x).amin(0, keepdim=True))),
        lambda: net(lambda n, x: n.last(n.a(x).view(-1, 8) + n.b(x).mean(1, keepdim=True))),
        lambda: net(lambda n, x: n.last(n.a(x).view(-1, 8) + n.b(x).std(1, keepdim=True))),
    ],
    "shuffle": [
        lambda: cnn(ChannelShuffle(2)),
        lambda: cnn(),
    ],
    "input": [
        lambda: Net(lambda n, x: n.last(relu(n.a(x))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(relu(n.a(2 * x))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(relu(n.a(x.flip(1)))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(relu(n.a(x.sin()))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(
            lambda n, x: n.last(relu(n.a(x - x.mean(1, keepdim=True)))),
            a=nn.Linear(4, 8),
            last=nn.Linear(8, 2),
        ),
    ],
    "output": [
        lambda: Net(lambda n, x: n.last(relu(n.a(x))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(relu(n.a(x))).softmax(-1), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(relu(n.a(x))).sigmoid(), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(relu(n.a(x))) * 3, a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: F.normalize(n.last(relu(n.a(x)))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
    ],
    "constants": [
        lambda: net(lambda n, x: n.last(n.a(x) * torch.full((8,), 0.5))),
        lambda: net(lambda n, x: n.last(n.a(x) * torch.full((8,), 0.7))),
        lambda: net(lambda n, x: n.last(n.a(x) * torch.arange(8.0))),
        lambda: net(lambda n, x: n.last(n.a(x) * torch.arange(1.0, 9.0))),
    ],
}


def rows(graph: NeuronGraph) -> tuple[Any, ...]:
    """What a predictor sees of a graph, the order of edges left out."""
    nodes = torch.cat(
        [
            graph.x,
            graph.node_mask,
            graph.node_type[:, None],
            graph.activation[:, None],
            graph.node_attributes,
        ],
        1,
    )
    edges = torch.cat([graph.edge_index.t(), graph.edge_type[:, None], graph.edge_attr], 1)
    return tuple(map(tuple, nodes.tolist())), tuple(sorted(map(tuple, edges.tolist())))


def graph_of(make: Callable[[], nn.Module]) -> NeuronGraph:
    model = make().eval()
    state = {key: draw(*tensor.shape) if tensor.dim() else tensor for key, tensor in model.state_dict().items()}
    first = next(iter(model.parameters()))
    return to_graph(state, structure=trace(model, IMAGE if first.dim() == 4 else MLP_INPUT))


@pytest.mark.parametrize("row", VARIANTS)
def test_different_functions_have_different_graphs(row: str) -> None:
    seen: dict[Any, int] = {}
    same = []
    for number, make in enumerate(VARIANTS[row]):
        content = rows(graph_of(make))
        if content in seen:
            same.append((seen[content], number))
        seen[content] = number
    assert same == []


SAME: dict[str, tuple[Make, Make]] = {
    "dropout": (lambda: mlp(nn.ReLU(), nn.Dropout(0.3)), lambda: mlp(nn.ReLU(), nn.Dropout(0.6))),
    "identity": (lambda: mlp(nn.ReLU(), nn.Identity()), lambda: mlp(nn.ReLU())),
    "in_place": (lambda: mlp(nn.ReLU(inplace=True)), lambda: mlp(nn.ReLU())),
    "functional": (
        lambda: Net(lambda n, x: n.last(F.relu(n.a(x))), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        lambda: Net(lambda n, x: n.last(n.a(x).clone().relu_()), a=nn.Linear(4, 8), last=nn.Linear(8, 2)),
    ),
}


@pytest.mark.parametrize("row", SAME)
def test_equal_functions_have_equal_graphs(row: str) -> None:
    one, other = (rows(graph_of(make)) for make in SAME[row])
    assert one == other
