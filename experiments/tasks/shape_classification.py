"""Tell shapes from the weights of their distance fields, or from their points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from experiments.data import ShapeData, load_shapes
from experiments.tasks.inr_classification import LABEL, InrClassification
from experiments.zoo import Zoo, ZooDataset, ZooError

__all__ = ["ShapeClassification"]


class ShapeClassification(InrClassification):
    """Classification of networks that know the distances to a shape; batches bring the shapes' points as well.

    Points are for references that read no weights, such as `experiments.point_net.PointNet`: ``graphs.points`` is
    ``[B, N, 3]``. Arguments are those of `InrClassification`.

    Raises:
        ValueError: a zoo has no labels, or its networks are no shapes'.
        ZooError: the shapes at hand are not those that networks were fitted to.
    """

    def __init__(
        self,
        zoo: Zoo,
        permutations: int = 4,
        canonical: Sequence[str] | None = None,
        test_zoo: Zoo | None = None,
    ) -> None:
        super().__init__(zoo, permutations, canonical, test_zoo)
        self.shapes = {each.path: _shapes_of(each) for each in (self.zoo, self.test_zoo)}

    def dataset(self, split: str) -> ZooDataset:
        """The networks of a split, with points."""
        zoo = self.test_zoo if split == "test" else self.zoo
        return _Pointed(self.shapes[zoo.path], zoo, split, [LABEL], self.canonical)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a probability when hidden neurons of test networks are permuted."""
        zoo = self.test_zoo
        (architecture,) = zoo.architectures
        records = zoo.of(architecture)
        shapes = records["image"][records["split"] == "test"].to_numpy()
        points = _points(self.shapes[zoo.path], shapes)

        def with_points(graphs: Any) -> Tensor:
            graphs.points = points
            return predict(graphs)

        return super().invariance(with_points)


class _Pointed(ZooDataset):
    """Networks of a split with the points of their shapes; further arguments are those of `ZooDataset`."""

    def __init__(self, shapes: ShapeData, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shapes = shapes
        numbers = self.zoo.records.set_index("id")["image"]
        self.numbers = numbers.loc[self.ids.numpy()].to_numpy()

    def batch(self, index: Sequence[int] | Tensor) -> tuple[Batch, Tensor]:
        """Graphs with ``points [B, N, 3]``, and labels."""
        graphs, labels = super().batch(index)
        graphs.points = _points(self.shapes, self.numbers[np.asarray(index)])
        return graphs, labels


def _points(shapes: ShapeData, numbers: np.ndarray) -> Tensor:
    """Of shapes by their numbers, the pool's first, ``[n, N, 3]``."""
    pool = len(shapes.pool)
    clouds = [shapes.pool[number] if number < pool else shapes.test[number - pool] for number in numbers]
    return torch.stack(clouds)


def _shapes_of(zoo: Zoo) -> ShapeData:
    header = zoo.header["data"]
    if "points" not in header:
        raise ValueError(f"{zoo.path} has networks of {header['name']}, which are no shapes; choose zoo=solids_siren")
    shapes = load_shapes(zoo.header["config"]["data"])
    if shapes.fingerprint != header["fingerprint"]:
        raise ZooError(f"{zoo.path} was fitted to other shapes than those of {shapes.name} that are at hand")
    return shapes
