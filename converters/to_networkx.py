"""Neuron graphs as networkx graphs, for people who look: every number with its name."""

from __future__ import annotations

import networkx
from torch_geometric.data import Batch

from converters.errors import StructureMismatch
from converters.neuron_graph import NeuronGraph, kernel_columns
from converters.to_graph import fill
from converters.vocabulary import NODE_SLOTS

__all__ = ["to_networkx"]


def to_networkx(graph: NeuronGraph) -> networkx.MultiDiGraph:
    """The graph with names and types as attributes; nodes are numbered as in ``graph``, edges in its order.

    Attributes:
        of a node: ``layer`` (name), ``kind``, ``activation``, ``index`` within the layer, ``group`` (name, None where
            the node is no neuron), ``permutable``, and each parameter it owns under its slot's name (``bias``,
            ``scale``, ...); absent is not zero.
        of an edge: ``type``, ``block`` (name), and where it carries a weight ``parameter`` (name) and ``weight``: the
            kernel, flattened and without padding, as a list of floats.
        of the graph: ``name``, ``fingerprint``, ``kernels`` (block name -> kernel shape) and ``extras``, the tensors
            that belong to no neuron, as lists.

    Raises:
        StructureMismatch: ``graph`` is a batch; convert each of its graphs.

    >>> import torch.nn as nn
    >>> from converters import to_graph
    >>> net = to_networkx(to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))))
    >>> {key: net.nodes[2][key] for key in ("layer", "kind", "activation", "index", "permutable")}
    {'layer': '0', 'kind': 'linear', 'activation': 'relu', 'index': 0, 'permutable': True}
    >>> sorted(net.edges[0, 2, 0])
    ['block', 'parameter', 'type', 'weight']
    """
    if isinstance(graph, Batch):
        raise StructureMismatch(
            f"to_networkx takes one graph, got a batch of {graph.num_graphs}; convert each graph = batch[i] by itself"
        )
    if not graph.is_materialized:
        graph = fill(NeuronGraph(), graph.views, graph.structure, None)
    structure = graph.structure
    out = networkx.MultiDiGraph(
        name=structure.name,
        fingerprint=structure.fingerprint,
        kernels={block.name: block.kernel for block in structure.blocks if block.parameter is not None},
        extras={name: tensor.tolist() for name, tensor in graph.extras.tensors.items()},
    )
    _add_nodes(out, graph)
    _add_edges(out, graph)
    return out


def _add_nodes(out: networkx.MultiDiGraph, graph: NeuronGraph) -> None:
    structure, values = graph.structure, graph.x.detach()
    columns = dict(zip(NODE_SLOTS, values.t().tolist(), strict=True))
    for layer, start in zip(structure.layers, structure.node_offsets[:-1], strict=True):
        owned = [slot for slot, _ in layer.slots]
        for index, group in enumerate(layer.axis.group.values.tolist()):
            node = start + index
            out.add_node(
                node,
                layer=layer.name,
                kind=layer.kind,
                activation=layer.activation,
                index=index,
                group=structure.groups[group].name if group >= 0 else None,
                permutable=bool(group >= 0 and structure.groups[group].permutable),
                **{slot: columns[slot][node] for slot in owned},
            )


def _add_edges(out: networkx.MultiDiGraph, graph: NeuronGraph) -> None:
    structure, weights = graph.structure, graph.edge_attr.detach()
    ends = graph.edge_index.t().tolist()
    for block, start, stop in zip(
        structure.blocks, structure.edge_offsets[:-1], structure.edge_offsets[1:], strict=True
    ):
        attributes = {"type": block.edge_type, "block": block.name}
        if block.parameter is None:
            out.add_edges_from(ends[start:stop], **attributes)
            continue
        columns = kernel_columns(block.kernel, graph.kernel_size)
        kernels = weights[start:stop] if columns is None else weights[start:stop, columns.to(weights.device)]
        edges = zip(ends[start:stop], kernels.tolist(), strict=True)
        out.add_edges_from(
            ((source, target, {"weight": kernel}) for (source, target), kernel in edges),
            parameter=block.parameter,
            **attributes,
        )
