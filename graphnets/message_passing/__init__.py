"""Message passing on neuron graphs."""

from graphnets.message_passing.layer import NeuronMessagePassing
from graphnets.message_passing.model import NeuronGNN
from graphnets.message_passing.readout import OutputReadout, PooledReadout

__all__ = ["NeuronGNN", "NeuronMessagePassing", "OutputReadout", "PooledReadout"]
