"""Edit the image that an implicit neural representation draws, by its weights alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from converters import Structure, execute
from experiments.data import edited, load_images
from experiments.tasks.invariance import zoo_permutation_delta
from experiments.tasks.objective import Objective, PixelError
from experiments.zoo import Zoo, ZooDataset
from experiments.zoo.sirens.network import grid
from experiments.zoo.sirens.signals import targets_of

__all__ = ["SOURCES", "InrEditing"]

SOURCES = ("image", "render")
EXAMPLES = 8


class InrEditing:
    r"""Networks are to draw what an operation makes of the image that they draw (Zhou et al. 2023, Section 3.4).

    Predictions are pixels: those that edited networks draw. Every operation is a setting of its own, scored by the mean
    squared error of Eq. 21 (arXiv:2302.14040) over pixels in -1 to 1, on test and on training networks.

    Args:
        zoo: networks of two coordinates, with a column ``image``.
        operations: name to options, see `experiments.data.OPERATIONS`.
        pixels: ``[height, width]``.
        source: what the operations are done to: ``"image"``, what the networks were fitted to, as in the paper, or
            ``"render"``, what they draw, where images are not at hand.
        permutations: true permutations tried by `invariance`.
        canonical: symmetries of activations to remove from the weights, see `converters.canonicalize`; None: none.
        test_zoo: another zoo whose test networks are edited instead of this one's.

    Raises:
        ValueError: the source is unknown, or networks differ in their architecture. Later, when images are edited: an
            operation or an option is unknown, images have other pixels, or there are none.
    """

    def __init__(
        self,
        zoo: Zoo,
        operations: Mapping[str, Mapping[str, Any]],
        pixels: Sequence[int],
        source: str = "image",
        permutations: int = 4,
        canonical: Sequence[str] | None = None,
        test_zoo: Zoo | None = None,
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"task.source={source!r} is not one of {', '.join(SOURCES)}")
        if zoo.structure is None:
            raise ValueError(f"{zoo.path} has several architectures; the networks to edit must share one")
        self.zoo, self.test_zoo, self.permutations = zoo, zoo if test_zoo is None else test_zoo, permutations
        self.operations = {name: dict(options) for name, options in operations.items()}
        self.pixels, self.source = tuple(map(int, pixels)), source
        self.channels, self.canonical = zoo.structure.layers[-1].size, tuple(canonical or ())
        self._datasets = dict[str, ZooDataset]()

    @property
    def settings(self) -> tuple[str, ...]:
        """The operations."""
        return tuple(self.operations)

    @property
    def also_scored(self) -> tuple[str, ...]:
        """The training networks."""
        return ("train",)

    @property
    def outputs(self) -> int:
        """All numbers of an image, for every operation."""
        return len(self.operations) * self.channels * math.prod(self.pixels)

    @property
    def structure(self) -> Structure | None:
        """The architecture."""
        return self.zoo.structure

    def dataset(self, split: str) -> ZooDataset:
        """The networks of a split with the images that they are to draw, ``[N, outputs]``."""
        if split not in self._datasets:
            dataset = ZooDataset(self.test_zoo if split == "test" else self.zoo, split, ["id"], self.canonical)
            images = self._originals(dataset)
            if images.shape[2:] != self.pixels:
                raise ValueError(f"task.pixels={list(self.pixels)}: the images have {list(images.shape[2:])}")
            dataset.y = self._wanted(images)
            self._datasets[split] = dataset
        return self._datasets[split]

    def _wanted(self, images: Tensor) -> Tensor:
        """From images ``[N, C, H, W]`` to targets ``[N, outputs]``."""
        return torch.stack([edited(images, name, options) for name, options in self.operations.items()], 1).flatten(1)

    def _originals(self, dataset: ZooDataset) -> Tensor:
        """What the operations are done to, ``[N, C, H, W]``."""
        if self.source == "image":
            config = dataset.zoo.header["config"]
            if "data" not in config:
                raise ValueError(
                    f"{dataset.zoo.path} has no images at hand; edit what its networks draw: source=render"
                )
            images, _ = targets_of(load_images(config["data"]))
            by_id = dataset.zoo.records.set_index("id")["image"]
            return images[torch.from_numpy(by_id.loc[dataset.ids.numpy()].to_numpy(copy=True))]
        with torch.no_grad():
            parts = [self._drawn(dataset.weights(index)) for index in torch.arange(len(dataset)).split(512)]
        return torch.cat(parts)

    def _drawn(self, weights: Mapping[str, Tensor]) -> Tensor:
        pixels: Tensor = execute(weights, grid(*self.pixels), structure=self.structure)
        images: Tensor = pixels.transpose(1, 2).unflatten(2, self.pixels)
        return images

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches ``(graphs, pixels [B, outputs])``, an operation after the other, each ``[C, H, W]`` flattened."""
        return self.dataset(split).loader(batch_size, shuffle=shuffle, seed=seed)

    def objective(self, loss: str | None = None) -> Objective:
        """The mean squared error of pixels.

        Raises:
            ValueError: another loss is asked for.
        """
        if loss is not None:
            raise ValueError(f"trainer.loss={loss!r}: images are learned by their squared error; leave it null")
        return PixelError(len(self.operations))

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """The mean squared error by operation, of pixels ``[N, outputs]``."""
        errors = self.objective().losses(prediction, target).tolist()
        return {name: {"mse": error} for name, error in zip(self.operations, errors, strict=True)}

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The root mean squared error of each image, ``[N, operations]``, beside zeros."""
        squares = (prediction - target).square().unflatten(1, (len(self.operations), -1))
        errors = squares.mean(2).sqrt()
        return errors, torch.zeros_like(errors)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a drawn pixel when hidden neurons of test networks are permuted."""
        return zoo_permutation_delta(predict, self.test_zoo, self.permutations, self.canonical)

    def pictures(self, predict: Callable[[Any], Tensor]) -> dict[str, dict[str, Tensor]]:
        """Of some test networks by operation: drawn before, wanted and drawn after, ``[n, C, H, W]`` each."""
        dataset = self.dataset("test")
        index = torch.linspace(0, len(dataset) - 1, min(EXAMPLES, len(dataset))).long()
        graphs, target = dataset.batch(index)
        with torch.no_grad():
            before = self._drawn(dataset.weights(index))

        def images(pixels: Tensor) -> Tensor:
            shape = len(self.operations), self.channels, *self.pixels
            by_operation: Tensor = pixels.float().unflatten(1, shape).movedim(1, 0)
            return by_operation

        wanted, after = images(target), images(predict(graphs))
        return {
            name: {"drawn": before, "wanted": wanted[i], "edited": after[i]} for i, name in enumerate(self.operations)
        }
