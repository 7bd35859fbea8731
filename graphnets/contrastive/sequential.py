"""An autoencoder of tokens: the size of a network is the length of its sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from converters import Structure
from graphnets.contrastive.losses import nt_xent
from graphnets.contrastive.tokens import WeightTokens

__all__ = ["SequentialAutoencoder"]


class SequentialAutoencoder(nn.Module):
    r"""A Transformer that encodes each token of a network among its neighbours (SANE, Schürholt et al. 2024).

    Every token is embedded with its layer and its place in it, a Transformer sees windows of the sequence, and each
    token gets a latent of its own; a second Transformer goes back. Only numbers that are weights count in the loss:

    .. math:: \mathcal L_{MSE} = \frac{1}{|M|} \sum_{(t, k) \in M} (\hat w_{tk} - w_{tk})^2

    with M the entries that are not filled up (`WeightTokens.mask`), beside the contrast of Eq. 2.8 between two views of
    a window, each the mean of its latents.

    Args:
        structure: of the networks.
        size: numbers of a token, see `WeightTokens`.
        channels, heads, blocks: of both Transformers.
        latent: numbers of a token's latent.
        window: tokens that see each other.
        dropout: in the Transformers.

    Shapes:
        - weights: ``{name: [n, *shape]}``; latents: ``[n, T, latent]``

    Raises:
        ValueError: ``window`` is not positive.
    """

    def __init__(
        self,
        structure: Structure,
        size: int = 32,
        channels: int = 64,
        heads: int = 4,
        blocks: int = 2,
        latent: int = 8,
        window: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = WeightTokens(structure, size)
        if window < 1:
            raise ValueError(f"window={window} must be positive")
        self.window, self.latent = min(window, self.tokens.count), latent
        longest = int(self.tokens.places[:, 1].max()) + 1
        self.layer_embedding = nn.Embedding(len(self.tokens.layers), channels)
        self.place_embedding = nn.Embedding(longest, channels)
        self.enter, self.narrow = nn.Linear(size, channels), nn.Linear(channels, latent)
        self.widen, self.leave = nn.Linear(latent, channels), nn.Linear(channels, size)
        self.encoder, self.decoder = (self._transformer(channels, heads, blocks, dropout) for _ in range(2))

    @staticmethod
    def _transformer(channels: int, heads: int, blocks: int, dropout: float) -> nn.TransformerEncoder:
        block = nn.TransformerEncoderLayer(
            channels, heads, 4 * channels, dropout, "gelu", batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(block, blocks, nn.LayerNorm(channels), enable_nested_tensor=False)

    def extra_repr(self) -> str:
        """The contract."""
        return f"windows of {self.window}, {self.latent} numbers per token, {self.code_size} per network"

    @property
    def code_size(self) -> int:
        """Numbers that stand for a network."""
        return self.tokens.count * self.latent

    def fit_statistics(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Take the statistics of stacks of networks, see `WeightTokens.fit`."""
        self.tokens.fit(batches)

    def encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents of all tokens, window after window."""
        tokens = self.tokens(weights)
        return torch.cat([self._encoded(tokens[:, part], part) for part in self._windows()], 1)

    def decode(self, latents: Tensor) -> dict[str, Tensor]:
        """A stack of networks.

        Raises:
            ValueError: latents of other shapes.
        """
        expected = (self.tokens.count, self.latent)
        if tuple(latents.shape[1:]) != expected:
            raise ValueError(f"latents of shape {list(latents.shape)}, expected [n, {expected[0]}, {expected[1]}]")
        return self.tokens.join(torch.cat([self._decoded(latents[:, part], part) for part in self._windows()], 1))

    def forward(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Networks as they come back."""
        return self.decode(self.encode(weights))

    def loss(
        self,
        weights: Mapping[str, Tensor],
        views: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
        beta: float = 0.9,
        temperature: float = 0.1,
    ) -> Tensor:
        """The loss on a window that torch's global generator draws, of all networks; see `autoencoder_loss`.

        Raises:
            ValueError: ``beta`` is no share, or is below 1 without views.
        """
        if not 0 <= beta <= 1 or (views is None and beta < 1):
            raise ValueError(f"beta={beta} must be between 0 and 1, and 1 where there are no views")
        start = int(torch.randint(self.tokens.count - self.window + 1, ()))
        part = slice(start, start + self.window)
        tokens, mask = self.tokens(weights)[:, part], self.tokens.mask[part]
        wrong = self._decoded(self._encoded(tokens, part), part) - tokens
        total: Tensor = beta * wrong.square()[:, mask].mean()
        if views is not None and beta < 1:
            first, second = (self._encoded(self.tokens(view)[:, part], part).mean(1) for view in views)
            total = total + (1 - beta) * nt_xent(first, second, temperature)
        return total

    def _windows(self) -> list[slice]:
        starts = range(0, self.tokens.count, self.window)
        return [slice(start, min(start + self.window, self.tokens.count)) for start in starts]

    def _places(self, part: slice) -> Tensor:
        places = self.tokens.places[part]
        found: Tensor = self.layer_embedding(places[:, 0]) + self.place_embedding(places[:, 1])
        return found

    def _encoded(self, tokens: Tensor, part: slice) -> Tensor:
        latents: Tensor = self.narrow(self.encoder(self.enter(tokens) + self._places(part)))
        return latents

    def _decoded(self, latents: Tensor, part: slice) -> Tensor:
        tokens: Tensor = self.leave(self.decoder(self.widen(latents) + self._places(part)))
        return tokens
