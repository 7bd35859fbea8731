"""Neural functional networks: layers equivariant to permutations of neurons (Zhou et al. 2023, arXiv:2302.14040)."""

from graphnets.nfn.encodings import FourierFeatures, IOEncoding, LayerEncoding, WeightPerceptron
from graphnets.nfn.given_tickets import GivenTicket
from graphnets.nfn.linear import HNPLinear, NPLinear, PermutationLinear, Pointwise
from graphnets.nfn.model import NFN, NeuralFunctional
from graphnets.nfn.normalisation import ChannelDropout, ChannelNorm, TensorNorm
from graphnets.nfn.pooling import HNPPool, NPPool, PermutationPool
from graphnets.nfn.tickets import DirectTicket, Tickets, TicketVAE

__all__ = [
    "NFN",
    "ChannelDropout",
    "ChannelNorm",
    "DirectTicket",
    "FourierFeatures",
    "GivenTicket",
    "HNPLinear",
    "HNPPool",
    "IOEncoding",
    "LayerEncoding",
    "NPLinear",
    "NPPool",
    "NeuralFunctional",
    "PermutationLinear",
    "PermutationPool",
    "Pointwise",
    "TensorNorm",
    "TicketVAE",
    "Tickets",
    "WeightPerceptron",
]
