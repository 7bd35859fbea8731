"""Gradient-boosted trees as tensors: grown by scikit-learn, evaluated and stored by torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["BoostedTrees"]


class BoostedTrees(nn.Module):
    """One boosted ensemble per target. The grown trees are buffers, so a ``state_dict`` holds them without pickles.

    NaN is an absent feature; every node of a tree knows which way networks without its feature go.

    Args:
        targets: number of ensembles.
        trees, learning_rate, leaves, min_leaf, l2, seed: see scikit-learn's ``HistGradientBoostingRegressor``.

    Shapes:
        - features: ``[B, D]`` float64; result: ``[B, targets]`` float64
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    absent_left: Tensor
    value: Tensor
    base: Tensor
    depth: Tensor

    INTEGERS = ("feature", "left", "right", "absent_left", "depth")
    FLOATS = ("threshold", "value", "base")

    def __init__(
        self, targets: int, trees: int, learning_rate: float, leaves: int, min_leaf: int, l2: float, seed: int
    ) -> None:
        super().__init__()
        self.targets = targets
        self.options = {
            "max_iter": trees,
            "learning_rate": learning_rate,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": min_leaf,
            "l2_regularization": l2,
            "random_state": seed,
            "early_stopping": False,
        }
        for name in self.INTEGERS:
            self.register_buffer(name, torch.zeros(targets, 0, 1, dtype=torch.int64))
        for name in self.FLOATS:
            self.register_buffer(name, torch.zeros(targets, 0, 1, dtype=torch.float64))

    def extra_repr(self) -> str:
        """The size."""
        return f"{self.targets} targets, {self.feature.shape[1]} trees each"

    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Grow the trees on ``features [N, D]`` and ``targets [N, targets]``."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        inputs, wanted = features.detach().cpu().double().numpy(), targets.detach().cpu().double().numpy()
        grown = [HistGradientBoostingRegressor(**self.options).fit(inputs, column) for column in wanted.T]
        trees = [[step[0].nodes for step in ensemble._predictors] for ensemble in grown]
        size = max(len(tree) for ensemble in trees for tree in ensemble)

        def table(read: Any) -> Tensor:
            out = np.zeros((len(trees), len(trees[0]), size))
            for i, ensemble in enumerate(trees):
                for j, tree in enumerate(ensemble):
                    out[i, j, : len(tree)] = read(tree)
            return torch.from_numpy(out)

        here = np.arange(size)
        leaf = table(lambda tree: tree["is_leaf"] + 0.0) > 0

        def child(name: str) -> Tensor:
            own = torch.from_numpy(here).expand(leaf.shape)
            return torch.where(leaf, own, table(lambda tree: tree[name]).long())

        device = self.base.device
        self.feature = torch.where(leaf, 0, table(lambda tree: tree["feature_idx"]).long()).to(device)
        self.threshold = table(lambda tree: tree["num_threshold"]).to(device)
        self.left, self.right = child("left").to(device), child("right").to(device)
        self.absent_left = table(lambda tree: tree["missing_go_to_left"]).long().to(device)
        self.value = table(lambda tree: tree["value"]).to(device)
        depth = int(table(lambda tree: tree["depth"]).max())
        self.depth = torch.full((len(trees), 1, 1), depth, device=device)
        base = [float(np.ravel(ensemble._baseline_prediction)[0]) for ensemble in grown]
        self.base = torch.tensor(base, dtype=torch.float64, device=device).view(-1, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Predict.

        Raises:
            RuntimeError: no trees have grown yet.
        """
        if not self.feature.shape[1]:
            raise RuntimeError("these boosted trees have not been fitted; call fit(batches, targets) first")
        features = features.double().detach()
        count, (targets, trees, _) = len(features), self.feature.shape
        node = torch.zeros(targets, trees, count, dtype=torch.int64, device=features.device)
        rows = torch.arange(count, device=features.device)
        for _ in range(int(self.depth[0, 0, 0])):
            value = features[rows, self.feature.gather(2, node)]
            absent_left = self.absent_left.gather(2, node) > 0
            goes_left = (value <= self.threshold.gather(2, node)) | (value.isnan() & absent_left)
            node = torch.where(goes_left, self.left.gather(2, node), self.right.gather(2, node))
        total: Tensor = self.value.gather(2, node).sum(1) + self.base[:, 0]
        return total.T

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in (*self.INTEGERS, *self.FLOATS):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor):
                own = getattr(self, name)
                setattr(self, name, torch.empty_like(stored, dtype=own.dtype, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
