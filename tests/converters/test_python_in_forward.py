"""What a network's Python does beside its operations: scripts, gradients, values and sizes that it looks at."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from converters import (
    ExampleInputError,
    Structure,
    StructureMismatch,
    execute,
    permute,
    sample_permutation,
    to_graph,
    trace,
    verify,
)
from tests.converters.laws import difference, outputs, random_state
from tests.converters.modules import Net


@torch.jit.script
def scripted_scale(x: Tensor, factor: int) -> Tensor:
    return x / torch.sqrt(torch.tensor(x.size(-1), dtype=torch.float) * factor)


def by_script(n: Net, x: Tensor) -> Tensor:
    return n.last(scripted_scale(n.first(x), 2).relu())


def asks_for_gradients(n: Net, x: Tensor) -> Tensor:
    h = n.first(x).requires_grad_()
    h.requires_grad = False
    return n.last(h.relu())


def writes_into_what_weights_make(n: Net, x: Tensor) -> Tensor:
    scale = n.first.weight.sum(1)
    scale /= x.abs().mean() + 1
    scale[1:] += x.sum()
    return n.last((n.first(x) * scale[:1]).relu())


def quotient_of_integers(n: Net, x: Tensor) -> Tensor:
    return n.last(n.first(x).relu() * (torch.ones(1, dtype=torch.long).cumsum(0) / 3))


def net(forward: object) -> Net:
    torch.manual_seed(0)
    return Net(forward, first=nn.Linear(4, 6), last=nn.Linear(6, 2)).eval()


def check(model: nn.Module, x: Tensor) -> Structure:
    """The hidden neurons are found, the network runs from its graph, an uncoupled permutation changes it."""
    structure = trace(model, x)
    report = verify(model, x, structure)
    assert report.sound, str(report)
    assert report.control > 1e-3
    state = random_state(model)
    assert difference(outputs(model, state, (x,), {}), execute(state, x.double(), structure=structure)) < 1e-6
    return structure


@pytest.mark.parametrize("forward", [by_script, asks_for_gradients, quotient_of_integers])
def test_neurons_are_found(forward: object) -> None:
    structure = check(net(forward), torch.randn(2, 4))
    assert [group.size for group in structure.groups if group.permutable] == [6]


def test_scripts_stay_scripts() -> None:
    x = torch.randn(2, 4)
    before = scripted_scale(x, 3)
    trace(net(by_script), x)
    assert isinstance(scripted_scale, torch.jit.ScriptFunction)
    assert torch.equal(scripted_scale(x, 3), before)
    assert torch.ones(1).requires_grad_().requires_grad


def test_writes_into_what_weights_make_are_followed() -> None:
    """Neurons from the second on are written to by position, and the first scales all others."""
    model, x = net(writes_into_what_weights_make), torch.randn(2, 4)
    structure = trace(model, x)
    assert verify(model, x, structure).sound
    state = random_state(model)
    assert difference(outputs(model, state, (x,), {}), execute(state, x.double(), structure=structure)) < 1e-6
    moved = permute(state, sample_permutation(structure, coupled=False))
    assert difference(outputs(model, state, (x,), {}), outputs(model, moved, (x,), {})) > 1e-3


def masked(n: Net, x: Tensor) -> Tensor:
    n.first.weight.data *= n.mask
    return n.last(n.first(x).relu())


def masked_anew(n: Net, x: Tensor) -> Tensor:
    n.first.weight.data = n.first.weight * n.mask
    return n.last(n.first(x).relu())


def clipped(n: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        n.first.weight.clamp_(-0.3, 0.3)
    return n.last(n.first(x).relu())


def cleared(n: Net, x: Tensor) -> Tensor:
    n.first.weight.data[:, 0] = 0
    return n.last(n.first(x).relu())


@pytest.mark.parametrize("forward", [masked, masked_anew, clipped, cleared])
def test_writes_into_weights_are_followed_and_undone(forward: object) -> None:
    model, x = net(forward), torch.randn(2, 4)
    model.register_buffer("mask", torch.randint(2, (6, 4)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure = check(model, x)
    assert [group.size for group in structure.groups if group.permutable] == [6]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    written = copy.deepcopy(model)
    expected = written(x)
    assert not torch.equal(written.first.weight, before["first.weight"]), "the network does write"
    assert torch.allclose(execute(to_graph(model, x), x), expected, atol=1e-6)


def resized(n: Net, x: Tensor) -> Tensor:
    n.first.weight.data = n.first.weight[:, :4].repeat(2, 1)
    return n.last(n.first(x)[:, :6])


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ExampleInputError, match=r"another shape .*\[6, 4\] .*\[12, 4\]"):
        trace(net(resized), torch.randn(2, 4))


def shorter(n: Net, x: Tensor, lengths: Tensor) -> Tensor:
    if lengths.max().item() > 3:
        return n.last(n.first(x).tanh())
    return n.last(n.first(x).relu())


def mean_of_chosen(n: Net, x: Tensor, lengths: Tensor) -> Tensor:
    chosen = n.first(x)[lengths > 2].relu()
    return n.last(chosen.sum(0) / max(len(chosen), 1))


def sum_of_chosen(n: Net, x: Tensor, lengths: Tensor) -> Tensor:
    return n.last(n.first(x)[lengths > 2].relu().sum(0))


def found(n: Net, x: Tensor) -> Tensor:
    rows = n.last(n.first(x))
    return rows[rows[:, 0] > 0]


def test_outputs_of_another_shape_are_another_function() -> None:
    """An uncoupled permutation finds other rows; the coupled one finds the same."""
    model, x = net(found), torch.randn(9, 4)
    report = verify(model, x)
    assert report.sound, str(report)
    assert report.units == 1
    assert report.control >= 1.0


def parts_of_chosen(n: Net, x: Tensor, lengths: Tensor) -> Tensor:
    return n.last(sum(part for part in n.first(x)[lengths > 2].relu()))


@pytest.mark.parametrize("forward", [shorter, mean_of_chosen, parts_of_chosen])
def test_what_python_read_has_to_be_as_it_was(forward: object) -> None:
    model, x = net(forward), torch.randn(3, 4)
    lengths, others = torch.tensor([1, 3, 2]), torch.tensor([1, 4, 5])
    structure = Structure.from_json(trace(model, (x, lengths)).to_json())
    assert structure.program is not None
    state = random_state(model)
    found = execute(state, x.double(), lengths, structure=structure)
    assert difference(outputs(model, state, (x, lengths), {}), found) < 1e-10
    with pytest.raises(StructureMismatch, match=r"in the trace|not the one traced"):
        execute(state, x.double(), others, structure=structure)
    both = {name: torch.stack([tensor, tensor]) for name, tensor in state.items()}
    many = execute(both, x.double(), lengths, structure=structure)
    assert difference(many, torch.stack([found, found])) < 1e-10


def test_what_python_did_not_read_may_change() -> None:
    model, x = net(sum_of_chosen), torch.randn(3, 4)
    structure = trace(model, (x, torch.tensor([1, 3, 2])))
    assert structure.program is not None
    assert not structure.program.guards
    state, others = random_state(model), torch.tensor([1, 4, 5])
    found = execute(state, x.double(), others, structure=structure)
    assert difference(outputs(model, state, (x, others), {}), found) < 1e-10


class Chaos(nn.Module):
    """A map that amplifies rounding some ten million times; with ``loose``, neurons are told apart a little."""

    def __init__(self, loose: float) -> None:
        super().__init__()
        self.first, self.last, self.loose = nn.Linear(4, 6), nn.Linear(6, 2), loose

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) * (1 + self.loose * torch.arange(6))
        total = h.sum(-1, keepdim=True)
        for _ in range(11):
            total = (5 * total).sin() * 2
        return self.last(h + total)


def test_rounding_that_is_amplified_is_no_error() -> None:
    x = torch.randn(2, 4)
    structure = trace(Chaos(0.0).eval(), x)
    report = verify(Chaos(0.0).eval(), x, structure)
    assert report.sound, str(report)
    assert 1e-9 < report.error < 1e-4
    assert not verify(Chaos(1e-2).eval(), x, structure).sound
    assert not any(group.permutable for group in trace(Chaos(1e-2).eval(), x).groups)
