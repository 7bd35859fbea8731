"""Weights, data sets and results in one space (Swanevelder 2025, *A Contrastive Approach to Weight Space Learning*)."""

from graphnets.contrastive.alignment import align_to_mean
from graphnets.contrastive.autoencoder import CodeAutoencoder, autoencoder_loss, weight_views
from graphnets.contrastive.behaviour import behaviour_loss, recalibrated
from graphnets.contrastive.behaviour_coder import BehaviourCoder
from graphnets.contrastive.coders import AutoencoderCoder, GraphCoder, LinearCoder, SequenceCoder, WeightCoder
from graphnets.contrastive.compression import WeightCompression
from graphnets.contrastive.encoders import ResultsEncoder, SharedEncoder, class_means
from graphnets.contrastive.generators import ConditionModel, FlowModel, GivenLatents, ProjectionModel
from graphnets.contrastive.losses import chance_nt_xent, nt_xent
from graphnets.contrastive.retrieval import recall_at
from graphnets.contrastive.rows import from_rows, to_rows
from graphnets.contrastive.sampling import ConditionalFlow, ResidualDensity, interpolated
from graphnets.contrastive.sequential import SequentialAutoencoder
from graphnets.contrastive.tokens import WeightTokens

__all__ = [
    "AutoencoderCoder",
    "BehaviourCoder",
    "CodeAutoencoder",
    "ConditionModel",
    "ConditionalFlow",
    "FlowModel",
    "GivenLatents",
    "GraphCoder",
    "LinearCoder",
    "ProjectionModel",
    "ResidualDensity",
    "ResultsEncoder",
    "SequenceCoder",
    "SequentialAutoencoder",
    "SharedEncoder",
    "WeightCoder",
    "WeightCompression",
    "WeightTokens",
    "align_to_mean",
    "autoencoder_loss",
    "behaviour_loss",
    "chance_nt_xent",
    "class_means",
    "from_rows",
    "interpolated",
    "nt_xent",
    "recalibrated",
    "recall_at",
    "to_rows",
    "weight_views",
]
