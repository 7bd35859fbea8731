"""Networks of Linear layers, their permutable groups annotated by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tests.converters import modules as m
from tests.converters.entry import Nested, Network, draw
from tests.converters.modules import Buffer, Net

__all__ = ["MLP", "X4", "mlp", "plain"]


def mlp(sizes: list[int], *between: Callable[[int], nn.Module], bias: bool = True) -> nn.Sequential:
    """Linear layers with the modules ``between(width)`` after all but the last."""
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b, bias=bias))
        if number < len(sizes) - 2:
            layers += [make(b) for make in between]
    return nn.Sequential(*layers)


ACTIVATIONS = [
    nn.ReLU,
    nn.ReLU6,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    lambda: nn.LeakyReLU(0.3),
    lambda: nn.Softplus(2.0),
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Mish,
    nn.LogSigmoid,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Softshrink,
    nn.Identity,
]


def many_activations() -> nn.Sequential:
    """Width 5 after each activation in turn."""
    layers: list[nn.Module] = [nn.Linear(3, 5)]
    for make in ACTIVATIONS:
        layers += [make(), nn.Linear(5, 5)]
    return nn.Sequential(*layers)


def residual_mlp(net: Net, x: Tensor) -> Tensor:
    h = net.enter(x)
    for _ in range(2):
        h = h + net.gain * net.up(torch.relu(net.down(net.norm(h))))
    return net.leave(h)


def relu_tanh_halves(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last(torch.cat([torch.relu(h[:, :6]), torch.tanh(h[:, 6:])], dim=1))


def plain(sizes: tuple[int, int, int], middle: Callable[[Net, Tensor], Tensor], **parts: Any) -> Callable[[], Net]:
    """``last(middle(first(x)))``."""
    a, b, c = sizes
    forward = lambda net, x: net.last(middle(net, net.first(x)))  # noqa: E731
    return lambda: Net(forward, first=nn.Linear(a, b), last=nn.Linear(c, 2), **{k: v() for k, v in parts.items()})


def low_rank(net: Net, x: Tensor) -> Tensor:
    return net.last(torch.relu(x @ (net.left @ net.right)))


def split_weight(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return net.last(torch.relu(x @ net.weight[:3] + y @ net.weight[3:]))


X4 = lambda: (draw(3, 4),)  # noqa: E731
MLP = [
    Network("mlp", lambda: mlp([4, 8, 6, 3], lambda n: nn.ReLU()), X4, (6, 8)),
    Network("mlp_no_bias", lambda: mlp([4, 8, 6, 3], lambda n: nn.Tanh(), bias=False), X4, (6, 8)),
    Network("mlp_dropout", lambda: mlp([4, 8, 6, 3], lambda n: nn.GELU(), lambda n: nn.Dropout(0.5)), X4, (6, 8)),
    Network("mlp_activations", many_activations, lambda: (draw(3, 3),), (5,) * 21),
    Network("mlp_deep", lambda: mlp([4] + [5] * 12 + [3], lambda n: nn.Tanh()), X4, (5,) * 12),
    Network("mlp_one_neuron", lambda: mlp([4, 1, 32, 1, 2], lambda n: nn.Tanh()), X4, (32,)),
    Network("mlp_one_in_one_out", lambda: mlp([1, 9, 1], lambda n: nn.SiLU()), lambda: (draw(3, 1),), (9,)),
    Network("mlp_batch_norm", lambda: mlp([4, 8, 6, 3], nn.BatchNorm1d, lambda n: nn.ReLU()), X4, (6, 8)),
    Network("mlp_batch_norm_bare", lambda: mlp([4, 8, 3], lambda n: nn.BatchNorm1d(n, affine=False)), X4, (8,)),
    Network(
        "mlp_batch_norm_no_statistics",
        lambda: mlp([4, 8, 3], lambda n: nn.BatchNorm1d(n, track_running_stats=False), lambda n: nn.ReLU()),
        X4,
        (8,),
        least_batch=2,
    ),
    Network("mlp_layer_norm", lambda: mlp([4, 8, 6, 3], nn.LayerNorm, lambda n: nn.ReLU()), X4, (6, 8)),
    Network(
        "mlp_layer_norm_bare",
        lambda: mlp([4, 8, 3], lambda n: nn.LayerNorm(n, elementwise_affine=False)),
        X4,
        (8,),
    ),
    Network(
        "mlp_rms_norm",
        lambda: mlp([4, 8, 3], lambda n: nn.RMSNorm(n, eps=1e-5), lambda n: nn.ReLU()),
        X4,
        (8,),
    ),
    Network("mlp_group_norm", lambda: mlp([4, 12, 3], lambda n: nn.GroupNorm(3, n)), X4, (3, Nested(12, 3))),
    Network("mlp_softmax", lambda: mlp([4, 8, 3], lambda n: nn.Softmax(-1)), X4, (8,)),
    Network("mlp_prelu", lambda: mlp([4, 8, 3], lambda n: nn.PReLU()), X4, (8,)),
    Network("mlp_prelu_each", lambda: mlp([4, 8, 3], nn.PReLU), X4, (8,)),
    Network("linear", lambda: nn.Linear(4, 3), X4, ()),
    Network("linear_linear", lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), X4, (5,)),
    Network("functional", m.Functional, X4, (5, 6, 7)),
    Network("siren", m.Siren, lambda: (draw(5, 2),), (16, 16)),
    Network("inr_skip", m.SkipInr, lambda: (draw(5, 3),), (10, 12)),
    Network(
        "residual_mlp",
        lambda: Net(
            residual_mlp,
            enter=nn.Linear(4, 8),
            down=nn.Linear(8, 5),
            up=nn.Linear(5, 8),
            leave=nn.Linear(8, 2),
            norm=nn.LayerNorm(8),
            gain=nn.Parameter(1e-4 * torch.ones(8)),
        ),
        X4,
        (5, 8),
    ),
    Network("halves", lambda: Net(relu_tanh_halves, first=nn.Linear(4, 12), last=nn.Linear(12, 2)), X4, (6, 6)),
    Network(
        "gated",
        plain((4, 8, 8), lambda n, h: h * torch.sigmoid(n.gate(h)), gate=lambda: nn.Linear(8, 8)),
        X4,
        (8,),
    ),
    Network("maxout", plain((4, 8, 4), lambda n, h: h.view(-1, 4, 2).amax(2)), X4, (4, Nested(8, 4))),
    Network("shared", m.Shared, lambda: (draw(4, 3),), (8,)),
    Network("autoencoder", m.Autoencoder, lambda: (draw(4, 6),), (4,)),
    Network(
        "low_rank",
        lambda: Net(low_rank, left=nn.Parameter(draw(4, 3)), right=nn.Parameter(draw(3, 6)), last=nn.Linear(6, 2)),
        X4,
        (3, 6),
    ),
    Network(
        "split_weight",
        lambda: Net(split_weight, weight=nn.Parameter(draw(5, 6)), last=nn.Linear(6, 2)),
        lambda: (draw(4, 3), draw(4, 2)),
        (6,),
    ),
    Network("odds", m.Odds, X4, (6,), frozen="never used"),
    Network("batch_views", m.BatchViews, lambda: (draw(3, 1, 4, 4),), (3, 8), frozen="used one by one"),
    Network("batch_equals_width", lambda: mlp([8, 8, 8], lambda n: nn.ReLU()), lambda: (draw(8, 8),), (8,)),
    Network("batch_of_one", lambda: mlp([4, 8, 3], lambda n: nn.ReLU()), lambda: (draw(1, 4),), (8,)),
    Network("sequence", lambda: mlp([4, 8, 3], nn.LayerNorm, lambda n: nn.ReLU()), lambda: (draw(2, 5, 4),), (8,)),
    Network("two_inputs", m.TwoInputs, lambda: {"left": draw(3, 3), "right": draw(3, 5)}, (8,)),
    Network("float64", lambda: mlp([4, 8, 3], lambda n: nn.ReLU()).double(), lambda: (draw(3, 4).double(),), (8,)),
    Network(
        "bfloat16",
        lambda: mlp([4, 8, 3], lambda n: nn.ReLU()).bfloat16(),
        lambda: (draw(3, 4).bfloat16(),),
        (8,),
    ),
    Network("buffer_scale", plain((4, 8, 8), lambda n, h: h * n.scale, scale=lambda: Buffer(draw(8))), X4, (8,)),
    Network("constant_alike", plain((4, 8, 8), lambda n, h: h * torch.full((8,), 0.3)), X4, (8,)),
]
