"""The equivariant linear layers against brute force: all orbits of pairs of weights, counted one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from converters import Structure, WeightSpaceFeatures, sample_permutation
from graphnets.nfn import HNPLinear, NPLinear, Pointwise
from graphnets.pieces import Pieces
from graphnets.testing import PermutationAction, assert_equivariant

from .small_structures import opened, small_structures

SYMMETRIES = ("np", "hnp")


def random_features(structure: Structure, batch: int = 2, channels: int = 1) -> WeightSpaceFeatures:
    names = Pieces.of(structure, "hnp").names
    shapes = {name: structure.parameter[name].shape for name in names}
    return WeightSpaceFeatures({n: torch.randn(batch, *s, channels, dtype=torch.float64) for n, s in shapes.items()})


def flat(features: WeightSpaceFeatures) -> Tensor:
    """``[B, weights * channels]``."""
    return torch.cat([tensor.flatten(1) for tensor in features.values()], 1)


def unit_features(structure: Structure) -> WeightSpaceFeatures:
    """One network per weight, in which it is 1 and every other weight 0."""
    names = Pieces.of(structure, "hnp").names
    shapes = [structure.parameter[name].shape for name in names]
    sizes = [int(torch.Size(shape).numel()) for shape in shapes]
    parts = torch.eye(sum(sizes), dtype=torch.float64).split(sizes, 1)
    return WeightSpaceFeatures({n: p.reshape(-1, *s, 1) for n, p, s in zip(names, parts, shapes, strict=True)})


def orbits(structure: Structure) -> Tensor:
    """The orbit of every pair of weights under the structure's permutations, ``[n, n]``, by closure under random ones."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(flat(unit_features(structure)).shape[1] ** 2)
    size = int(len(labels) ** 0.5)
    places = WeightSpaceFeatures(
        {name: tensor.argmax(0).unsqueeze(0) for name, tensor in unit_features(structure).items()}
    )
    for _ in range(60):
        action = PermutationAction(sample_permutation(structure, generator))
        order = flat(action @ places)[0]
        pairs = (order[:, None] * size + order).flatten()
        for _ in range(8):  # the smallest label spreads along the cycles of this permutation
            labels = torch.minimum(labels, labels[pairs])
            labels = labels.scatter_reduce(0, pairs, labels, "amin")
    return labels.unique(return_inverse=True)[1].view(size, size)


def basis(layer: NPLinear | HNPLinear, structure: Structure) -> Tensor:
    """The matrix of the layer for every parameter set to 1 alone, ``[parameters, weights, weights]``."""
    inputs, matrices = unit_features(structure), []
    with torch.no_grad():
        for parameter in layer.matrices:
            for index in range(parameter.numel()):
                for other in layer.matrices:
                    other.zero_()
                parameter.view(-1)[index] = 1
                matrices.append(flat(layer(inputs)).T)
    return torch.stack(matrices)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", small_structures())
def test_the_layer_is_every_equivariant_linear_map(name: str, symmetry: str) -> None:
    structure = small_structures()[name]
    wanted = orbits(opened(structure) if symmetry == "np" else structure)
    count = int(wanted.max()) + 1
    kind = NPLinear if symmetry == "np" else HNPLinear
    layer = kind(structure, 1, 1, bias=False).double()
    found = basis(layer, structure).flatten(1)
    means = torch.zeros(len(found), count, dtype=torch.float64).index_add_(1, wanted.flatten(), found)
    sizes = wanted.flatten().bincount()
    projected = (means / sizes)[:, wanted.flatten()]
    torch.testing.assert_close(found, projected, rtol=1e-10, atol=1e-12)  # in the commutant
    rank = int(torch.linalg.matrix_rank(means / sizes.sqrt(), rtol=1e-10))
    assert rank == count  # all of it
    if name != "two_members" and name not in ("recurrent", "residual", "attention", "fused_attention"):
        assert layer.count(structure, 1, 1, bias=False) == count
