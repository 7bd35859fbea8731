"""Statistics of networks of one layout and of several, with and without what is known besides the weights."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import ACTIVATIONS, NeuronGraphs, StructureMismatch, collate, to_graph, to_graphs, trace
from graphnets import StatNN
from graphnets.baselines import tensor_statistics
from graphnets.baselines.stat_nn import KNOWN, describe_layers
from graphnets.standardise import ScaleColumns
from graphnets.testing import assert_independent, assert_invariant, permuted

from .networks import mixture, mlp, random_weights, stack, structures

HEADS = ("boosting", "mlp")


def many(copies: int) -> NeuronGraphs:
    """A mixed batch large enough for trees to grow on, every network with weights of its own size."""
    graphs = [graph for _ in range(copies) for graph in mixture().to_data_list()]
    for number, graph in enumerate(graphs):
        factor = 0.5 + (number * 7 % 13) / 13
        graph.x, graph.edge_attr = graph.x * factor, graph.edge_attr * factor
    return collate(graphs)


def fitted(head: str, batch: Any, activations: bool = False) -> nn.Module:
    small: dict[str, Any] = {"trees": 20, "min_leaf": 3} if head == "boosting" else {}
    model = StatNN(None, 2, head=head, activations=activations, **small).double()
    model.fit_statistics([batch])
    if head == "boosting":
        goal = torch.stack([graph.edge_attr.square().mean() for graph in batch.to_data_list()])
        model.fit([batch], torch.stack([goal, goal.log()], 1))
    return model.double().eval()


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_predictions_of_mixed_networks_are_invariant_under_true_permutations(
    head: str, activations: bool, seeded: torch.Generator
) -> None:
    batch = many(4)
    model = fitted(head, batch, activations).requires_grad_(False)
    assert model.largest == 9
    expected = model(batch)
    assert float(expected.std(0).min()) > 1e-3
    moved = permuted(batch, seeded)
    assert not torch.equal(moved.edge_attr, batch.edge_attr)
    assert float((model(moved) - expected).abs().max()) < 1e-9
    scaled = collate([graph.map_floats(lambda t: 2 * t) for graph in batch.to_data_list()])
    assert float((model(scaled) - expected).abs().max()) > 1e-3


def test_the_perceptron_is_invariant_on_mixed_networks_and_like_all_statistics_notices_no_false_symmetry(
    seeded: torch.Generator,
) -> None:
    batch = many(2)
    with pytest.raises(AssertionError, match="a false symmetry went unnoticed"):
        assert_invariant(fitted("mlp", batch, True), batch, seeded)  # the true ones passed before


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_a_prediction_depends_on_no_other_network_of_a_mixed_batch(head: str, activations: bool) -> None:
    batch = many(3)
    assert_independent(fitted(head, batch, activations), batch)


@pytest.mark.parametrize("head", HEADS)
def test_columns_hold_the_first_tensors_the_last_two_and_all_weights(head: str) -> None:
    short, long, longer = trace(nn.Linear(2, 3)), trace(mlp(2, 4, 3)), trace(mlp(2, 5, 4, 3, 2))
    weights = {s: random_weights(s, 1) for s in (short, long, longer)}
    graphs = [to_graph({name: value[0] for name, value in weights[s].items()}, structure=s) for s in weights]
    model = StatNN(None, 1, head=head)
    model.fit_statistics([collate(graphs[:2])])
    assert model.largest == 4

    def of(structure: Any, *names: str) -> Tensor:
        return tensor_statistics([torch.cat([weights[structure][name].flatten(1) for name in names], 1)])[0]

    absent = torch.full((7,), torch.nan, dtype=torch.float64)
    w, b = of(short, "weight"), of(short, "bias")
    expected = {0: [w, b, absent, absent, w, b, w]}
    each = [of(long, name) for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    expected[1] = [*each, *each[2:], of(long, "0.weight", "2.weight")]
    front = [of(longer, name) for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    pooled = of(longer, *(f"{i}.weight" for i in (0, 2, 4, 6)))
    expected[2] = [*front, of(longer, "6.weight"), of(longer, "6.bias"), pooled]
    found = model.features(collate([graphs[2], graphs[0], graphs[1]]))
    for row, which in zip(found, (2, 0, 1), strict=True):
        assert torch.allclose(row, torch.cat(expected[which]), rtol=0, atol=1e-12, equal_nan=True)


def test_to_the_perceptron_what_is_absent_is_the_mean_of_those_that_have_it() -> None:
    scale = ScaleColumns(3, firm=0, gaps=True).double()
    nan = torch.nan
    scale.fit(torch.tensor([[1.0, 5.0, 2.0], [3.0, nan, 2.0], [nan, 9.0, 2.0], [5.0, nan, nan]], dtype=torch.float64))
    assert scale.mean.tolist() == [3.0, 7.0, 2.0]
    assert scale.deviation.tolist() == pytest.approx([(8 / 3) ** 0.5, 2.0, torch.inf])
    out = scale(torch.tensor([[nan, 11.0, 5.0], [3.0, 1e9, nan]], dtype=torch.float64))
    assert out.tolist() == [[0.0, 2.0, 0.0], [0.0, 10.0, 0.0]]
    firm = ScaleColumns(2, firm=1, gaps=False).double()
    firm.fit(torch.tensor([[2.0, 4.0], [2.0, 4.0]], dtype=torch.float64))
    assert firm(torch.tensor([[2.1, 4.1]], dtype=torch.float64)).tolist() == [[10.0, 0.0]]
    assert bool(firm(torch.tensor([[nan, 4.0]], dtype=torch.float64))[0, 0].isnan())


def test_a_network_without_many_tensors_gets_finite_predictions_and_gradients() -> None:
    batch = many(2)
    model = fitted("mlp", batch, True)
    features = model.features(batch)
    assert bool(features.isnan().any())
    scaled = model.scale(features)
    assert bool(scaled[features.isnan()].eq(0).all())
    out = model(batch)
    out.sum().backward()
    assert bool(out.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_what_is_known_besides_weights() -> None:
    structure = trace(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    known = describe_layers(structure)
    assert known.shape == (KNOWN,)
    places = known[:-2].view(len(ACTIVATIONS) + 1, 4)
    third = 1 / 3
    expected = {"tanh": [1, third, 0, 0], "relu": [0, 2 * third, 2 * third, 0], "identity": [0, 0, third, 1]}
    for number, name in enumerate(ACTIVATIONS):
        assert places[number].tolist() == pytest.approx(expected.get(name, [0, 0, 0, 0]), abs=1e-12)
    sizes = torch.tensor([6.0, 5.0, 3.0], dtype=torch.float64).log()
    assert float(places[-1, 0]) == pytest.approx(float(sizes[0]))
    assert float(places[-1, 3]) == pytest.approx(float(sizes[2]))
    assert known[-2:].exp().tolist() == pytest.approx([3.0, structure.num_parameters])
    assert describe_layers(trace(nn.Linear(2, 2))).shape == known.shape


@pytest.mark.parametrize("head", HEADS)
def test_activations_are_told_apart_only_where_they_are_read(head: str) -> None:
    known = structures()
    weights = random_weights(known["mlp"], 40)
    twice = {name: torch.cat([value, value]) for name, value in weights.items()}
    batch = to_graphs(twice, [known["mlp"]] * 40 + [known["mlp_tanh"]] * 40)
    size = torch.stack([weights["0.weight"].square().mean((1, 2))] * 2, 1)
    for activations in (False, True):
        model = StatNN(None, 2, head=head, activations=activations).double()
        model.fit_statistics([batch])
        assert model.largest is None
        assert model.features(batch).shape == (80, 7 * 6 + activations * KNOWN)
        if head == "boosting":
            model.fit([batch], torch.cat([size, 3 + size]))
        one, other = model.double().eval().requires_grad_(False)(batch).split(40)
        assert (float((one - other).abs().max()) > 1e-3) is activations
        assert activations or torch.equal(one, other)


def test_a_property_never_seen_to_vary_moves_no_prediction_of_the_perceptron() -> None:
    known = structures()
    weights = random_weights(known["mlp"], 10)
    model = StatNN(None, 2, head="mlp", activations=True).double()
    model.fit_statistics([to_graphs(weights, known["mlp"])])
    model.double().eval()
    assert torch.equal(model(to_graphs(weights, known["mlp"])), model(to_graphs(weights, known["mlp_tanh"])))


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_the_state_dict_of_a_mixed_model_is_the_whole_model(head: str, activations: bool) -> None:
    batch = many(3)
    model = fitted(head, batch, activations)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = StatNN(None, 2, head=head, activations=activations).double()
    with pytest.raises(RuntimeError, match="has not seen networks"):
        other(batch)
    other.load_state_dict(state)
    assert torch.equal(other.double().eval()(batch), model(batch))
    assert "mixed networks of up to 9 tensors -> 2 targets" in repr(other)
    single = StatNN(structures()["mlp"], 2, head=head, activations=activations)
    with pytest.raises(StructureMismatch, match="for mixed networks of up to 9 tensors, this one is for Sequential"):
        single.load_state_dict(state)


@pytest.mark.parametrize("head", HEADS)
def test_a_model_of_one_layout_refuses_others_and_says_how_to_read_any(head: str) -> None:
    known = structures()
    model = StatNN(known["mlp"], 2, head=head)
    with pytest.raises(StructureMismatch, match="call fit_statistics on networks of several layouts"):
        model.features(stack(known["deep"]))


def test_trees_learn_from_mixed_networks_and_from_what_is_absent() -> None:
    batch = many(12)
    parts = [collate(batch.to_data_list()[i::4]) for i in range(4)]
    deep = [[float(len(graph.structure.parameters) > 6) for graph in part.to_data_list()] for part in parts]
    goal = torch.tensor([value for part in deep for value in part]).unsqueeze(1)
    model = StatNN(None, 1, trees=40).fit(((part, None) for part in parts), goal)
    out = torch.cat([model(part) for part in parts])
    assert float((out - goal).abs().max()) < 0.2
