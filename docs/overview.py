"""Draws the picture of the README: a network, its graph under a renumbering, and how well each method reads weights.

python docs/overview.py    # writes docs/_static/overview.png from docs/runs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from converters import NeuronGraph, permute, sample_permutation, to_graph

HERE = Path(__file__).resolve().parent
METHODS = {"flat_mlp": "flat MLP", "stat_nn": "StatNN", "weightnet_invariant": "WeightNet", "neuron_gnn": "NeuronGNN"}
COLOURS = {"flat_mlp": "#b0b7c3", "stat_nn": "#8aa4c8", "weightnet_invariant": "#e39b4b", "neuron_gnn": "#2f6db5"}


def draw(axes: Any, graph: NeuronGraph, order: Sequence[int], title: str) -> None:
    """One network: neurons as dots, weights as lines whose colour is the sign and whose width is the size."""
    layer = graph.node_layer.numpy()
    places, palette = np.zeros((graph.num_nodes, 2)), np.full(graph.num_nodes, 0.5)
    for number in np.unique(layer):
        members = np.flatnonzero(layer == number)
        places[members, 0] = number
        places[members, 1] = np.linspace(1, -1, len(members)) * min(1, len(members) / 7)
    hidden = np.flatnonzero(layer == 1)
    palette[hidden] = np.asarray(order) / max(len(hidden) - 1, 1)
    weights = graph.edge_attr[:, 0].numpy()
    for (a, b), weight in zip(graph.edge_index.T.numpy(), weights, strict=True):
        colour = "#c2503f" if weight > 0 else "#3f74b8"
        width = 0.4 + 2.2 * abs(weight) / np.abs(weights).max()
        axes.plot(*zip(places[a], places[b], strict=True), color=colour, lw=width, alpha=0.55, zorder=1)
    shade = plt.get_cmap("viridis")(palette)
    shade[layer != 1] = (0.25, 0.25, 0.28, 1)
    axes.scatter(places[:, 0], places[:, 1], s=130, c=shade, edgecolors="white", linewidths=1.2, zorder=2)
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


def scores() -> dict[str, list[float]]:
    """Kendall's tau of accuracy per method, one number per committed run."""
    found: dict[str, list[float]] = {}
    for path in sorted((HERE / "runs" / "weightnet" / "properties").glob("small-digits_mlp-seed*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            if row["setting"].get("property") == "accuracy":
                found.setdefault(row["method"], []).append(row["metrics"]["tau"])
    return found


def main() -> None:
    """Write the picture."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
    graph = to_graph(net)
    permutation = sample_permutation(graph.structure, torch.Generator().manual_seed(1))
    (order,) = permutation.values()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), width_ratios=(1, 1, 1.25))
    draw(left, graph, range(7), "a network as a graph")
    draw(middle, permute(graph, permutation), order.tolist(), "renumbered: the same graph")
    found = scores()
    names = [name for name in METHODS if name in found]
    means = [float(np.mean(found[name])) for name in names]
    right.barh(range(len(names)), means, color=[COLOURS[name] for name in names], height=0.62)
    for i, name in enumerate(names):
        right.plot(found[name], [i] * len(found[name]), "o", color="#333333", ms=3)
        right.text(max(found[name]) + 0.03, i, f"{means[i]:.2f}", va="center", fontsize=10)
    right.set_yticks(range(len(names)), [METHODS[name] for name in names])
    right.set_xlim(0, 1)
    right.set_xlabel("Kendall's τ: accuracy from weights alone", fontsize=9)
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    target = HERE / "_static" / "overview.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=130)
    print(target)


if __name__ == "__main__":
    main()
