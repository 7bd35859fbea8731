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
    canonicalize,
    collate,
    permute,
    sample_permutation,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
    weight_space,
)
from graphnets.baselines import FlatMLP, PixelReference, Prober, StatNN
from graphnets.dws import DWSLayer, DWSNet
from graphnets.editing import Editor
from graphnets.inr2array import HyperNetwork, Inr2Array, LatentTransformer, SpatialClassifier
from graphnets.inr2vec import Inr2Vec, VectorClassifier
from graphnets.message_passing import (
    NeuralGraphGNN,
    NeuralGraphLayer,
    NeuronAttention,
    NeuronGNN,
    NeuronMessagePassing,
    NeuronSweep,
    NeuronTransformer,
)
from graphnets.nfn import (
    NFN,
    ChannelDropout,
    ChannelNorm,
    FourierFeatures,
    HNPLinear,
    HNPPool,
    IOEncoding,
    LayerEncoding,
    NPLinear,
    NPPool,
    Pointwise,
    TensorNorm,
    WeightPerceptron,
)
from graphnets.nft import NFT, NFTBlock, WeightSpaceCrossAttention, WeightSpaceSelfAttention
from graphnets.pieces import Pieces
from graphnets.weight_input import ScaleTensors
from graphnets.weightnet import CrossLayerAttention, IntraLayerAttention, WeightNet

__all__ = [
    "NFN",
    "NFT",
    "ChannelDropout",
    "ChannelNorm",
    "CrossLayerAttention",
    "DWSLayer",
    "DWSNet",
    "Editor",
    "FlatMLP",
    "FourierFeatures",
    "HNPLinear",
    "HNPPool",
    "HyperNetwork",
    "IOEncoding",
    "Inr2Array",
    "Inr2Vec",
    "IntraLayerAttention",
    "LatentTransformer",
    "LayerEncoding",
    "NFTBlock",
    "NPLinear",
    "NPPool",
    "NeuralGraphGNN",
    "NeuralGraphLayer",
    "NeuronAttention",
    "NeuronGNN",
    "NeuronGraph",
    "NeuronGraphs",
    "NeuronMessagePassing",
    "NeuronSweep",
    "NeuronTransformer",
    "Pieces",
    "PixelReference",
    "Pointwise",
    "Prober",
    "ScaleTensors",
    "SpatialClassifier",
    "StatNN",
    "Structure",
    "TensorNorm",
    "VectorClassifier",
    "WeightNet",
    "WeightPerceptron",
    "WeightSpaceCrossAttention",
    "WeightSpaceFeatures",
    "WeightSpaceSelfAttention",
    "canonicalize",
    "collate",
    "permute",
    "sample_permutation",
    "to_graph",
    "to_graphs",
    "to_state_dict",
    "trace",
    "weight_space",
]
