"""The inverse of ``to_graph``: a graph back into the state_dict, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch

from converters.errors import StructureMismatch
from converters.layout import same_layout
from converters.neuron_graph import (
    Extras,
    NeuronGraph,
    NeuronGraphs,
    StackedExtras,
    kernel_columns,
    same_structure,
)
from converters.structure import Block, Parameter, Structure
from converters.vocabulary import NODE_SLOTS

__all__ = ["to_state_dict"]


def to_state_dict(graph: NeuronGraph | NeuronGraphs) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied tensors under each of their names.

    A batch of one architecture gives stacked tensors ``[B, *shape]``. Differentiable in ``x`` and ``edge_attr``, so
    gradients of anything computed from the weights reach the graph.

    Raises:
        StructureMismatch: a batch of several architectures (take ``batch[i]``), or tensors that do not fit.
    """
    structure = same_structure(graph)
    if structure is None:
        raise StructureMismatch("this batch holds several architectures; convert each graph = batch[i] by itself")
    if isinstance(graph, Batch):
        return _batch_weights(graph, structure)
    if not graph.is_materialized:
        return dict(graph.views)
    extras = {name: tensor.unsqueeze(0) for name, tensor in graph.extras.tensors.items()}
    return {name: value[0] for name, value in _read(graph, structure, 1, graph.kernel_size, extras).items()}


def _batch_weights(graph: NeuronGraphs, structure: Structure) -> dict[str, Tensor]:
    return _read(graph, structure, len(graph.structure), graph.kernel_size[0], _stacked_extras(graph.extras))


def _read(
    graph: NeuronGraph | NeuronGraphs,
    structure: Structure,
    count: int,
    kernel: tuple[int, ...],
    extras: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Stacked weights from the tensors of ``count`` graphs."""
    if graph.x.shape[0] != count * structure.num_nodes or graph.edge_attr.shape[0] != count * structure.num_edges:
        raise StructureMismatch(
            f"the graph has {graph.x.shape[0]} nodes and {graph.edge_attr.shape[0]} edges, {count} x {structure.name} "
            f"have {count * structure.num_nodes} and {count * structure.num_edges}; some were added or removed"
        )
    x = graph.x.view(count, structure.num_nodes, len(NODE_SLOTS))
    edge_attr = graph.edge_attr.view(count, structure.num_edges, graph.edge_attr.shape[-1])
    stacked = read_features(x, edge_attr, structure, kernel) | dict(extras)
    for parameter in structure.parameters:
        if parameter.alias_of is not None:
            stacked[parameter.name] = stacked[parameter.alias_of]
    return {p.name: stacked[p.name] for p in structure.parameters}


def _stacked_extras(extras: Sequence[Extras] | StackedExtras) -> dict[str, Tensor]:
    if isinstance(extras, StackedExtras):
        return extras.tensors
    each = [item.tensors for item in extras]
    return {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}


def read_features(x: Tensor, edge_attr: Tensor, structure: Structure, kernel: tuple[int, ...]) -> dict[str, Tensor]:
    """``x [B, N, F]`` and ``edge_attr [B, E, K]`` as ``{name: [B, *shape]}``; tensors in extras are left out."""
    out: dict[str, Tensor] = {}
    pieces: dict[str, list[tuple[Block, Tensor]]] = {}
    for layer, lo, hi in zip(structure.layers, structure.node_offsets[:-1], structure.node_offsets[1:], strict=True):
        for slot, name in layer.slots:
            values = x[:, lo:hi, NODE_SLOTS.index(slot)]
            out[name] = values.reshape(-1, *structure.parameter[name].shape).contiguous()
    for block, lo, hi in zip(structure.blocks, structure.edge_offsets[:-1], structure.edge_offsets[1:], strict=True):
        if block.parameter is None:
            continue
        columns = kernel_columns(block.kernel, kernel)
        values = edge_attr[:, lo:hi] if columns is None else edge_attr[:, lo:hi, columns.to(edge_attr.device)]
        pieces.setdefault(block.parameter, []).append((block, values))
    for name, blocks in pieces.items():
        out[name] = _assemble(structure.parameter[name], blocks)
    return out


def _assemble(parameter: Parameter, pieces: list[tuple[Block, Tensor]]) -> Tensor:
    if len(pieces) == 1 and not pieces[0][0].index and not pieces[0][0].span:
        return _unblock(parameter, *pieces[0])
    whole = pieces[0][1].new_zeros(pieces[0][1].shape[0], *parameter.shape)
    for block, values in pieces:
        target = whole
        for axis, start, stop in block.span:
            target = target.narrow(axis + 1, start, stop - start)
        for axis, position in sorted(block.index, reverse=True):
            target = target.select(axis + 1, position)
        target.copy_(_unblock(parameter, block, values))
    return whole


def _unblock(parameter: Parameter, block: Block, values: Tensor) -> Tensor:
    """Inverse of ``block_view``: ``[B, edges, k]`` to ``[B, *shape without the indexed axes]``."""
    part = {axis: stop - start for axis, start, stop in block.span}
    permuted = [part.get(axis, parameter.shape[axis]) for axis in block.axes]
    kept = [axis - sum(outer < axis for outer, _ in block.index) for axis in block.axes]
    back = torch.argsort(torch.tensor(kept)).tolist()
    if block.groups > 1 and kept[0] > kept[1]:
        values = values.reshape(values.shape[0], *block.shape, -1).movedim(1, 2)
    return values.reshape(-1, *permuted).permute(0, *(axis + 1 for axis in back)).contiguous()


def stacked_weights(
    source: NeuronGraph | NeuronGraphs | Mapping[str, Tensor], structure: Structure
) -> dict[str, Tensor]:
    """Weights of any kind as ``{name: [B, *shape]}``: a graph, a batch, a state_dict or a stack of them.

    Raises:
        StructureMismatch: the source is of another structure.
    """
    if isinstance(source, (NeuronGraph, Batch)):
        return _graph_weights(source, structure)
    missing = [p.name for p in structure.parameters if p.name not in source]
    if missing:
        raise StructureMismatch(f"weights of {structure.name} lack {', '.join(missing)}")
    if not structure.parameters:
        return {}
    first = structure.parameters[0]
    single = source[first.name].dim() == len(first.shape)
    return {p.name: source[p.name].unsqueeze(0) if single else source[p.name] for p in structure.parameters}


def _graph_weights(graph: NeuronGraph | NeuronGraphs, structure: Structure) -> dict[str, Tensor]:
    """Stacked weights of a graph or a batch; its networks may differ from ``structure`` in activation only."""
    each = graph.structure if isinstance(graph, Batch) else [graph.structure]
    for own in dict.fromkeys(each):
        if own != structure and not same_layout(own, structure):
            raise StructureMismatch(f"the graph is of {own!r}, not of {structure!r}")
    if not isinstance(graph, Batch):
        return {name: value.unsqueeze(0) for name, value in to_state_dict(graph).items()}
    return _batch_weights(graph, structure)
