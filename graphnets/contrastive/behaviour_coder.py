"""Networks written as what they do: their answers to learned inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, execute
from graphnets.baselines.probing import input_and_classes
from graphnets.contrastive.autoencoder import perceptron
from graphnets.contrastive.coders import WeightCoder
from graphnets.contrastive.rows import from_rows, to_rows
from graphnets.layered import Networks

__all__ = ["BehaviourCoder"]


class BehaviourCoder(WeightCoder):
    r"""Codes of what networks answer to learned inputs, decoded to weights that answer alike.

    .. math:: z = \Pi\, f_{enc}\big(\{ s(x_k; w) - \bar s(x_k; w) \}_k / \sigma\big), \qquad
              \hat w = \bar w + \sigma_w \odot f_{dec}(z)

    with probes :math:`x_k` that are learned, class scores :math:`s` without their mean over classes, which no
    probability knows, and :math:`\Pi` the sphere. Trained by how far decoded networks do the same (see
    `behaviour_loss`), not by the distance of weights: networks from independent starts are mostly their starts, which a
    short code cannot hold and need not. The code is invariant under every symmetry of the function, not of neurons
    alone; of the weights themselves nothing but their function comes back. Buffers are decoded like the rest.

    Args:
        structure, targets: see `WeightCoder`; networks take one batch of real inputs and give class scores.
        latent: numbers of the code, of norm 1.
        probes: number of learned inputs.
        hidden: widths of the hidden layers of encoder and decoder.
        examples: inputs at the start, ``[probes, *input]``, alone or with their classes; None: normal noise.

    Raises:
        StructureMismatch: networks cannot be probed.
        ValueError: examples are of another shape.
    """

    mean: Tensor
    deviation: Tensor
    size: Tensor

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        latent: int = 96,
        probes: int = 64,
        hidden: Sequence[int] = (512, 512),
        examples: Any = None,
    ) -> None:
        super().__init__(structure, targets)
        shape, classes = input_and_classes(self.structure)
        start = torch.randn(probes, *shape)
        if examples is not None:
            given = examples[0] if isinstance(examples, (tuple, list)) else examples
            if given.numel() != start.numel() or len(given) != probes:
                raise ValueError(f"examples of shape {list(given.shape)}, expected [{probes}, {shape}]")
            start = given.reshape(start.shape).clone()
        self.probes = nn.Parameter(start)
        self.encoder = perceptron([probes * classes, *hidden, latent])
        self.decoder = perceptron([latent, *reversed(hidden), targets])
        self.latent = latent
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("deviation", torch.ones(targets))
        self.register_buffer("size", torch.ones(()))

    @property
    def code_size(self) -> int:
        """Numbers of the latent."""
        return self.latent

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Take mean and deviation of weights, and the size of answers."""
        stacks = [self.stack(batch) for batch in batches]
        rows = torch.cat([to_rows(stack, self.structure) for stack in stacks])
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0).clamp_min(1e-6))
        self.size.copy_(torch.cat([self._answers(stack).flatten() for stack in stacks]).square().mean().sqrt())

    def _answers(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Class scores without their means, ``[B, probes, classes]``."""
        scores: Tensor = execute(weights, self.probes, structure=self.structure)
        return scores - scores.mean(2, keepdim=True)

    def encode(self, batch: Networks) -> Tensor:
        """Latents, ``[B, latent]``."""
        answers = self._answers(self.stack(batch)) / self.size
        return functional.normalize(self.encoder(answers.flatten(1)), dim=1)

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """Networks of latents."""
        rows = self.mean + self.deviation * self.decoder(codes * self.latent**0.5)
        return from_rows(rows, self.structure)
