"""Draws how weights become codes, and how networks are made for a data set and a result.

python docs/contrastive_pipeline.py    # writes docs/_static/contrastive_pipeline.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 1.5, 0.62
WEIGHTS, CONDITION, CODE, STEP = "#dce8f5", "#fbe7cf", "#d9eedd", "#f1f2f4"

BOXES = {  # name: (column, row, colour, text)
    "weights": (0, 2, WEIGHTS, "weights\n{name: tensor}"),
    "align": (1, 2, STEP, "align to the\nmean network"),
    "components": (2, 2, STEP, "components of\neach parameter"),
    "encoder": (3, 2, STEP, "encoder"),
    "latent": (4, 1, CODE, "latent\non the sphere"),
    "decoder": (5, 1, STEP, "decoder,\nundo components"),
    "network": (6, 1, WEIGHTS, "a network\nthat runs"),
    "images": (0, 0, CONDITION, "training images\nof each class"),
    "features": (1, 0, STEP, "mean features,\nclasses in order"),
    "result": (2, 0, CONDITION, "+ the result\nasked for"),
    "shared": (3, 0, STEP, "shared encoder,\nor a flow"),
}
ARROWS = (
    *(("weights", "align"), ("align", "components"), ("components", "encoder"), ("encoder", "latent")),
    *(("images", "features"), ("features", "result"), ("result", "shared"), ("shared", "latent")),
    *(("latent", "decoder"), ("decoder", "network")),
)


def middle(name: str) -> tuple[float, float]:
    """Where a box is."""
    column, row, _, _ = BOXES[name]
    return column * 1.95, row * 0.95


def draw(axes: Any) -> None:
    """Boxes, and arrows from border to border."""
    for name, (_, _, colour, text) in BOXES.items():
        x, y = middle(name)
        box = plt.Rectangle((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, facecolor=colour, edgecolor="#9aa1ab", lw=1)
        axes.add_patch(box)
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color="#23272f")
    for a, b in ARROWS:
        (x, y), (u, v) = middle(a), middle(b)
        axes.annotate(
            "", (u - WIDTH / 2, v), (x + WIDTH / 2, y), arrowprops={"arrowstyle": "-|>", "color": "#4b5563", "lw": 1.2}
        )
    x, y = middle("latent")
    axes.text(
        x, y - 0.52, "NT-Xent: what belongs\ntogether lies together", ha="center", va="top", fontsize=8, color="#4b5563"
    )
    axes.set_xlim(-WIDTH / 2 - 0.1, middle("network")[0] + WIDTH / 2 + 0.1)
    axes.set_ylim(-0.55, 2.35)
    axes.set_axis_off()


def main() -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(11, 2.9))
    draw(axes)
    figure.tight_layout(pad=0.3)
    target = HERE / "_static" / "contrastive_pipeline.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=130)
    print(target)


if __name__ == "__main__":
    main()
