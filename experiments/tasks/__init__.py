"""What is to be learned from weights: targets, losses and scores, one file per task."""

from __future__ import annotations

from experiments.tasks.conditioned import Sampling, SharedSpace
from experiments.tasks.encoded import Encoded
from experiments.tasks.generalization import Generalization
from experiments.tasks.inr_classification import InrClassification
from experiments.tasks.inr_editing import InrEditing
from experiments.tasks.inr_reconstruction import InrReconstruction
from experiments.tasks.objective import LOSSES, Objective
from experiments.tasks.shape_classification import ShapeClassification
from experiments.tasks.task import Task
from experiments.tasks.weight_coding import WeightCoding
from experiments.tasks.winning_tickets import WinningTickets

__all__ = [
    "LOSSES",
    "Encoded",
    "Generalization",
    "InrClassification",
    "InrEditing",
    "InrReconstruction",
    "Objective",
    "Sampling",
    "ShapeClassification",
    "SharedSpace",
    "Task",
    "WeightCoding",
    "WinningTickets",
]
