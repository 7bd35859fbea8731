"""``cache="attributes"``: a network is not recorded again when nothing that it holds has changed, and only then."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from converters import DEFAULT_RULES, UnsupportedOperation, to_graph, trace
from converters.trace import tracer
from converters.trace.cache import recent, same_held
from tests.converters.networks import ALL

FLIP = False
SETTINGS = SimpleNamespace(flip=False)
ORDER = [0, 1, 2, 3, 4, 5]


@torch.library.custom_op("graphnets_tests::unheard_of", mutates_args=())
def unheard_of(x: Tensor) -> Tensor:
    return x.cumsum(-1)


def choose(x: Tensor) -> Tensor:
    return x.flip(-1) if FLIP else x


class Net(nn.Module):
    """Whose forward goes by its attributes, its class, a function beside it and globals."""

    order: ClassVar = [0, 1, 2, 3, 4, 5]

    def __init__(self, scale: float = 2.0, config: Any = None, shift: Tensor | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.scale, self.config, self.shift = scale, config or {"layers": [{"gate": False}]}, shift

    def forward(self, x: Tensor) -> Tensor:
        x = choose(torch.relu(self.first(x) * self.scale))[:, self.order][:, ORDER]
        x = x.flip(-1) if SETTINGS.flip or self.config["layers"][0]["gate"] else x
        return self.last(x if self.shift is None else x + self.shift)


@pytest.fixture(autouse=True)
def _empty() -> None:
    recent.clear()
    same_held.clear()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that are recorded, in turn."""
    found: list[nn.Module] = []
    record = tracer._recorded

    def watched(model: nn.Module, *args: Any) -> Any:
        found.append(model)
        return record(model, *args)

    monkeypatch.setattr(tracer, "_recorded", watched)
    return found


@pytest.mark.parametrize(
    "make",
    [
        Net,
        lambda: Net(config={"layers": [{"gate": True}], "name": "net"}),
        lambda: nn.LSTM(4, 3),
        lambda: nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(0, 1)),
        lambda: nn.TransformerEncoderLayer(4, 2, batch_first=True),
    ],
)
def test_the_second_network_is_not_recorded(make: Callable[[], nn.Module], recorded: list[nn.Module]) -> None:
    x = torch.zeros(5, 4, 8, 8) if isinstance(make(), nn.Sequential) else torch.zeros(2, 4)
    x = torch.zeros(2, 5, 4) if isinstance(make(), (nn.LSTM, nn.TransformerEncoderLayer)) else x
    first = trace(make(), x, cache="attributes")
    assert trace(make(), x + 1.0, cache="attributes") is first
    assert len(recorded) == 1
    assert first == trace(make(), x, cache=False)


@pytest.mark.parametrize("name", ALL)
def test_every_network_gets_its_own_structure(name: str) -> None:
    args, kwargs = ALL[name].arguments()
    for seed in range(2):
        found = trace(ALL[name].make(seed), kwargs or args, cache="attributes")
    assert found == trace(ALL[name].make(2), kwargs or args, cache=False)


def turned(x: Tensor) -> Tensor:
    return x.flip(-1)


def hooked(function: Callable[[Tensor], Tensor]) -> Net:
    net = Net()
    net.first.register_forward_hook(lambda module, args, out: function(out))
    return net


def replaced() -> Net:
    net = Net()
    net.last.forward = lambda x: nn.functional.linear(x.flip(-1), net.last.weight, net.last.bias)
    return net


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Net, lambda: Net(scale=2)),
        (Net, lambda: Net(scale=-2.0)),
        (Net, lambda: Net(config={"layers": [{"gate": True}]})),
        (Net, lambda: Net(shift=torch.zeros(6))),
        (lambda: Net(shift=torch.zeros(6)), lambda: Net(shift=torch.arange(6.0))),
        (Net, lambda: Net().double()),
        (Net, replaced),
        (lambda: hooked(torch.relu), lambda: hooked(turned)),
        (tied, lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))),
    ],
)
def test_what_differs_inside_is_seen(
    one: Callable[[], nn.Module], other: Callable[[], nn.Module], recorded: list[nn.Module]
) -> None:
    trace(one(), cache="attributes")
    found = trace(other(), cache="attributes")
    assert len(recorded) == 2
    assert found == trace(other(), cache=False)


def swapped(order: list[int]) -> None:
    order[:2] = 1, 0


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(Net, "forward", lambda self, x: self.last(self.first(x).flip(-1))),
        lambda patch: patch.setattr(Net, "order", [1, 0, 2, 3, 4, 5]),
        lambda patch: swapped(Net.order),
        lambda patch: patch.setattr(
            nn.Linear, "forward", lambda self, x: nn.functional.linear(x.flip(-1), self.weight)
        ),
        lambda patch: patch.setitem(globals(), "FLIP", True),
        lambda patch: patch.setitem(globals(), "choose", turned),
        lambda patch: patch.setattr(SETTINGS, "flip", True),
        lambda patch: swapped(ORDER),
    ],
    ids=["method", "class attribute", "inside it", "torch's method", "flag", "function", "attribute", "list"],
)
def test_what_differs_around_is_seen(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, recorded: list[nn.Module]
) -> None:
    before = trace(Net(), cache="attributes")
    change(monkeypatch)
    try:
        after = trace(Net(), cache="attributes")
    finally:
        Net.order.sort()
        ORDER.sort()
    assert len(recorded) == 2
    assert after.program != before.program


class Options:
    flip = False


def closing(options: object) -> type[nn.Module]:
    class Closed(Net):
        options_of_class = SimpleNamespace(inner=SimpleNamespace(turn=False))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = x.flip(-1) if options.flip or Options.flip or self.options_of_class.inner.turn else x
            x = x.flip(-1) if getattr(choose, "again", False) else x
            return self.last(x.relu() if hasattr(self, "rectify") else x)

    class Below(Closed):  # whose forward reads what stands on the class above
        pass

    return Below


@pytest.mark.parametrize("change", ["closure", "class", "class attribute", "function attribute", "empty attribute"])
def test_objects_around_that_change_inside_are_seen(change: str, recorded: list[nn.Module]) -> None:
    options = SimpleNamespace(flip=False)
    kind: Any = closing(options)
    before = trace(kind(), cache="attributes")
    assert trace(kind(), cache="attributes") is before
    net = kind()
    try:
        if change == "closure":
            options.flip = True
        elif change == "class":
            Options.flip = True
        elif change == "class attribute":
            kind.options_of_class.inner.turn = True
        elif change == "function attribute":
            choose.again = True
        else:
            net.rectify = OrderedDict()
        after = trace(net, cache="attributes")
    finally:
        Options.flip = False
        vars(choose).clear()
    assert len(recorded) == 2
    assert after.program != before.program


def test_classes_of_one_name_are_told_apart() -> None:
    def make(gate: bool) -> nn.Module:
        class Local(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(self.first(x).flip(-1) if gate else self.first(x))

        return Local()

    found = [trace(make(gate), cache="attributes") for gate in (False, True)]
    assert found[0] != found[1]


class ByValue(nn.Module):
    """Chooses by what it sees."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        nn.init.constant_(self.first.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(hidden.flip(-1) if self.first.weight.sum() > 0 else torch.relu(hidden))


def test_networks_that_go_by_values_are_always_recorded(recorded: list[nn.Module]) -> None:
    found = [trace(ByValue(gain), torch.zeros(2, 4), cache="attributes") for gain in (1.0, -1.0, 1.0)]
    assert len(recorded) == 3
    assert found[0].program != found[1].program
    assert len(same_held) == 0


def test_inputs_count_by_shape_and_integers_by_value(recorded: list[nn.Module]) -> None:
    class Pick(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return self.last(self.first(x)[:, index])

    x = torch.zeros(2, 4)
    straight, back = torch.arange(6), torch.arange(6).flip(0)
    for args in [(x, straight), (x + 1.0, straight.clone()), (x, back), (torch.zeros(3, 4), straight)]:
        trace(Pick(), args, cache="attributes")
    assert len(recorded) == 3


class Secretive(nn.Module):
    """Holds what cannot be compared."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.net, self.held = nn.Linear(2, 2), held

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Hiding:
    def __init__(self, gate: bool) -> None:
        self.gate = gate

    def __getstate__(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("held", [threading.Lock(), (i for i in ()), Hiding(True), torch.zeros(2).to_sparse()])
def test_what_cannot_be_compared_is_recorded(held: Any, recorded: list[nn.Module]) -> None:
    found = [trace(Secretive(held), cache="attributes") for _ in range(2)]
    assert found[0] is found[1]
    assert len(recorded) == 2
    assert len(same_held) == 0


def test_other_rules_are_never_compared(recorded: list[nn.Module]) -> None:
    for _ in range(2):
        trace(
            Net(), cache="attributes", rules={**DEFAULT_RULES, "relu": lambda context: DEFAULT_RULES["relu"](context)}
        )
    assert len(recorded) == 2


def test_graphs_and_strictness(recorded: list[nn.Module]) -> None:
    graphs = [to_graph(Net(), cache="attributes") for _ in range(2)]
    assert len(recorded) == 1
    assert graphs[0].structure is graphs[1].structure
    assert not torch.equal(graphs[0].edge_attr, graphs[1].edge_attr)

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.ops.graphnets_tests.unheard_of(self.first(x)))

    assert trace(Unknown(), cache="attributes").frozen_reasons
    with pytest.raises(UnsupportedOperation, match="unheard_of"):
        trace(Unknown(), cache="attributes", strict=True)
