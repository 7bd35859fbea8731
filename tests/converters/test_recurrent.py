"""Recurrent networks: one group for the hidden units of each layer and direction, one for each projection."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, execute, to_graph, to_state_dict, trace, verify
from tests.converters.entry import draw
from tests.converters.laws import difference, outputs, permuted, random_orders, random_state
from tests.converters.modules import Net

X = (2, 4, 3)


def sequence(kind: Callable[..., nn.Module], out: int = 6, **options: Any) -> nn.Module:
    """Every step's output to a linear map."""
    return Net(lambda n, x: n.last(n.rnn(x)[0]), rnn=kind(3, 6, **options), last=nn.Linear(out, 2))


def final(read: Callable[[Any], Tensor], out: int, kind: Callable[..., nn.Module] = nn.LSTM, **options: Any) -> Any:
    """The last states to a linear map."""
    rnn = kind(3, 6, batch_first=True, **options)
    return lambda: Net(lambda n, x: n.last(read(n.rnn(x)[1])), rnn=rnn, last=nn.Linear(out, 2))


def unrolled(cell: nn.Module) -> nn.Module:
    """A cell in a loop over time."""

    def run(n: Net, x: Tensor) -> Tensor:
        state, steps = None, []
        for t in range(x.shape[1]):
            state = n.cell(x[:, t], state)
            steps.append(state[0] if isinstance(state, tuple) else state)
        return n.last(torch.stack(steps, 1))

    return Net(run, cell=cell, last=nn.Linear(6, 2))


def packed(kind: type[nn.RNNBase]) -> nn.Module:
    """Sequences of different lengths, packed and padded again."""

    def run(n: Net, x: Tensor) -> Tensor:
        parcel = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 4]), batch_first=True, enforce_sorted=False)
        return n.last(nn.utils.rnn.pad_packed_sequence(n.rnn(parcel)[0], batch_first=True)[0])

    return Net(run, rnn=kind(3, 6, batch_first=True), last=nn.Linear(6, 2))


class OneMatrix(nn.Module):
    """An LSTM written by hand, with one matrix for all gates of state and input together."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.last = nn.Linear(9, 24), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 6)
        c = torch.zeros_like(h)
        for t in range(x.shape[1]):
            i, f, g, o = self.gates(torch.cat([x[:, t], h], -1)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.last(h)


class Gated(nn.Module):
    """A minimal gated unit that writes its states into a buffer made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.forget, self.update = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.start, self.last = nn.Parameter(torch.zeros(6)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        states = x.new_zeros(x.shape[0], x.shape[1], 6)
        h = self.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            f = torch.sigmoid(self.forget(h) + self.enter(x[:, t]))
            h = (1 - f) * h + f * torch.tanh(self.update(f * h))
            states[:, t] = h
        return self.last(states)


class Elman(nn.Module):
    """Hidden units of two populations, the second seen by the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.a, self.b = nn.Linear(3, 4), nn.Linear(9, 4), nn.Linear(9, 5)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, k = x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape[0], 5)
        for step in x.unbind(1):
            both = torch.cat([h, k], 1)
            h, k = torch.tanh(self.a(both) + self.enter(step)), torch.tanh(self.b(both))
        return self.last(h)


def encoder_decoder() -> nn.Module:
    """The states of one start the other."""

    def run(n: Net, x: Tensor) -> Tensor:
        state = n.encoder(x)[1]
        return n.last(n.decoder(x.flip(1), state)[0])

    rnn = lambda: nn.LSTM(3, 6, batch_first=True)  # noqa: E731
    return Net(run, encoder=rnn(), decoder=rnn(), last=nn.Linear(6, 2))


def convolution_then_lstm() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        return n.last(n.rnn(torch.relu(n.conv(x.mT)).mT)[0][:, -1])

    return Net(run, conv=nn.Conv1d(3, 5, 3), rnn=nn.GRU(5, 6, batch_first=True), last=nn.Linear(6, 2))


def masked() -> nn.Module:
    """States of sequences that have ended stay as they are."""

    def run(n: Net, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            h = torch.where((x[:, t].sum(-1, keepdim=True) > 0), n.cell(x[:, t], h), h)
        return n.last(h)

    return Net(run, cell=nn.GRUCell(3, 6), last=nn.Linear(6, 2))


def read_last(n: Net, x: Tensor) -> Tensor:
    steps = n.rnn(x)[0]
    lengths = (x.sum(-1) > 0).sum(1).clamp(min=1)
    return n.last(steps[torch.arange(len(x)), lengths - 1])


TWO_WAYS = {"bidirectional": True, "batch_first": True}
# name -> (network, input shape, permutable groups)
RECURRENT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "rnn_tanh": (lambda: sequence(nn.RNN), X, (6,)),
    "rnn_relu_deep": (lambda: sequence(nn.RNN, num_layers=2, nonlinearity="relu"), X, (6, 6)),
    "gru": (lambda: sequence(nn.GRU), X, (6,)),
    "gru_without_bias": (lambda: sequence(nn.GRU, bias=False, batch_first=True), X, (6,)),
    "gru_deep_both_ways": (lambda: sequence(nn.GRU, 12, num_layers=2, **TWO_WAYS), X, (6, 6, 6, 6)),
    "lstm": (lambda: sequence(nn.LSTM, batch_first=True), X, (6,)),
    "lstm_unbatched": (lambda: sequence(nn.LSTM), (4, 3), (6,)),
    "lstm_deep": (lambda: sequence(nn.LSTM, num_layers=3, batch_first=True), X, (6, 6, 6)),
    "lstm_both_ways": (lambda: sequence(nn.LSTM, 12, **TWO_WAYS), X, (6, 6)),
    "lstm_projected": (lambda: sequence(nn.LSTM, 5, proj_size=5), X, (6, 5)),
    "lstm_projected_deep": (
        lambda: sequence(nn.LSTM, 10, proj_size=5, num_layers=2, **TWO_WAYS),
        X,
        (6, 5) * 4,
    ),
    "lstm_dropout": (lambda: sequence(nn.LSTM, num_layers=2, dropout=0.5), X, (6, 6)),
    "packed_gru": (lambda: packed(nn.GRU), X, (6,)),
    "packed_lstm": (lambda: packed(nn.LSTM), X, (6,)),
    "packed_rnn": (lambda: packed(nn.RNN), X, (6,)),
    "rnn_cell": (lambda: unrolled(nn.RNNCell(3, 6)), X, (6,)),
    "gru_cell": (lambda: unrolled(nn.GRUCell(3, 6)), X, (6,)),
    "lstm_cell": (lambda: unrolled(nn.LSTMCell(3, 6)), X, (6,)),
    "one_matrix": (OneMatrix, X, (6,)),
    "gated": (Gated, X, (6,)),
    "two_populations": (Elman, X, (4, 5)),
    "final_states_added": (final(lambda s: s[0][0] + s[0][1], 6, bidirectional=True), X, (6,)),
    "final_states_picked": (final(lambda s: torch.cat([s[0][0], s[0][1]], 1), 12, bidirectional=True), X, (6, 6)),
    "final_states_flat": (
        final(lambda s: s[0].transpose(0, 1).flatten(1), 24, num_layers=2, bidirectional=True),
        X,
        (6,) * 4,
    ),
    "final_states_mean": (final(lambda s: s.mean(0), 6, nn.GRU, num_layers=2), X, (6,)),
    "cell_state": (final(lambda s: s[1][-1] * s[0][-1], 6), X, (6,)),
    "encoder_decoder": (encoder_decoder, X, (6,)),
    "convolution_then_lstm": (convolution_then_lstm, X, (5, 6)),
    "masked": (masked, X, (6,)),
    "read_last": (lambda: Net(read_last, rnn=nn.LSTM(3, 6, batch_first=True), last=nn.Linear(6, 2)), X, (6,)),
    # what must stay: a scan along the units, states that are the output
    "units_in_order": (
        lambda: Net(lambda n, x: n.last(n.rnn(x)[0].cumsum(-1)), rnn=nn.GRU(3, 6), last=nn.Linear(6, 2)),
        X,
        (),
    ),
    "states_are_output": (lambda: Net(lambda n, x: n.rnn(x)[0], rnn=nn.GRU(3, 6)), X, ()),
    "states_meet_input": (
        lambda: Net(lambda n, x: n.last(n.rnn(x)[0] * x), rnn=nn.GRU(3, 3), last=nn.Linear(3, 2)),
        X,
        (),
    ),
}


@cache
def traced(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Structure]:
    build, shape, _ = RECURRENT[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build().eval()
    inputs = (draw(*shape),)
    return model, inputs, trace(model, inputs, strict=True)


@pytest.mark.parametrize("name", RECURRENT)
def test_groups(name: str) -> None:
    structure = traced(name)[2]
    assert sorted(g.size for g in structure.groups if g.permutable) == sorted(RECURRENT[name][2])


@pytest.mark.parametrize("name", RECURRENT)
def test_every_group_is_a_symmetry(name: str) -> None:
    model, inputs, structure = traced(name)
    state = random_state(model)
    expected = outputs(model, state, inputs, {})
    for seed in range(2):
        moved = permuted(structure, state, random_orders(structure, seed))
        assert difference(expected, outputs(model, moved, inputs, {})) < 1e-9
    report = verify(model, inputs, structure)
    assert report.sound, str(report)
    if RECURRENT[name][2]:
        assert report.coverage == 1.0
        assert report.control > 1e-3


@pytest.mark.parametrize("name", RECURRENT)
def test_round_trip_and_program(name: str) -> None:
    model, inputs, structure = traced(name)
    state = model.state_dict()
    back = to_state_dict(to_graph(model, structure=structure))
    assert all(torch.equal(back[key], state[key]) for key in state)
    if not structure.program.baked:
        again = execute(random_state(model), *(x.double() for x in inputs), structure=structure)
        assert difference(outputs(model, random_state(model), inputs, {}), again) < 1e-10


@pytest.mark.parametrize("gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_gates_move_together(gates: tuple[str, int]) -> None:
    """Rows of gate after gate, both biases and the recurrent columns carry the same units in the same order."""
    kind, count = gates
    model = sequence(getattr(nn, kind))
    parameters = trace(model, draw(*X)).parameter
    columns = parameters["rnn.weight_hh_l0"].axes[1]
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0"):
        rows = parameters[name].axes[0]
        assert rows.group.values.tolist() == columns.group.values.tolist() * count
        assert rows.member.values.tolist() == columns.member.values.tolist() * count


def test_projections_are_a_group_of_their_own() -> None:
    model = sequence(nn.LSTM, 5, proj_size=5)
    parameters = trace(model, draw(*X)).parameter
    projection = parameters["rnn.weight_hr_l0"]
    assert set(projection.axes[0].groups) == set(parameters["last.weight"].axes[1].groups)
    assert set(projection.axes[0].groups) == set(parameters["rnn.weight_hh_l0"].axes[1].groups)
    assert set(projection.axes[1].groups) == set(parameters["rnn.weight_hh_l0"].axes[0].groups)
    assert set(projection.axes[0].groups).isdisjoint(projection.axes[1].groups)


def test_time_grows_with_the_number_of_steps_alone() -> None:
    """Re-used weights are one set of constraints: four times the steps take about four times as long."""
    model = sequence(nn.LSTM, batch_first=True)
    trace(model, draw(2, 5, 3))

    def seconds(steps: int) -> float:
        taken = []
        for _ in range(2):
            start = time.process_time()
            trace(model, draw(2, steps, 3))
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(64) < 9 * seconds(16)


class Remembering(nn.Module):
    """Keeps its state on itself from call to call, as caches do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.state = torch.tanh(self.first(x))
        self.seen = True
        result: Tensor = self.last(self.state)
        return result


def test_what_a_forward_leaves_on_the_module_is_undone() -> None:
    model = Remembering()
    structure = trace(model, torch.randn(2, 4))
    assert model.state is None
    assert not hasattr(model, "seen")
    assert [group.size for group in structure.groups if group.permutable] == [6]
    copy.deepcopy(model)
