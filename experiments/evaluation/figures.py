"""Figures in one style, each saved as PNG and SVG (Figures 1 to 5 of the WeightNet paper)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from experiments.evaluation.labels import axis_label, colour, method_label
from experiments.evaluation.metrics import DIGITS, regression_metrics
from experiments.files import atomic_path

__all__ = ["bars", "error_histogram", "loss_curves", "predicted_against_true", "radar", "save", "score_curves", "style"]

Floats = NDArray[np.float64]
INK, GRID = "#23272f", "#e3e6ea"

STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "graphnets",
}


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure of the project, for the length of a ``with`` block."""
    rc: Any = STYLE
    with mpl.rc_context(rc):
        yield


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``<path>.png`` and ``<path>.svg``; equal figures give equal files."""
    paths = [path.with_name(f"{path.name}{suffix}") for suffix in (".png", ".svg")]
    with style():
        figure.draw_without_rendering()  # finds the layout, once for both files
        figure.set_layout_engine("none")
    for target in paths:
        metadata = {"Date": None} if target.suffix == ".svg" else {"Software": None}
        with style(), atomic_path(target) as temporary:
            figure.savefig(temporary, bbox_inches="tight", pad_inches=0.12, facecolor="white", metadata=metadata)
    return paths


def predicted_against_true(truth: Floats, predictions: Mapping[str, Floats], setting: str) -> Figure:
    """One panel per method: every test network as a point, the diagonal is a perfect prediction.

    Args:
        truth: ``[networks]``.
        predictions: ``[networks]`` by method.
        setting: the property predicted.
    """
    with style():
        figure, axes = _panels(len(predictions), width=2.9, height=3.0)
        everything = np.concatenate([truth, *predictions.values()])
        # A wild prediction must not shrink the cloud of the others to a dot: it is drawn at the border.
        low, high = np.quantile(everything, [0.003, 0.997])
        low, high = min(low, truth.min()), max(high, truth.max())
        margin = 0.04 * (high - low)
        low, high = low - margin, high + margin
        for axis, (method, predicted) in zip(axes, predictions.items(), strict=True):
            axis.plot([low, high], [low, high], color="#9aa1ab", linewidth=1, zorder=1)
            inside = np.clip(predicted, low, high)
            axis.scatter(truth, inside, s=13, color=colour(method), alpha=0.55, linewidths=0, zorder=2)
            scores = _scores(predicted, truth)
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 2}
            axis.text(0.04, 0.96, scores, transform=axis.transAxes, va="top", linespacing=1.4, fontsize=9, bbox=box)
            axis.set(xlim=(low, high), ylim=(low, high), xlabel="true", title=method_label(method))
            axis.set_aspect("equal")
        axes[0].set_ylabel("predicted")
        figure.suptitle(f"Predicted against true {axis_label(setting)}, test networks", x=0.01, ha="left")
    return figure


def error_histogram(truth: Floats, predictions: Mapping[str, Floats], setting: str) -> Figure:
    """Distribution of predicted minus true, one panel per method on a common axis."""
    with style():
        figure, axes = _panels(len(predictions), width=2.9, height=2.5, sharey=True)
        errors = {method: predicted - truth for method, predicted in predictions.items()}
        reach = float(np.quantile(np.abs(np.concatenate(list(errors.values()))), 0.99)) or 1.0
        bins = np.linspace(-reach, reach, 32).tolist()
        for axis, (method, error) in zip(axes, errors.items(), strict=True):
            axis.hist(np.clip(error, -reach, reach), bins=bins, color=colour(method), alpha=0.85, linewidth=0)
            axis.axvline(0, color=INK, linewidth=0.9)
            axis.axvline(float(error.mean()), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            note = f"mean {error.mean():+.3f}\nsd {error.std():.3f}"
            axis.text(0.03, 0.96, note, transform=axis.transAxes, va="top", linespacing=1.4, fontsize=9)
            axis.grid(axis="x", visible=False)
            axis.set(xlabel="predicted − true", title=method_label(method))
        axes[0].set_ylabel("test networks")
        figure.suptitle(f"Errors in {axis_label(setting)}", x=0.01, ha="left")
    return figure


def bars(
    values: Mapping[str, Mapping[str, tuple[float, float, float]]], metric: str, title: str | None = None
) -> Figure:
    """Grouped bars: a group per property, a bar per method; properties of different magnitude have axes of their own.

    Args:
        values: method to property to (value, low, high); equal bounds draw no whisker.
        metric: what the values are.
        title: another title.
    """
    with style():
        settings = list(next(iter(values.values())))
        peaks = [max(by_setting[setting][2] for by_setting in values.values()) for setting in settings]
        apart = min(peaks) > 0 and max(peaks) > 5 * min(peaks)
        groups = [[setting] for setting in settings] if apart else [settings]
        width = max(1.75, 0.36 * len(values)) * len(settings) + 0.5 * len(groups)
        legend = 0.6 + 0.08 * max(len(method_label(method)) for method in values)  # inches
        figure = Figure(figsize=(0.8 + width + legend, 3.1), layout="constrained")
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for axis, group in zip(axes, groups, strict=True):
            _bars(axis, {method: [found[setting] for setting in group] for method, found in values.items()}, metric)
            axis.set_xticks(range(len(group)), [axis_label(setting) for setting in group])
        axes[0].set_ylabel(axis_label(metric))
        axes[0].set_title(title or f"{axis_label(metric)} on test networks", fontsize=11, fontweight="bold", loc="left")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _bars(axis: Axes, values: Mapping[str, Sequence[tuple[float, float, float]]], metric: str) -> None:
    """One axis of :func:`bars`: method to (value, low, high) of every group."""
    digits, crowded = DIGITS.get(metric, 3), len(values) > 6
    for position, (method, spans) in enumerate(values.items()):
        x = np.arange(len(spans)) + (position - (len(values) - 1) / 2) * 0.82 / len(values)
        centre, low, high = np.array(spans).T
        axis.bar(x, centre, 0.74 / len(values), color=colour(method), label=method_label(method), linewidth=0)
        whiskers = np.abs(np.stack([centre - low, high - centre]))
        axis.errorbar(x, centre, whiskers, fmt="none", ecolor=INK, elinewidth=0.9, capsize=0)
        for place, value, top in zip(x, centre, high, strict=True):
            text = f"{value:.{digits}f}".lstrip("0")
            offset, turn = ((0, 3), 90) if crowded else ((0, 2), 0)
            axis.annotate(
                text, (place, top), offset, textcoords="offset points", ha="center", fontsize=8, rotation=turn
            )
    axis.margins(y=0.2 if crowded else 0.05)
    axis.set_ylim(bottom=None if axis.get_ylim()[0] < 0 else 0)
    axis.grid(axis="x", visible=False)


def radar(values: Mapping[str, Mapping[str, float]], metric: str) -> Figure:
    """One polygon per method over the properties; negative values lie in the centre.

    Args:
        values: method to property to value.
        metric: what the values are.
    """
    with style():
        settings = list(next(iter(values.values())))
        angles = np.linspace(0, 2 * np.pi, len(settings), endpoint=False)
        figure = Figure(figsize=(5.6, 4.0), layout="constrained")
        axis: Any = figure.add_subplot(projection="polar")
        axis.set_theta_offset(np.pi / 2)
        for method, by_setting in values.items():
            radius = np.clip([by_setting[setting] for setting in settings], 0, 1)
            closed = np.append(radius, radius[0])
            around = np.append(angles, angles[0])
            axis.plot(around, closed, color=colour(method), label=method_label(method), marker="o", markersize=4)
            axis.fill(around, closed, color=colour(method), alpha=0.07)
        axis.set_xticks(angles, [axis_label(setting) for setting in settings])
        axis.set_ylim(0, 1)
        axis.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0], ["0.2", "0.4", "0.6", "0.8", "1"], color="#6b7280", fontsize=8)
        axis.set_rlabel_position(180 / max(len(settings), 1))
        axis.spines["polar"].set_visible(False)
        axis.tick_params(axis="x", pad=10)
        axis.set_title(f"{axis_label(metric)} on test networks", pad=16, fontsize=11, fontweight="bold")
        axis.legend(loc="center left", bbox_to_anchor=(1.15, 0.5))
    return figure


def loss_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training and validation loss per epoch, one panel per method; the epoch kept is marked.

    Args:
        histories: method to ``{"train": [...], "val": [...], "kept": [epoch]}``.
    """
    with style():
        figure, axes = _panels(len(histories), width=2.9, height=2.6, sharey=True, beside=1.2)
        for axis, (method, history) in zip(axes, histories.items(), strict=True):
            train, val = history["train"], history["val"]
            epochs = np.arange(1, len(val) + 1)
            axis.plot(epochs[: len(train)], train, color=colour(method), alpha=0.45)
            axis.plot(epochs, val, color=colour(method))
            for kept in history.get("kept", ()):
                place = (kept + 1, val[int(kept)])
                axis.scatter(*place, s=30, color=colour(method), edgecolor="white", linewidth=1, zorder=3)
            axis.set(xlabel="epoch", title=method_label(method))
        handles = [
            Line2D([], [], color=INK, alpha=0.45, label="training"),
            Line2D([], [], color=INK, label="validation"),
            Line2D([], [], color=INK, marker="o", markersize=5, linewidth=0, label="epoch kept"),
        ]
        axes[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        losses = np.concatenate([history["val"] for history in histories.values()])
        axes[0].set_ylim(0, 1.05 * float(losses[np.isfinite(losses)].max(initial=0.1)))
        axes[0].set_ylabel("loss (standardised)")
        figure.suptitle("Loss while training", x=0.01, ha="left")
    return figure


def score_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], metrics: Sequence[str]) -> Figure:
    """Validation scores per epoch, one panel per method.

    Args:
        histories: method to metric to its score after every epoch.
        metrics: those shown, of at most 1.
    """
    lines: list[tuple[float, tuple[float, ...]]] = [(0, ()), (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5))]
    with style():
        figure, axes = _panels(len(histories), width=2.9, height=2.6, sharey=True, beside=1.6)
        for axis, (method, history) in zip(axes, histories.items(), strict=True):
            for metric, line in zip(metrics, lines, strict=False):
                axis.plot(np.arange(1, len(history[metric]) + 1), history[metric], linestyle=line, color=colour(method))
            axis.set(xlabel="epoch", title=method_label(method))
        handles = [
            Line2D([], [], color=INK, linestyle=line, label=axis_label(metric))
            for metric, line in zip(metrics, lines, strict=False)
        ]
        axes[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        found = np.concatenate([history[metric] for history in histories.values() for metric in metrics])
        axes[0].set_ylim(float(np.clip(found[np.isfinite(found)], -1.0, 0.0).min(initial=0.0)), 1.02)
        axes[0].set_ylabel("validation score")
        figure.suptitle("Scores while training", x=0.01, ha="left")
    return figure


def _panels(
    count: int, width: float, height: float, sharey: bool = False, beside: float = 0.0
) -> tuple[Figure, list[Axes]]:
    columns = min(count, 4)
    rows = -(-count // columns)
    size = (width * columns + 0.4 + beside, height * rows + 0.5)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.1))
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for unused in axes[count:]:
        figure.delaxes(unused)
    return figure, axes[:count]


def _scores(predicted: Floats, truth: Floats) -> str:
    scores = regression_metrics(torch.from_numpy(predicted), torch.from_numpy(truth))
    return f"R² {scores['r2']:.2f}\nτ {scores['tau']:.2f}"
