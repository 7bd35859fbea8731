"""The symmetries of networks: permutations, their numerical proof, and alignment."""

from converters.symmetry.align import align, aligned
from converters.symmetry.permutation import Permutation, permute, relabelling, sample_permutation
from converters.symmetry.verify import SymmetryReport, verify

__all__ = [
    "Permutation",
    "SymmetryReport",
    "align",
    "aligned",
    "permute",
    "relabelling",
    "sample_permutation",
    "verify",
]
