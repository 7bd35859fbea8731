"""Tokens of networks: every number once, the autoencoder of their sequence, what networks do, statistics anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, execute, trace
from graphnets.contrastive import (
    SequentialAutoencoder,
    WeightTokens,
    behaviour_loss,
    recalibrated,
    weight_views,
)
from tests.graphnets.contrastive.test_encoders import stack_of
from tests.graphnets.networks import Residual, mlp


@pytest.fixture(scope="module")
def residual() -> Structure:
    return trace(Residual().eval(), torch.zeros(2, 2, 6, 6))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_networks_come_back_from_their_tokens(residual: Structure, size: int) -> None:
    stack = stack_of(residual, 4)
    tokens = WeightTokens(residual, size).double().fit([stack])
    cut = tokens(stack)
    assert cut.shape == (4, tokens.count, size)
    noise = torch.where(tokens.mask, 0.0, 9.0)  # what fills tokens up is not looked at
    back = tokens.join(cut + noise)
    assert list(back) == [p.name for p in residual.parameters]
    for name, tensor in stack.items():
        assert back[name].dtype == tensor.dtype
        assert torch.allclose(back[name].double(), tensor.double(), atol=1e-12), name


def test_every_number_is_in_one_token(residual: Structure) -> None:
    tokens = WeightTokens(residual, 5)
    held = sum(p.numel for p in residual.parameters if p.shape)
    assert int(tokens.mask.sum()) == held
    numbers, start = {}, 1
    for p in residual.parameters:
        if p.shape:
            numbers[p.name] = torch.arange(start, start + p.numel).double().view(1, *p.shape)
            start += p.numel
        else:
            numbers[p.name] = torch.zeros(1, dtype=torch.int64)
    cut = tokens.double()(numbers)[0]
    assert sorted(cut[tokens.mask].tolist()) == list(range(1, held + 1))
    assert not bool(cut[~tokens.mask].any())


def test_a_neurons_numbers_stand_side_by_side() -> None:
    structure = trace(mlp(4, 6, 3))
    stack = {p.name: torch.randn(1, *p.shape) for p in structure.parameters}
    cut = WeightTokens(structure, 5)(stack)[0]
    assert torch.equal(cut[2], torch.cat([stack["0.weight"][0, 2], stack["0.bias"][0, 2:3]]))


def test_statistics_are_those_of_each_tensor() -> None:
    structure = trace(mlp(4, 6, 3))
    torch.manual_seed(0)
    stack = {p.name: 3 * torch.randn(200, *p.shape).double() + 1 for p in structure.parameters}
    tokens = (
        WeightTokens(structure, 5)
        .double()
        .fit([{n: t[:90] for n, t in stack.items()}, {n: t[90:] for n, t in stack.items()}])
    )
    assert torch.allclose(tokens.means[0], stack["0.weight"].mean())
    assert torch.allclose(tokens.deviations[1], stack["0.bias"].std(correction=0))
    with pytest.raises(ValueError, match="no networks"):
        tokens.fit([])


def small(structure: Structure) -> SequentialAutoencoder:
    return SequentialAutoencoder(structure, size=5, channels=16, heads=2, blocks=1, latent=4, window=4)


def test_the_sequence_is_encoded_window_by_window() -> None:
    structure = trace(mlp(4, 6, 3))
    stack = {p.name: torch.randn(3, *p.shape) for p in structure.parameters}
    model = small(structure).eval()
    latents = model.encode(stack)
    assert latents.shape == (3, model.tokens.count, 4)
    assert model.code_size == model.tokens.count * 4
    other = {name: tensor.clone() for name, tensor in stack.items()}
    other["2.bias"] += 1  # the last layer's tokens are in the last windows
    changed = (model.encode(other) - latents).abs().amax((0, 2)) > 0
    assert not bool(changed[:4].any())
    assert bool(changed[6:].all())
    assert torch.allclose(model.encode({n: t[1:2] for n, t in stack.items()}), latents[1:2], atol=1e-6), "batch-mates"


def test_it_learns_networks_of_few_factors() -> None:
    structure = trace(mlp(4, 6, 3))
    torch.manual_seed(0)
    stack = {p.name: (torch.randn(64, 2) @ torch.randn(2, p.numel)).view(64, *p.shape) for p in structure.parameters}
    model = small(structure)
    model.fit_statistics([stack])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(stack, beta=1.0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.25 * sum(losses[:10])
    views = weight_views(stack, structure), weight_views(stack, structure)
    assert torch.isfinite(model.loss(stack, views, beta=0.5))


def test_what_fills_tokens_up_does_not_count() -> None:
    structure = trace(mlp(4, 4, 3))  # five numbers a neuron
    stack = {p.name: torch.randn(5, *p.shape) for p in structure.parameters}
    model = SequentialAutoencoder(structure, size=7, channels=16, heads=2, blocks=1, latent=4, window=99)
    before = model.loss(stack, beta=1.0)
    with torch.no_grad():
        model.leave.bias[5:] += 5
    assert torch.equal(model.loss(stack, beta=1.0), before)
    with torch.no_grad():
        model.leave.bias[4] += 5
    assert not torch.equal(model.loss(stack, beta=1.0), before)


def test_behaviour_is_what_networks_compute() -> None:
    structure, inputs = trace(mlp(4, 6, 3)), torch.randn(9, 4).double()
    torch.manual_seed(0)
    stack = {p.name: torch.randn(5, *p.shape).double() for p in structure.parameters}
    moved = weight_views(stack, structure, erase=0.0)
    assert float(behaviour_loss(moved, stack, inputs, structure)) < 1e-20
    wrong = {name: tensor.clone().requires_grad_() for name, tensor in stack_like(stack).items()}
    loss = behaviour_loss(wrong, stack, inputs, structure)
    loss.backward()
    found = execute(wrong, inputs, structure=structure), execute(stack, inputs, structure=structure)
    assert torch.allclose(loss, (found[0] - found[1]).square().mean() / found[1].var())
    assert all(tensor.grad is not None and bool(tensor.grad.any()) for tensor in wrong.values())


def stack_like(stack: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 0.5 * torch.randn_like(tensor) for name, tensor in stack.items()}


def test_statistics_are_taken_anew() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    batches = [torch.randn(16, 1, 4, 4), torch.randn(16, 1, 4, 4)]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stack = {name: torch.stack([tensor, tensor + 1 if name == "0.bias" else tensor]) for name, tensor in state.items()}
    found = recalibrated(model, stack, batches)
    rows = torch.cat([model[0](x) for x in batches])
    means = torch.stack([model[0](x).mean((0, 2, 3)) for x in batches]).mean(0)
    assert torch.allclose(found["1.running_mean"][0], means, atol=1e-5)
    assert torch.allclose(found["1.running_mean"][1], means + 1, atol=1e-5)
    assert torch.allclose(found["1.running_var"][0], rows.var((0, 2, 3)), rtol=0.1)
    assert torch.equal(found["0.weight"], stack["0.weight"])
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_networks_without_statistics_stay_as_they_are() -> None:
    model = mlp(4, 6, 3)
    stack = {name: torch.stack([tensor, tensor * 2]) for name, tensor in model.state_dict().items()}
    found = recalibrated(model, stack, [torch.randn(8, 4)])
    assert all(torch.equal(stack[name], found[name]) for name in stack)


def test_wrong_use_is_told(residual: Structure) -> None:
    with pytest.raises(ValueError, match="size=0"):
        WeightTokens(residual, 0)
    with pytest.raises(ValueError, match="window=0"):
        SequentialAutoencoder(residual, window=0)
    with pytest.raises(ValueError, match=r"tokens of shape \[2, 3, 4\]"):
        WeightTokens(residual, 4).join(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"latents of shape \[1, 2, 3\]"):
        SequentialAutoencoder(residual).decode(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"beta=0\.9"):
        SequentialAutoencoder(residual).loss(stack_of(residual, 2))


def test_behaviour_of_classifiers_on_inputs_of_their_own() -> None:
    structure, inputs = trace(mlp(4, 6, 3)), torch.randn(9, 4).double()
    torch.manual_seed(0)
    stack = {p.name: torch.randn(5, *p.shape).double() for p in structure.parameters}
    other = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in stack.items()}
    shifted = {name: tensor + 2.0 * (name.endswith("bias") and tensor.shape[1] == 3) for name, tensor in stack.items()}
    own = torch.randn(5, 9, 4).double()
    assert abs(float(behaviour_loss(shifted, stack, inputs, structure, "divergence"))) < 1e-12
    p, q = (execute(each, inputs, structure=structure).log_softmax(2) for each in (stack, other))
    apart = (p.exp() * (p - q)).sum(2)
    found = behaviour_loss(other, stack, inputs, structure, "divergence")
    assert float(found) == pytest.approx(float(apart.mean()))
    found = behaviour_loss(other, stack, own, structure, "divergence", own_inputs=True)
    each = [
        float(
            behaviour_loss(
                {k: v[i : i + 1] for k, v in other.items()},
                {k: v[i : i + 1] for k, v in stack.items()},
                own[i],
                structure,
                "divergence",
            )
        )
        for i in range(5)
    ]
    assert float(found) == pytest.approx(sum(each) / 5)
    with pytest.raises(ValueError, match="kind='alike' is one of squared, divergence"):
        behaviour_loss(other, stack, inputs, structure, "alike")


def test_behaviour_with_statistics_of_the_batch_is_that_of_recalibrated_networks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    inputs = torch.randn(512, 1, 4, 4)
    structure = trace(model, inputs)
    states = {name: torch.stack([tensor, tensor]) for name, tensor in model.state_dict().items()}
    stack = recalibrated(model, states, [inputs])
    lost = stack | {"1.running_mean": stack["1.running_mean"] + 3.0}
    again = recalibrated(model, lost, [inputs])
    found = behaviour_loss(lost, stack, inputs, structure, batch_statistics=True)
    assert float(found) == pytest.approx(float(behaviour_loss(again, stack, inputs, structure)), abs=1e-4)
    assert float(found) < float(behaviour_loss(lost, stack, inputs, structure)) / 100
