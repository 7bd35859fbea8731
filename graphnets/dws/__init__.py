"""Deep weight-space networks (Navon et al. 2023, arXiv:2301.12780)."""

from graphnets.dws.layer import DWSLayer
from graphnets.dws.model import DWSNet

__all__ = ["DWSLayer", "DWSNet"]
