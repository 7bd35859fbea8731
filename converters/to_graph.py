"""From networks to neuron graphs: one network, a stack of one architecture, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from converters.errors import ArchitectureError, StructureMismatch
from converters.layout import same_layout
from converters.load_weights import load_weights
from converters.neuron_graph import (
    MAX_EDGES,
    Extras,
    Kernel,
    NeuronGraph,
    NeuronGraphs,
    StackedExtras,
    Topology,
    block_view,
    check_size,
    kernel_columns,
    topology,
)
from converters.pretrained import Architecture, has_config, load_pretrained
from converters.structure import Structure
from converters.vocabulary import NODE_SLOTS
from converters.weights import checked_weights, stack_size

__all__ = ["collate", "to_graph", "to_graphs"]

SHARED = (
    "edge_index",
    "edge_type",
    "edge_layer",
    "node_type",
    "node_layer",
    "node_group",
    "node_slot",
    "node_position",
)


def to_graph(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    example_inputs: Any = None,
    *,
    structure: Structure | None = None,
    architecture: Architecture | None = None,
    strict: bool = False,
    rules: Mapping[str, Any] | None = None,
    cache: bool | Literal["attributes"] = True,
    materialize: bool = True,
    max_edges: int | None = MAX_EDGES,
    kernel_size: tuple[int, ...] | None = None,
) -> NeuronGraph:
    """One node per neuron or channel, one edge per weight or kernel.

    Args:
        source: a network; or weights: a state_dict, a file or a Hugging Face folder. Of weights the architecture is
            what ``structure`` or ``architecture`` says, else what the folder's ``config.json`` says, else guessed where
            names and shapes form a chain of layers (``structure.certified`` is then False), else an error.
        example_inputs: what :func:`~converters.trace` runs the network on once; inferred for simple networks.
        structure: skips tracing; get it from :func:`~converters.trace` or from another graph.
        architecture: what the weights belong to; see :func:`~converters.load_pretrained`.
        strict, rules, cache: see :func:`~converters.trace`; ``cache="attributes"`` makes the second network of an
            architecture nearly free.
        materialize: False keeps views of the parameters, unread; ``graph.materialize()`` checks and fills in. Of a
            safetensors file nothing but the header is read then.
        max_edges: refuse to write out a larger graph; None for no limit.
        kernel_size: pads kernels to at least this size (default: the largest of the structure).

    Raises:
        UnsupportedOperation: ``strict=True`` and an operation has no rule.
        StructureMismatch: the weights are not of this structure; missing, surplus and misshapen names are listed.
        ExampleInputError: no input could be inferred.
        ArchitectureError: nothing tells what the weights belong to.
        WeightsError: a file is damaged, wants to run code, or holds NaN.
        GraphTooLarge: more than ``max_edges`` edges, with an estimate of the memory.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> graph = to_graph(net)
    >>> graph
    NeuronGraph(Sequential: 13 nodes, 40 edges)
    >>> from converters import to_state_dict
    >>> all(torch.equal(to_state_dict(graph)[k], v) for k, v in net.state_dict().items())
    True
    """
    structure, weights = _resolved(
        source, example_inputs, structure, architecture, {"strict": strict, "rules": rules, "cache": cache}
    )
    kernel = _full_kernel(structure, kernel_size)
    if materialize:
        check_size(structure, kernel, max_edges)
    views = checked_weights(weights, structure, finite=materialize)
    graph = NeuronGraph()
    if materialize:
        return fill(graph, views, structure, kernel)
    graph.structure, graph.kernel_size, graph.views = structure, kernel, views
    return graph


def _resolved(
    source: Any,
    example_inputs: Any,
    structure: Structure | None,
    architecture: Architecture | None,
    tracing: dict[str, Any],
) -> tuple[Structure, Mapping[str, Tensor]]:
    """The structure of a network or of weights, and the weights."""
    from converters.trace import trace

    if isinstance(source, nn.Module):
        return structure or trace(source, example_inputs, **tracing), source.state_dict()
    if not isinstance(source, (str, PathLike, Mapping)):
        raise ArchitectureError(
            f"to_graph takes a module, a state_dict, a file or a folder of weights, not a {type(source).__name__}"
        )
    if structure is not None:
        if isinstance(source, Mapping):
            return structure, source
        return structure, load_weights(source, structure=structure, allow_nonfinite=True)
    if architecture is None and (isinstance(source, Mapping) or not has_config(source)):
        from converters.sequential import guess_structure

        weights = source if isinstance(source, Mapping) else load_weights(source, allow_nonfinite=True)
        return guess_structure(weights), weights
    found = load_pretrained(source, architecture)
    return found.trace(example_inputs, **tracing), found.weights


def fill(
    graph: NeuronGraph,
    weights: Mapping[str, Tensor],
    structure: Structure,
    kernel_size: tuple[int, ...] | None,
) -> NeuronGraph:
    """Write the tensors of one network into ``graph``."""
    kernel = _full_kernel(structure, kernel_size)
    x, edge_attr, extras = features({k: v.unsqueeze(0) for k, v in weights.items()}, structure, kernel, 1)
    graph.x, graph.edge_attr = x[0], edge_attr[0]
    for key, value in _shared(topology(structure), x.device).items():
        graph[key] = value
    graph.structure, graph.kernel_size = structure, kernel
    graph.extras = Extras({name: tensor[0] for name, tensor in extras.items()})
    return graph


def features(
    stacked: Mapping[str, Tensor], structure: Structure, kernel: tuple[int, ...], count: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Stacked weights ``{name: [B, *shape]}`` as ``x [B, N, F]``, ``edge_attr [B, E, K]`` and the rest."""
    like = next((stacked[p.name] for p in structure.parameters if p.dtype == structure.dtype), None)
    dtype = getattr(torch, structure.dtype) if like is None else like.dtype
    device = next(iter(stacked.values())).device if stacked else None
    x = torch.zeros(count, structure.num_nodes, len(NODE_SLOTS), dtype=dtype, device=device)
    width = 1
    for size in kernel:
        width *= size
    edge_attr = torch.zeros(count, structure.num_edges, width, dtype=dtype, device=device)
    for layer, lo, hi in zip(structure.layers, structure.node_offsets[:-1], structure.node_offsets[1:], strict=True):
        for slot, name in layer.slots:
            x[:, lo:hi, NODE_SLOTS.index(slot)] = stacked[name].reshape(count, -1)
    for block, lo, hi in zip(structure.blocks, structure.edge_offsets[:-1], structure.edge_offsets[1:], strict=True):
        if block.parameter is None:
            continue
        values = block_view(stacked[block.parameter], block).reshape(count, hi - lo, -1)
        columns = kernel_columns(block.kernel, kernel)
        if columns is None:
            edge_attr[:, lo:hi] = values
        else:
            edge_attr[:, lo:hi, columns.to(edge_attr.device)] = values
    return x, edge_attr, {name: stacked[name] for name in structure.extras}


def _full_kernel(structure: Structure, kernel_size: tuple[int, ...] | None) -> tuple[int, ...]:
    if kernel_size is None:
        return structure.kernel_size
    kernel_columns(structure.kernel_size, tuple(kernel_size))
    return tuple(kernel_size)


def _shared(top: Topology, device: torch.device) -> dict[str, Tensor]:
    names = (*SHARED, "activation", "node_attributes", "node_mask")
    return {name: getattr(top, name).to(device) for name in names}


def to_graphs(
    weights: Mapping[str, Tensor],
    structure: Structure | Sequence[Structure],
    *,
    kernel_size: tuple[int, ...] | None = None,
) -> NeuronGraphs:
    """A whole stack of networks ``{name: [n, *shape]}`` as one batch, without a Python loop over networks.

    ``structure`` may be a sequence, one entry per network, when they differ in nothing but what their layers compute
    (activation, eps, stride): same layers, blocks and parameters.

    >>> from converters import trace
    >>> net = nn.Linear(2, 3)
    >>> stack = {name: torch.stack([value] * 5) for name, value in net.state_dict().items()}
    >>> to_graphs(stack, trace(net))
    NeuronGraphs(5 networks, 25 nodes, 30 edges)
    """
    per_network = None if isinstance(structure, Structure) else list(structure)
    first = cast(Structure, structure) if per_network is None else per_network[0]
    stacked = checked_weights(weights, first, stacked=True)
    count = stack_size(stacked, first)
    structures = [first] * count if per_network is None else per_network
    if len(structures) != count:
        raise StructureMismatch(f"{len(structures)} structures for a stack of {count} networks; give one for each")
    kernel = _full_kernel(first, kernel_size)
    x, edge_attr, extras = features(stacked, first, kernel, count)
    batch: NeuronGraphs = NeuronGraphs(_base_cls=NeuronGraph)
    device, nodes, edges = x.device, first.num_nodes, first.num_edges
    steps = torch.arange(count + 1)
    shared = _shared(topology(first), device)
    offsets = (steps[:-1] * nodes).to(device).repeat_interleave(edges)
    batch.x, batch.edge_attr = x.reshape(count * nodes, -1), edge_attr.reshape(count * edges, -1)
    batch.edge_index = shared.pop("edge_index").repeat(1, count) + offsets
    varied = _per_network(structures, device) if per_network is not None else {}
    for key, value in shared.items():
        batch[key] = varied[key] if key in varied else value.repeat(count, *([1] * (value.dim() - 1)))
    batch.structure, batch.kernel_size = structures, [kernel] * count
    batch.extras = StackedExtras(extras, count)
    batch.batch = torch.arange(count, device=device).repeat_interleave(nodes)
    batch.ptr = (steps * nodes).to(device)
    per_edge = ("edge_attr", "edge_index", "edge_type", "edge_layer")
    single = ("structure", "kernel", "extras")
    keys = [key for key in batch.to_dict() if key not in ("batch", "ptr")]
    sizes = {key: edges if key in per_edge else 1 if key in single else nodes for key in keys}
    batch._num_graphs = count
    batch._slice_dict = {key: steps * sizes[key] for key in keys}
    batch._inc_dict = {key: None if key in single else torch.zeros(count, dtype=torch.long) for key in keys}
    batch._inc_dict["edge_index"] = steps[:-1] * nodes
    return batch


def _per_network(structures: Sequence[Structure], device: torch.device) -> dict[str, Tensor]:
    """Activation and attributes of networks that share everything else."""
    distinct = list(dict.fromkeys(structures))
    for other in distinct[1:]:
        if not same_layout(other, distinct[0]):
            raise StructureMismatch(
                f"{distinct[0].name} and {other.name} differ in layers, blocks or parameters; "
                "convert each with to_graphs and join them with collate"
            )
    which = torch.tensor([distinct.index(s) for s in structures] if len(distinct) > 1 else [0] * len(structures))
    tops = [topology(s) for s in distinct]
    names = ("activation", "node_attributes")
    stacks = {name: torch.stack([getattr(top, name) for top in tops]) for name in names}
    return {name: stack[which].flatten(0, 1).to(device) for name, stack in stacks.items()}


def collate(graphs: Sequence[NeuronGraph]) -> NeuronGraphs:
    """A batch of graphs of any architectures; kernels are padded to the widest, and un-batching undoes it.

    >>> batch = collate([to_graph(nn.Linear(2, 3)), to_graph(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))])
    >>> [graph.kernel_size for graph in batch.to_data_list()]
    [(), (3, 3)]
    """
    if not graphs:
        raise StructureMismatch("cannot collate an empty list of graphs")
    kernels = [graph.kernel_size for graph in graphs]
    rank = max(len(kernel) for kernel in kernels)
    padded = [(1,) * (rank - len(kernel)) + kernel for kernel in kernels]
    full = tuple(max(sizes) for sizes in zip(*padded, strict=True))
    widened = [_widen(graph, full) for graph in graphs]
    batch: NeuronGraphs = NeuronGraphs.from_data_list(widened)
    if any(kernel != full for kernel in kernels):
        batch.own_kernel = [Kernel(kernel) for kernel in kernels]
    return batch


def _widen(graph: NeuronGraph, full: tuple[int, ...]) -> NeuronGraph:
    graph = graph.materialize()
    if graph.kernel_size == full:
        return graph
    out = cast(NeuronGraph, graph.__copy__())
    columns = kernel_columns(graph.kernel_size, full)
    if columns is not None:
        width = int(torch.tensor(full).prod())
        out.edge_attr = graph.edge_attr.new_zeros(graph.edge_attr.shape[0], width)
        out.edge_attr[:, columns.to(graph.edge_attr.device)] = graph.edge_attr
    out.kernel_size = full
    return out
