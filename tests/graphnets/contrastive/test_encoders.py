"""Autoencoder, views, data sets, results, and their way into one space."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, execute, trace
from graphnets.contrastive import (
    CodeAutoencoder,
    ResultsEncoder,
    SharedEncoder,
    WeightCompression,
    align_to_mean,
    autoencoder_loss,
    class_means,
    nt_xent,
    weight_views,
)
from tests.graphnets.networks import Residual, mlp


@pytest.fixture(scope="module")
def residual() -> Structure:
    return trace(Residual().eval(), torch.zeros(2, 2, 6, 6))


def stack_of(structure: Structure, count: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    stack = {p.name: torch.randn(count, *p.shape).double() for p in structure.parameters}
    for p in structure.parameters:
        if p.name.endswith("var"):
            stack[p.name] = stack[p.name].abs() + 0.5
        if p.dtype == "int64":
            stack[p.name] = torch.full((count,), 3)
    return stack


def test_permuted_views_are_the_same_functions_and_each_is_permuted_anew(residual: Structure) -> None:
    stack, x = stack_of(residual, 3), torch.randn(4, 2, 6, 6).double()
    one = {name: tensor[:1].expand_as(tensor) for name, tensor in stack.items()}
    view = weight_views(one, residual, erase=0.0)
    assert torch.allclose(execute(one, x, structure=residual), execute(view, x, structure=residual), atol=1e-9)
    assert not torch.allclose(view["stem.weight"][0], view["stem.weight"][1])
    assert not torch.allclose(view["norm.running_mean"], one["norm.running_mean"]), "buffers move with their neurons"
    uncoupled = {**view, "norm.running_mean": one["norm.running_mean"]}
    assert not torch.allclose(execute(one, x, structure=residual), execute(uncoupled, x, structure=residual), atol=1e-3)


def test_erasing_takes_the_share_that_was_asked_for(residual: Structure) -> None:
    stack = stack_of(residual, 20)
    view = weight_views(stack, residual, permute=False, erase=0.25)
    erased = torch.cat([(view[p.name] == 0).flatten() for p in residual.parameters if not p.buffer])
    assert abs(float(erased.double().mean()) - 0.25) < 0.02
    kept = view["inner.weight"] != 0
    assert torch.equal(view["inner.weight"][kept], stack["inner.weight"][kept])
    assert torch.equal(view["norm.running_var"], stack["norm.running_var"])
    with pytest.raises(ValueError, match=r"erase=1\.5"):
        weight_views(stack, residual, erase=1.5)


def test_views_are_seeded(residual: Structure) -> None:
    stack = stack_of(residual, 3)
    views = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        views.append(weight_views(stack, residual)["inner.weight"])
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_aligned_networks_compress_better_and_compute_the_same() -> None:
    """Networks that differ by noise and the order of neurons: after alignment the order is gone."""
    structure = trace(mlp(4, 12, 3))
    torch.manual_seed(0)
    centre = {p.name: torch.randn(1, *p.shape).double() for p in structure.parameters}
    stack = {name: t + 0.02 * torch.randn(30, *t.shape[1:]).double() for name, t in centre.items()}
    mixed = weight_views(stack, structure, erase=0.0)
    found, reference = align_to_mean(mixed, structure)
    x = torch.randn(5, 4).double()
    assert torch.allclose(execute(found, x, structure=structure), execute(mixed, x, structure=structure), atol=1e-9)

    def error(weights: dict[str, Tensor]) -> float:
        compression = WeightCompression(structure, rank=2).double().fit([weights])
        back = compression.decode(compression.encode(weights))
        return sum(float((back[n] - weights[n]).square().sum()) for n in weights)

    assert error(found) < 0.05 * error(mixed)
    assert {name: tensor.shape for name, tensor in reference.items()} == {n: t.shape[1:] for n, t in stack.items()}


@pytest.mark.parametrize("hidden", [(), (16,), (32, 16)])
def test_an_autoencoder_learns_codes_of_few_factors(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    codes = torch.randn(200, 3) @ torch.randn(3, 12)
    codes = codes / codes.norm(dim=1, keepdim=True)
    model = CodeAutoencoder(12, 4, hidden)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = autoencoder_loss(model, codes, beta=1.0)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * float(codes.var())
    assert torch.allclose(model.encode(codes).norm(dim=1), torch.ones(()), atol=1e-5)
    assert model.decode(model.encode(codes)).equal(model(codes))


def test_the_loss_mixes_reconstruction_and_contrast() -> None:
    torch.manual_seed(0)
    model, codes = CodeAutoencoder(6, 4), torch.randn(8, 6)
    views = codes + 0.1 * torch.randn(8, 6), codes + 0.1 * torch.randn(8, 6)
    plain = autoencoder_loss(model, codes, beta=1.0)
    contrast = nt_xent(model.encode(views[0]), model.encode(views[1]))
    mixed = autoencoder_loss(model, codes, views, beta=0.7)
    assert torch.allclose(mixed, 0.7 * plain + 0.3 * contrast)
    assert torch.allclose(autoencoder_loss(model, codes, views, beta=0.0), contrast)
    with pytest.raises(ValueError, match=r"beta=0\.9 must be"):
        autoencoder_loss(model, codes)


def test_latents_may_have_a_length() -> None:
    model = CodeAutoencoder(6, 4, unit=False)
    assert not torch.allclose(model.encode(torch.randn(5, 6)).norm(dim=1), torch.ones(()), atol=1e-2)


def test_class_means_come_in_the_order_of_the_outputs() -> None:
    features, labels = torch.randn(12, 4), torch.arange(12) % 3
    found = class_means(features, labels, [2, 0])
    assert torch.allclose(found, torch.cat([features[labels == 2].mean(0), features[labels == 0].mean(0)]))
    with pytest.raises(ValueError, match="no image of class 7 among 12"):
        class_means(features, labels, [0, 7])


def test_results_fall_into_bins_of_equal_counts() -> None:
    encoder = ResultsEncoder(bins=5, channels=3)
    results = torch.rand(1000).square()
    with pytest.raises(RuntimeError, match="call fit"):
        encoder(results)
    counts = encoder.fit(results).bins(results).bincount()
    assert counts.tolist() == [200] * 5
    assert encoder.bins(torch.tensor([-1.0, 9.0])).tolist() == [0, 4]
    assert encoder(results).shape == (1000, 3)
    other = ResultsEncoder(bins=5, channels=3)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(results), encoder(results))
    with pytest.raises(ValueError, match="1 of them not finite"):
        encoder.fit(torch.tensor([0.1, float("nan")]))


def test_the_shared_encoder_learns_where_weights_lie() -> None:
    """Latents that depend on data and result are found again; the vectors of the results are trained with the rest."""
    torch.manual_seed(0)
    data, results = torch.randn(160, 6), torch.rand(160)
    target = nn.functional.normalize(torch.cat([data[:, :3], (results.unsqueeze(1) * 8).round() - 4], 1), dim=1)
    encoder = SharedEncoder(6, 4, hidden=(64,), bins=8, result_channels=16, dropout=0.0)
    encoder.results.fit(results)
    before = encoder.results.embedding.weight.clone()
    score = partial(nt_xent, temperature=0.2)
    start = float(score(encoder(data, results), target).detach())
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = score(encoder(data, results), target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < start - 1
    assert torch.allclose(encoder(data, results).norm(dim=1), torch.ones(()), atol=1e-5)
    assert not torch.allclose(encoder.results.embedding.weight, before, atol=1e-3)
