"""Networks that draw images, as arrays of latent vectors that are tied to patches of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters import Structure, execute
from graphnets.inr2array.decoder import HyperNetwork
from graphnets.layered import Networks
from graphnets.statistics import take_statistics

__all__ = ["Inr2Array", "patch_numbers"]


def patch_numbers(coordinates: Tensor, patches: Sequence[int]) -> Tensor:
    r"""Which patch of :math:`[-1, 1]^2` each point lies in, ``[N]``; patches are numbered in reading order.

    >>> patch_numbers(torch.tensor([[-1.0, -1.0], [-1.0, 0.5], [0.2, -0.1], [1.0, 1.0]]), (2, 2)).tolist()
    [0, 1, 2, 3]
    """
    counts = torch.tensor(list(patches), device=coordinates.device)
    cells = ((coordinates + 1) / 2 * counts).floor().long().clamp_min(0).minimum(counts - 1)
    return cells[:, 0] * counts[1] + cells[:, 1]


class Inr2Array(nn.Module):
    r"""Encodes networks of two coordinates as M latent vectors, and draws from these (arXiv:2305.13546, Eq. 12-13).

    .. math::
        z = \mathrm{ENC}(W) \in \mathbb{R}^{M \times d}, \qquad \hat W_i = \mathrm{DEC}(z_i), \qquad
        L = \sum_{i=1}^M \sum_{x \in P_i} \big(f(x; \hat W_i) - f(x; W)\big)^2

    The plane :math:`[-1, 1]^2` is cut into M patches :math:`P_i`; each vector is decoded to the weights of a network of
    its own, which draws its patch and nothing else. The encoder is invariant, hence so is all that follows.

    Args:
        structure: of the networks, the encoded and the decoded ones: two coordinates in, channels out.
        targets: numbers of an image, channels times pixels.
        encoder: makes the encoder, called with ``structure`` and ``targets`` (M times d): any predictor, such as `NFT`
            with ``head=None``, which reads M vectors by cross-attention, `NFN` or `NeuronGNN`.
        pixels: ``[height, width]``; coordinates (row, column) go from -1 to 1.
        patches: rows and columns of patches, whose product is M.
        latent: size d of the vectors.
        hidden, layers, form, additive: of the decoder, see `HyperNetwork`.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: the image drawn by decoded networks, ``[C, H, W]`` flattened: ``[B, targets]``

    Raises:
        ValueError: there is no structure, or the targets are not an image's.

    >>> from functools import partial
    >>> from converters import to_graph
    >>> from graphnets import NFN
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)))
    >>> model = Inr2Array(graph.structure, 36, partial(NFN, channels=[4]), pixels=[6, 6], patches=[2, 2], latent=5)
    >>> model(graph).shape, model.encode(graph).shape
    (torch.Size([1, 36]), torch.Size([1, 4, 5]))
    """

    coordinates: Tensor

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        encoder: Callable[..., nn.Module],
        pixels: Sequence[int] = (28, 28),
        patches: Sequence[int] = (4, 4),
        latent: int = 256,
        hidden: int = 256,
        layers: int = 2,
        form: str = "tensor",
        additive: bool = False,
    ) -> None:
        super().__init__()
        if structure is None:
            raise ValueError("Inr2Array writes networks of one architecture; it needs their structure")
        self.pixels, self.patches, self.latent = tuple(pixels), tuple(patches), latent
        self.channels = structure.layers[-1].size
        if targets != self.channels * self.pixels[0] * self.pixels[1]:
            raise ValueError(
                f"{targets} targets are no image of {self.channels} channels and {pixels[0]} x {pixels[1]} pixels"
            )
        self.tokens = self.patches[0] * self.patches[1]
        self.encoder = encoder(structure=structure, targets=self.tokens * latent)
        self.decoder = HyperNetwork(structure, latent, hidden, layers, form, additive)
        sides = [torch.linspace(-1, 1, side) for side in self.pixels]
        self.register_buffer("coordinates", torch.cartesian_prod(*sides), persistent=False)
        numbers = patch_numbers(self.coordinates, self.patches)
        self._inside = [torch.nonzero(numbers == patch).squeeze(1) for patch in range(self.tokens)]
        self._order = torch.cat(self._inside).argsort()

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        return f"{self.tokens} x {self.latent} latents, {self.pixels[0]} x {self.pixels[1]} pixels, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Let the encoder take the statistics of its inputs, if it has any."""
        take_statistics(self.encoder, batches)

    def encode(self, batch: Networks) -> Tensor:
        """The latent vectors, ``[B, M, latent]``."""
        latents: Tensor = self.encoder(batch).unflatten(1, (self.tokens, self.latent))
        return latents

    def decode(self, latents: Tensor) -> Mapping[str, Tensor]:
        """The weights of the networks of all patches, ``{name: [B, M, *shape]}``, of latents ``[B, M, latent]``."""
        written = self.decoder(latents.flatten(0, 1))
        return {name: tensor.unflatten(0, latents.shape[:2]) for name, tensor in written.items()}

    def draw(self, latents: Tensor) -> Tensor:
        """The images of latents ``[B, M, latent]``, every patch by its own network: ``[B, C, H, W]``."""
        weights, drawn = self.decode(latents), list[Tensor]()
        for patch, inside in enumerate(self._inside):
            own = {name: tensor[:, patch] for name, tensor in weights.items()}
            points = self.coordinates[inside.to(self.coordinates.device)].to(latents)
            drawn.append(execute(own, points, structure=self.decoder.structure))
        pixels = torch.cat(drawn, 1)[:, self._order.to(latents.device)]
        images: Tensor = pixels.transpose(1, 2).unflatten(2, self.pixels)
        return images

    def forward(self, batch: Networks) -> Tensor:
        """Encode and draw."""
        return self.draw(self.encode(batch)).flatten(1)
