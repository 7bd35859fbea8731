"""inr2vec stacks what it should, learns to tell values again, and is not invariant, as it says."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from converters import Structure, execute, to_graphs, to_state_dict, trace
from graphnets import Inr2Vec, VectorClassifier
from graphnets.layered import Networks
from graphnets.testing import assert_independent, permuted, relative_error

from .networks import cnn, mlp, stack


def small(structure: Structure | None, targets: int = 27) -> Inr2Vec:
    model = Inr2Vec(structure, targets, pixels=[3, 3, 3], widths=[16], latent=6, hidden=12, frequencies=2)
    return model.double()


def batch_of(module: nn.Sequential, count: int = 5) -> Networks:
    return stack(trace(module, torch.zeros(1, next(module.parameters()).shape[1])), count)


def test_rows_hold_every_number_of_a_network_and_hidden_neurons_are_columns() -> None:
    batch = batch_of(mlp(3, 8, 8, 2))
    model = Inr2Vec(batch.structure[0], 2 * 27, pixels=[3, 3, 3], widths=[16], latent=6).double()
    weights = to_state_dict(batch)
    rows = model.rows(batch)
    assert rows.shape == (5, 3 + 1 + 8 + 1 + 2 + 1, 8)
    expected = [
        weights["0.weight"].transpose(1, 2),
        weights["0.bias"].unsqueeze(1),
        weights["2.weight"],
        weights["2.bias"].unsqueeze(1),
        weights["4.weight"],
        nn.functional.pad(weights["4.bias"], (0, 6)).unsqueeze(1),
    ]
    assert torch.equal(rows, torch.cat(expected, 1))


def test_what_the_encoder_sees_depends_on_the_order_of_neurons_and_what_networks_compute_does_not() -> None:
    batch = batch_of(mlp(3, 8, 8, 1))
    model = small(batch.structure[0]).eval()
    model.fit_statistics([batch])
    moved = permuted(batch)
    places = torch.randn(10, 3, dtype=torch.float64)
    assert relative_error(execute(moved, places), execute(batch, places)) < 1e-12
    assert relative_error(model.encode(moved), model.encode(batch)) > 1e-2
    assert relative_error(model(moved), model(batch)) > 1e-3


def test_the_order_of_rows_does_not_matter() -> None:
    batch = batch_of(mlp(3, 8, 1))
    model = small(batch.structure[0]).eval()
    rows = model.rows(batch)
    vectors = model.encoder(rows)
    assert torch.equal(model.encoder(rows.flip(1)), vectors)
    assert relative_error(model.encoder(rows.flip(2)), vectors) > 1e-2
    assert torch.equal(model.encode(batch), vectors)


def test_no_vector_depends_on_other_networks_of_the_batch() -> None:
    batch = batch_of(mlp(3, 8, 1))
    assert_independent(small(batch.structure[0]).eval(), batch)


def test_values_are_those_of_the_lattice_in_order() -> None:
    batch = batch_of(mlp(3, 8, 2), 2)
    model = Inr2Vec(batch.structure[0], 2 * 6, pixels=[1, 2, 3], widths=[8], latent=4, hidden=8).double().eval()
    vectors = model.encode(batch)
    values = model.decode(vectors, model.coordinates)
    assert model(batch).view(2, 2, 6)[1, 0].tolist() == values[1, :, 0].tolist()
    alone = model.decode(vectors[1:], model.coordinates[4:5])
    assert torch.allclose(alone[0, 0], values[1, 4])
    assert model.coordinates[4].tolist() == [-1.0, 1.0, 0.0]


def test_it_learns_to_tell_values_again_where_starts_are_shared_and_neurons_keep_their_places() -> None:
    start = mlp(1, 8, 1, activation=nn.Tanh)
    structure = trace(start, torch.zeros(1, 1))

    def drawn(count: int) -> Networks:
        weights = {name: value + 0.2 * torch.randn(count, *value.shape) for name, value in start.state_dict().items()}
        return to_graphs(weights, structure)

    train, test = drawn(300), drawn(60)
    model = Inr2Vec(structure, 5, pixels=[5], widths=[32], latent=16, hidden=16, layers=[0, 1], frequencies=1)
    model.fit_statistics([train])
    wanted, held_out = (execute(graphs, model.coordinates).squeeze(-1) for graphs in (train, test))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.mse_loss(model(train), wanted).backward()
        optimiser.step()
    model.eval()
    spread = float((held_out - wanted.mean(0)).square().mean())
    assert nn.functional.mse_loss(model(test), held_out).item() < 0.4 * spread
    assert nn.functional.mse_loss(model(permuted(test)), held_out).item() > 0.8 * spread


def test_a_model_is_stored_and_loaded() -> None:
    batch = batch_of(mlp(3, 8, 1))
    model, other = small(batch.structure[0]), small(batch.structure[0])
    model.fit_statistics([batch])
    model(batch)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(model.eval()(batch), other.eval()(batch))
    assert "rows of 8 -> 6 -> 27 values, not invariant" in repr(model)


def test_networks_without_rows_of_one_width_are_refused() -> None:
    uneven = batch_of(mlp(3, 8, 6, 1)).structure[0]
    with pytest.raises(ValueError, match="hidden layers all have the same width"):
        small(uneven)
    with pytest.raises(ValueError, match="Inr2Vec stacks tensors as rows of one width"):
        small(trace(cnn(), torch.zeros(1, 2, 8, 9)))
    with pytest.raises(ValueError, match="needs its structure"):
        small(None)
    with pytest.raises(ValueError, match=r"targets=26: networks of 3 coordinates and 1 channels say 1 numbers"):
        small(batch_of(mlp(3, 8, 1)).structure[0], targets=26)


def test_vectors_are_classified_one_by_one_when_learning_is_over() -> None:
    model = VectorClassifier(None, 4, latent=6, hidden=[8, 8]).double()
    vectors = torch.randn(7, 6, dtype=torch.float64)
    assert not torch.allclose(model(vectors)[:1], model(vectors[:2])[:1])
    model.eval()
    assert torch.allclose(model(vectors)[2:3], model(vectors[2:3]))
    assert model(vectors).shape == (7, 4)
    model.train()
    assert bool(model(vectors[:1]).isfinite().all())
