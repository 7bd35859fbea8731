"""Pictures of a space that conditions and weights share (Swanevelder 2025, Figure 4.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from experiments.evaluation.figures import save, style
from experiments.predictor import Predictor, predict
from experiments.tasks import SharedSpace, Task

__all__ = ["draw_space", "similarity_figure", "space_figure"]

SHOWN = 40


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
