"""One operator each, between two linear maps: ``last(f(first(x)))``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.converters.entry import draw
from tests.converters.modules import Buffer, Net

__all__ = ["OPERATORS", "Operator"]

Between = Callable[[Net, Tensor], Tensor]


@dataclass(frozen=True)
class Operator:
    """A function of hidden values.

    Args:
        name: of the operator and how it is used.
        between: from ``first(x)``, shape ``[B, H]`` or ``[B, T, H]``, to the input of ``last``.
        groups: sizes of all permutable groups.
        out: width of the input of ``last``.
        steps: T; 0 for inputs without a time axis.
        hidden: H.
        parts: further parameters, buffers or modules by name.
        missed: the tracer knows less than can be found by trying.
    """

    name: str
    between: Between
    groups: tuple[int, ...]
    out: int = 6
    steps: int = 0
    hidden: int = 6
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)
    missed: bool = False

    def build(self) -> nn.Module:
        """The network."""
        made = {name: make() for name, make in self.parts.items()}
        first, last = nn.Linear(4, self.hidden), nn.Linear(self.out, 2)
        return Net(lambda n, x: n.last(self.between(n, n.first(x))), first=first, last=last, **made)

    def inputs(self) -> tuple[Tensor, ...]:
        """Example inputs."""
        return (draw(3, self.steps, 4) if self.steps else draw(3, 4),)


def values(f: Callable[[Tensor], Tensor], *groups: int, **more: Any) -> tuple[Between, tuple[int, ...], dict[str, Any]]:
    """An operator that needs nothing of the network."""
    return (lambda n, h: f(h)), groups, more


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(draw(*shape))


def buffer(*entries: int) -> Callable[[], Buffer]:
    return lambda: Buffer(torch.tensor(entries))


def token_mean(h: Tensor) -> Tensor:
    return h.mean(1)


# (function, permutable groups, options)
NEURONS: dict[str, tuple[Between, tuple[int, ...], dict[str, Any]]] = {
    # sorting forgets the order; positions do not
    "sort_values": values(lambda h: h.sort(1).values, 6),
    "sort_descending": values(lambda h: torch.sort(h, dim=-1, descending=True, stable=True)[0], 6),
    "topk_values": values(lambda h: h.topk(3, 1).values, 6, out=3),
    "topk_scatter": values(lambda h: torch.zeros_like(h).scatter(1, h.topk(3, 1).indices, 1.0) * h, 6),
    "argsort": values(lambda h: h.argsort(1).to(h.dtype)),
    "argmax": values(lambda h: h * h.argmax(1, keepdim=True)),
    "argmax_over_batch": values(lambda h: h * (h.argmax(0, keepdim=True) > 1), 6),
    "kthvalue": values(lambda h: h + h.kthvalue(2, 1, keepdim=True).values, 6),
    "median": values(lambda h: h + h.median(1, keepdim=True).values, 6),
    "median_of_all": values(lambda h: h + h.median(), 6),
    "median_position": values(lambda h: h + h.median(1, keepdim=True).indices),
    "mode": values(lambda h: h + (h.round().mode(1, keepdim=True).values), 6),
    "max_position": values(lambda h: h + h.max(1, keepdim=True).indices),
    "max_value": values(lambda h: h + h.max(1, keepdim=True).values, 6),
    "aminmax": values(lambda h: (h - h.aminmax(dim=1, keepdim=True).min) / 2, 6),
    "unique": values(lambda h: h + h.round().unique().sum(), 6),
    "histc": values(lambda h: h + torch.histc(h.float(), 4, -2, 2).to(h.dtype).cumsum(0)[2], 6),
    "count_nonzero": values(lambda h: h * (h > 0).count_nonzero(1)[:, None], 6),
    "quantile": values(lambda h: h - h.quantile(0.3, dim=1, keepdim=True), 6),
    "renorm": values(lambda h: h.renorm(2, 0, 1.0), 6),
    "logsumexp": values(lambda h: h - h.logsumexp(1, keepdim=True), 6),
    "var_correction": values(lambda h: h / torch.var(h, dim=1, correction=0, keepdim=True), 6),
    "std_mean": values(lambda h: h - torch.std_mean(h, dim=1, keepdim=True)[1], 6),
    # scans and transforms
    "cumsum": values(lambda h: h.cumsum(1)),
    "cumprod": values(lambda h: h.cumprod(1)),
    "cummax": values(lambda h: h.cummax(1).values),
    "logcumsumexp": values(lambda h: h.logcumsumexp(1)),
    "diff": values(lambda h: h.diff(dim=1), out=5),
    "cumsum_over_batch": values(lambda h: h.cumsum(0), 6),
    "rfft": values(lambda h: torch.fft.rfft(h).abs(), out=4),
    "fft_over_batch": values(lambda h: torch.fft.fft(h, dim=0).real, 6),
    "unfold": values(lambda h: h.unfold(1, 2, 2).cumsum(-1).prod(-1), out=3),
    "roll": values(lambda h: h.roll(1, 1), 6),
    "roll_add": values(lambda h: h + h.roll(1, 1)),
    "roll_all": values(lambda h: h.roll(1)),
    "flip": values(lambda h: h.flip(1), 6),
    "rot90": values(lambda h: torch.rot90(h[:, None], 1, (1, 2))[:, :, 0], 6),
    # pairs of neurons
    "diag_embed": values(lambda h: torch.diag_embed(h).sum(1), 6),
    "diag_embed_offset": values(lambda h: torch.diag_embed(h, 1).sum(1), out=7),
    "diagonal": values(lambda h: (h[:, :, None] * h[:, None]).diagonal(dim1=1, dim2=2), 6),
    "diagonal_offset": values(lambda h: (h[:, :, None] * h[:, None]).diagonal(1, 1, 2), out=5),
    "tril": values(lambda h: (h[:, :, None] * h[:, None]).tril().sum(2)),
    "outer": values(lambda h: h + torch.outer(h[0], h[0]).sum(0), 6),
    "trace": values(lambda h: h + (h.t() @ h).trace(), 6),
    "matrix_exp": values(lambda h: h @ torch.linalg.matrix_exp(0.1 * h.t() @ h), 6),
    "inverse": values(lambda h: h @ torch.linalg.inv(h.t() @ h + torch.eye(6).to(h)), missed=True),
    "cholesky": values(lambda h: h @ torch.linalg.cholesky(h.t() @ h + torch.eye(6).to(h))),
    "triangular": values(lambda h: h @ (h.t() @ h).triu()),
    "cosine": values(lambda h: h * F.cosine_similarity(h, h.flip(0), dim=1)[:, None], 6),
    "pairwise": values(lambda h: h * F.pairwise_distance(h, h.flip(0))[:, None], 6),
    # indexing
    "chosen_once": values(lambda h: h[:, [3, 1, 4, 0, 5, 2]], 6),
    "chosen_some": values(lambda h: h[:, torch.tensor([3, -1])], 2, 4, out=2),
    "mask_known": values(lambda h: h[:, torch.arange(6) < 2], 2, 4, out=2),
    "gather_known": values(lambda h: h.gather(1, torch.tensor([[2, 0]]).expand(len(h), 2)), 2, 4, out=2),
    "gather_by_value": values(lambda h: h.gather(1, (h.sum(1).abs() * 9).long()[:, None] % 6), out=1),
    "gather_over_batch": values(lambda h: h.gather(0, torch.zeros_like(h, dtype=torch.long)), 6),
    "take_along": values(lambda h: torch.take_along_dim(h, h.argsort(1), 1), missed=True),
    "take": values(lambda h: h + h.take(torch.tensor([1])), missed=True),
    "masked_select": values(lambda h: h + h.masked_select(h > 0).cumsum(0).sum()),
    "masked_sum": values(lambda h: h + h.masked_select(h > 0).sum(), missed=True),
    "nonzero": values(lambda h: h + (h > 0).nonzero().double().std().to(h)),
    "mask_writes": values(lambda h: h.masked_fill(h > 0.5, 0.1), 6),
    "bucketize": values(lambda h: h * torch.bucketize(h, torch.tensor([-0.5, 0.0, 0.5]).to(h)), 6),
    "isin": values(lambda h: h * torch.isin(h.round(), torch.tensor([0.0, 1.0]).to(h)), 6),
    "one_hot": values(lambda h: F.one_hot((h > 0).long(), 2).to(h).sum(-1) * h, 6),
    "one_hot_neurons": values(lambda h: h * F.one_hot(h.argmax(1), 6).to(h), missed=True),
    "repeat_interleave": values(lambda h: h.repeat_interleave(torch.tensor([1, 2, 1, 0, 1, 1]), 1), 4),
    # random numbers are drawn by position
    "randn": values(lambda h: h + torch.randn(6).to(h)),
    "randn_like": values(lambda h: h * torch.randn_like(h)),
    "bernoulli": values(lambda h: h * torch.bernoulli(h.sigmoid())),
    "dropout_always": values(lambda h: F.dropout(h[None].expand(9, -1, -1), 0.5, training=True).sum(0)),
    "normal": values(lambda h: torch.normal(h, 1.0)),
    "multinomial": values(lambda h: h + torch.multinomial(h.exp(), 1)),
    "noise_of_batch": values(lambda h: h + torch.randn(len(h), 1).to(h), 6),
    # complex numbers
    "complex": values(lambda h: torch.complex(h, h.sin()).abs(), 6),
    "polar": values(lambda h: torch.polar(h.exp(), h).imag, 6),
    "view_as_complex": values(lambda h: torch.view_as_complex(h.view(-1, 3, 2)).abs(), 3, out=3),
    "view_as_real": values(lambda h: torch.view_as_real(torch.complex(h, h.cos()))[..., 1], 6),
    # elementwise
    "pow_tensors": values(lambda h: h.abs() ** h.sigmoid(), 6),
    "remainder": values(lambda h: h.remainder(0.7) + (h * 3).floor_divide(2.0), 6),
    "xlogy": values(lambda h: torch.special.xlog1py(h, h.abs()) + torch.special.entr(h.abs()), 6),
    "pow_positions": values(lambda h: h.abs() ** torch.arange(6).to(h)),
    # copies of views, unsafe and otherwise
    "view_copy": values(lambda h: torch.permute_copy(torch.unsqueeze_copy(h, 0), (1, 0, 2))[:, 0], 6),
    "split_copy": values(lambda h: torch.split_copy(h, 2, 1)[1], 2, 4, out=2),
    "unsafe_chunk": values(lambda h: h.unsafe_chunk(2, 1)[0] * h.unsafe_chunk(2, 1)[1], 3, out=3),
    "slice_copy": values(lambda h: torch.slice_copy(h, 1, 0, 4), 4, 2, out=4),
}


def routed(n: Net, h: Tensor) -> Tensor:
    """Mixture of experts: tokens sent to two experts by their router, results added back."""
    flat = h.flatten(0, 1)
    choice = n.router(flat).argmax(-1)
    out = torch.zeros_like(flat)
    for expert in range(2):
        rows = (choice == expert).nonzero()[:, 0]
        out = out.index_add(0, rows, n.down[expert](torch.relu(n.up[expert](flat[rows]))))
    return out.view_as(h).mean(1)


def moe() -> dict[str, Callable[[], Any]]:
    return {
        "router": lambda: nn.Linear(6, 2),
        "up": lambda: nn.ModuleList(nn.Linear(6, 5) for _ in range(2)),
        "down": lambda: nn.ModuleList(nn.Linear(5, 6) for _ in range(2)),
    }


def written_rows(n: Net, h: Tensor) -> Tensor:
    out = h.new_zeros(len(h), 7, 6)
    out[:, n.rows] = h
    return token_mean(out * torch.arange(7.0).to(h)[:, None])


def put_by_mask(n: Net, h: Tensor) -> Tensor:
    keep = h.sum(-1) > 0
    out = torch.zeros_like(h)
    out[keep] = h[keep] * 2
    return token_mean(out)


def scattered(n: Net, h: Tensor) -> Tensor:
    places = h.sum(-1).argsort(1)[..., None].expand_as(h)
    return torch.zeros_like(h).scatter(1, places, h)[:, 0]


def scatter_added(n: Net, h: Tensor) -> Tensor:
    places = (h.sum(-1) > 0).long()[..., None].expand_as(h)
    return h.new_zeros(len(h), 2, 6).scatter_add(1, places, h)[:, 0]


def own_places(n: Net, h: Tensor) -> Tensor:
    """Every neuron chooses where it is added."""
    return h.new_zeros(len(h), 2, 6).scatter_add(1, (h > 0).long(), h)[:, 1]


def scatter_reduced(n: Net, h: Tensor) -> Tensor:
    places = (h.sum(-1) > 0).long()[..., None].expand_as(h)
    return h.new_zeros(len(h), 2, 6).scatter_reduce(1, places, h, "amax")[:, 0]


def masked_scattered(n: Net, h: Tensor) -> Tensor:
    """Embeddings of an image written to the places of its tokens."""
    mask = (h.sum(-1) > 0)[..., None].expand_as(h)
    return token_mean(h.masked_scatter(mask, n.image.to(h)))


def masked_scattered_neurons(n: Net, h: Tensor) -> Tensor:
    return token_mean(h.masked_scatter(h > 0, n.image.to(h)))


def packed(n: Net, h: Tensor) -> Tensor:
    lengths = torch.tensor([5, 4, 2])[: len(h)]
    data = nn.utils.rnn.pack_padded_sequence(h, lengths, batch_first=True).data
    return h[:, 0] + data.cumsum(0)[-1]


# Along a time axis, neurons pass.
TOKENS: dict[str, tuple[Between, tuple[int, ...], dict[str, Any]]] = {
    "sort_tokens": values(lambda h: h.sort(1).values[:, 0], 6),
    "argsort_tokens": values(lambda h: h.argsort(1)[:, 0].to(h.dtype), 6),
    "topk_tokens": values(lambda h: h.topk(2, 1).values[:, 1], 6),
    "cumsum_tokens": values(lambda h: h.cumsum(1)[:, 2], 6),
    "cummax_tokens": values(lambda h: h.cummax(1).indices[:, 3].to(h), 6),
    "fft_tokens": values(lambda h: torch.fft.fft2(h, dim=(0, 1)).real[:, 1], 6),
    "fft_both": values(lambda h: torch.fft.fft2(h).real[:, 1]),
    "irfft_tokens": values(lambda h: torch.fft.irfft(torch.fft.rfft(h, dim=1), n=5, dim=1)[:, 1], 6),
    "unfold_tokens": values(lambda h: h.unfold(1, 2, 1)[:, 1].prod(-1), 6),
    "roll_tokens": values(lambda h: (h * h.roll(2, 1)).mean(1), 6),
    "tril_tokens": values(lambda h: ((h @ h.mT).tril() @ h).mean(1), 6),
    "conv_of_tokens": (lambda n, h: F.conv1d(h, n.mix).mean(1), (6, 4), {"parts": {"mix": parameter(4, 5, 1)}}),
    "conv_of_tokens_transposed": (
        lambda n, h: F.conv_transpose1d(h, n.mix).mean(1),
        (6, 4),
        {"parts": {"mix": parameter(5, 4, 1)}},
    ),
    "conv_of_tokens_each": (
        lambda n, h: F.conv1d(h, n.mix, groups=5).mean(1),
        (6,),
        {"parts": {"mix": parameter(5, 1, 1)}},
    ),
    "conv_of_tokens_and_neurons": (
        lambda n, h: F.conv1d(h, n.mix, padding=1).mean(1),
        (),
        {"parts": {"mix": parameter(1, 5, 3)}},
    ),
    "conv_of_tokens_strided": (
        lambda n, h: F.conv1d(h, n.mix, stride=2).mean(1),
        (),
        {"parts": {"mix": parameter(1, 5, 1)}, "out": 3, "missed": True},
    ),
    "triu_neurons": values(lambda h: h.triu().mean(1), steps=7),
    "diagonal_tokens": values(lambda h: (h @ h.mT).diagonal(dim1=1, dim2=2), 6, out=5),
    "cdist": values(lambda h: (torch.cdist(h, h.flip(1)) @ h).mean(1), 6),
    "cdist_neurons": values(lambda h: (torch.cdist(h.mT, h.flip(1).mT) @ h.mT)[..., 0], 6),
    "solve": values(lambda h: torch.linalg.solve(h @ h.mT + torch.eye(5).to(h), h)[:, 0], 6),
    "inverse_tokens": values(lambda h: (torch.linalg.inv(h @ h.mT + torch.eye(5).to(h)) @ h)[:, 1], 6),
    "det_tokens": values(lambda h: h[:, 0] * torch.linalg.det(h @ h.mT)[:, None], 6),
    "cross": values(lambda h: torch.linalg.cross(h[:, :3], h[:, 1:4], dim=1)[:, 0], 6),
    "select_tokens": values(lambda h: h[:, torch.tensor([1, 3])].prod(1), 6),
    "pairs_of_tokens": values(lambda h: h[:, torch.tensor([[0, 1], [2, 3]])].prod(2).mean(1), 6),
    "several_indices": values(lambda h: h[torch.arange(len(h)), torch.arange(len(h)) % 2], 6),
    "last_by_length": values(lambda h: h[torch.arange(len(h)), (h.sum(-1) > 0).sum(1) - 1], 6),
    "token_by_value": values(lambda h: h.gather(1, h.sum(-1).argmax(1)[:, None, None].expand(-1, 1, 6))[:, 0], 6),
    "neuron_by_value": values(
        lambda h: h.gather(2, h.sum(1).argmax(1)[:, None, None].expand(-1, 5, 1))[..., 0], 6, out=5
    ),
    "token_of_each": values(lambda h: h.gather(1, h.argmax(1, keepdim=True))[:, 0], 6),
    "tokens_by_mask": values(lambda h: h[h.sum(-1) > 0].sum(0).expand(len(h), -1), 6),
    "both_by_mask": values(lambda h: h[h > 0].cumsum(0).sum().expand(len(h), 1), out=1),
    "mask_fill": values(lambda h: h.masked_fill((h.sum(-1) > 0)[..., None], 0.3)[:, 1], 6),
    "written_rows": (written_rows, (6,), {"parts": {"rows": buffer(5, 1, 6, 0, 2)}}),
    "put_by_mask": (put_by_mask, (6,), {}),
    "scatter": (scattered, (6,), {}),
    "scatter_add": (scatter_added, (6,), {}),
    "scatter_own": (own_places, (6,), {}),
    "scatter_reduce": (scatter_reduced, (6,), {}),
    "masked_scatter": (masked_scattered, (6,), {"parts": {"image": parameter(15, 6)}}),
    "masked_scatter_neurons": (masked_scattered_neurons, (), {"parts": {"image": parameter(15, 6)}}),
    "routed": (routed, (6, 6, 5, 5), {"parts": moe()}),
    "packed": (packed, (6,), {}),
    "segments": values(
        lambda h: torch.segment_reduce(h, "max", lengths=torch.tensor([[2, 3]]).expand(len(h), 2), axis=1)[:, 1], 6
    ),
    "polar_tokens": values(
        lambda h: torch.view_as_real(torch.view_as_complex(h.mT[..., :4].reshape(-1, 6, 2, 2).contiguous()) * 1j)[
            ..., 0, 0
        ],
        6,
    ),
    "bernoulli_tokens": values(lambda h: token_mean(h * torch.bernoulli(h.sum(-1, keepdim=True).sigmoid())), 6),
    "dropout_of_tokens": values(lambda h: token_mean(h * torch.rand(5, 1).to(h)), 6),
    "multinomial_tokens": values(lambda h: h[:, 0] * torch.multinomial(h.sum(-1).exp(), 1), 6),
    "searchsorted": values(
        lambda h: h[:, 0] * torch.searchsorted(h.mT.sort(2).values.contiguous(), h.mT.contiguous())[..., 1], 6
    ),
}


def write(where: Any, value: Any) -> Between:
    """``h[where] = value``, either of which may be computed from ``h``."""

    def between(n: Net, h: Tensor) -> Tensor:
        h = h.clone()
        h[where(h) if callable(where) else where] = value(h) if callable(value) else value
        return h

    return between


def gated_half(n: Net, h: Tensor) -> Tensor:
    h.chunk(2, 1)[0].relu_()
    return h


def halves_added(n: Net, h: Tensor) -> Tensor:
    h[:, :3].mul_(2)
    h[:, 3:].add_(h[:, :3])
    return h


def exchanged(n: Net, h: Tensor) -> Tensor:
    h, first = h.clone(), h[:, 0].clone()
    h[:, 0] = h[:, 1]
    h[:, 1] = first
    return h


def through_a_view(n: Net, h: Tensor) -> Tensor:
    h.view(-1, 2, 3)[:, 0] = 0
    return h


def into_a_buffer(n: Net, h: Tensor) -> Tensor:
    out = h.new_zeros(len(h), 8)
    out[:, 1:7] = h
    return out


def padded_sequences(n: Net, h: Tensor) -> Tensor:
    rows = nn.utils.rnn.pad_sequence([h[:1], h[:1] * 2], batch_first=True)
    return h + rows.sum((0, 1))


def added_rows(n: Net, h: Tensor) -> Tensor:
    out = h.new_zeros(2, 6)
    out.index_add_(0, (h.sum(1) > 0).long(), h)
    return out


EVEN, ODD = (slice(None), slice(None, None, 2)), (slice(None), slice(1, None, 2))
WRITES: dict[str, tuple[Between, tuple[int, ...], dict[str, Any]]] = {
    "write_slice": (write(EVEN, lambda h: h[ODD] * 2), (3, 3), {}),
    "write_value": (write((slice(None), slice(3, None)), 0.0), (3, 3, 3), {}),
    "write_neuron": (write((slice(None), 0), 0.0), (5,), {}),
    "write_negative": (write(lambda h: h < 0, 0.0), (6,), {}),
    "write_known": (write((slice(None), torch.tensor([1, 3])), 0.0), (4, 2, 2), {}),
    "write_known_mask": (write((slice(None), torch.tensor([True] * 3 + [False] * 3)), 0.0), (3, 3, 3), {}),
    "write_rows": (write(lambda h: h.sum(1) > 0, lambda h: h[h.sum(1) > 0] * 2), (6,), {}),
    "gated_half": (gated_half, (3, 3), {}),
    "halves_added": (halves_added, (3,), {}),
    "exchanged": (exchanged, (4,), {"missed": True}),
    "through_a_view": (through_a_view, (3, 3, 3), {}),
    "into_a_buffer": (into_a_buffer, (6, 2), {"out": 8}),
    "padded_sequences": (padded_sequences, (6,), {}),
    "added_rows": (added_rows, (6,), {}),
}
OPERATORS: dict[str, Operator] = {
    **{name: Operator(name, f, groups, **more) for name, (f, groups, more) in (NEURONS | WRITES).items()},
    **{name: Operator(name, f, groups, **({"steps": 5} | more)) for name, (f, groups, more) in TOKENS.items()},
}
