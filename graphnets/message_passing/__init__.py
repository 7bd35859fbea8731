"""Message passing on neuron graphs."""

from graphnets.message_passing.attention import NeuronAttention
from graphnets.message_passing.layer import NeuronMessagePassing
from graphnets.message_passing.model import NeuronGNN
from graphnets.message_passing.neural_graph import NeuralGraphLayer
from graphnets.message_passing.neural_graph_gnn import NeuralGraphGNN
from graphnets.message_passing.readout import OutputReadout, PooledReadout, WeightReadout
from graphnets.message_passing.sweep import NeuronSweep
from graphnets.message_passing.transformer import NeuronTransformer

__all__ = [
    "NeuralGraphGNN",
    "NeuralGraphLayer",
    "NeuronAttention",
    "NeuronGNN",
    "NeuronMessagePassing",
    "NeuronSweep",
    "NeuronTransformer",
    "OutputReadout",
    "PooledReadout",
    "WeightReadout",
]
