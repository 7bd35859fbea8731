"""The symmetries of networks: permutations, their numerical proof, and alignment."""

from converters.symmetry.align import align, aligned
from converters.symmetry.permutation import Permutation, permute, relabelling, sample_permutation
from converters.symmetry.rescaling import RESCALINGS, Rescaling, canonicalize, rescale, sample_rescaling
from converters.symmetry.verify import SymmetryReport, verify

__all__ = [
    "RESCALINGS",
    "Permutation",
    "Rescaling",
    "SymmetryReport",
    "align",
    "aligned",
    "canonicalize",
    "permute",
    "relabelling",
    "rescale",
    "sample_permutation",
    "sample_rescaling",
    "verify",
]
