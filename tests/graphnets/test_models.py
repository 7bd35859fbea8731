"""The contract of every predictor, and the symmetry of all that claim it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from converters import Structure, StructureMismatch, to_graphs, trace
from graphnets import FlatMLP, NeuralGraphGNN, NeuronGNN, NeuronTransformer, StatNN, WeightNet
from graphnets.layered import Layered
from graphnets.testing import assert_independent, assert_invariant, in_double

from .networks import mixture, mlp, random_weights, stack, structures

Build = Callable[[Structure | None], nn.Module]

GRAPH_MODELS: dict[str, Build] = {
    "gnn": lambda s: NeuronGNN(s, 3, channels=8),
    "gnn_parallel": lambda s: NeuronGNN(
        s, 3, channels=8, order="parallel", rounds=2, hidden_channels=6, gates=0, update_edges=True
    ),
    "gnn_forward_sum": lambda s: NeuronGNN(
        s, 3, channels=8, backward=False, aggr="sum", hidden_channels=5, gates=2, encodings=["position"]
    ),
    "gnn_standardized": lambda s: NeuronGNN(s, 3, channels=8, standardize=True),
    "transformer": lambda s: NeuronTransformer(s, 3, channels=16, edge_channels=2, update_edges=True),
    "transformer_parallel": lambda s: NeuronTransformer(s, 3, channels=8, order="parallel", rounds=2, heads=2),
    "transformer_layer": lambda s: NeuronTransformer(
        s, 3, channels=8, heads=2, neighbourhood="layer", update_edges=True
    ),
    "transformer_adjacent": lambda s: NeuronTransformer(
        s, 3, channels=8, heads=2, neighbourhood="adjacent", order="parallel"
    ),
    "neural_graph": lambda s: NeuralGraphGNN(s, 3, channels=8),
    "neural_graph_sweep": lambda s: NeuralGraphGNN(
        s, 3, channels=8, order="sweep", rounds=1, backward=False, update_edges=False, aggregators=["max", "std"]
    ),
    "weightnet_mean": lambda s: WeightNet(s, 3, channels=8),
    "weightnet_cls": lambda s: WeightNet(s, 3, channels=8, pooling="cls", pre_norm=True, intra_blocks=2),
    "weightnet_moments": lambda s: WeightNet(s, 3, channels=8, pooling="moments", gates=2),
    "weightnet_max": lambda s: WeightNet(s, 3, channels=8, pooling="max", encodings=[], cross_blocks=2),
    "weightnet_sorted": lambda s: WeightNet(s, 3, channels=8, tokens="sorted"),
}
MODELS: dict[str, Build] = {
    **GRAPH_MODELS,
    "weightnet_paper": lambda s: WeightNet(s, 3, channels=8, tokens="paper"),
    "stat_mlp": lambda s: StatNN(s, 3, head="mlp"),
    "stat_mlp_known": lambda s: StatNN(s, 3, head="mlp", activations=True),
    "flat": lambda s: FlatMLP(s, 3),
    "flat_aug": lambda s: FlatMLP(s, 3, augment=True),
}


def fitted(build: Build, structure: Structure | None, batch: Any) -> nn.Module:
    model = build(structure).double()
    model.fit_statistics([batch])
    return model.double().eval()


@pytest.mark.parametrize("name", GRAPH_MODELS)
@pytest.mark.parametrize("network", ["mlp", "cnn", "residual"])
def test_predictions_are_invariant(name: str, network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    batch = stack(structure)
    assert_invariant(fitted(GRAPH_MODELS[name], structure, batch), batch, seeded)


@pytest.mark.parametrize("kind", [NeuronGNN, NeuronTransformer])
def test_readouts_are_standardised_by_the_networks_seen(kind: type[nn.Module]) -> None:
    batch = stack(structures()["mlp"])
    model = kind(structures()["mlp"], 3, channels=8, standardize=True).double()
    model.train()
    model.fit_statistics([(batch, torch.zeros(len(batch), 3))])
    assert model.training
    features = model.spread(model.features(batch, Layered(batch)))
    assert features.quantile(0.5, 0).abs().max() < 1e-9
    spread = features.abs().quantile(0.5, 0) * 1.4826
    assert bool(((spread - 1).abs() < 1e-6).logical_or(spread == 0).all())
    assert bool((spread > 0).any())


def test_one_diverged_network_hardly_moves_the_spread_of_readouts() -> None:
    structure = structures()["mlp"]
    weights = random_weights(structure, 51)
    model = NeuronGNN(structure, 1, channels=8, standardize=True).double()
    disturbed = copy.deepcopy(model)
    model.fit_statistics([to_graphs(weights, structure)])
    disturbed.fit_statistics([to_graphs({k: torch.cat([v[:-1], 1e6 * v[-1:]]) for k, v in weights.items()}, structure)])
    assert model.spread is not None
    assert disturbed.spread is not None
    seen = model.spread.deviation.isfinite() & disturbed.spread.deviation.isfinite()
    ratio = disturbed.spread.deviation[seen] / model.spread.deviation[seen]
    assert int(seen.sum()) > 100
    assert bool(((ratio > 0.3) & (ratio < 3.0)).all())


@pytest.mark.parametrize("network", ["mlp", "cnn", "residual"])
def test_statistics_do_not_even_notice_false_symmetries(network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    batch = stack(structure)
    model = fitted(MODELS["stat_mlp"], structure, batch)
    with pytest.raises(AssertionError, match="a false symmetry went unnoticed"):
        assert_invariant(model, batch, seeded)  # the true ones passed before


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_predictions_of_mixed_architectures_are_invariant(name: str, seeded: torch.Generator) -> None:
    batch = mixture()
    assert_invariant(fitted(GRAPH_MODELS[name], None, batch), batch, seeded, noticed=1e-5)


def test_the_flat_perceptron_is_not_invariant(seeded: torch.Generator) -> None:
    structure = structures()["mlp"]
    batch = stack(structure)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(fitted(MODELS["flat"], structure, batch), batch, seeded)


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_depends_on_no_other_network(name: str) -> None:
    structure = structures()["residual"]
    batch = stack(structure)
    assert_independent(fitted(MODELS[name], structure, batch), batch)


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_a_prediction_depends_on_no_other_architecture(name: str) -> None:
    batch = mixture()
    assert_independent(fitted(GRAPH_MODELS[name], None, batch), batch)


@pytest.mark.parametrize("name", GRAPH_MODELS)
@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_the_dense_and_the_mixed_path_agree_in_values_and_gradients(name: str, network: str) -> None:
    structure = structures()[network]
    batch = stack(structure)
    model = fitted(GRAPH_MODELS[name], structure, batch)
    results = []
    for mixed in (False, True):
        out = model.predict(batch, Layered(batch, mixed=mixed))
        grads = torch.autograd.grad(out.square().sum(), list(model.parameters()), allow_unused=True)
        results.append((out, [g for g in grads if g is not None]))
    (dense, dense_grads), (mixed_out, mixed_grads) = results
    assert torch.allclose(dense, mixed_out, rtol=0, atol=1e-10)
    assert len(dense_grads) == len(mixed_grads) > 5
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-9) for a, b in zip(dense_grads, mixed_grads, strict=True))


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_networks_that_differ_in_activation_share_the_dense_path_and_get_different_predictions(name: str) -> None:
    known = structures()
    weights = {key: value[:1].expand(2, *value.shape[1:]) for key, value in random_weights(known["mlp"], 1).items()}
    batch = to_graphs(weights, [known["mlp"], known["mlp_tanh"]])
    assert Layered(batch).dense
    model = fitted(GRAPH_MODELS[name], known["mlp"], batch)
    one, other = model(batch)
    sees_activation = name != "gnn_forward_sum"
    assert bool((one - other).abs().max() > 1e-6) is sees_activation
    assert_independent(model, batch)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_zero_weights_and_huge_weights_give_finite_predictions_and_gradients(name: str, network: str) -> None:
    structure = structures()[network]
    batch = stack(structure, 3)
    model = fitted(MODELS[name], structure, batch)
    for factor in (0.0, 1e6):
        scaled = in_double(batch)
        scaled.x, scaled.edge_attr = scaled.x * factor, scaled.edge_attr * factor
        model.zero_grad()
        out = model(scaled)
        out.sum().backward()
        assert bool(out.isfinite().all())
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_a_pruned_network_is_not_the_network_without_these_weights_edges(name: str) -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 2)
    model = fitted(GRAPH_MODELS[name], structure, batch)
    pruned = in_double(batch)
    pruned.edge_attr = pruned.edge_attr.clone()
    pruned.edge_attr[::3] = 0
    assert pruned.edge_index.shape == batch.edge_index.shape
    assert not torch.allclose(model(pruned), model(batch))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("with_structure", [True, False])
def test_a_state_dict_is_the_whole_model(name: str, with_structure: bool) -> None:
    structure = structures()["cnn"]
    batch = stack(structure)
    known = structure if with_structure else None
    model = fitted(MODELS[name], known, batch)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = MODELS[name](known).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.double().eval()(batch), model(batch))


@pytest.mark.parametrize("name", MODELS)
def test_forward_returns_raw_predictions_and_leaves_the_batch_alone(name: str) -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 5)
    kept = batch.x.clone(), batch.edge_attr.clone()
    model = fitted(MODELS[name], structure, batch).train()
    assert model(batch).shape == (5, 3)
    assert torch.equal(batch.x, kept[0])
    assert torch.equal(batch.edge_attr, kept[1])


@pytest.mark.parametrize("name", MODELS)
def test_a_printed_model_tells_its_contract(name: str) -> None:
    printed = repr(fitted(MODELS[name], structures()["mlp"], stack(structures()["mlp"])))
    assert "-> 3 targets" in printed


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_another_layout_are_refused(name: str) -> None:
    known = structures()
    model = fitted(MODELS[name], known["mlp"], stack(known["mlp"]))
    with pytest.raises(StructureMismatch, match="was built for"):
        model(stack(known["deep"]))


@pytest.mark.parametrize("name", ["gnn", "weightnet_mean"])
def test_the_prediction_can_be_differentiated_in_the_weights(name: str) -> None:
    structure = trace(mlp(1, 2, 1))
    batch = stack(structure, 2)
    model = fitted(GRAPH_MODELS[name], structure, batch)

    def predict(weights: torch.Tensor) -> torch.Tensor:
        moved = in_double(batch)
        moved.edge_attr = weights
        return model(moved)

    weights = batch.edge_attr.clone().requires_grad_()
    assert torch.autograd.gradcheck(predict, (weights,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_statistics_do_not_depend_on_how_networks_are_batched_or_ordered(name: str, seeded: torch.Generator) -> None:
    structure = structures()["residual"]
    weights = random_weights(structure, 6)
    whole = to_graphs(weights, structure)
    parts = [to_graphs({k: v[i : i + 2] for k, v in weights.items()}, structure) for i in (4, 0, 2)]
    one = GRAPH_MODELS[name](structure).double()
    other = copy.deepcopy(one)
    one.fit_statistics([whole])
    other.fit_statistics((part, torch.zeros(2, 3)) for part in parts)
    buffers = dict(other.named_buffers())
    assert any(not torch.equal(value, torch.ones_like(value)) for value in buffers.values())
    for key, value in one.named_buffers():
        assert torch.allclose(value, buffers[key], rtol=1e-9, atol=1e-12)


def test_one_diverged_network_hardly_moves_the_statistics() -> None:
    structure = structures()["mlp"]
    weights = random_weights(structure, 50)
    model, disturbed = NeuronGNN(structure, 1), NeuronGNN(structure, 1)
    model.fit_statistics([to_graphs(weights, structure)])
    disturbed.fit_statistics([to_graphs({k: torch.cat([v[:-1], 1e4 * v[-1:]]) for k, v in weights.items()}, structure)])
    ratio = disturbed.scaling.edge_scale / model.scaling.edge_scale
    assert bool(((ratio > 1.0) & (ratio < 1.3)).all())


def test_no_parameter_of_the_layers_is_idle() -> None:
    structure = structures()["residual"]
    batch = stack(structure)
    model = fitted(GRAPH_MODELS["neural_graph"], structure, batch)
    model(batch).square().sum().backward()
    for name, parameter in model.forward_layers.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_degrees_are_measured_where_messages_arrive() -> None:
    structure = structures()["mlp"]  # 4-6-5-3
    model = NeuralGraphGNN(structure, 1, rounds=1)
    model.fit_statistics([stack(structure, 2), stack(structure, 3)])
    along, against = torch.tensor([[6, 5, 3], [4, 6, 5]]), torch.tensor([[4, 6, 5], [6, 5, 3]])
    layer = model.forward_layers[0]
    for part, (neurons, degrees) in zip((layer.messages, layer.backward_messages), (along, against), strict=True):
        expected = (neurons * (degrees + 1.0).log()).sum() / neurons.sum()
        torch.testing.assert_close(part.log_degree, expected)


def test_parameter_models_say_what_they_lack() -> None:
    batch = stack(structures()["mlp"])
    for model in (FlatMLP(None, 2), StatNN(None, 2, head="mlp"), StatNN(None, 2)):
        with pytest.raises(RuntimeError, match="has not seen networks"):
            model(batch)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="order='up' is unknown"):
        NeuronGNN(None, 1, order="up")
    with pytest.raises(ValueError, match="rounds=0"):
        NeuronGNN(None, 1, rounds=0)
    with pytest.raises(ValueError, match="unknown encodings colour"):
        NeuronGNN(None, 1, encodings=["colour"])
    with pytest.raises(ValueError, match=r"aggregators=\['median'\] must be one or more of mean, min, max, std, sum"):
        NeuralGraphGNN(None, 1, aggregators=["median"])
    with pytest.raises(ValueError, match=r"scalers=\[\] must be one or more of identity, amplification, attenuation"):
        NeuralGraphGNN(None, 1, scalers=[])
    with pytest.raises(ValueError, match="pooling='sum' is unknown"):
        WeightNet(None, 1, pooling="sum")
    with pytest.raises(ValueError, match="unknown encodings place"):
        WeightNet(None, 1, encodings=["place"])
    with pytest.raises(ValueError, match="head='tree' is unknown"):
        StatNN(None, 1, head="tree")


def test_float32_predictions_move_less_than_a_ten_thousandth_under_true_permutations(seeded: torch.Generator) -> None:
    from graphnets.testing import permuted

    structure = trace(mlp(16, 16, 16, 10))
    batch = to_graphs({k: v.float() for k, v in random_weights(structure, 64, 0.3).items()}, structure)
    for name in GRAPH_MODELS:
        model = GRAPH_MODELS[name](structure)
        model.fit_statistics([batch])
        model.eval()
        with torch.no_grad():
            assert float((model(permuted(batch, seeded)) - model(batch)).abs().max()) < 1e-4
