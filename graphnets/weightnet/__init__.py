"""WeightNet: a Transformer on the neurons of networks."""

from graphnets.weightnet.attention import CrossLayerAttention, IntraLayerAttention
from graphnets.weightnet.maps import AttentionMaps
from graphnets.weightnet.model import WeightNet
from graphnets.weightnet.order import PlaceEncoding
from graphnets.weightnet.sequences import SequenceTokens
from graphnets.weightnet.tokens import NeuronTokens

__all__ = [
    "AttentionMaps",
    "CrossLayerAttention",
    "IntraLayerAttention",
    "NeuronTokens",
    "PlaceEncoding",
    "SequenceTokens",
    "WeightNet",
]
