"""Neural functional networks: layers equivariant to permutations of neurons (Zhou et al. 2023, arXiv:2302.14040)."""

from graphnets.nfn.linear import HNPLinear, NPLinear, PermutationLinear, Pointwise

__all__ = ["HNPLinear", "NPLinear", "PermutationLinear", "Pointwise"]
