"""Baselines: what a predictor must beat."""

from graphnets.baselines.flat_mlp import FlatMLP
from graphnets.baselines.pixel_reference import PixelReference
from graphnets.baselines.prober import Prober
from graphnets.baselines.stat_nn import BoostedStatNN, PerceptronStatNN, StatNN, tensor_statistics

__all__ = ["BoostedStatNN", "FlatMLP", "PerceptronStatNN", "PixelReference", "Prober", "StatNN", "tensor_statistics"]
