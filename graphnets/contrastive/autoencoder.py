"""Codes of networks as points of a sphere and back, and the views that tell which codes mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure
from graphnets.baselines.augment import draw_orders, permuted_positions
from graphnets.contrastive.losses import nt_xent
from graphnets.contrastive.rows import from_rows, held, to_rows

__all__ = ["CodeAutoencoder", "autoencoder_loss", "perceptron", "weight_views"]


def weight_views(
    weights: Mapping[str, Tensor], structure: Structure, permute: bool = True, erase: float = 0.1
) -> dict[str, Tensor]:
    """Networks as a contrastive loss is shown them: renumbered, and with some entries missing.

    Each network has its hidden neurons permuted by a permutation of its own, a true symmetry, and each entry of its
    parameters set to 0 with probability ``erase`` (Section 2.5 of Swanevelder 2025; hyper-representations, Schürholt et
    al. 2022). Integer tensors stay. Draws come from torch's global generator.

    Args:
        weights: a stack ``{name: [n, *shape]}``.
        structure: of the networks.
        permute, erase: what is done.

    Raises:
        ValueError: ``erase`` is no probability.
    """
    if not 0 <= erase < 1:
        raise ValueError(f"erase={erase} is not between 0 and 1")
    rows = to_rows(weights, structure, torch.float64)
    if permute:
        orders = draw_orders(structure, len(rows))
        rows = rows.gather(1, permuted_positions(structure, orders, buffers=True).to(rows.device).expand_as(rows))
    if erase:
        fixed = [p.buffer or p.dtype != structure.dtype for p in held(structure)]
        lengths = torch.tensor([p.numel for p in held(structure)])
        kept = (torch.rand(rows.shape) >= erase) | torch.tensor(fixed).repeat_interleave(lengths)
        rows = rows * kept.to(rows)
    found = from_rows(rows, structure)
    return {name: tensor.to(weights[name]) for name, tensor in found.items()}


class CodeAutoencoder(nn.Module):
    r"""From codes of weights to latents and back (Swanevelder 2025, Section 3.2.1, Eqs. 2.3 to 2.5).

    .. math:: z = f_{enc}(C) / \lVert f_{enc}(C) \rVert, \qquad \hat C = f_{dec}(z)

    Deviation: latents have norm 1, as the contrastive loss knows directions alone and what is sampled by it has to be
    decoded; ``unit=False`` is the paper's.

    Args:
        inputs: numbers of a code, `WeightCompression.code_size`.
        latent: numbers of a latent.
        hidden: widths of the encoder's hidden layers, in the decoder the other way round; none in the paper's best one.
        unit: whether latents have norm 1.
        dropout: after every hidden layer.

    Shapes:
        - codes: ``[n, inputs]``; latents: ``[n, latent]``
    """

    def __init__(
        self, inputs: int, latent: int, hidden: Sequence[int] = (), unit: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.unit = unit
        self.encoder = perceptron([inputs, *hidden, latent], dropout)
        self.decoder = perceptron([latent, *reversed(hidden), inputs], dropout)

    def encode(self, codes: Tensor) -> Tensor:
        """Latents of codes."""
        latents: Tensor = self.encoder(codes)
        return functional.normalize(latents, dim=1) if self.unit else latents

    def decode(self, latents: Tensor) -> Tensor:
        """Codes of latents."""
        codes: Tensor = self.decoder(latents)
        return codes

    def forward(self, codes: Tensor) -> Tensor:
        """Codes as they come back."""
        return self.decode(self.encode(codes))


def autoencoder_loss(
    model: CodeAutoencoder,
    codes: Tensor,
    views: tuple[Tensor, Tensor] | None = None,
    beta: float = 0.9,
    temperature: float = 0.1,
) -> Tensor:
    r"""Reconstruction and contrast (Swanevelder 2025, Eq. 2.8 with Eq. 3.1 and Eq. 2.7).

    .. math:: \mathcal L = \beta \mathcal L_{MSE} + (1 - \beta) \mathcal L_c

    Args:
        model: the autoencoder.
        codes: of networks as they are, which have to come back.
        views: codes of two views of each (see `weight_views`), whose latents have to be alike; None: no contrast.
        beta: the share of reconstruction.
        temperature: of the contrast.

    Shapes:
        - codes, views: ``[n, inputs]``; result: ``[]``

    Raises:
        ValueError: ``beta`` is no share, or is below 1 without views.
    """
    if not 0 <= beta <= 1 or (views is None and beta < 1):
        raise ValueError(f"beta={beta} must be between 0 and 1, and 1 where there are no views")
    loss = functional.mse_loss(model(codes), codes) * beta
    if views is not None and beta < 1:
        first, second = (model.encode(view) for view in views)
        loss = loss + (1 - beta) * nt_xent(first, second, temperature)
    return loss


def perceptron(widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers from the first width to the last, GELU and dropout between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
