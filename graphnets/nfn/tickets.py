"""Winning tickets: sparse masks of initialisations, and the conditional autoencoder that predicts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures
from graphnets.layered import Networks
from graphnets.nfn.encodings import IOEncoding
from graphnets.nfn.model import check_variant, linear_layer
from graphnets.nfn.normalisation import ChannelNorm
from graphnets.pieces import Pieces
from graphnets.statistics import take_statistics
from graphnets.weight_input import WeightInput

__all__ = ["DirectTicket", "TicketVAE", "Tickets", "by_tensor", "in_a_row"]


class Tickets(NamedTuple):
    """Initialisations of networks and their winning tickets.

    Args:
        networks: a graph or a batch of B graphs, the initial weights.
        masks: which of them stay, ``{name: [B, *shape]}`` of 0 and 1.
    """

    networks: Networks
    masks: Mapping[str, Tensor]


def in_a_row(tensors: Mapping[str, Tensor], structure: Structure) -> Tensor:
    """One number per weight, ``{name: [B, *shape]}``, as ``[B, weights]`` in the order of the structure."""
    return torch.cat([tensors[name].flatten(1) for name in Pieces.of(structure, "hnp").names], 1)


def by_tensor(row: Tensor, structure: Structure) -> dict[str, Tensor]:
    """The inverse of `in_a_row`."""
    shapes = {name: structure.parameter[name].shape for name in Pieces.of(structure, "hnp").names}
    parts = row.split([torch.Size(shape).numel() for shape in shapes.values()], 1)
    return {name: part.view(len(row), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


class _Functional(nn.Module):
    """Equivariant linear layers with normalisation and ReLU between, from features to features."""

    def __init__(
        self,
        structure: Structure,
        widths: Sequence[int],
        variant: str,
        norm: bool,
        io_encoding: str | None,
        terms: str,
        rank: int | None,
    ) -> None:
        super().__init__()
        first, *rest = widths
        self.mark = None if io_encoding is None else IOEncoding(structure, first, io_encoding)
        first = first if self.mark is None else self.mark.out_channels
        pairs = pairwise([first, *rest])
        self.layers = nn.ModuleList(linear_layer(variant, structure, i, o, terms, rank) for i, o in pairs)
        self.norms = nn.ModuleList(ChannelNorm(width) if norm else nn.Identity() for width in rest[:-1])

    def forward(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        """From ``{name: [B, *shape, widths[0]]}`` to the same with ``widths[-1]``."""
        if self.mark is not None:
            features = self.mark(features)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            features = norm(layer(features)).map(torch.relu)
        out: WeightSpaceFeatures = self.layers[-1](features)
        return out


class TicketVAE(nn.Module):
    r"""A generative model of winning tickets, given initialisations (Zhou et al. 2023, Section 3.3, Appendix D.2).

    arXiv:2302.14040. The encoder sees initial weights and mask, the decoder initial weights and a latent of ``latent``
    numbers per weight, both through equivariant linear layers:

    .. math:: q(Z \mid U_0, M) = \mathcal N\big(\mu(U_0, M), \sigma^2(U_0, M)\big), \qquad
              p(M \mid U_0, Z) = \prod_i \mathrm{Bernoulli}\big(M_i; \mathrm{sigmoid}(s_i(U_0, Z))\big), \qquad
              p(Z) = \mathcal N(0, 1)

    While training, Z is drawn from the encoder. In evaluation mode no mask is read: Z is 0, the most likely latent, so
    that what is predicted is one function of the initialisation, and moves with its neurons.

    Deviations from the paper: initial weights are standardised tensor by tensor. Where it normalises is not said; here
    after every linear layer but the last, over the channels of each weight.

    Args:
        structure: what the networks share.
        targets: numbers per network in the result; None or weights + 1.
        variant: ``"np"``, ``"hnp"`` or ``"pt"`` (every weight by itself).
        channels: of the hidden layers, encoder and decoder alike.
        latent: numbers per weight in the latent.
        norm: whether there is layer norm.
        io_encoding: None, ``"sinusoidal"`` or ``"learned"``: mark input and output neurons before the first layers.
        terms, rank: of the linear layers, see `PermutationLinear`.

    Shapes:
        - tickets: of B networks
        - result: ``[B, weights + 1]``: a score for every weight (the logarithm of the odds that it stays) in the order
          of `in_a_row`, then the divergence :math:`D_{KL}(q \| p)` in nats, 0 in evaluation mode

    Raises:
        ValueError: an argument is unknown, there is no structure, or a layer would be too large.

    >>> from converters import to_graph, trace
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> masks = {name: torch.ones(1, *tensor.shape) for name, tensor in network.state_dict().items()}
    >>> TicketVAE(trace(network), channels=[4, 4, 4])(Tickets(to_graph(network), masks)).shape
    torch.Size([1, 52])
    """

    def __init__(
        self,
        structure: Structure | None,
        targets: int | None = None,
        variant: str = "np",
        channels: Sequence[int] = (64, 64, 64),
        latent: int = 5,
        norm: bool = True,
        io_encoding: str | None = None,
        terms: str = "all",
        rank: int | None = None,
    ) -> None:
        super().__init__()
        check_variant(variant)
        self.read = WeightInput(structure)
        structure = self.read.structure
        weights = structure.num_parameters
        if targets not in (None, weights + 1):
            raise ValueError(f"targets={targets}: this model gives {weights} scores and a divergence, {weights + 1}")
        self.variant, self.latent, self.norm, self.weights = variant, latent, norm, weights
        options = (variant, norm, io_encoding, terms, rank)
        self.encoder = _Functional(structure, [2, *channels, 2 * latent], *options)
        self.decoder = _Functional(structure, [1 + latent, *channels, 1], *options)

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        return f"{self.read.structure.name} -> {self.weights} scores, {self.variant}, {size:,} parameters"

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Learn the typical sizes of initial weights; see `ScaleTensors`."""
        self.read.fit_statistics(batches)

    def posterior(self, initial: WeightSpaceFeatures, masks: Mapping[str, Tensor]) -> tuple[Any, Any]:
        r"""The encoder's :math:`\mu` and :math:`\log \sigma`, ``{name: [B, *shape, latent]}``.

        Args:
            initial: standardised weights, ``{name: [B, *shape, 1]}``.
            masks: ``{name: [B, *shape]}``.
        """
        both = initial.zip(masks, lambda weight, mask: torch.cat([weight, mask.to(weight).unsqueeze(-1)], -1))
        found = self.encoder(both)
        return found.map(lambda t: t[..., : self.latent]), found.map(lambda t: t[..., self.latent :])

    def scores(self, initial: WeightSpaceFeatures, latent: Mapping[str, Tensor] | None = None) -> WeightSpaceFeatures:
        """The decoder's scores, ``{name: [B, *shape, 1]}``.

        Args:
            initial: standardised weights, ``{name: [B, *shape, 1]}``.
            latent: ``{name: [B, *shape, latent]}``; None: 0.
        """
        if latent is None:
            latent = initial.map(lambda t: t.new_zeros(*t.shape[:-1], self.latent))
        found: WeightSpaceFeatures = self.decoder(initial.zip(latent, lambda a, b: torch.cat([a, b], -1)))
        return found

    def forward(self, tickets: Tickets) -> Tensor:
        """Reconstruct masks while training, else predict them."""
        initial = self.read(tickets.networks)
        structure = self.read.structure
        if not self.training:
            scores = in_a_row(self.scores(initial), structure)
            return torch.cat([scores, scores.new_zeros(len(scores), 1)], 1)
        mean, deviation = self.posterior(initial, tickets.masks)
        latent = mean.zip(deviation, lambda m, s: m + s.exp() * torch.randn_like(m))
        parts = mean.zip(deviation, lambda m, s: 0.5 * (m.square() + (2 * s).exp() - 1) - s)
        divergence = in_a_row(parts, structure).sum(1, keepdim=True)
        return torch.cat([in_a_row(self.scores(initial, latent), structure), divergence], 1)


class DirectTicket(nn.Module):
    """Scores of weights straight from a functional of the initial weights, without a latent.

    Args:
        structure: what the networks share.
        targets: numbers per network in the result, weights + 1; not needed.
        functional: makes the functional, called with ``structure`` and ``targets=None``: any model that gives new
            weights, such as `NFN`, `NFT` or `NeuronGNN`.

    Shapes:
        - tickets: of B networks, whose masks are not read
        - result: ``[B, weights + 1]`` as of `TicketVAE`, the divergence 0

    >>> from functools import partial
    >>> from converters import to_graph
    >>> from graphnets import NFN
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> DirectTicket(graph.structure, functional=partial(NFN, channels=[4]))(Tickets(graph, {})).shape
    torch.Size([1, 52])
    """

    def __init__(
        self, structure: Structure, targets: int | None = None, *, functional: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.structure = structure
        self.functional = functional(structure=structure, targets=None)

    def fit_statistics(self, batches: Iterable[Any]) -> None:
        """Let the functional take the statistics of its inputs, if it has any."""
        take_statistics(self.functional, (tickets.networks for tickets in batches))

    def forward(self, tickets: Tickets) -> Tensor:
        """Predict scores."""
        scores = in_a_row(self.functional(tickets.networks), self.structure)
        return torch.cat([scores, scores.new_zeros(len(scores), 1)], 1)
