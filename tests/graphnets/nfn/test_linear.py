"""The equivariant linear layers against brute force: all orbits of pairs of weights, counted one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import Permutation, Structure, StructureMismatch, WeightSpaceFeatures, sample_permutation, trace
from graphnets.dws import DWSLayer
from graphnets.nfn import (
    ChannelDropout,
    ChannelNorm,
    FourierFeatures,
    HNPLinear,
    HNPPool,
    IOEncoding,
    LayerEncoding,
    NPLinear,
    NPPool,
    PermutationLinear,
    Pointwise,
    TensorNorm,
    WeightPerceptron,
)
from graphnets.pieces import Pieces
from graphnets.testing import PermutationAction, assert_equivariant, relative_error

from ..networks import mlp, structures
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
    """The orbit of every pair of weights under the structure's permutations, ``[n, n]``, by random closure."""
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


def basis(layer: PermutationLinear, structure: Structure) -> Tensor:
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


def make(symmetry: str) -> Callable[..., PermutationLinear]:
    return NPLinear if symmetry == "np" else HNPLinear


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", small_structures())
def test_the_layer_is_every_equivariant_linear_map(name: str, symmetry: str) -> None:
    structure = small_structures()[name]
    wanted = orbits(opened(structure) if symmetry == "np" else structure)
    count, sizes = int(wanted.max()) + 1, wanted.flatten().bincount()
    layer = make(symmetry)(structure, 1, 1, bias=False).double()
    found = basis(layer, structure).flatten(1)
    means = torch.zeros(len(found), count, dtype=torch.float64).index_add_(1, wanted.flatten(), found) / sizes
    torch.testing.assert_close(found, means[:, wanted.flatten()], rtol=1e-10, atol=1e-12)  # all commute with the group
    assert int(torch.linalg.matrix_rank(means * sizes.sqrt(), rtol=1e-10)) == count  # they span everything that does
    assert make(symmetry).count(structure, 1, 1, bias=False) == len(found) == count


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", ["mlp", "residual", "attention", "grouped"])
def test_pooling_gives_every_linear_invariant(name: str, symmetry: str) -> None:
    structure = small_structures()[name]
    pairs = orbits(opened(structure) if symmetry == "np" else structure)
    wanted = pairs.diagonal().unique(return_inverse=True)[1]  # orbits of weights
    count = int(wanted.max()) + 1
    pool = (NPPool if symmetry == "np" else HNPPool)(structure, 1)
    found = pool(unit_features(structure)).T
    means = torch.zeros(len(found), count, dtype=torch.float64).index_add_(1, wanted, found) / wanted.bincount()
    torch.testing.assert_close(found, means[:, wanted], rtol=1e-10, atol=1e-12)
    assert int(torch.linalg.matrix_rank(means)) == count == pool.out_features


def naive(weights: list[Tensor], biases: list[Tensor], layer: NPLinear) -> tuple[list[Tensor], list[Tensor]]:
    """Eq. 3 term by term on ``[B, n_i, n_{i-1}, C]`` and ``[B, n_i, C]``, matrices cut out of the layer's own."""
    names = [piece.parameter for piece in layer.pieces]
    inputs, outputs = layer.in_channels, layer.out_channels
    theta: dict[tuple[int, int, int, Any], Tensor] = {}
    for number, exchange in enumerate(layer.plan.exchanges):
        for o, written in enumerate(exchange.written):
            for i, read in enumerate(exchange.read):
                block = layer.matrices[number][o * outputs : (o + 1) * outputs, i * inputs : (i + 1) * inputs]
                theta[written.piece, read.piece, len(exchange.key), exchange.key] = block
    features = [t for pair in zip(weights, biases, strict=True) for t in pair]
    assert names == [f"{2 * i}.{what}" for i in range(len(weights)) for what in ("weight", "bias")]
    constants = layer.bias.split(outputs)
    out = []
    for o, shape_of in enumerate(features):
        total = constants[o].expand(*shape_of.shape[:-1], outputs).clone()
        for (written, read, _, key), matrix in theta.items():
            if written != o:
                continue
            source, units = features[read], layer.pieces[read].units
            kept = [unit for unit, _ in key]
            for axis in reversed(range(len(units))):
                if units[axis] not in kept:
                    source = source.mean(axis + 1, keepdim=True)
            here = [unit for unit in units if unit in kept]
            target = layer.pieces[o].units
            source = source.reshape(len(source), *[unit.size for unit in here], inputs)
            order = sorted(range(len(here)), key=lambda a: target.index(here[a]))
            source = source.permute(0, *[a + 1 for a in order], -1)
            shape = [unit.size if unit in kept else 1 for unit in target]
            total = total + (source @ matrix.T).reshape(len(source), *shape, outputs)
        out.append(total)
    return out[::2], out[1::2]


def test_on_perceptrons_it_is_the_papers_formula(seeded: torch.Generator) -> None:
    structure = small_structures()["mlp"]
    layer = NPLinear(structure, 3, 2).double()
    torch.nn.init.normal_(layer.bias)
    features = random_features(structure, channels=3)
    tensors = list(features.values())
    weights, biases = naive(tensors[::2], tensors[1::2], layer)
    got = list(layer(features).values())
    torch.testing.assert_close(got[::2], weights, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got[1::2], biases, rtol=1e-10, atol=1e-12)


def test_sizes_are_those_of_table_1() -> None:
    """O(L^2) pairs of tensors under NP; with squares of the numbers of inputs and outputs under HNP."""
    structure = small_structures()["mlp"]
    inputs, outputs, depth = 2, 2, 3
    tensors, first, hidden, last = 2 * depth, 1, 3, 2  # of hidden neurons: rows, bias, columns
    everyone_permuted = tensors**2 + first**2 + (depth - 1) * hidden**2 + last**2 + depth
    assert NPLinear.count(structure, 1, 1, bias=False) == everyone_permuted
    assert NPLinear.count(structure, 4, 8) == 32 * everyone_permuted + 8 * tensors
    tensors = inputs + 3 + outputs + outputs
    hidden_permuted = tensors**2 + (inputs + 2) ** 2 + (2 + outputs) ** 2 + (depth - 2)
    assert HNPLinear.count(structure, 1, 1, bias=False) == hidden_permuted
    assert HNPLinear.count(structure, 4, 8) == 32 * hidden_permuted + 8 * tensors


LAYERS: dict[str, Callable[[Structure], nn.Module]] = {
    "np": lambda s: NPLinear(s, 2, 3),
    "np_local": lambda s: NPLinear(s, 2, 3, terms="local"),
    "np_max": lambda s: NPLinear(s, 2, 3, aggr="max"),
    "np_sum": lambda s: NPLinear(s, 2, 3, aggr="sum"),
    "hnp": lambda s: HNPLinear(s, 2, 3),
    "hnp_local": lambda s: HNPLinear(s, 2, 3, terms="local"),
    "hnp_rank": lambda s: HNPLinear(s, 2, 3, rank=2),
    "dws": lambda s: DWSLayer(s, 2, 3, off_diagonal=0.5),
    "dws_local": lambda s: DWSLayer(s, 2, 3, aggr="mean", terms="local", off_diagonal=0.5),
    "pointwise": lambda s: Pointwise(s, 2, 3),
    "sinusoidal": lambda s: IOEncoding(s, 2, bands=2),
    "learned": lambda s: IOEncoding(s, 2, "learned"),
    "layer": lambda s: LayerEncoding(s, 2),
    "fourier": lambda s: FourierFeatures(2, 6),
    "perceptron": lambda s: WeightPerceptron(2, (5, 3)),
    "channel_norm": lambda s: ChannelNorm(2),
    "tensor_norm": lambda s: TensorNorm(s, 2),
    "dropout": lambda s: ChannelDropout(0.5),
}
POINTWISE = (
    "pointwise",
    "fourier",
    "perceptron",
    "channel_norm",
    "tensor_norm",
    "layer",
    "sinusoidal",
    "learned",
    "dropout",
)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["mlp", "mixed_cnn", "residual", "attention", "recurrent", "grouped"])
def test_layers_commute_with_permutations(name: str, layer: str, seeded: torch.Generator) -> None:
    structure = {**small_structures(), "mixed_cnn": structures()["cnn"]}[name]
    made, features = LAYERS[layer](structure), random_features(structure, channels=2)
    true, false = (sample_permutation(structure, seeded, coupled=coupled) for coupled in (True, False))
    assert_equivariant(
        made, features, PermutationAction(true), None if layer in POINTWISE else PermutationAction(false)
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_look_at_one_network_at_a_time(layer: str) -> None:
    structure = small_structures()["residual"]
    made, features = LAYERS[layer](structure).double().eval(), random_features(structure, 3, channels=2)
    together = flat(made(features))
    alone = torch.cat([flat(made(features.map(lambda t, i=i: t[i : i + 1]))) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_keep_their_state(layer: str, seeded: torch.Generator) -> None:
    structure = small_structures()["attention"]
    one, other = (LAYERS[layer](structure).double().eval() for _ in range(2))
    other.load_state_dict(one.state_dict())
    features = random_features(structure, channels=2)
    assert torch.equal(flat(one(features)), flat(other(features)))


def test_a_weight_perceptron_does_the_same_to_every_weight_by_itself() -> None:
    structure = small_structures()["residual"]
    layer, features = WeightPerceptron(2, (5, 3)).double(), random_features(structure, 3, channels=2)
    found = layer(features)
    textbook = nn.Sequential(layer.layers[0], nn.GELU(), layer.layers[1], nn.GELU())
    assert list(found) == list(features)
    for name, tensor in features.items():
        torch.testing.assert_close(found[name], textbook(tensor), rtol=1e-12, atol=1e-14)
    assert "2 -> 5 -> 3" in repr(layer)
    with pytest.raises(ValueError, match=r"widths=\(\) leaves no layer"):
        WeightPerceptron(2, ())


@pytest.mark.parametrize("layer", ["np", "np_local", "np_max", "hnp", "hnp_rank", "tensor_norm", "learned"])
def test_gradients(layer: str) -> None:
    structure = small_structures()["attention"]
    made, features = LAYERS[layer](structure).double(), random_features(structure, 1, channels=2)
    names, tensors = list(features), [t.requires_grad_() for t in features.values()]
    direction = [torch.randn_like(t) for t in made(features).values()]

    def project(*values: Tensor) -> Tensor:
        out = made(WeightSpaceFeatures(dict(zip(names, values, strict=True))))
        return sum((t * d).sum() for t, d in zip(out.values(), direction, strict=True))

    assert torch.autograd.gradcheck(project, tuple(tensors), fast_mode=True)


@pytest.mark.parametrize("aggr", ["mean", "sum"])
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", small_structures())
def test_the_fused_layer_is_the_textbook_one(name: str, symmetry: str, aggr: str) -> None:
    structure = small_structures()[name]
    layer = make(symmetry)(structure, 2, 3, aggr=aggr).double()
    parts = [part.clone().requires_grad_() for part in layer.pieces.split(random_features(structure, channels=2))]
    wanted, got = layer.reference(parts), layer.on_pieces(parts)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    directions = [torch.randn_like(part) for part in wanted]
    leaves = [*parts, *layer.parameters()]
    gradients = [torch.autograd.grad(out, leaves, directions) for out in (got, wanted)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


def test_only_the_textbook_layer_has_second_derivatives() -> None:
    structure = small_structures()["mlp"]
    layer = NPLinear(structure, 1, 1).double()
    parts = [part.clone().requires_grad_() for part in layer.pieces.split(random_features(structure))]
    direction = [torch.ones_like(part).requires_grad_() for part in parts]

    def again(out: list[Tensor]) -> None:
        (first,) = torch.autograd.grad(out, [layer.matrices[0]], direction, create_graph=True)
        first.square().sum().backward()

    again(layer.reference(parts))
    assert direction[0].grad.abs().max() > 0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        again(layer.on_pieces(parts))


def test_compiling_changes_nothing() -> None:
    structure = small_structures()["residual"]
    layer, features = NPLinear(structure, 2, 2).double(), random_features(structure, channels=2)
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(flat(compiled(features)), flat(layer(features)), rtol=1e-10, atol=1e-12)
    gradients = []
    for module in (compiled, layer):
        layer.zero_grad()
        flat(module(features)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


def test_weights_between_tensors_begin_smaller_in_deep_weight_spaces() -> None:
    structure = small_structures()["mlp"]
    layer = DWSLayer(structure, 1, 1, off_diagonal=0.0, aggr="mean").double()
    features = random_features(structure)
    alone = WeightSpaceFeatures({n: t if n == "0.bias" else torch.zeros_like(t) for n, t in features.items()})
    moved = {name for name, tensor in layer(alone).items() if tensor.abs().max() > 0}
    assert moved == {"0.bias"}


def test_inputs_and_outputs_are_told_apart_where_they_should_be(seeded: torch.Generator) -> None:
    structure = small_structures()["mlp"]
    features = random_features(structure, channels=2)
    inputs = [g for g, group in enumerate(structure.groups) if group.role == "input"]
    swap = PermutationAction(Permutation(opened(structure), {inputs[0]: torch.tensor([1, 0])}))
    layers = {**LAYERS, "np_marked": lambda s: nn.Sequential(IOEncoding(s, 2), NPLinear(s, 26, 3))}
    for name, build in layers.items():
        if name.startswith(("np", "hnp")):
            layer = build(structure).double()
            error = relative_error(layer(swap @ features), swap @ layer(features))
            assert (error < 1e-10) == (name in ("np", "np_local", "np_max", "np_sum")), name


def test_channel_dropout_drops_the_same_channels_everywhere() -> None:
    features = WeightSpaceFeatures({"a": torch.ones(4, 3, 2, 8), "b": torch.ones(4, 3, 8)})
    torch.manual_seed(0)
    out = ChannelDropout(0.5)(features)
    assert set(out["a"].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out["a"][:, 0, 0], out["b"][:, 0])
    assert torch.equal(out["a"], out["a"][:, :1, :1].expand_as(out["a"]))


def test_a_layer_that_is_too_large_is_refused_before_it_is_made() -> None:
    structure = trace(mlp(784, 128, 128, 10))
    assert HNPLinear.count(structure, 32, 32) > 1.2e9
    with pytest.raises(ValueError, match=r"1,299,676,384 parameters, 4\.8 GiB .*rank=8"):
        HNPLinear(structure, 32, 32)
    assert HNPLinear.count(structure, 32, 32, rank=4) < 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": "some"}, "terms='some' is unknown; choose one of all, local"),
        ({"aggr": "median"}, "aggr='median' is unknown"),
        ({"rank": 0}, "rank=0 tells inputs and outputs apart"),
    ],
)
def test_unknown_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HNPLinear(small_structures()["mlp"], 1, 1, **arguments)


def test_features_of_another_structure_are_refused() -> None:
    with pytest.raises(StructureMismatch, match=r"differ in: \['.*'\]. Take them from weight_space"):
        NPLinear(small_structures()["mlp"], 1, 1)(random_features(small_structures()["cnn"]).to(torch.float32))
