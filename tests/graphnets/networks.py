"""Networks whose graphs the tests of graphnets run on."""

from __future__ import annotations

import itertools
from functools import cache

import torch
from torch import Tensor, nn

from converters import NeuronGraph, NeuronGraphs, Structure, collate, to_graph, to_graphs, trace


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def cnn(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Mixed and non-square kernels, then a flatten."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        activation(),
        nn.Conv2d(4, 5, (1, 3)),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 3 * 2, 3),
    )


class Residual(nn.Module):
    """BatchNorm and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.inner_norm(self.inner(x))).relu()
        return self.head(x.mean((2, 3)))


class AttentionBlock(nn.Module):
    """A transformer's block: attention of two heads, residual connections, layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.block = nn.TransformerEncoderLayer(6, 2, 5, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x)).mean(1))


def random_weights(structure: Structure, count: int, scale: float = 0.5) -> dict[str, Tensor]:
    """Stacked random float64 weights; running variances are positive."""
    weights: dict[str, Tensor] = {}
    for p in structure.parameters:
        if p.dtype.startswith("int"):
            weights[p.name] = torch.zeros(count, *p.shape, dtype=torch.int64)
        else:
            values = scale * torch.randn(count, *p.shape, dtype=torch.float64)
            weights[p.name] = values.abs() + 0.1 if p.name.endswith("running_var") else values
    return weights


@cache
def structures() -> dict[str, Structure]:
    image = torch.zeros(1, 2, 8, 8)
    return {
        "mlp": trace(mlp(4, 6, 5, 3)),
        "mlp_tanh": trace(mlp(4, 6, 5, 3, activation=nn.Tanh)),
        "deep": trace(mlp(4, 5, 7, 6, 3)),
        "cnn": trace(cnn(), image),
        "residual": trace(Residual(), image),
    }


@cache
def attention_structure() -> Structure:
    """Of `AttentionBlock`: its groups are nested, heads and the dimensions inside each."""
    return trace(AttentionBlock(), torch.zeros(1, 3, 4))


def stack(structure: Structure, count: int = 4) -> NeuronGraphs:
    """A batch of random networks of one architecture, float64."""
    return to_graphs(random_weights(structure, count), structure)


def mixture() -> NeuronGraphs:
    """A batch of networks of different architectures, float64."""
    graphs: list[NeuronGraph] = []
    for structure in structures().values():
        for weights in (random_weights(structure, 2), random_weights(structure, 1)):
            one = {name: value[0] for name, value in weights.items()}
            graphs.append(to_graph(one, structure=structure))
    return collate(graphs)
