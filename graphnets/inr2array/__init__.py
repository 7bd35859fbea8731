"""Networks of coordinates as arrays of latent vectors (Zhou et al. 2023, arXiv:2305.13546, Section 4)."""

from graphnets.inr2array.classifier import LatentTransformer, SpatialClassifier
from graphnets.inr2array.decoder import HyperNetwork
from graphnets.inr2array.model import Inr2Array, patch_numbers

__all__ = ["HyperNetwork", "Inr2Array", "LatentTransformer", "SpatialClassifier", "patch_numbers"]
