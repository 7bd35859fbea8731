"""Recurrent networks: one set of nodes for all steps, a recurrent edge back, gates told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, to_graph, trace
from tests.converters.entry import draw
from tests.converters.graph_laws import assert_laws, content, edge_types, kinds, seeded
from tests.converters.modules import Net

SEQUENCE = draw(1, 5, 4)


def rnn(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    core = make(4, 6, batch_first=True, **options)
    width = 12 if options.get("bidirectional") else 6
    return Net(lambda n, x: n.last(n.core(x)[0][:, -1]), core=core, last=nn.Linear(width, 2))


def cell(
    order: str = "ifgo", direction: int = 1, read: str = "last", start: float = 0.0, between: Any = torch.tanh
) -> nn.Module:
    """An LSTM written out: which rows are which gate, where it begins, what is read, all up to the caller."""

    def forward(n: Any, x: Tensor) -> Tensor:
        h = c = torch.full((x.shape[0], 6), start)
        states = []
        for t in range(x.shape[1])[::direction]:
            gates = dict(zip(order, (n.into(x[:, t]) + n.back(h)).chunk(4, 1), strict=True))
            c = gates["f"].sigmoid() * c + gates["i"].sigmoid() * gates["g"].tanh()
            h = gates["o"].sigmoid() * between(c)
            states.append(h)
        every = torch.stack(states, 1)
        return n.last({"last": every[:, -1], "mean": every.mean(1), "all": every}[read])

    return Net(forward, into=nn.Linear(4, 24), back=nn.Linear(6, 24), last=nn.Linear(6, 2))


def learned_start() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h = n.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            h = torch.tanh(n.into(x[:, t]) + n.back(h))
        return n.last(h)

    return Net(
        forward,
        start=nn.Parameter(draw(6)),
        into=nn.Linear(4, 6),
        back=nn.Linear(6, 6, bias=False),
        last=nn.Linear(6, 2),
    )


def applied(times: int) -> nn.Module:
    """One layer applied several times to no new input: its depth, not its length."""

    def forward(n: Any, x: Tensor) -> Tensor:
        h = n.into(x[:, 0])
        for _ in range(times):
            h = torch.tanh(n.back(h))
        return n.last(h)

    return Net(forward, into=nn.Linear(4, 6), back=nn.Linear(6, 6), last=nn.Linear(6, 2))


def crops(*bounds: int) -> nn.Module:
    """Parts of parts along the sequence: they look alike, but each is another function."""

    def forward(n: Any, x: Tensor) -> Tensor:
        h = n.into(x)
        for start in bounds:
            h = h[:, start:]
        return n.last(h.sum(1))

    return Net(forward, into=nn.Linear(4, 6), last=nn.Linear(6, 2))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: rnn(nn.RNN),
    "lstm": lambda: rnn(nn.LSTM),
    "gru": lambda: rnn(nn.GRU),
    "two_layers": lambda: rnn(nn.LSTM, num_layers=2),
    "both_ways": lambda: rnn(nn.GRU, bidirectional=True),
    "projected": lambda: Net(
        lambda n, x: n.last(n.core(x)[0][:, -1]),
        core=nn.LSTM(4, 6, proj_size=3, batch_first=True),
        last=nn.Linear(3, 2),
    ),
    "written_out": cell,
    "learned_start": learned_start,
}


def sizes(structure: Structure) -> tuple[int, int, int, int]:
    return len(structure.layers), len(structure.blocks), structure.num_nodes, structure.num_edges


@pytest.mark.parametrize("name", NETWORKS)
def test_laws(name: str) -> None:
    structure = assert_laws(NETWORKS[name](), SEQUENCE)
    assert structure.extras == ()
    assert "recurrent" in edge_types(structure)
    assert "tied" not in edge_types(structure)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_does_not_grow_with_the_sequence(name: str) -> None:
    model = NETWORKS[name]().eval()
    few, many = (trace(model, draw(1, length, 4)) for length in (3, 25))
    assert sizes(few) == sizes(many)
    one, other = (to_graph(seeded(model), structure=structure) for structure in (few, many))
    assert content(one)[1] == content(other)[1]
    assert torch.equal(one.x, other.x)


def test_recurrent_edges_lead_back_to_a_state() -> None:
    structure = trace(rnn(nn.LSTM).eval(), SEQUENCE)
    back = [block for block in structure.blocks if block.edge_type == "recurrent"]
    assert [structure.layers[block.target].kind for block in back] == ["recurrent", "recurrent"]
    assert {structure.layers[block.source].kind for block in back} == {"mul", "add"}
    hidden = next(block for block in structure.blocks if block.parameter == "core.weight_hh_l0")
    assert structure.layers[hidden.source].kind == "recurrent"


def test_gates_are_layers_of_their_own() -> None:
    layers = trace(rnn(nn.LSTM).eval(), SEQUENCE).layers
    gates = [layer for layer in layers if layer.kind == "slice"]
    assert [gate.activation for gate in gates] == ["sigmoid", "sigmoid", "tanh", "sigmoid"]
    assert {gate.size for gate in gates} == {6}


VARIANTS: dict[str, list[Callable[[], nn.Module]]] = {
    "gates": [lambda order=order: cell(order) for order in ("ifgo", "figo", "ofgi", "igfo")],
    "reading": [cell, lambda: cell(read="mean"), lambda: cell(read="all"), lambda: cell(direction=-1)],
    "start": [cell, lambda: cell(start=1.0), lambda: cell(between=torch.relu)],
    "kind": [lambda: rnn(nn.RNN), lambda: rnn(nn.RNN, nonlinearity="relu")],
    "crops": [lambda bounds=bounds: crops(*bounds) for bounds in ((1, 2), (2, 3), (1, 3))],
    "depth": [lambda times=times: applied(times) for times in (1, 2, 3)],
}


@pytest.mark.parametrize("row", VARIANTS)
def test_different_functions_have_different_graphs(row: str) -> None:
    graphs = []
    for make in VARIANTS[row]:
        model = make().eval()
        graphs.append(content(to_graph(seeded(model), structure=trace(model, draw(1, 7, 4)))))
    assert len(set(graphs)) == len(graphs)


def test_lstm_and_gru_have_different_layers() -> None:
    lstm, gru = (trace(rnn(make).eval(), SEQUENCE) for make in (nn.LSTM, nn.GRU))
    assert kinds(lstm).count("recurrent") == 2
    assert kinds(gru).count("recurrent") == 1
    assert kinds(lstm).count("slice") == 4
    assert kinds(gru).count("slice") == 6
