from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn

from converters import to_graph, to_graphs, trace
from graphnets import FlatMLP, StatNN
from graphnets.baselines import tensor_statistics
from graphnets.baselines.boosting import BoostedTrees
from graphnets.baselines.parameters import read_tensors
from graphnets.testing import permuted

from .networks import random_weights, stack, structures


def test_statistics_are_those_of_numpy() -> None:
    values = torch.randn(5, 33, dtype=torch.float64)
    found = tensor_statistics([values]).numpy()
    quantiles = np.quantile(values.numpy(), [0, 0.25, 0.5, 0.75, 1], axis=1).T
    expected = np.column_stack([values.numpy().mean(1), values.numpy().var(1), quantiles])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["mlp", "boosting"])
def test_tensors_of_one_number_give_no_nan(head: str) -> None:
    structure = trace(nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)))
    batch = to_graphs(random_weights(structure, 40), structure)
    model = StatNN(structure, 2, head=head).double()
    model.fit_statistics([batch])
    if head == "boosting":
        model.fit([batch], torch.randn(40, 2))
    assert bool(model.eval()(batch).isfinite().all())


def test_boosting_equals_scikit_learn_and_survives_its_state_dict() -> None:
    features, targets = torch.randn(300, 6, dtype=torch.float64), torch.randn(300, 2, dtype=torch.float64)
    targets[:, 0] += 2 * features[:, 0] * (features[:, 1] > 0)
    trees = BoostedTrees(2, trees=40, learning_rate=0.1, leaves=8, min_leaf=5, l2=0.5, seed=3)
    trees.fit(features, targets)
    new = torch.randn(200, 6, dtype=torch.float64)
    for column in range(2):
        own = HistGradientBoostingRegressor(**trees.options).fit(features.numpy(), targets[:, column].numpy())
        np.testing.assert_allclose(trees(new)[:, column].numpy(), own.predict(new.numpy()), rtol=1e-10, atol=1e-12)
    file = io.BytesIO()
    torch.save(trees.state_dict(), file)
    file.seek(0)
    other = BoostedTrees(2, trees=1, learning_rate=0.1, leaves=2, min_leaf=1, l2=0.0, seed=0)
    with pytest.raises(RuntimeError, match="have not been fitted"):
        other(new)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(new), trees(new))


def test_boosted_trees_send_absent_features_where_scikit_learn_sends_them() -> None:
    features, targets = torch.randn(400, 4, dtype=torch.float64), torch.randn(400, 1, dtype=torch.float64)
    features[torch.rand(400, 4) < 0.3] = torch.nan
    features[:, 3] = torch.randn(400)  # never absent while fitting
    targets[:, 0] += 3.0 * features[:, 0].isnan() + features[:, 1].nan_to_num(-2.0) + features[:, 3]
    trees = BoostedTrees(1, trees=30, learning_rate=0.1, leaves=8, min_leaf=5, l2=0.5, seed=3)
    trees.fit(features, targets)
    new = torch.randn(300, 4, dtype=torch.float64)
    new[torch.rand(300, 4) < 0.4] = torch.nan
    own = HistGradientBoostingRegressor(**trees.options).fit(features.numpy(), targets[:, 0].numpy())
    np.testing.assert_allclose(trees(new)[:, 0].numpy(), own.predict(new.numpy()), rtol=1e-10, atol=1e-12)
    present = new.nan_to_num(-1e9)
    assert not torch.allclose(trees(new), trees(present))
    other = BoostedTrees(1, trees=1, learning_rate=0.1, leaves=2, min_leaf=1, l2=0.0, seed=0)
    other.load_state_dict(trees.state_dict())
    assert torch.equal(other(new), trees(new))


def test_boosted_statistics_are_invariant_and_learn(seeded: torch.Generator) -> None:
    structure = structures()["cnn"]
    weights = random_weights(structure, 200)
    scale = torch.rand(200, dtype=torch.float64, generator=seeded) + 0.5
    weights = {k: v * scale.view(-1, *[1] * (v.dim() - 1)) for k, v in weights.items()}
    batch = to_graphs(weights, structure)
    model = StatNN(None, 1, trees=60).fit([(batch, scale)], scale.unsqueeze(1))
    prediction = model(batch)[:, 0]
    assert float((prediction - scale).abs().mean()) < 0.5 * float((scale - scale.mean()).abs().mean())
    moved = permuted(batch, seeded)
    assert float((model(moved)[:, 0] - prediction).abs().max()) < 1e-9


def test_the_flat_perceptron_reads_parameters_in_the_order_of_the_structure() -> None:
    structure = structures()["mlp"]
    state = {name: value[0] for name, value in random_weights(structure, 1).items()}
    model = FlatMLP(structure, 1).double().eval()
    seen: list[torch.Tensor] = []
    model.network[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(to_graph(state, structure=structure))
    expected = torch.cat([state[p.name].flatten() for p in structure.parameters])
    assert torch.equal(seen[0][0], expected)
    assert model.network[0].in_features == structure.num_parameters


def test_the_flat_perceptron_standardises_each_tensor_as_a_whole() -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 30)
    model = FlatMLP(None, 1)
    model.fit_statistics([batch])
    tensors = read_tensors(batch)[0].tensors
    values = model.double().standardise(tensors).split([t.shape[1] for t in tensors], dim=1)
    for part in values:
        assert abs(float(part.mean(1).median())) < 1e-5
        assert abs(float(part.square().mean(1).sqrt().median()) - 1) < 1e-4
    assert [layer.out_features for layer in model.network if isinstance(layer, nn.Linear)] == [128, 64, 32, 1]
