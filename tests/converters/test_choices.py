"""Experts and codebooks chosen by number: they may change places wherever nobody looks at the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converters import execute, to_graph, to_state_dict, trace, verify
from tests.converters.laws import difference, outputs, permuted, random_orders, random_state

EXPERTS, WIDTH, INNER = 5, 4, 8
Forward = Callable[["Routed", Tensor], Tensor]


class Routed(nn.Module):
    """Tokens, a gate, a matrix per expert and a bias per expert."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 2)
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up, self.down = (
            nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER)),
            nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH)),
        )
        self.bias = nn.Parameter(torch.randn(EXPERTS, INNER))
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x)))

    def apply_to(self, x: Tensor, index: Tensor) -> Tensor:
        h = torch.einsum("nd,nkdh->nkh", x, self.up[index]) + self.bias[index]
        return torch.einsum("nkh,nkhd->nkd", h.relu(), self.down[index])


def looked_up(n: Routed, x: Tensor) -> Tensor:
    gate, index = n.gate(x).topk(2, -1)
    return (n.apply_to(x, index) * gate.softmax(-1)[..., None]).sum(1)


def gathered(n: Routed, x: Tensor) -> Tensor:
    index = n.gate(x).sigmoid().topk(2, -1).indices
    return (n.apply_to(x, index) * n.gate(x).gather(1, index)[..., None]).sum(1)


def masked(n: Routed, x: Tensor) -> Tensor:
    gate, index = n.gate(x).softmax(-1).topk(2, -1)
    full = torch.zeros_like(n.gate(x)).scatter(1, index, gate)
    h = torch.einsum("nd,edh->neh", x, n.up).relu() + n.bias
    return (torch.einsum("neh,ehd->ned", h, n.down) * full[..., None]).sum(1)


def single(n: Routed, x: Tensor) -> Tensor:
    return n.apply_to(x, n.gate(x).argmax(-1, keepdim=True))[:, 0]


def embedded(n: Routed, x: Tensor) -> Tensor:
    index = n.gate(x).max(-1).indices
    return nn.functional.linear(nn.functional.embedding(index, n.bias).relu(), n.down[:, :, 0].T @ n.up[:, :, 0])


class Listed:
    """Rows sorted by expert, multiplied run by run, and put back; what differs is done by ``change``."""

    def __init__(
        self, change: Callable[[Tensor, Tensor], Tensor] | None = None, *, back: str = "put", down: bool = False
    ):
        self.change, self.back, self.down = change, back, down

    def __call__(self, n: Routed, x: Tensor) -> Tensor:
        gate, index = n.gate(x).topk(2, -1)
        numbers, order = index.flatten().sort(descending=self.down)
        ends = torch.histc(numbers.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0, dtype=torch.int32)
        rows = torch._grouped_mm(x[order // 2], n.up, offs=ends) + n.bias[numbers]
        rows = rows if self.change is None else self.change(rows, numbers)
        rows = torch._grouped_mm(rows.relu(), n.down, offs=ends) * gate.softmax(-1).flatten()[order][:, None]
        if self.back == "none":
            return rows.view(-1, 2, WIDTH).sum(1)
        if self.back == "add":
            return torch.zeros_like(x).index_add(0, order // 2, rows)
        inverse = order.argsort() if self.back == "sort" else torch.empty_like(order)
        if self.back == "put":
            inverse[order] = torch.arange(len(order))
        return rows[inverse].view(-1, 2, WIDTH).sum(1)


FOLLOWED: dict[str, Forward] = {
    "looked_up": looked_up,
    "gathered": gathered,
    "masked": masked,
    "single": single,
    "listed": Listed(),
    "listed_argsort": Listed(back="sort"),
    "listed_added": Listed(back="add"),
    "listed_scaled": Listed(lambda rows, numbers: rows * rows.mean(1, keepdim=True).sigmoid()),
}


def numbers_as_values(n: Routed, x: Tensor) -> Tensor:
    gate, index = n.gate(x).topk(2, -1)
    return (n.apply_to(x, index) * (gate * index)[..., None]).sum(1)


def dead_gate(n: Routed, x: Tensor) -> Tensor:
    gate, index = (n.gate(x) - 1).relu().topk(2, -1)
    return (n.apply_to(x, index) * (gate + 1)[..., None]).sum(1)


def dead_input(n: Routed, x: Tensor) -> Tensor:
    return n.apply_to(x, n.gate((x - 2).relu()).topk(2, -1).indices).sum(1)


def rounded_gate(n: Routed, x: Tensor) -> Tensor:
    return n.apply_to(x, n.gate(x).round().topk(2, -1).indices).sum(1)


def first_is_special(n: Routed, x: Tensor) -> Tensor:
    index = n.gate(x).topk(2, -1).indices
    return (n.apply_to(x, index) * (index == 0)[..., None]).sum(1)


def next_expert(n: Routed, x: Tensor) -> Tensor:
    return n.apply_to(x, (n.gate(x).topk(2, -1).indices + 1) % EXPERTS).sum(1)


TOLD_APART: dict[str, Forward] = {
    "numbers_as_values": numbers_as_values,
    "dead_gate": dead_gate,
    "dead_input": dead_input,
    "rounded_gate": rounded_gate,
    "first_is_special": first_is_special,
    "next_expert": next_expert,
    "listed_not_put_back": Listed(back="none"),
    "listed_descending": Listed(down=True),
    "listed_places": Listed(lambda rows, numbers: rows + torch.arange(len(rows))[:, None]),
    "listed_before": Listed(lambda rows, numbers: rows.cumsum(0)),
    "listed_neighbours": Listed(lambda rows, numbers: rows + rows.roll(1, 0)),
    "listed_numbers": Listed(lambda rows, numbers: rows + numbers[:, None]),
    "listed_first": Listed(lambda rows, numbers: rows + rows[:1]),
}


def network(forward: Forward) -> tuple[Routed, Tensor]:
    torch.manual_seed(1)
    return Routed(forward).eval(), torch.randn(7, 4)


def moves(model: nn.Module, x: Tensor) -> bool:
    structure = trace(model, x)
    axis = structure.parameter["up"].axes[0]
    return any(structure.groups[g].permutable for g in axis.groups)


@pytest.mark.parametrize("name", FOLLOWED)
def test_experts_change_places(name: str) -> None:
    model, x = network(FOLLOWED[name])
    structure = trace(model, x)
    assert moves(model, x)
    report = verify(model, x, structure)
    assert report.sound, str(report)
    assert report.control > 1e-3
    assert report.coverage == 1.0
    back = to_state_dict(to_graph(model, structure=structure))
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["looked_up", "gathered", "masked", "single"])
def test_in_double_precision_and_from_the_graph(name: str) -> None:
    model, x = network(FOLLOWED[name])
    structure, state = trace(model, x), random_state(model)
    expected = outputs(model, state, (x,), {})
    assert difference(expected, execute(state, x.double(), structure=structure)) < 1e-10
    for seed in range(8):
        moved = permuted(structure, state, random_orders(structure, seed))
        assert difference(expected, outputs(model, moved, (x,), {})) < 1e-9


@pytest.mark.parametrize("name", TOLD_APART)
def test_experts_whose_numbers_count_stay(name: str) -> None:
    model, x = network(TOLD_APART[name])
    assert not moves(model, x)
    assert verify(model, x).sound


@pytest.mark.parametrize("name", TOLD_APART)
def test_they_cannot_move(name: str) -> None:
    """The negative control: experts and gate permuted together change what these networks compute."""
    model, x = network(TOLD_APART[name])
    order, found = torch.tensor([1, 0, 3, 2, 4]), 0.0
    for seed in range(8):
        state = random_state(model, seed, torch.float32)
        moved = {
            key: value[order] if key in ("gate.weight", "up", "down", "bias") else value for key, value in state.items()
        }
        before, after = (torch.func.functional_call(model, weights, (x,)) for weights in (state, moved))
        found = max(found, float((before - after).detach().abs().max() / before.detach().abs().max()))
    assert found > 1e-3


def test_numbers_that_are_returned_or_read_tell_experts_apart() -> None:
    def returned(n: Routed, x: Tensor) -> Tensor:
        index = n.gate(x).topk(2, -1).indices
        n.seen = index
        return n.apply_to(x, index).sum(1)

    def read(n: Routed, x: Tensor) -> Tensor:
        index = n.gate(x).topk(2, -1).indices
        return n.apply_to(x, index).sum(1) * (2 if index[0, 0].item() == 0 else 1)

    class WithNumbers(Routed):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), self.seen

    torch.manual_seed(0)
    x = torch.randn(7, 4)
    for model in (WithNumbers(returned).eval(), Routed(read).eval()):
        assert not moves(model, x)
        assert verify(model, x).sound
    assert moves(Routed(looked_up).eval(), x)


def test_a_rule_of_ones_own_is_not_followed_through() -> None:
    from converters import DEFAULT_RULES

    model, x = network(looked_up)
    index = DEFAULT_RULES["index"]
    own = trace(model, x, rules={**DEFAULT_RULES, "index": lambda context: index(context)})
    assert not any(own.groups[g].permutable for g in own.parameter["up"].axes[0].groups)
