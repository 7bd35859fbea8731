"""Weights, data sets and results in one space (Swanevelder 2025, *A Contrastive Approach to Weight Space Learning*)."""

from graphnets.contrastive.alignment import align_to_mean
from graphnets.contrastive.autoencoder import CodeAutoencoder, autoencoder_loss, weight_views
from graphnets.contrastive.compression import WeightCompression
from graphnets.contrastive.encoders import ResultsEncoder, SharedEncoder, class_means
from graphnets.contrastive.losses import chance_nt_xent, nt_xent
from graphnets.contrastive.retrieval import recall_at

__all__ = [
    "CodeAutoencoder",
    "ResultsEncoder",
    "SharedEncoder",
    "WeightCompression",
    "align_to_mean",
    "autoencoder_loss",
    "chance_nt_xent",
    "class_means",
    "nt_xent",
    "recall_at",
    "weight_views",
]
