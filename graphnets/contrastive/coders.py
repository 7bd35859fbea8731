"""Ways to write networks as short codes, behind one contract: from graphs to the rows of what comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure
from converters.to_state_dict import stacked_weights
from graphnets.contrastive.autoencoder import CodeAutoencoder, perceptron, weight_views
from graphnets.contrastive.compression import WeightCompression
from graphnets.contrastive.losses import nt_xent
from graphnets.contrastive.rows import held, to_rows
from graphnets.contrastive.sequential import SequentialAutoencoder
from graphnets.layered import Networks
from graphnets.statistics import take_statistics

__all__ = ["AutoencoderCoder", "GraphCoder", "LinearCoder", "SequenceCoder", "WeightCoder"]


class WeightCoder(nn.Module, ABC):
    """Encodes networks of one architecture, and decodes codes to weights.

    Args:
        structure: of the networks.
        targets: numbers of a row, see `graphnets.contrastive.to_rows`.

    Shapes:
        - batch: a graph or a batch of B graphs; codes: ``[B, ...]``
        - result: what comes back, ``[B, targets]``

    Raises:
        ValueError: there is no structure, or its rows have other numbers.
    """

    def __init__(self, structure: Structure | None, targets: int) -> None:
        super().__init__()
        if structure is None:
            raise ValueError("codes are those of one architecture; pass structure=")
        numbers = sum(p.numel for p in held(structure))
        if targets != numbers:
            raise ValueError(f"{targets} targets, but a row of {structure.name} has {numbers} numbers")
        self.structure, self.targets = structure, targets

    @property
    @abstractmethod
    def code_size(self) -> int:
        """Numbers that stand for a network."""

    @abstractmethod
    def encode(self, batch: Networks) -> Tensor:
        """Codes of a batch of graphs."""

    @abstractmethod
    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """A stack of networks from codes."""

    def extra_repr(self) -> str:
        """The contract."""
        return f"{self.structure.name}: {self.targets} numbers"

    def forward(self, batch: Networks) -> Tensor:
        """Rows of what comes back."""
        return to_rows(self.decode(self.encode(batch)), self.structure)

    def stack(self, batch: Networks) -> dict[str, Tensor]:
        """The weights of a batch of graphs."""
        return stacked_weights(batch, self.structure)


class LinearCoder(WeightCoder):
    """`WeightCompression` by itself: nothing is trained, the code is that of the compression.

    Args:
        structure, targets: see `WeightCoder`.
        rank, variance_threshold, dimension_limit, per: see `WeightCompression`.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        rank: int = 16,
        variance_threshold: float = 1e-8,
        dimension_limit: int = 4,
        per: str = "parameter",
    ) -> None:
        super().__init__(structure, targets)
        self.compression = WeightCompression(
            self.structure, rank, variance_threshold, dimension_limit, per, scale="none"
        )

    @property
    def encoder(self) -> nn.Module:
        """The compression."""
        return self.compression

    @property
    def code_size(self) -> int:
        """Coefficients of a network."""
        return self.compression.code_size

    def fit(self, batches: Iterable[Any], targets: Tensor) -> None:
        """Fit to batches of graphs; the targets are not looked at."""
        self.compression.fit([self.stack(batch) for batch in batches])

    def encode(self, batch: Networks) -> Tensor:
        """Coefficients, ``[B, code_size]``."""
        return self.compression.encode(self.stack(batch))

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """The inverse."""
        return self.compression.decode(codes)


class AutoencoderCoder(WeightCoder):
    r"""Two stages: coefficients of `WeightCompression`, then an autoencoder of them (Swanevelder 2025, Section 3.2.1).

    With ``beta`` below 1 it brings the contrast of Eq. 2.8 as an `extra_loss`, :math:`(1 - \beta) / \beta` times as
    heavy as it is in the mix with the loss of what comes back: networks and their permuted, partly erased views.

    Args:
        structure, targets: see `WeightCoder`.
        rank, variance_threshold, dimension_limit, per, scale: see `WeightCompression`.
        latent, hidden, unit, dropout: see `CodeAutoencoder`; the code is the latent.
        beta, temperature: of the contrast; ``permute`` and ``erase`` make its views, see `weight_views`.

    Raises:
        ValueError: ``beta`` is not above 0 and at most 1.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        rank: int = 16,
        variance_threshold: float = 1e-8,
        dimension_limit: int = 4,
        per: str = "parameter",
        scale: str = "each",
        latent: int = 64,
        hidden: Sequence[int] = (),
        unit: bool = True,
        dropout: float = 0.0,
        beta: float = 0.9,
        temperature: float = 0.1,
        permute: bool = True,
        erase: float = 0.1,
    ) -> None:
        super().__init__(structure, targets)
        self.compression = WeightCompression(
            self.structure, rank, variance_threshold, dimension_limit, per, scale=scale
        )
        self.autoencoder = CodeAutoencoder(self.compression.code_limit, latent, hidden, unit, dropout)
        self.latent = latent
        self.contrast = _Contrast(self.structure, beta, temperature, permute, erase)

    @property
    def encoder(self) -> nn.Module:
        """What is trained; its decoder too."""
        return self.autoencoder

    @property
    def code_size(self) -> int:
        """Numbers of the latent."""
        return self.latent

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Fit the compression to batches of graphs."""
        self.compression.fit([self.stack(batch) for batch in batches])

    def encode(self, batch: Networks) -> Tensor:
        """Latents, ``[B, latent]``."""
        return self._latents(self.stack(batch))

    def _latents(self, weights: Mapping[str, Tensor]) -> Tensor:
        codes = self.compression.encode(weights)
        return self.autoencoder.encode(functional.pad(codes, (0, self.compression.code_limit - codes.shape[1])))

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """Networks of latents."""
        return self.compression.decode(self.autoencoder.decode(codes)[:, : self.compression.code_size])

    def extra_loss(self, batch: Networks) -> Tensor:
        """The contrast, to be added to the loss of what comes back."""
        contrast: Tensor = self.contrast(self.stack(batch), self._latents)
        return contrast


class SequenceCoder(WeightCoder):
    """`SequentialAutoencoder`: a latent for every token, in the code one after another.

    Args:
        structure, targets: see `WeightCoder`.
        size, channels, heads, blocks, latent, window, dropout: see `SequentialAutoencoder`.
        beta, temperature, permute, erase: as in `AutoencoderCoder`; latents of a network are averaged for the contrast.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        size: int = 32,
        channels: int = 64,
        heads: int = 4,
        blocks: int = 2,
        latent: int = 2,
        window: int = 64,
        dropout: float = 0.0,
        beta: float = 0.9,
        temperature: float = 0.1,
        permute: bool = True,
        erase: float = 0.1,
    ) -> None:
        super().__init__(structure, targets)
        self.autoencoder = SequentialAutoencoder(self.structure, size, channels, heads, blocks, latent, window, dropout)
        self.contrast = _Contrast(self.structure, beta, temperature, permute, erase)

    @property
    def code_size(self) -> int:
        """Numbers of all tokens' latents."""
        return self.autoencoder.code_size

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Take the statistics of batches of graphs."""
        self.autoencoder.fit_statistics([self.stack(batch) for batch in batches])

    def encode(self, batch: Networks) -> Tensor:
        """Latents of all tokens, ``[B, T, latent]``."""
        return self.autoencoder.encode(self.stack(batch))

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """Networks of latents."""
        return self.autoencoder.decode(codes)

    def extra_loss(self, batch: Networks) -> Tensor:
        """The contrast, to be added to the loss of what comes back."""
        contrast: Tensor = self.contrast(self.stack(batch), lambda view: self.autoencoder.encode(view).mean(1))
        return contrast


class GraphCoder(WeightCoder):
    """Any predictor as the encoder, so that codes know no order of neurons; the decoder has to choose one.

    Args:
        structure, targets: see `WeightCoder`.
        encoder: makes the encoder, called with ``structure`` and ``targets`` (the latent): such as `NeuronGNN`.
        rank, per: of the `WeightCompression` whose coefficients are decoded.
        latent: numbers of the code, of norm 1.
        hidden: widths of the decoder's hidden layers.
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int,
        encoder: Callable[..., nn.Module],
        rank: int = 64,
        per: str = "parameter",
        latent: int = 64,
        hidden: Sequence[int] = (256,),
    ) -> None:
        super().__init__(structure, targets)
        self.encoder = encoder(structure=self.structure, targets=latent)
        self.compression = WeightCompression(self.structure, rank, per=per)
        self.decoder = perceptron([latent, *hidden, self.compression.code_limit])
        self.latent = latent

    @property
    def code_size(self) -> int:
        """Numbers of the latent."""
        return self.latent

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Fit the compression, and let the encoder take the statistics of its inputs, if it has any."""
        kept = list(batches)
        self.compression.fit([self.stack(batch) for batch in kept])
        take_statistics(self.encoder, kept)

    def encode(self, batch: Networks) -> Tensor:
        """Latents, ``[B, latent]``."""
        return functional.normalize(self.encoder(batch), dim=1)

    def decode(self, codes: Tensor) -> dict[str, Tensor]:
        """Networks of latents."""
        return self.compression.decode(self.decoder(codes)[:, : self.compression.code_size])


class _Contrast(nn.Module):
    """The contrast of two views of each network, in units of the loss of what comes back."""

    def __init__(self, structure: Structure, beta: float, temperature: float, permute: bool, erase: float) -> None:
        super().__init__()
        if not 0 < beta <= 1:
            raise ValueError(f"beta={beta} must be above 0 and at most 1")
        self.structure, self.weight, self.temperature = structure, (1 - beta) / beta, temperature
        self.permute, self.erase = permute, erase

    def forward(self, weights: Mapping[str, Tensor], latents: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        """The loss, 0 where it has no weight or there is one network alone."""
        first = next(iter(weights.values()))
        if not self.weight or len(first) < 2:
            return torch.zeros((), dtype=first.dtype, device=first.device)
        one, other = (latents(weight_views(weights, self.structure, self.permute, self.erase)) for _ in range(2))
        return self.weight * nt_xent(one, other, self.temperature)
