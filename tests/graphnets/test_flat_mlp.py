"""Padding of mixed networks and augmentation by true permutations."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from converters import (
    NeuronGraphs,
    Permutation,
    Structure,
    StructureMismatch,
    collate,
    execute,
    permute,
    sample_permutation,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
)
from graphnets import FlatMLP
from graphnets.baselines.augment import draw_orders, permuted_positions
from graphnets.baselines.parameters import parameter_names, read_tensors
from graphnets.testing import assert_independent

from .networks import mixture, mlp, random_weights, stack, structures


class Grouped(nn.Module):
    """A grouped convolution whose channels are permuted within their cells, then a flatten, and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.middle = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 2, groups=8)
        self.gain = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.middle(torch.tanh(self.stem(x))))
        return self.head(torch.tanh(self.gain * self.depthwise(x)).flatten(1))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.inner = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.again(torch.tanh(self.inner(x)))))


def permutable() -> dict[str, tuple[Structure, Tensor]]:
    """Structures with inputs, of every kind that permutations treat differently."""
    image = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    known = structures()
    return {
        "mlp": (known["mlp"], torch.randn(3, 4, dtype=torch.float64)),
        "cnn": (known["cnn"], image),
        "residual": (known["residual"], image),
        "grouped": (trace(Grouped(), torch.zeros(1, 1, 8, 8)), image[:, :1]),
        "tied": (trace(Tied(), torch.zeros(1, 5)), torch.randn(3, 5, dtype=torch.float64)),
    }


KINDS = ("mlp", "cnn", "residual", "grouped", "tied")


def row(weights: dict[str, Tensor], structure: Structure) -> Tensor:
    """Trainable parameters of stacked networks side by side, ``[B, numbers]``."""
    return torch.cat([weights[name].reshape(len(weights[name]), -1) for name in parameter_names(structure)], 1)


def alike(count: int) -> NeuronGraphs:
    """One network, ``count`` times."""
    structure = structures()["mlp"]
    weights = {name: value[0] for name, value in random_weights(structure, 1).items()}
    return collate([to_graph(weights, structure=structure) for _ in range(count)])


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_positions_are_those_of_converters_permute(kind: str) -> None:
    structure, _ = permutable()[kind]
    weights = random_weights(structure, 5)
    orders = draw_orders(structure, 5)
    positions = permuted_positions(structure, orders)
    flat = row(weights, structure)
    assert positions.shape == flat.shape
    for b in range(5):
        permutation = Permutation(structure, {g: order[b] for g, order in orders.items()})
        expected = row(permute({name: value[b : b + 1] for name, value in weights.items()}, permutation), structure)
        assert torch.equal(flat[b, positions[b]], expected[0])
        assert not torch.equal(flat[b], expected[0])
        assert torch.equal(flat[b].sort().values, expected[0].sort().values)


@pytest.mark.parametrize("kind", KINDS)
def test_augmented_rows_are_networks_of_the_same_function(kind: str) -> None:
    structure, inputs = permutable()[kind]
    weights = random_weights(structure, 4)
    for name, value in weights.items():  # running statistics are no part of the row: alike for all neurons
        if structure.parameter[name].buffer and value.is_floating_point():
            weights[name] = torch.ones_like(value)
    moved = row(weights, structure).gather(1, permuted_positions(structure, draw_orders(structure, 4)))
    names = parameter_names(structure)
    parts = moved.split([structure.parameter[name].numel for name in names], 1)
    rebuilt = weights | {name: part.view_as(weights[name]) for name, part in zip(names, parts, strict=True)}
    for p in structure.parameters:
        if p.alias_of is not None:
            rebuilt[p.name] = rebuilt[p.alias_of]
    before, after = (execute(each, inputs, structure=structure) for each in (weights, rebuilt))
    assert not torch.equal(row(rebuilt, structure), row(weights, structure))
    assert float((before - after).abs().max()) < 1e-9 * float(before.abs().max())
    weight = next(name for name in names if name.endswith(".weight"))
    broken = rebuilt | {weight: rebuilt[weight].flip(1)}
    assert float((execute(broken, inputs, structure=structure) - before).abs().max()) > 1e-3


def test_the_draws_are_uniform_over_the_orders_of_a_group() -> None:
    structure = trace(mlp(2, 3, 1))
    (orders,) = draw_orders(structure, 6000).values()
    codes, counts = torch.unique(orders @ torch.tensor([9, 3, 1]), return_counts=True)
    assert len(codes) == 6
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 20.5  # chi-squared of 5 degrees of freedom, one in a thousand


def test_nested_groups_move_with_their_cells() -> None:
    structure, _ = permutable()["grouped"]
    groups = structure.groups
    nested = [g for g, group in enumerate(groups) if group.cells > 1]
    assert nested
    orders = draw_orders(structure, 200)
    for g in nested:
        width = groups[g].size // groups[g].cells
        cells = orders[g].view(200, groups[g].cells, width) // width
        assert torch.equal(cells, cells[:, :, :1].expand_as(cells))
        parent = groups[g].parent
        own = orders[parent] if parent in orders else torch.arange(groups[g].cells).expand(200, -1)
        assert torch.equal(cells[:, :, 0], own)
        assert len(orders[g].unique(dim=0)) > 20


def test_training_shows_every_network_under_its_own_fresh_permutation_and_evaluation_none() -> None:
    batch = alike(3)
    model = FlatMLP(batch.structure[0], 1, augment=True, dropout=0.0).double()
    plain = FlatMLP(batch.structure[0], 1, dropout=0.0).double()
    plain.load_state_dict(model.state_dict())
    expected = plain.eval().rows(batch)
    assert torch.equal(plain.train().rows(batch), expected)
    torch.manual_seed(0)
    first, second = model.train().rows(batch), model.rows(batch)
    assert len({tuple(each.tolist()) for each in [*first, *second, expected[0]]}) == 7
    for rows in (first, second):
        assert torch.equal(rows.sort(1).values, expected.sort(1).values)
    torch.manual_seed(0)
    assert torch.equal(model.rows(batch), first)
    state = torch.get_rng_state()
    assert torch.equal(model.eval().rows(batch), expected)
    assert torch.equal(model(batch), plain.eval()(batch))
    assert torch.equal(torch.get_rng_state(), state)
    assert "not invariant, augmented, " in repr(model)


def test_numbers_without_an_axis_are_read_alone_and_among_other_architectures() -> None:
    structure, _ = permutable()["grouped"]
    state = {name: value[0] for name, value in random_weights(structure, 1).items()}
    graph = to_graph(state, structure=structure)
    other = to_graph(
        {name: value[0] for name, value in random_weights(structures()["mlp"], 1).items()},
        structure=structures()["mlp"],
    )
    for batch in (graph, collate([other, graph])):
        row = read_tensors(batch)[-1].tensors
        assert torch.equal(
            torch.cat(row, 1)[0], torch.cat([state[name].flatten() for name in parameter_names(structure)])
        )


def test_a_mixed_batch_is_read_layout_by_layout() -> None:
    batch = mixture()
    readings = read_tensors(batch)
    assert [reading.places.tolist() for reading in readings] == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]
    for structure, places, tensors in readings:
        for n, place in enumerate(places.tolist()):
            state = to_state_dict(batch[place])
            for name, tensor in zip(parameter_names(structure), tensors, strict=True):
                assert torch.equal(tensor[n], state[name].flatten())
    leaf = batch.edge_attr.requires_grad_()
    total = sum(tensor.sum() for reading in read_tensors(batch) for tensor in reading.tensors)
    assert bool(torch.autograd.grad(total, leaf)[0].any())


def test_augmentation_of_mixed_networks_moves_numbers_within_each_network() -> None:
    batch = mixture()
    model = FlatMLP(None, 1, augment=True).double()
    model.fit_statistics([batch])
    model.double()
    still, moved = model.eval().rows(batch), model.train().rows(batch)
    assert torch.equal(still.sort(1).values, moved.sort(1).values)
    assert bool((still != moved).any(1).all())
    assert torch.equal(still == 0, moved == 0)


def test_rows_of_mixed_networks_are_standardised_by_sort_padded_and_cut() -> None:
    short, long, longer = (mlp(1, n, 1).double() for n in (1, 2, 4))
    with torch.no_grad():
        for net, weights, biases in ((short, (3.0, 5.0), (1.0, 2.0)), (long, (1.0, 7.0), (4.0, 1.0))):
            net[0].weight.fill_(weights[0]), net[2].weight.fill_(weights[1])
            net[0].bias.fill_(biases[0]), net[2].bias.fill_(biases[1])
    model = FlatMLP(None, 1).double()
    model.fit_statistics([collate([to_graph(short), to_graph(long)]), to_graph(short)])
    assert model.largest == 7
    assert model.network[0].in_features == 7
    # Medians over short, long, short: of means 4, 4, 4 and 1.5, 3, 1.5, of deviations 1, 3, 1 and 0.5, 2.1, 0.5.
    w, u, b, v = torch.tensor([4.0, 1.0, 1.5, 0.5], dtype=torch.float64)
    rows = model.eval().rows(collate([to_graph(long), to_graph(short)]))
    expected = torch.stack(
        [
            torch.stack([(1 - w) / u, (1 - w) / u, (4 - b) / v, (4 - b) / v, (7 - w) / u, (7 - w) / u, (1 - b) / v]),
            torch.stack([(3 - w) / u, (1 - b) / v, (5 - w) / u, (2 - b) / v, *torch.zeros(3, dtype=torch.float64)]),
        ]
    )
    assert torch.allclose(rows, expected, rtol=0, atol=1e-6)  # the statistics are kept in float32
    cut = model.rows(to_graph(longer))
    assert cut.shape == (1, 7)
    head = torch.cat([(longer[0].weight.flatten() - w) / u, (longer[0].bias[:3] - b) / v])
    assert torch.allclose(cut[0], head, rtol=0, atol=1e-6)


def test_a_diverged_network_does_not_move_the_scale_of_the_others() -> None:
    structure = trace(mlp(4, 6, 3))
    weights = random_weights(structure, 21)
    alone, together = FlatMLP(structure, 1).double(), FlatMLP(structure, 1).double()
    alone.fit_statistics([to_graphs(weights, structure)])
    wild = {name: torch.cat([value, 1e8 * value[:1]]) for name, value in weights.items()}
    together.fit_statistics([to_graphs(wild, structure)])
    for one, other in zip(alone.standardise.buffers(), together.standardise.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=0.3, atol=0.1)
    assert float(together.eval().rows(to_graphs(wild, structure)).abs().max()) <= 10


def test_which_architectures_come_first_or_together_does_not_matter() -> None:
    batch = mixture()
    graphs = batch.to_data_list()
    one, other = FlatMLP(None, 1).double(), FlatMLP(None, 1).double()
    one.fit_statistics([batch])
    other.fit_statistics((graph, torch.zeros(1)) for graph in reversed(graphs))
    assert one.largest == other.largest == max(graph.structure.num_parameters for graph in graphs)
    for name, value in one.standardise.named_buffers():
        assert value.shape == (2,)
        assert torch.allclose(value, dict(other.standardise.named_buffers())[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("augment", [False, True])
def test_a_row_of_a_mixed_batch_depends_on_no_other_network(augment: bool) -> None:
    batch = mixture()
    model = FlatMLP(None, 3, augment=augment).double()
    model.fit_statistics([batch])
    assert_independent(model, batch)


@pytest.mark.parametrize("augment", [False, True])
def test_the_state_dict_of_a_mixed_model_is_the_whole_model(augment: bool) -> None:
    batch = mixture()
    model = FlatMLP(None, 3, augment=augment).double()
    model.fit_statistics([batch])
    file = io.BytesIO()
    torch.save(model.double().state_dict(), file)
    file.seek(0)
    other = FlatMLP(None, 3, augment=augment).double()
    with pytest.raises(RuntimeError, match="has not seen networks"):
        other(batch)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.double().eval()(batch), model.eval()(batch))
    assert "mixed networks of up to 483 numbers -> 3 targets" in repr(other)


def test_states_of_one_layout_and_of_mixed_networks_are_told_apart() -> None:
    structure = structures()["mlp"]
    mixed, single = FlatMLP(None, 1), FlatMLP(structure, 1)
    mixed.fit_statistics([mixture()])
    with pytest.raises(StructureMismatch, match="is of a FlatMLP for mixed networks of up to 483 numbers, this one"):
        single.load_state_dict(mixed.state_dict())
    with pytest.raises(StructureMismatch, match="is of a FlatMLP for one layout, this one is for mixed networks"):
        mixed.load_state_dict(single.state_dict())


def test_networks_that_differ_in_activation_alone_have_one_layout() -> None:
    known = structures()
    model = FlatMLP(None, 1).double()
    model.fit_statistics([stack(known["mlp"], 2), stack(known["mlp_tanh"], 2)])
    assert model.largest is None
    assert len(model.standardise.mean) == 6
    with pytest.raises(StructureMismatch, match="call fit_statistics on networks of several layouts"):
        model(stack(known["deep"]))


def test_augmentation_brings_predictions_of_permuted_networks_together(seeded: torch.Generator) -> None:
    structure = trace(mlp(2, 4, 1))
    weights = {name: value.float() for name, value in random_weights(structure, 48).items()}
    batch = collate([to_graph({k: v[i] for k, v in weights.items()}, structure=structure) for i in range(48)])
    goal = weights["0.weight"].abs().mean((1, 2), keepdim=True).squeeze(2) * 4
    permutations = [sample_permutation(structure, seeded) for _ in range(6)]
    spreads = []
    for augment in (False, True):
        torch.manual_seed(0)
        model = FlatMLP(structure, 1, dropout=0.0, augment=augment)
        model.fit_statistics([batch])
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            optimiser.zero_grad()
            (model(batch) - goal).square().mean().backward()
            optimiser.step()
        model.eval()
        with torch.no_grad():
            spreads.append(float(torch.stack([model(permute(batch, p)) for p in permutations]).std(0).mean()))
    assert spreads[1] < 0.6 * spreads[0]
