"""Blocks and models of neural functional Transformers."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, StructureMismatch, sample_permutation
from graphnets import NFT, NFTBlock
from graphnets.nft import Project, Rows, Unproject
from graphnets.pieces import Pieces
from graphnets.testing import (
    PermutationAction,
    assert_equivariant,
    assert_independent,
    assert_invariant,
    relative_error,
)

from ..networks import stack, structures
from .nft_structures import nft_structures, random_features

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "mean": {"pool": "mean", "terms": "adjacent", "io_encoding": "learned", "fourier": None},
    "hnp": {"symmetry": "hnp", "global_term": "full", "io_encoding": None, "pooled_channels": 4, "activations": True},
    "places": {"pool": "hnp", "pooled_channels": 4, "perceptron": [7]},
}


def model_of(structure: Structure, option: str = "default", targets: int | None = 3) -> NFT:
    small = {"channels": 8, "blocks": 2, "heads": 2, "queries": 3, "head": [6], "fourier_channels": 8}
    return NFT(structure, targets, **{**small, **OPTIONS[option]})


def fitted(structure: Structure, batch: Any, option: str = "default", targets: int | None = 3) -> NFT:
    model = model_of(structure, option, targets).double()
    model.fit_statistics([batch])
    return model.double().eval()


@pytest.mark.parametrize("name", ["chain", "attention"])
def test_a_block_is_that_of_the_equations_in_values_and_gradients(name: str) -> None:
    block = NFTBlock(nft_structures()[name], 6, heads=2, hidden=10, bias=True, out_projection=True).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    rows = torch.randn(3, block.attention.rows.length, 6, dtype=torch.float64, requires_grad=True)

    def textbook(x: Tensor) -> Tensor:
        z = x + block.attention(block.norm_attention(x))
        return z + block.outer(functional.gelu(block.inner(block.norm_perceptron(z))))

    inputs = [rows, *block.parameters()]
    (ours, grads), (theirs, expected) = (
        (out, torch.autograd.grad(out.sin().sum(), inputs)) for out in (block(rows), textbook(rows))
    )
    assert relative_error(ours, theirs) < 1e-10
    assert relative_error(grads, expected) < 1e-10


@pytest.mark.parametrize("name", nft_structures())
@pytest.mark.parametrize("symmetry", ["np", "hnp"])
def test_blocks_are_equivariant(name: str, symmetry: str, seeded: torch.Generator) -> None:
    structure = nft_structures()[name]
    layer = nn.Sequential(
        Project(structure, 2, 6, symmetry),
        NFTBlock(structure, 6, heads=2, symmetry=symmetry),
        Unproject(structure, 6, 3, symmetry),
    )
    action, control = (PermutationAction(sample_permutation(structure, seeded, coupled)) for coupled in (True, False))
    assert_equivariant(layer, random_features(structure, 2), action, control, noticed=1e-4)


def test_a_block_is_as_large_for_wide_kernels_as_for_narrow_ones() -> None:
    sizes = {
        name: sum(p.numel() for p in NFTBlock(nft_structures()[name], 8).parameters()) for name in ("cnn", "chain")
    }
    assert sizes["cnn"] == sizes["chain"] == 3 * 8 * 8 + 2 * 8 * 32 + 32 + 8 + 4 * 8


def test_dropout_acts_in_training_alone() -> None:
    block = NFTBlock(nft_structures()["chain"], 8, dropout=0.5).double()
    rows = torch.randn(2, block.attention.rows.length, 8, dtype=torch.float64)
    assert relative_error(block(rows), block(rows)) > 1e-3
    block.eval()
    assert torch.equal(block(rows), block(rows))
    block.train().dropout = block.attention.dropout = 0.0
    assert relative_error(block(rows), block.eval()(rows)) < 1e-12


def test_rows_hold_every_weight_once() -> None:
    for structure in nft_structures().values():
        for symmetry in ("np", "hnp"):
            rows, features = Rows.of(structure, symmetry), random_features(structure, 1)
            parts = rows.pieces.split(features)
            assert rows.length * 2 == sum(part[..., 0].numel() for part in parts)
            there = Project(structure, 1, 1, symmetry, always=False)
            if all(piece.fixed == 1 for piece in rows.pieces):
                back = Unproject(structure, 1, 1, symmetry, always=False)(there(features))
                assert all(torch.equal(back[name], features[name]) for name in Pieces.of(structure, symmetry).names)
    with pytest.raises(ValueError, match="features of 2 channels do not fit rows of 3 channels"):
        Project(nft_structures()["chain"], 2, 3, always=False)


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
@pytest.mark.parametrize("option", OPTIONS)
def test_predictions_are_invariant_and_depend_on_no_other_network(
    name: str, option: str, seeded: torch.Generator
) -> None:
    structure = structures()[name]
    batch = stack(structure)
    model = fitted(structure, batch, option)
    assert_invariant(model, batch, seeded)
    assert_independent(model, batch)


@pytest.mark.parametrize("name", nft_structures())
def test_new_weights_move_with_the_neurons(name: str, seeded: torch.Generator) -> None:
    structure = nft_structures()[name]
    batch = stack(structure, 2)
    model = fitted(structure, batch, targets=None)
    action, control = (PermutationAction(sample_permutation(structure, seeded, coupled)) for coupled in (True, False))
    assert_equivariant(model, batch, action, control)
    assert {n: tuple(t.shape[1:-1]) for n, t in model(batch).items()} == {
        n: structure.parameter[n].shape for n in Pieces.of(structure, "np").names
    }


def test_input_and_output_neurons_are_told_apart_by_their_marks_alone() -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 3)
    marked = fitted(structure, batch)
    unmarked = NFT(structure, 3, channels=8, blocks=1, io_encoding=None).double().eval()
    features = marked.read(batch)
    order = torch.tensor([2, 0, 3, 1])
    moved = features.map(lambda t: t)
    moved = type(features)({n: t[:, :, order] if n == "0.weight" else t for n, t in moved.items()})
    for model, told in ((marked, True), (unmarked, False)):
        pool = model.pool
        assert pool is not None
        error = relative_error(pool(model.transform(moved)), pool(model.transform(features)))
        assert (error > 1e-3) is told, error


@pytest.mark.parametrize("option", OPTIONS)
def test_a_state_can_be_saved_and_loaded(option: str) -> None:
    structure = structures()["cnn"]
    batch = stack(structure, 2)
    model = fitted(structure, batch, option)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = model_of(structure, option).double().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(batch), model(batch))


def test_autocast_changes_little_in_values_and_gradients() -> None:
    structure = structures()["cnn"]
    batch = stack(structure, 3)
    batch.x, batch.edge_attr = batch.x.float(), batch.edge_attr.float()
    model = model_of(structure)
    model.fit_statistics([batch])
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            rows = model.transform(model.read(batch))
            weight = model.blocks[0].inner.weight
            results.append((rows.float(), *torch.autograd.grad(rows.float().sin().sum(), weight)))
    assert not torch.equal(results[0][0], results[1][0])
    assert relative_error(results[1], results[0]) < 0.2


def test_what_cannot_be_read_is_refused() -> None:
    model = model_of(structures()["mlp"])
    with pytest.raises(StructureMismatch, match="cannot read"):
        model(stack(structures()["deep"], 2))
    with pytest.raises(ValueError, match="needs its structure"):
        NFT(None, 3)
    with pytest.raises(ValueError, match="pool='max' is unknown; choose one of attention, mean, hnp"):
        NFT(structures()["mlp"], 3, pool="max")


def test_a_printed_model_tells_its_contract_and_size() -> None:
    model = model_of(structures()["mlp"])
    size = sum(p.numel() for p in model.parameters())
    assert model.extra_repr() == f"{structures()['mlp'].name} -> 3 targets, np, channels=8, {size:,} parameters"
    assert "-> new weights, np" in model_of(structures()["mlp"], targets=None).extra_repr()


def test_it_learns() -> None:
    torch.manual_seed(0)
    structure = structures()["mlp"]
    batch = stack(structure, 16)
    model = fitted(structure, batch, targets=1).train()
    wanted = torch.randn(16, 1, dtype=torch.float64)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = functional.mse_loss(model(batch), wanted)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
