"""A picture of what WeightNet attends to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.evaluation.figures import style

__all__ = ["attention_figure"]

Floats = NDArray[np.float64]


def attention_figure(maps: Sequence[tuple[str, Floats]], title: str) -> Figure:
    """Attention among the neurons of each layer and among the layers, one panel each; rows attend to columns.

    Args:
        maps: what each panel shows, and the attention ``[n, n]``, its rows adding up to one.
        title: of the figure.
    """
    with style():
        figure = Figure(figsize=(2.3 * len(maps) + 0.6, 2.7), layout="constrained")
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        for axis, (name, attention) in zip(axes, maps, strict=True):
            image = axis.imshow(attention * len(attention), cmap="viridis", vmin=0, interpolation="nearest")
            axis.set(title=name, xticks=[], yticks=[])
            axis.grid(visible=False)
            figure.colorbar(image, ax=axis, shrink=0.75)
        axes[0].set_ylabel("attends")
        axes[0].set_xlabel("to")
        figure.suptitle(title, x=0.01, ha="left")
    return figure
