"""Networks to neuron graphs and back, with exactly the symmetries they have.

>>> import torch.nn as nn
>>> to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
NeuronGraph(Sequential: 13 nodes, 40 edges)
"""

from converters.errors import (
    ArchitectureError,
    ConversionError,
    ExampleInputError,
    GraphTooLarge,
    StructureMismatch,
    UnsupportedOperation,
    WeightsError,
)
from converters.execute import execute
from converters.load_weights import load_weights
from converters.neuron_graph import Extras, NeuronGraph, NeuronGraphs, same_structure
from converters.pretrained import Pretrained, load_pretrained
from converters.structure import Axis, Block, Group, Layer, Parameter, Structure
from converters.symmetry import (
    RESCALINGS,
    Permutation,
    Rescaling,
    SymmetryReport,
    align,
    aligned,
    canonicalize,
    permute,
    relabelling,
    rescale,
    sample_permutation,
    sample_rescaling,
    verify,
)
from converters.to_graph import collate, to_graph, to_graphs
from converters.to_networkx import to_networkx
from converters.to_state_dict import to_state_dict
from converters.trace import DEFAULT_RULES, trace
from converters.trace.stand_ins import without_weights
from converters.vocabulary import ACTIVATIONS, EDGE_TYPES, LAYER_ATTRIBUTES, LAYER_KINDS, NODE_SLOTS
from converters.weight_space import WeightSpaceFeatures, weight_space

__all__ = [
    "ACTIVATIONS",
    "DEFAULT_RULES",
    "EDGE_TYPES",
    "LAYER_ATTRIBUTES",
    "LAYER_KINDS",
    "NODE_SLOTS",
    "RESCALINGS",
    "ArchitectureError",
    "Axis",
    "Block",
    "ConversionError",
    "ExampleInputError",
    "Extras",
    "GraphTooLarge",
    "Group",
    "Layer",
    "NeuronGraph",
    "NeuronGraphs",
    "Parameter",
    "Permutation",
    "Pretrained",
    "Rescaling",
    "Structure",
    "StructureMismatch",
    "SymmetryReport",
    "UnsupportedOperation",
    "WeightSpaceFeatures",
    "WeightsError",
    "align",
    "aligned",
    "canonicalize",
    "collate",
    "execute",
    "load_pretrained",
    "load_weights",
    "permute",
    "relabelling",
    "rescale",
    "same_structure",
    "sample_permutation",
    "sample_rescaling",
    "to_graph",
    "to_graphs",
    "to_networkx",
    "to_state_dict",
    "trace",
    "verify",
    "weight_space",
    "without_weights",
]
