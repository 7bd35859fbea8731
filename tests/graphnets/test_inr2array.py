"""INR2ARRAY: latents do not know the order of neurons, and every patch is drawn by its own network alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, permute, sample_permutation, to_graphs, trace
from graphnets import NFN, NFT, HyperNetwork, Inr2Array, LatentTransformer, NeuronGNN, SpatialClassifier
from graphnets.inr2array import patch_numbers

PIXELS, PATCHES, LATENT = (6, 4), (3, 2), 8


class Sine(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(5.0 * inputs)


def siren(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 7), Sine(), nn.Linear(7, 5), Sine(), nn.Linear(5, channels))


STRUCTURE = trace(siren(), torch.zeros(1, 2))
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "nft": partial(NFT, channels=8, blocks=1, heads=2, queries=6, pooled_channels=LATENT, head=None, fourier=None),
    "nfn": partial(NFN, variant="np", channels=[6], head=[16]),
    "gnn": partial(NeuronGNN, channels=8),
}


def networks(count: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {p.name: 0.4 * torch.randn(count, *p.shape, dtype=torch.float64) for p in STRUCTURE.parameters}


def model(encoder: str = "nfn", **options: Any) -> Inr2Array:
    torch.manual_seed(0)
    made = Inr2Array(STRUCTURE, 3 * 24, ENCODERS[encoder], PIXELS, PATCHES, LATENT, hidden=16, **options)
    return made.double().eval()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_latents_and_images_are_invariant_and_differ_between_networks(encoder: str) -> None:
    weights, made = networks(), model(encoder)
    with torch.no_grad():
        latents, images = made.encode(to_graphs(weights, STRUCTURE)), made(to_graphs(weights, STRUCTURE))
        assert latents.shape == (4, 6, LATENT)
        assert images.shape == (4, 72)
        assert latents.std(0).min() > 1e-6
        for coupled in (True, False):
            permutation = sample_permutation(STRUCTURE, torch.Generator().manual_seed(2), coupled)
            moved = made.encode(to_graphs(permute(weights, permutation), STRUCTURE))
            change = float((moved - latents).abs().max() / latents.std())
            assert change < 1e-9 if coupled else change > 1e-3
        alone = made.encode(to_graphs({name: tensor[2:3] for name, tensor in weights.items()}, STRUCTURE))
        assert torch.allclose(alone, latents[2:3], atol=1e-12)


def module_with(weights: dict[str, Tensor]) -> nn.Sequential:
    module = siren().double()
    module.load_state_dict(weights)
    return module


@pytest.mark.parametrize("options", [{}, {"form": "single"}, {"form": "single", "additive": True}])
def test_every_patch_is_drawn_by_the_network_of_its_vector_and_no_other(options: dict[str, Any]) -> None:
    made = model(**options)
    torch.manual_seed(3)
    latents = 5 * torch.randn(2, 6, LATENT, dtype=torch.float64)
    weights, images = made.decode(latents), made.draw(latents)
    for row in range(6):
        for column in range(4):
            patch = (row // 2) * 2 + column // 2
            point = torch.tensor([[-1 + 2 * row / 5, -1 + 2 * column / 3]], dtype=torch.float64)
            for which in range(2):
                own = {name: tensor[which, patch] for name, tensor in weights.items()}
                assert torch.allclose(module_with(own)(point)[0], images[which, :, row, column], atol=1e-5)
    moved = latents.clone()
    moved[:, 3] += 1
    changed = (made.draw(moved) - images).abs().amax((0, 1)) > 1e-9
    expected = torch.zeros(6, 4, dtype=torch.bool)
    expected[2:4, 2:4] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize(("side", "patches"), [(4, 2), (8, 4), (28, 4), (32, 8)])
def test_patches_are_equal_where_sides_divide(side: int, patches: int) -> None:
    line = torch.linspace(-1, 1, side)
    numbers = patch_numbers(torch.cartesian_prod(line, line), (patches, patches)).view(side, side)
    steps = torch.arange(side) // (side // patches)
    assert torch.equal(numbers, steps[:, None] * patches + steps)


def test_a_decoder_starts_at_one_initial_network_and_can_learn_differences() -> None:
    torch.manual_seed(0)
    latents = torch.randn(50, LATENT)
    for form in ("tensor", "single"):
        written = HyperNetwork(STRUCTURE, LATENT, 32, form=form)(latents)
        assert {name: tuple(tensor.shape[1:]) for name, tensor in written.items()} == {
            p.name: p.shape for p in STRUCTURE.parameters
        }
        for name in ("0.weight", "2.weight"):
            assert written[name].std(0).mean() < 0.2 * written[name].mean(0).std()
        assert written["0.weight"].mean(0).abs().max() < 0.6
    additive = HyperNetwork(STRUCTURE, LATENT, 32, additive=True)
    with torch.no_grad():
        for perceptron in additive.perceptrons:
            assert isinstance(perceptron, nn.Sequential)
            cast(nn.Linear, perceptron[-1]).weight.zero_()
    written = additive(latents)
    for tensor, start in zip(written.values(), additive.start, strict=True):
        assert torch.equal(tensor, start.expand_as(tensor))
    assert len(additive.scale) == len(STRUCTURE.parameters)


def test_training_lowers_the_error_of_the_drawing() -> None:
    made = model("gnn").float().train()
    graphs = to_graphs({name: tensor.float() for name, tensor in networks(8).items()}, STRUCTURE)
    target = torch.randn(8, 72, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    errors = []
    for _ in range(40):
        error = (made(graphs) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.8 * errors[0]
    assert all(parameter.grad is not None for parameter in made.decoder.parameters())


def test_a_transformer_classifies_arrays_one_by_one_and_knows_places() -> None:
    torch.manual_seed(0)
    classifier = LatentTransformer(None, 10, tokens=6, latent=LATENT, channels=16, blocks=2, heads=2).double().eval()
    latents = 3 + 2 * torch.randn(5, 6, LATENT, dtype=torch.float64)
    classifier.fit_statistics([latents[:2], latents[2:]])
    assert torch.allclose(classifier.mean, latents.mean((0, 1)))
    assert torch.allclose(classifier.deviation, latents.flatten(0, 1).std(0))
    out = classifier(latents)
    assert out.shape == (5, 10)
    assert torch.allclose(classifier(latents[3:4]), out[3:4], atol=1e-12)
    assert (classifier(latents.roll(1, 1)) - out).abs().max() > 1e-3
    grown = deepcopy(classifier).train()
    assert (grown(latents) - out).abs().max() > 1e-6


def test_a_spatial_classifier_is_invariant() -> None:
    torch.manual_seed(0)
    classifier = SpatialClassifier(STRUCTURE, 10, ENCODERS["nfn"], PATCHES, LATENT, channels=[12, 6]).double().eval()
    weights = networks()
    out = classifier(to_graphs(weights, STRUCTURE))
    assert out.shape == (4, 10)
    for coupled in (True, False):
        permutation = sample_permutation(STRUCTURE, torch.Generator().manual_seed(2), coupled)
        change = (classifier(to_graphs(permute(weights, permutation), STRUCTURE)) - out).abs().max() / out.std(0).max()
        assert change < 1e-9 if coupled else change > 1e-3


REFUSED: list[tuple[Callable[[Structure], Any], str]] = [
    (lambda s: Inr2Array(None, 72, ENCODERS["nfn"]), "it needs their structure"),
    (lambda s: Inr2Array(s, 71, ENCODERS["nfn"], PIXELS), "71 targets are no image of 3 channels and 6 x 4 pixels"),
    (lambda s: HyperNetwork(s, 4, form="tensors"), "form='tensors' is unknown; choose one of tensor, single"),
    (lambda s: HyperNetwork(s, 4, layers=0), "layers=0: a perceptron needs a hidden layer"),
    (lambda s: NFT(s, 7, channels=8, heads=2, blocks=1, queries=2, head=None), "head=None gives 16 numbers, not 7"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_does_not_fit_is_refused(make: Callable[[Structure], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(STRUCTURE)


def test_networks_with_buffers_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    with pytest.raises(ValueError, match="has buffers or shared tensors; a hypernetwork writes parameters alone"):
        HyperNetwork(trace(net, torch.randn(2, 2)), 4)
