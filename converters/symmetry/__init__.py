"""The symmetries of networks: permutations and their numerical proof."""

from converters.symmetry.permutation import Permutation, permute, relabelling, sample_permutation
from converters.symmetry.verify import SymmetryReport, verify

__all__ = ["Permutation", "SymmetryReport", "permute", "relabelling", "sample_permutation", "verify"]
