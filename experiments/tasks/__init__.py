"""What is to be learned from weights: targets, losses and scores, one file per task."""

from __future__ import annotations

from experiments.tasks.generalization import Generalization
from experiments.tasks.inr_classification import InrClassification
from experiments.tasks.inr_editing import InrEditing
from experiments.tasks.objective import LOSSES, Objective
from experiments.tasks.task import Task

__all__ = ["LOSSES", "Generalization", "InrClassification", "InrEditing", "Objective", "Task"]
