"""Layers and models that learn from the weights of networks.

>>> import torch.nn as nn
>>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
>>> NeuronGNN(structure=None, targets=1).eval()(graph).shape
torch.Size([1, 1])
"""

from converters import (
    NeuronGraph,
    NeuronGraphs,
    Structure,
    WeightSpaceFeatures,
    collate,
    permute,
    sample_permutation,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
    weight_space,
)
from graphnets.baselines import FlatMLP, Prober, StatNN
from graphnets.message_passing import (
    NeuralGraphGNN,
    NeuralGraphLayer,
    NeuronAttention,
    NeuronGNN,
    NeuronMessagePassing,
    NeuronSweep,
    NeuronTransformer,
)
from graphnets.weightnet import CrossLayerAttention, IntraLayerAttention, WeightNet

__all__ = [
    "CrossLayerAttention",
    "FlatMLP",
    "IntraLayerAttention",
    "NeuralGraphGNN",
    "NeuralGraphLayer",
    "NeuronAttention",
    "NeuronGNN",
    "NeuronGraph",
    "NeuronGraphs",
    "NeuronMessagePassing",
    "NeuronSweep",
    "NeuronTransformer",
    "Prober",
    "StatNN",
    "Structure",
    "WeightNet",
    "WeightSpaceFeatures",
    "collate",
    "permute",
    "sample_permutation",
    "to_graph",
    "to_graphs",
    "to_state_dict",
    "trace",
    "weight_space",
]
