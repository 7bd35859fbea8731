"""Networks that tempt a tracer: neurons that must not be permuted, and operations of every other kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.converters.entry import Nested, Network, draw
from tests.converters.modules import Buffer, Net
from tests.converters.perceptrons import X4, plain

__all__ = ["FROZEN", "WILD"]


def with_weight_norm() -> nn.Module:
    norm = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))


def with_spectral_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))


def embedding(net: Net, tokens: Tensor) -> Tensor:
    return net.last(torch.relu(net.hidden(net.table(tokens).mean(1))))


def swap_add(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.first(x)).view(-1, 4, 4)
    return net.last(h.flatten(1) + h.transpose(1, 2).flatten(1))


def two_sums(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.first(x)).view(-1, 2, 4)
    return torch.cat([net.columns(h.sum(1)), net.rows(h.sum(2))], dim=1)


def gate_of_halves(net: Net, x: Tensor) -> Tensor:
    """The halves meet only after their sums: a neuron of one half is none of the other."""
    a, b = net.first(x).view(-1, 2, 3, 4).sum(-1).unbind(1)
    return net.last(torch.sigmoid(a) * (b - 1))


def rows_and_columns(net: Net, h: Tensor) -> Tensor:
    table = torch.relu(h[:, :, None] - h[:, None])
    return (table + 0.5 * table.sum(2)[:, :, None] - table.sum(1)[:, None]).flatten(1)


# Neurons that must not be permuted: the reason is asserted.
FROZEN = [
    Network(
        "constant_each",
        plain((4, 8, 8), lambda n, h: h * torch.arange(1.0, 9.0)),
        X4,
        (),
        frozen="not interchangeable",
    ),
    Network(
        "constant_buffer",
        plain((4, 8, 8), lambda n, h: h + n.shift, shift=lambda: Buffer(draw(8), persistent=False)),
        X4,
        (),
        frozen="not interchangeable",
    ),
    Network("fft", plain((4, 8, 5), lambda n, h: torch.fft.rfft(h).real), X4, (), frozen="Fourier"),
    Network("cumsum", plain((4, 8, 8), lambda n, h: h.cumsum(1)), X4, (), frozen="in order"),
    Network("sort", plain((4, 8, 8), lambda n, h: h.sort(1).values), X4, (8,), frozen="not interchangeable"),
    Network("flip_add", plain((4, 8, 8), lambda n, h: h + h.flip(1)), X4, (), frozen="twice"),
    Network(
        "gather",
        plain((4, 8, 3), lambda n, h: h[:, n.order], order=lambda: Buffer(torch.tensor([5, 0, 2]))),
        X4,
        (3,),
        frozen="indexed",
    ),
    Network(
        "pool_neurons",
        plain((4, 8, 4), lambda n, h: nn.functional.avg_pool1d(h[:, None], 2)[:, 0]),
        X4,
        (),
        frozen="spatial",
    ),
    Network(
        "conv_over_neurons",
        plain((4, 8, 6), lambda n, h: n.conv(h[:, None]).tanh().mean(1), conv=lambda: nn.Conv1d(1, 3, 3)),
        X4,
        (3,),
        frozen="spatial",
    ),
    Network(
        "outer",
        plain((4, 6, 36), lambda n, h: (h[:, :, None] * h[:, None]).flatten(1)),
        X4,
        (6,),
    ),
    Network(
        "swap_add",
        lambda: Net(swap_add, first=nn.Linear(4, 16), last=nn.Linear(16, 2)),
        X4,
        (4,),
        frozen="twice",
    ),
    Network(
        "hidden_is_output",
        lambda: Net(lambda n, x: (h := n.first(x).relu(), n.last(h)), first=nn.Linear(4, 8), last=nn.Linear(8, 2)),
        X4,
        (),
    ),
    Network(
        "meets_input",
        lambda: Net(lambda n, x: n.last(n.first(x).relu() * x), first=nn.Linear(4, 4), last=nn.Linear(4, 2)),
        X4,
        (),
    ),
]
# No annotation: whatever is found must be sound, complete as a record, and run.
WILD = [
    Network(
        "gate_of_halves",
        lambda: Net(gate_of_halves, first=nn.Linear(4, 24), last=nn.Linear(3, 2)),
        X4,
        (3, Nested(12, 3), Nested(12, 3)),
    ),
    Network(
        "differences",
        plain((4, 6, 36), lambda n, h: (h[:, :, None] - h[:, None]).flatten(1)),
        X4,
        (6,),
    ),
    Network(
        "rows_and_columns_of_one_kind",
        plain((4, 6, 36), rows_and_columns),
        X4,
        (6,),
    ),
    Network(
        "two_sums",
        lambda: Net(two_sums, first=nn.Linear(4, 8), columns=nn.Linear(4, 2), rows=nn.Linear(2, 2)),
        X4,
        None,
    ),
    Network(
        "embedding",
        lambda: Net(embedding, table=nn.Embedding(10, 6), hidden=nn.Linear(6, 8), last=nn.Linear(8, 2)),
        lambda: (torch.tensor([[1, 2, 3, 9], [0, 5, 5, 7]]),),
        None,
    ),
    Network("spectral_norm", with_spectral_norm, X4, None),
    Network("weight_norm", with_weight_norm, X4, None),
    Network(
        "lstm",
        lambda: Net(lambda n, x: n.last(n.rnn(x)[0][:, -1]), rnn=nn.LSTM(4, 6, batch_first=True), last=nn.Linear(6, 2)),
        lambda: (draw(2, 3, 4),),
        None,
    ),
    Network(
        "gru",
        lambda: Net(lambda n, x: n.last(n.rnn(x)[0][:, -1]), rnn=nn.GRU(4, 6, batch_first=True), last=nn.Linear(6, 2)),
        lambda: (draw(2, 3, 4),),
        None,
    ),
    Network(
        "attention",
        lambda: Net(
            lambda n, x: n.last(n.mha(x, x, x)[0]),
            mha=nn.MultiheadAttention(8, 2, batch_first=True),
            last=nn.Linear(8, 2),
        ),
        lambda: (draw(2, 3, 8),),
        None,
    ),
    Network(
        "transformer",
        lambda: nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 2)),
        lambda: (draw(2, 3, 4),),
        None,
    ),
    Network(
        "bilinear",
        lambda: Net(
            lambda n, x: n.last(n.mix(n.first(x), x)),
            first=nn.Linear(4, 6),
            mix=nn.Bilinear(6, 4, 5),
            last=nn.Linear(5, 2),
        ),
        X4,
        None,
    ),
    Network(
        "einsum",
        plain(
            (4, 8, 6),
            lambda n, h: torch.einsum("bi,oi->bo", h, n.weight),
            weight=lambda: nn.Parameter(draw(6, 8)),
        ),
        X4,
        None,
    ),
    Network(
        "gram",
        lambda: Net(
            lambda n, x: (h := n.first(x)).t() @ h @ n.weight,
            first=nn.Linear(4, 8),
            weight=nn.Parameter(draw(8, 2)),
        ),
        X4,
        None,
    ),
    Network("glu", plain((4, 8, 4), lambda n, h: nn.functional.glu(h)), X4, None),
    Network("roll", plain((4, 8, 8), lambda n, h: h + h.roll(1, 1)), X4, None),
    Network("topk", plain((4, 8, 3), lambda n, h: h.topk(3, 1).values), X4, None),
    Network("argmax", plain((4, 8, 8), lambda n, h: h * (h.argmax(1, keepdim=True) > 3)), X4, None),
    Network("triangle", plain((4, 6, 6), lambda n, h: (h[:, :, None] * h[:, None]).tril().sum(2)), X4, None),
    Network(
        "outer_softmax",
        plain((4, 6, 6), lambda n, h: ((h[:, :, None] - h[:, None]).softmax(2) @ h[:, :, None])[..., 0]),
        X4,
        None,
    ),
    Network(
        "interpolate",
        plain((4, 8, 16), lambda n, h: nn.functional.interpolate(h[:, None], scale_factor=2)[:, 0]),
        X4,
        None,
    ),
    Network("strided_sum", plain((4, 8, 4), lambda n, h: h[:, ::2] + h[:, 1::2]), X4, None),
    Network("repeat", plain((4, 4, 8), lambda n, h: h.repeat(1, 2)), X4, None),
    Network("repeat_interleave", plain((4, 4, 8), lambda n, h: h.repeat_interleave(2, 1)), X4, None),
    Network("stacked_halves", plain((4, 8, 8), lambda n, h: torch.stack(h.chunk(2, 1), 2).flatten(1)), X4, None),
    Network("assign_slice", plain((4, 8, 8), lambda n, h: torch.cat([h[:, :3] * 0, h[:, 3:]], 1)), X4, None),
    Network("pad_neurons", plain((4, 8, 10), lambda n, h: nn.functional.pad(h, (1, 1))), X4, None),
    Network("duplicates", plain((4, 4, 5), lambda n, h: h[:, [0, 0, 1, 2, 3]]), X4, None),
    Network(
        "view_other",
        plain((4, 12, 12), lambda n, h: h.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12)),
        X4,
        None,
    ),
    Network(
        "view_other_add",
        plain((4, 12, 12), lambda n, h: h + h.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12)),
        X4,
        None,
    ),
    Network(
        "norm_over_part",
        plain((4, 12, 12), lambda n, h: n.norm(h.view(-1, 3, 4)).flatten(1), norm=lambda: nn.LayerNorm(4)),
        X4,
        None,
    ),
    Network("mask", plain((4, 8, 8), lambda n, h: h.masked_fill(h < h.mean(1, keepdim=True), -1.0)), X4, None),
    Network(
        "distance",
        plain((4, 8, 5), lambda n, h: torch.cdist(h, n.centres), centres=lambda: nn.Parameter(draw(5, 8))),
        X4,
        None,
    ),
    Network("cosine", plain((4, 8, 8), lambda n, h: nn.functional.normalize(h, dim=1)), X4, None),
]
