"""Tests of equivariance as assertions that cannot pass by accident.

All run in float64, compare relative errors, refuse outputs that are constant, and take a negative control: a false
symmetry (each axis permuted by itself) must be noticed. That a permutation is itself a true symmetry of the network's
function is for `converters.verify` to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from converters import (
    NeuronGraph,
    Permutation,
    WeightSpaceFeatures,
    collate,
    permute,
    relabelling,
    same_structure,
    sample_permutation,
)
from converters.neuron_graph import topology
from graphnets.layered import Networks

__all__ = [
    "EdgeFeatures",
    "NodeFeatures",
    "PermutationAction",
    "SetAction",
    "assert_equivariant",
    "assert_independent",
    "assert_invariant",
    "in_double",
    "permuted",
    "relative_error",
]

T = TypeVar("T")


@dataclass(frozen=True)
class NodeFeatures:
    """Features of all neurons of networks of one structure, ``[..., N, C]``."""

    values: Tensor


@dataclass(frozen=True)
class EdgeFeatures:
    """Features of all weights of networks of one structure, ``[..., E, C]`` in the order of the graph."""

    values: Tensor


class PermutationAction:
    """A permutation of neurons, acting by ``@`` on every kind of feature.

    Graphs, batches, state_dicts and `WeightSpaceFeatures` as `converters.permute` does, `NodeFeatures` and
    `EdgeFeatures` by relabelling; tuples and lists item by item; a plain tensor is taken for an invariant and stays.

    >>> from converters import trace
    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    >>> action = PermutationAction(sample_permutation(trace(net)))
    >>> (action @ NodeFeatures(torch.arange(9.0)[:, None])).values[[0, 1, 6, 7, 8], 0]
    tensor([0., 1., 6., 7., 8.])
    """

    def __init__(self, permutation: Permutation) -> None:
        self.permutation = permutation
        top = topology(permutation.structure)
        self.node_order = relabelling(permutation.structure, permutation)
        size = permutation.structure.num_nodes
        source, target = top.edge_index
        block = top.edge_layer * size * size
        keys = block + source * size + target
        wanted = block + self.node_order[source] * size + self.node_order[target]
        order = torch.argsort(keys)
        self.edge_order = order[torch.searchsorted(keys[order], wanted)]

    def __matmul__(self, value: Any) -> Any:
        if isinstance(value, NodeFeatures):
            return NodeFeatures(value.values.index_select(-2, self.node_order))
        if isinstance(value, EdgeFeatures):
            return EdgeFeatures(value.values.index_select(-2, self.edge_order))
        if isinstance(value, (Data, Batch, WeightSpaceFeatures, Mapping)):
            return permute(value, self.permutation)
        if isinstance(value, (tuple, list)):
            return type(value)(self @ item for item in value)
        return value


@dataclass(frozen=True)
class SetAction:
    """A reordering of one axis of plain tensors: the symmetry of sets."""

    order: Tensor
    axis: int = -2

    def __matmul__(self, value: Tensor) -> Tensor:
        return value.index_select(self.axis, self.order)


def in_double(value: T) -> T:
    """Every floating-point tensor of a feature, module, graph or batch in float64; a copy."""
    if isinstance(value, nn.Module):
        return deepcopy(value).double()
    if isinstance(value, Tensor):
        return cast(T, value.double() if value.is_floating_point() else value)
    if isinstance(value, (NodeFeatures, EdgeFeatures)):
        return type(value)(value.values.double())
    if isinstance(value, WeightSpaceFeatures):
        return cast(T, value.map(Tensor.double))
    if isinstance(value, (tuple, list)):
        return type(value)(in_double(item) for item in value)
    if isinstance(value, Mapping):
        return cast(T, {key: in_double(item) for key, item in value.items()})
    if isinstance(value, (Data, Batch)):
        out = copy(value)
        for key in list(value.keys()):
            out[key] = in_double(value[key]) if isinstance(value[key], Tensor) else value[key]
        return out
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (NodeFeatures, EdgeFeatures)):
        return [value.values]
    if isinstance(value, (Data, Batch)):
        return [value.x, value.edge_attr]
    if isinstance(value, Mapping):
        return [value[key] for key in sorted(value)]
    return [tensor for item in value for tensor in _tensors(item)]


def relative_error(a: Any, b: Any) -> float:
    """The largest difference of two features over the size of the second."""
    pairs = list(zip(_tensors(a), _tensors(b), strict=True))
    size = max(float(y.detach().abs().max()) for _, y in pairs if y.numel())
    return max(float((x - y).detach().abs().max()) for x, y in pairs if y.numel()) / max(size, 1e-300)


def assert_equivariant(
    layer: Callable[[Any], Any],
    x: Any,
    action: Any,
    control: Any = None,
    tolerance: float = 1e-9,
    noticed: float = 1e-3,
) -> None:
    """``layer(g @ x) == g @ layer(x)``, in float64 and evaluation mode.

    Args:
        layer: a module or a function of one argument.
        x: any feature that ``action`` acts on.
        action: g, for instance a `PermutationAction`.
        control: a false symmetry, which must not commute with the layer.
        tolerance: the largest relative error allowed; ``noticed``: the smallest that a false symmetry must make.

    Raises:
        AssertionError: an error is too large, the output is constant, or the control went unnoticed.
    """
    if isinstance(layer, nn.Module):
        layer = in_double(layer).eval()
    x = in_double(x)
    out = layer(x)
    spread = max(float(t.detach().double().std()) for t in _tensors(out) if t.numel() > 1)
    assert spread > 1e-6, f"the output is constant (deviation {spread:.1e}), which proves nothing"
    error = relative_error(layer(action @ x), action @ out)
    assert error < tolerance, f"not equivariant: relative error {error:.1e}, allowed {tolerance:.1e}"
    if control is not None:
        error = relative_error(layer(control @ x), control @ out)
        assert error > noticed, f"a false symmetry went unnoticed: relative error {error:.1e}, expected > {noticed:.1e}"


def permuted(batch: Networks, generator: torch.Generator | None = None, coupled: bool = True) -> Networks:
    """Networks with their neurons in another order: one permutation for all of a structure's networks."""
    structure = same_structure(batch)
    if structure is not None:
        out: Networks = permute(batch, sample_permutation(structure, generator, coupled))
        out.kernel_size = batch.kernel_size
        return out
    graphs: list[NeuronGraph] = batch.to_data_list()
    return collate([permute(graph, sample_permutation(graph.structure, generator, coupled)) for graph in graphs])


def assert_invariant(
    model: nn.Module,
    batch: Networks,
    generator: torch.Generator | None = None,
    samples: int = 2,
    tolerance: float = 1e-9,
    noticed: float = 1e-3,
) -> None:
    """True permutations leave every network's prediction as it is; a false one does not.

    Args:
        model: from a batch of graphs to ``[B, targets]``.
        batch: at least two different networks.
        generator: of the permutations.
        samples: how many true permutations.
        tolerance, noticed: as in `assert_equivariant`; relative to the predictions' deviation between networks.

    Raises:
        AssertionError: a prediction changed, all networks have the same one, or the control went unnoticed.
    """
    model, batch = in_double(model).eval(), in_double(batch)
    with torch.no_grad():
        expected = model(batch)
        spread = float(expected.std(0).max())
        assert spread > 1e-6, f"all predictions are equal (deviation {spread:.1e}), which proves nothing"
        for _ in range(samples):
            error = float((model(permuted(batch, generator)) - expected).abs().max()) / spread
            assert error < tolerance, f"not invariant: error {error:.1e} of the spread, allowed {tolerance:.1e}"
        error = float((model(permuted(batch, generator, coupled=False)) - expected).abs().max()) / spread
        assert error > noticed, f"a false symmetry went unnoticed: error {error:.1e}, expected > {noticed:.1e}"


def assert_independent(model: nn.Module, batch: Networks, tolerance: float = 1e-9) -> None:
    """A network's prediction is the same alone and in a batch.

    Raises:
        AssertionError: it is not.
    """
    model, batch = in_double(model).eval(), in_double(batch)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(graph) for graph in batch.to_data_list()])
    error = relative_error(together, alone)
    assert error < tolerance, f"predictions depend on the batch: relative error {error:.1e}, allowed {tolerance:.1e}"
