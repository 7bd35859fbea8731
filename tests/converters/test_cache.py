"""A structure is found once per program, and never returned for another one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from converters import DEFAULT_RULES, UnsupportedOperation, trace
from converters.trace.cache import TraceCache, recent


@torch.library.custom_op("graphnets_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.cumsum(-1)


class Switch(nn.Module):
    """Its forward depends on attributes that no name, shape or config tells."""

    def __init__(self, gate: bool = False, scale: float = 2.0, shift: Tensor | None = None, heads: int = 2) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.gate, self.scale, self.shift, self.heads = gate, scale, shift, heads

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.scale
        x = x.flip(-1) * x if self.gate else torch.relu(x)
        x = x.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
        return self.last(x if self.shift is None else x + self.shift)


@pytest.fixture(autouse=True)
def _empty() -> None:
    recent.clear()


def test_the_second_network_of_an_architecture_is_found() -> None:
    first, second = trace(Switch()), trace(Switch())
    assert first is second
    assert recent.hits == 1
    assert trace(Switch(), cache=False) is not first
    assert trace(Switch(), cache=False) == first


@pytest.mark.parametrize(
    "other",
    [
        lambda: Switch(gate=True),
        lambda: Switch(scale=2),
        lambda: Switch(scale=-2.0),
        lambda: Switch(heads=3),
        lambda: Switch(shift=torch.zeros(6)),
        lambda: Switch().double(),
    ],
)
def test_what_differs_in_a_hidden_attribute_is_traced_anew(other: object) -> None:
    base = trace(Switch())
    assert callable(other)
    found = trace(other())
    assert recent.hits == 0
    assert found is not base
    assert found == trace(other(), cache=False)
    assert found.program != base.program


def test_the_content_of_constants_counts() -> None:
    flat, steep = (trace(Switch(shift=shift)) for shift in (torch.zeros(6), torch.arange(6.0)))
    assert recent.hits == 0
    assert any(group.permutable for group in flat.groups)
    assert flat.to_json() != steep.to_json()
    assert trace(Switch(shift=torch.arange(6.0))) is steep


def test_the_content_of_buffers_that_steer_counts() -> None:
    class Order(nn.Module):
        def __init__(self, order: list[int]) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)
            self.register_buffer("order", torch.tensor(order), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)[:, self.get_buffer("order")] * self.first(x))

    straight, turned = trace(Order([0, 1, 2])), trace(Order([1, 2, 0]))
    assert straight.to_json() != turned.to_json()
    assert trace(Order([1, 2, 0])) is turned


def test_sharing_counts() -> None:
    def make(tied: bool) -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        if tied:
            net[2].weight = net[0].weight
        return net

    loose, tied = trace(make(False)), trace(make(True))
    assert loose.groups != tied.groups
    assert trace(make(True)) is tied


def test_the_inputs_count() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 2))
    narrow = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(2 * 36, 2))
    assert trace(net, torch.zeros(1, 1, 8, 8)) != trace(narrow, torch.zeros(1, 1, 9, 9))
    sizes = [trace(narrow, torch.zeros(1, 1, n, n)) for n in (8, 9, 9)]
    assert sizes[0] is not sizes[1]
    assert sizes[1] is sizes[2]


def test_other_rules_are_never_cached() -> None:
    rules = {**DEFAULT_RULES, "relu": lambda context: DEFAULT_RULES["sigmoid"](context)}
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    assert trace(net, rules=rules) is not trace(net, rules=rules)
    assert len(recent) == 0
    assert trace(net, rules=dict(DEFAULT_RULES)) is trace(net)


def test_strict_raises_from_the_cache_too() -> None:
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(mystery(self.a(x)))

    rules_missing = trace(Unknown())
    with pytest.raises(UnsupportedOperation) as cold:
        trace(Unknown(), strict=True, cache=False)
    with pytest.raises(UnsupportedOperation) as warm:
        trace(Unknown(), strict=True)
    assert recent.hits == 1
    assert warm.value.places == cold.value.places
    assert trace(Unknown()) is rules_missing


def test_the_oldest_entry_goes() -> None:
    cache, structure = TraceCache(2), trace(nn.Linear(2, 2))
    for key in (b"a", b"b"):
        cache.put(key, (structure, ()))
    assert cache.get(b"a") is not None
    cache.put(b"c", (structure, ()))
    assert len(cache) == 2
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
