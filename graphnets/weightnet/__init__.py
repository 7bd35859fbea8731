"""WeightNet: a Transformer on the neurons of networks."""

from graphnets.weightnet.attention import CrossLayerAttention, IntraLayerAttention
from graphnets.weightnet.model import WeightNet
from graphnets.weightnet.tokens import NeuronTokens

__all__ = ["CrossLayerAttention", "IntraLayerAttention", "NeuronTokens", "WeightNet"]
