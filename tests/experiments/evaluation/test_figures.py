from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.evaluation import figures
from experiments.evaluation.attention import attention_figure

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(size=50)
ATTENTION = RNG.dirichlet(np.ones(6), 6)
PREDICTIONS = {"flat_mlp": RNG.uniform(size=50), "neuron_gnn": TRUTH + 0.05 * RNG.normal(size=50)}


def drawn() -> dict[str, Figure]:
    bounds = {m: {"accuracy": (0.2, 0.1, 0.3), "robustness": (0.1, 0.1, 0.1)} for m in PREDICTIONS}
    r2 = {"flat_mlp": {"accuracy": -0.5, "robustness": 0.1, "generalization_gap": 0.3}}
    curves = {"flat_mlp": {"train": [1.0, 0.5], "val": [1.1, 0.7], "kept": [1]}}
    return {
        "scatter": figures.predicted_against_true(TRUTH, PREDICTIONS, "accuracy"),
        "histogram": figures.error_histogram(TRUTH, PREDICTIONS, "accuracy"),
        "bars": figures.bars(bounds, "mae"),
        "radar": figures.radar(r2, "r2"),
        "curves": figures.loss_curves(curves),
        "scores": figures.score_curves({"flat_mlp": {"tau": [0.1, 0.4], "r2": [-3.0, 0.5]}}, ["tau", "r2"]),
        "attention": attention_figure([("layer 1: linear", ATTENTION), ("layers", np.eye(3))], "A"),
    }


@pytest.mark.parametrize("name", ["scatter", "histogram", "bars", "radar", "curves", "scores", "attention"])
def test_each_figure_is_saved_as_png_and_svg_always_the_same(name: str, tmp_path: Path) -> None:
    first = figures.save(drawn()[name], tmp_path / "first")
    second = figures.save(drawn()[name], tmp_path / "second")
    assert [path.name for path in first] == ["first.png", "first.svg"]
    pixels = matplotlib.image.imread(first[0])
    assert pixels.shape[1] > 600
    assert pixels[..., :3].std() > 0.01
    names = re.compile(rb"p[0-9a-f]{10}")  # of clip paths; older versions of matplotlib draw them at random
    for one, two in zip(first, second, strict=True):
        assert names.sub(b"", one.read_bytes()) == names.sub(b"", two.read_bytes())


def test_a_wild_prediction_stays_inside_the_frame_and_the_score_counts_it() -> None:
    wild = PREDICTIONS["neuron_gnn"].copy()
    wild[0] = 1000.0
    axis = figures.predicted_against_true(TRUTH, {"neuron_gnn": wild}, "accuracy").axes[0]
    low, high = axis.get_ylim()
    offsets = np.asarray(axis.collections[0].get_offsets())
    assert len(offsets) == 50
    assert ((offsets[:, 1] >= low) & (offsets[:, 1] <= high)).all()
    assert any("R² -" in text.get_text() for text in axis.texts)


def test_attention_is_drawn_as_a_multiple_of_uniform() -> None:
    figure = attention_figure([("neurons", ATTENTION), ("layers", np.full((2, 2), 0.5))], "Attention")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in panels] == ["neurons", "layers"]
    assert np.allclose(panels[0].images[0].get_array(), 6 * ATTENTION)
    assert np.allclose(panels[1].images[0].get_array(), 1)


def test_the_style_does_not_leak() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    drawn()
    assert dict(mpl.rcParams) == before


def test_epochs_gone_astray_leave_the_axes_finite() -> None:
    losses = {"flat_mlp": {"train": [1.0, 0.5], "val": [float("nan"), 0.7], "kept": [1]}}
    assert figures.loss_curves(losses).axes[0].get_ylim()[1] == pytest.approx(0.735)
    scores = {"flat_mlp": {"tau": [float("nan"), -0.2]}}
    assert figures.score_curves(scores, ["tau"]).axes[0].get_ylim()[0] == pytest.approx(-0.2)


def test_names_longer_than_the_bars_are_wide_leave_room_for_the_bars(tmp_path: Path) -> None:
    values = {f"inr2array_nft_{terms}": {"class": (0.9, 0.8, 1.0)} for terms in ("full", "adjacent", "global")}
    figure = figures.bars(values, "accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        figures.save(figure, tmp_path / "bars")
    (axis,) = figure.axes
    assert axis.get_position().width * figure.get_size_inches()[0] > 1.5
