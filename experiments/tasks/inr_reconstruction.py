"""Draw again what an implicit neural representation draws, from a code of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from experiments.tasks.inr_editing import InrEditing
from experiments.zoo import Zoo
from experiments.zoo.sirens.signals import PEAK

__all__ = ["InrReconstruction"]

SETTING = "reconstruction"


class InrReconstruction(InrEditing):
    r"""Predictions are pixels; the target is each network's own drawing (arXiv:2305.13546, Eq. 12).

    Scored by the mean squared error over pixels, by this error relative to that of the training networks' mean image
    (``relative_mse``), and by the mean peak signal-to-noise ratio in decibels (``psnr``).

    Args:
        zoo: networks of coordinates.
        pixels: ``[height, width]``; of networks of three coordinates, ``[depth, height, width]``.
        permutations: true permutations tried by `invariance`.
        canonical: symmetries of activations to remove from the weights, see `converters.canonicalize`; None: none.
        test_zoo: another zoo whose test networks are drawn again instead of this one's.

    Raises:
        ValueError: networks differ in their architecture.
    """

    def __init__(
        self,
        zoo: Zoo,
        pixels: Sequence[int],
        permutations: int = 4,
        canonical: Sequence[str] | None = None,
        test_zoo: Zoo | None = None,
    ) -> None:
        super().__init__(zoo, {SETTING: {}}, pixels, "render", permutations, canonical, test_zoo)

    def _wanted(self, images: Tensor) -> Tensor:
        """What the networks draw."""
        return images.flatten(1)

    @cached_property
    def mean_image(self) -> Tensor:
        """Of what the training networks draw, ``[outputs]`` float64."""
        return self.dataset("train").y.double().mean(0)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """The three scores of pixels ``[N, outputs]``."""
        errors = (prediction - target).square().mean(1)
        reference = (target - self.mean_image).square().mean()
        ratios = 10 * torch.log10(PEAK**2 / errors.clamp_min(1e-30))
        mse = errors.mean()
        scores = {"mse": mse, "relative_mse": mse / reference, "psnr": ratios.mean()}
        return {SETTING: {name: float(score) for name, score in scores.items()}}

    def pictures(self, predict: Callable[[Any], Tensor]) -> dict[str, dict[str, Tensor]]:
        """What some test networks draw, and what is drawn again from their codes, ``[n, C, H, W]`` each."""
        rows = super().pictures(predict)[SETTING]
        return {SETTING: {"drawn": rows["wanted"], "drawn again": rows["edited"]}}
