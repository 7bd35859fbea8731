"""The laws on networks nobody wrote: random perceptrons, convolutional networks and residual graphs of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from converters import (
    Structure,
    execute,
    permute,
    relabelling,
    sample_permutation,
    to_graph,
    to_state_dict,
    trace,
)
from tests.converters.laws import difference, outputs, permuted, random_orders, random_state
from tests.converters.modules import SqueezeExcite

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Identity, nn.Sigmoid]
NORMS_1D = [nn.Identity, nn.BatchNorm1d, nn.LayerNorm, lambda n: nn.BatchNorm1d(n, affine=False)]
NORMS_2D = [
    nn.Identity,
    nn.BatchNorm2d,
    lambda n: nn.GroupNorm(1, n),
    lambda n: nn.BatchNorm2d(n, affine=False),
]
WIDTHS = st.integers(2, 7)


@dataclass
class Drawn:
    """A network, its input, and the sizes of the groups it must have (None: not annotated)."""

    model: nn.Module
    inputs: Tensor
    groups: list[int] | None


@st.composite
def perceptrons(draw: st.DrawFn) -> Drawn:
    """Any depth and widths, with norms, dropout and activations."""
    sizes = [draw(st.integers(1, 5)), *draw(st.lists(WIDTHS, max_size=4)), draw(st.integers(1, 4))]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b, bias=draw(st.booleans())), draw(st.sampled_from(NORMS_1D))(b)]
        layers += [draw(st.sampled_from(ACTIVATIONS))(), nn.Dropout(0.5)]
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=draw(st.booleans())))
    return Drawn(nn.Sequential(*layers), torch.randn(3, sizes[0]), sizes[1:-1])


@st.composite
def convolutional(draw: st.DrawFn) -> Drawn:
    """Convolutions of any geometry, pools, then global pooling or flattening."""
    channels, size, layers, groups = draw(st.integers(1, 3)), 9, [], []
    inputs = torch.randn(2, channels, size, size)
    for _ in range(draw(st.integers(1, 3))):
        width, kernel = draw(WIDTHS), draw(st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3, 5])))
        stride = draw(st.integers(1, 2))
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate"] if size > 2 else ["zeros"]))
        pad = (kernel[0] // 2, kernel[1] // 2)
        layers.append(nn.Conv2d(channels, width, kernel, stride, pad, bias=draw(st.booleans()), padding_mode=mode))
        layers += [draw(st.sampled_from(NORMS_2D))(width), draw(st.sampled_from(ACTIVATIONS))()]
        size = -(-size // stride)
        channels = width
        groups.append(width)
        if size >= 4 and draw(st.booleans()):
            layers.append(draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2)])))
            size //= 2
    if size < 5 and draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(channels * size * size, 3)]
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    return Drawn(nn.Sequential(*layers), inputs, groups)


@dataclass
class Plan:
    """Where each node of a random graph reads from and what it does."""

    kind: str
    sources: list[int]
    width: int
    settings: dict[str, Any] = field(default_factory=dict)


class RandomGraph(nn.Module):
    """Nodes that read earlier nodes: layers, sums, products, concatenations, gates, slices."""

    def __init__(self, plans: list[Plan], widths: list[int], image: bool) -> None:
        super().__init__()
        self.plans, self.image = plans, image
        self.parts = nn.ModuleDict()
        for number, plan in enumerate(plans):
            inner = widths[plan.sources[0]]
            if plan.kind == "layer":
                part: nn.Module = nn.Conv2d(inner, plan.width, 3, padding=1) if image else nn.Linear(inner, plan.width)
            elif plan.kind == "norm":
                part = nn.BatchNorm2d(inner) if image else nn.LayerNorm(inner)
            elif plan.kind == "gate" and image:
                part = SqueezeExcite(inner, 3)
            else:
                continue
            self.parts[str(number)] = part
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for number, plan in enumerate(self.plans):
            one, *others = (values[source] for source in plan.sources)
            if plan.kind in ("layer", "norm"):
                one = torch.tanh(self.parts[str(number)](one))
            elif plan.kind == "add":
                one = one + others[0]
            elif plan.kind == "sub":
                one = torch.relu(one) - others[0]
            elif plan.kind == "mul":
                one = one * torch.sigmoid(others[0])
            elif plan.kind == "cat":
                one = torch.cat([one, others[0]], dim=1)
            elif plan.kind == "gate":
                one = self.parts[str(number)](one) if self.image else one * one.softmax(1)
            elif plan.kind == "slice":
                one = one[:, : plan.width]
            elif plan.kind == "halves":
                one = torch.cat([torch.relu(one[:, : plan.width // 2]), torch.tanh(one[:, plan.width // 2 :])], 1)
            elif plan.kind == "flip":
                one = one.flip(1)
            elif plan.kind == "scale":
                one = one * torch.linspace(0.5, 1.5, plan.width).reshape(-1, *[1] * (one.dim() - 2))
            values.append(one)
        last = values[-1]
        return self.head(last.mean((2, 3)) if self.image else last)


@st.composite
def random_graphs(draw: st.DrawFn) -> Drawn:
    """Random directed acyclic graphs of blocks, on vectors or images."""
    image = draw(st.booleans())
    widths, plans = [draw(st.integers(2, 4))], []
    first = draw(WIDTHS)
    plans.append(Plan("layer", [0], first))
    widths.append(first)
    for _ in range(draw(st.integers(2, 8))):
        kinds = [
            "layer",
            "layer",
            "layer",
            "norm",
            "add",
            "sub",
            "mul",
            "cat",
            "gate",
            "slice",
            "halves",
            "flip",
            "scale",
        ]
        kind = draw(st.sampled_from(kinds))
        source = draw(st.integers(1, len(widths) - 1))
        width, sources = widths[source], [source]
        if kind in ("add", "sub", "mul"):
            partners = [i for i, w in enumerate(widths) if w == width and i != source and i > 0]
            if not partners:
                kind, width = "layer", draw(WIDTHS)
            else:
                sources.append(draw(st.sampled_from(partners)))
        elif kind == "layer":
            width = draw(st.sampled_from(widths[1:]) | WIDTHS)
        elif kind == "cat":
            other = draw(st.integers(0, len(widths) - 1))
            sources.append(other)
            width += widths[other]
        elif kind == "slice":
            width = draw(st.integers(1, width))
        plans.append(Plan(kind, sources, width))
        widths.append(width)
    shape = (2, widths[0], 5, 5) if image else (3, widths[0])
    return Drawn(RandomGraph(plans, widths, image), torch.randn(shape), None)


def check(drawn: Drawn) -> Structure:
    """Every law on one network."""
    model, x = drawn.model.eval(), (drawn.inputs,)
    structure = trace(model, x)
    if drawn.groups is not None:
        found = sorted(group.size for group in structure.groups if group.permutable)
        assert found == sorted(size for size in drawn.groups if size > 1)
    state = random_state(model)
    expected = outputs(model, state, x, {})
    assert difference(expected, execute(state, x[0].double(), structure=structure)) < 1e-10
    assert difference(expected, execute(to_graph(state, structure=structure), x[0].double())) < 1e-10
    for seed in range(2):
        moved = permuted(structure, state, random_orders(structure, seed))
        assert difference(expected, outputs(model, moved, x, {})) < 1e-9
    graph = to_graph(model, structure=structure)
    back = to_state_dict(graph)
    assert list(back) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    assert Structure.from_json(structure.to_json()) == structure
    permutation = sample_permutation(structure)
    other, old = (
        to_graph(permute(state, permutation), structure=structure),
        relabelling(structure, permutation),
    )
    assert torch.equal(other.x, to_graph(state, structure=structure).x[old])
    count = sum(t.numel() for n, t in model.state_dict().items() if structure.parameter[n].alias_of is None)
    ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    full = to_graph(ones, structure=structure)
    held = int(full.x.sum()) + int(full.edge_attr.sum()) + sum(int(t.sum()) for t in full.extras.tensors.values())
    assert held == count
    return structure


@settings(max_examples=25)
@given(perceptrons())
def test_perceptrons(drawn: Drawn) -> None:
    check(drawn)


@settings(max_examples=20)
@given(convolutional())
def test_convolutional_networks(drawn: Drawn) -> None:
    check(drawn)


@settings(max_examples=40)
@given(random_graphs())
def test_random_graphs(drawn: Drawn) -> None:
    check(drawn)


@pytest.mark.long
@settings(max_examples=300)
@given(perceptrons() | convolutional())
def test_many_sequential_networks(drawn: Drawn) -> None:
    check(drawn)


@pytest.mark.long
@settings(max_examples=1000)
@given(random_graphs())
def test_many_random_graphs(drawn: Drawn) -> None:
    check(drawn)
