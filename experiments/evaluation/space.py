"""Pictures of a space that conditions and weights share (Swanevelder 2025, Figure 4.3)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from experiments.evaluation.figures import save, style
from experiments.predictor import Predictor, predict
from experiments.pretraining import Encoding, Sampled, codes_of
from experiments.tasks import Sampling, SharedSpace, Task
from graphnets.contrastive import ProjectionModel, WeightCoder, interpolated, to_rows

__all__ = ["draw_interpolation", "draw_space", "interpolation", "similarity_figure", "space_figure"]

SHOWN = 40
STEPS = 9


def similarity_figure(projected: Tensor, latents: Tensor, runs: Tensor) -> Figure:
    """Cosines of conditions (rows) and weights (columns), runs together; a good encoder's diagonal stands out.

    Shapes:
        - projected, latents: ``[n, d]``; runs: ``[n]``, in whose order they are shown
    """
    order = torch.argsort(runs, stable=True)
    projected, latents = (functional.normalize(each[order], dim=1) for each in (projected, latents))
    with style():
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axis = figure.subplots()
        shown = axis.imshow((projected @ latents.T).numpy(), cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
        axis.set(xlabel="weights", ylabel="data set and result", title=f"Cosines of {len(runs)} test networks")
        axis.grid(visible=False)
        figure.colorbar(shown, ax=axis, shrink=0.85)
    return figure


def space_figure(projected: Tensor, latents: Tensor, result: Tensor, name: str) -> Figure:
    """Both on the first two principal components of the latents, coloured by result.

    Shapes:
        - projected, latents: ``[n, d]``; result: ``[n]``
    """
    mean = latents.mean(0)
    _, size, ways = torch.linalg.svd(latents - mean, full_matrices=False)
    share = (size.square() / size.square().sum())[:2]
    low, high = np.quantile(result.numpy(), [0.02, 0.98])
    with style():
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for axis, points, title in zip(axes, (latents, projected), ("weights", "data sets and results"), strict=True):
            x, y = ((points - mean) @ ways[:2].T).T.numpy()
            drawn = axis.scatter(x, y, c=result.numpy(), s=9, cmap="viridis", vmin=low, vmax=high, linewidths=0)
            axis.set(title=title, xlabel=f"component 1 ({100 * float(share[0]):.0f}%)")
        axes[0].set_ylabel(f"component 2 ({100 * float(share[1]):.0f}%)")
        figure.colorbar(drawn, ax=axes, shrink=0.9, label=name.replace("_", " "))
    return figure


def draw_space(predictor: Predictor, task: Task, folder: Path) -> None:
    """Both figures of the test networks of a `SharedSpace`; nothing for other tasks.

    Args:
        predictor, task: a trained model and what it was trained on.
        folder: gets ``similarities`` and ``space``, as PNG and SVG.
    """
    if not isinstance(task, SharedSpace):
        return
    prediction, target = predict(predictor, task, "test", 256)
    projected, latents = (functional.normalize(half, dim=1) for half in prediction.chunk(2, 1))
    runs, result = target[:, task.numbers], target[:, task.numbers - 1]
    some = torch.argsort(runs, stable=True)[:SHOWN]
    save(similarity_figure(projected[some], latents[some], runs[some]), folder / "similarities")
    save(space_figure(projected, latents, result, task.result), folder / "space")


@torch.no_grad()
def interpolation(model: Sampled, task: Sampling) -> tuple[Tensor, Tensor]:
    """Accuracy and loss of networks between the projections of a bad and a good result, for the same data sets.

    Args:
        model: whose second stage is a `ProjectionModel`.
        task: whose test conditions; the worst and the best of the results that it asks for are the ends.

    Shapes:
        - result: ``[conditions, 9]`` each, from the worst to the best
    """
    coder, projection = cast(WeightCoder, model.first), cast(ProjectionModel, model.second)
    graphs, target = next(iter(task.loader("test", SHOWN)))
    asked = task.dataset("test").y[:, task.numbers - 1]
    x = codes_of(cast(Encoding, coder), graphs)
    ends = []
    for result in (asked.max(), asked.min()):
        x[:, -1] = result
        ends.append(projection(x)[:, : projection.latent])
    way = interpolated(ends[0], ends[1], torch.linspace(0, 1, STEPS))
    rows = to_rows(coder.decode(way.flatten(0, 1)), coder.structure)
    accuracy, loss, _ = task.reached(rows.unflatten(0, (-1, STEPS)).float(), target)
    return accuracy, loss


def draw_interpolation(predictor: Predictor, task: Task, folder: Path) -> None:
    """`interpolation` as a figure, ``interpolation`` as PNG and SVG; nothing where there is none.

    Args:
        predictor, task: a trained model and what it was trained on.
        folder: gets the figure.
    """
    model = predictor.first
    if (
        not isinstance(task, Sampling)
        or not isinstance(model, Sampled)
        or not isinstance(model.second, ProjectionModel)
    ):
        return
    share = np.linspace(0, 1, STEPS)
    with style():
        figure = Figure(figsize=(6.4, 2.7), layout="constrained")
        for axis, values, name in zip(
            figure.subplots(1, 2), interpolation(model, task), ("accuracy", "loss"), strict=True
        ):
            low, middle, high = np.quantile(values.numpy(), [0.1, 0.5, 0.9], axis=0)
            axis.fill_between(share, low, high, alpha=0.25, color="#3a86ff", linewidth=0)
            axis.plot(share, middle, color="#3a86ff")
            axis.set(xlabel="from the worst result asked for to the best", ylabel=name)
        figure.suptitle("Networks between two projections: median, 10 to 90% of data sets", x=0.01, ha="left")
    save(figure, folder / "interpolation")
