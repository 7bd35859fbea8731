"""What a model that prunes every weight by itself makes of its value (Zhou et al. 2023, Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from converters import WeightSpaceFeatures
from experiments.evaluation.figures import save, style
from experiments.evaluation.labels import axis_label
from experiments.predictor import Predictor
from experiments.tasks import Task
from graphnets.nfn import TicketVAE

__all__ = ["draw_mask_scores", "mask_score_figure", "mask_scores"]

POINTS = 81
AT_ONCE = 8
"""Values that are tried together: whole networks are made of each."""

Curves = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@torch.no_grad()
def mask_scores(model: TicketVAE, largest: Mapping[str, float]) -> Curves:
    """By tensor: initial weights, and the score of a weight that has this value, where the latent is 0.

    Args:
        model: a pointwise one that knows no places. All positions of a convolution's kernel have the same value.
        largest: by tensor, the end of the range; its start is minus that.

    Raises:
        ValueError: the score of a weight depends on others, or on its place.
    """
    if model.variant != "pt" or model.decoder.mark is not None:
        raise ValueError(f"{model.extra_repr()}: scores are a function of the weight in pointwise models alone")
    structure, parts = model.read.structure, []
    for places in torch.linspace(-1, 1, POINTS).split(AT_ONCE):
        features = {
            name: (places * end)
            .view(-1, *[1] * len(structure.parameter[name].shape), 1)
            .expand(-1, *structure.parameter[name].shape, 1)
            .contiguous()
            for name, end in largest.items()
        }
        parts.append(model.eval().scores(model.read.scale(WeightSpaceFeatures(features))))
    grid = np.linspace(-1, 1, POINTS)
    return {
        name: (grid * end, torch.cat([part[name].flatten(1)[:, 0] for part in parts]).double().numpy())
        for name, end in largest.items()
    }


def mask_score_figure(curves: Curves, title: str) -> Figure:
    """A panel per tensor of two axes or more, in the order of the network.

    Args:
        curves: of `mask_scores`.
        title: of the figure.
    """
    with style():
        figure = Figure(figsize=(2.4 * len(curves) + 0.4, 2.7), layout="constrained")
        axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for axis, (name, (values, scores)) in zip(axes, curves.items(), strict=True):
            axis.plot(values, scores, color="#a56cc1")
            axis.set(xlabel="initial weight", title=name)
        axes[0].set_ylabel("mask score")
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def draw_mask_scores(
    predictor: Predictor, task: Task, folder: Path, reached: Mapping[str, Mapping[str, float]]
) -> None:
    """Figure 5, with what the model's tickets reach; nothing for other models.

    Args:
        predictor, task: a trained model and what it was trained on.
        folder: gets ``mask_scores.png`` and ``.svg``.
        reached: the model's metrics by setting.
    """
    model = predictor.first
    if not isinstance(model, TicketVAE) or model.variant != "pt" or model.decoder.mark is not None:
        return
    (networks, _), _ = next(iter(task.loader("test", AT_ONCE)))
    initial = model.read.features(networks)
    largest = {name: float(tensor.abs().max()) for name, tensor in initial.items()}
    curves = {name: curve for name, curve in mask_scores(model, largest).items() if initial[name].dim() > 3}
    accuracies = ", ".join(f"{axis_label(name)}: {found['ticket_accuracy']:.3f}" for name, found in reached.items())
    title = f"Mask scores, {'with' if model.norm else 'no'} layer norm, latent 0\nAccuracy of tickets: {accuracies}"
    save(mask_score_figure(curves, title), folder / "mask_scores")
