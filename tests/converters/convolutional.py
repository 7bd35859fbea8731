"""Convolutional networks of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.converters import modules as m
from tests.converters import residual as r
from tests.converters.entry import Nested, Network, draw
from tests.converters.modules import Net

__all__ = ["CONVOLUTIONAL"]

Groups = tuple[int | Nested, ...]


def image(size: int = 8, channels: int = 1, batch: int = 2) -> Callable[[], tuple[Tensor]]:
    """Random square images."""
    return lambda: (draw(batch, channels, size, size),)


def sequential(name: str, layers: Callable[[], list[nn.Module]], groups: Groups | None, **kwargs: Any) -> Network:
    """A Sequential on 8x8 images of one channel."""
    return Network(name, lambda: nn.Sequential(*layers()), image(), groups, **kwargs)


def head(channels: int) -> list[nn.Module]:
    """Global pooling and a classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


def normed(norm: Callable[[int], nn.Module]) -> Callable[[], list[nn.Module]]:
    """Two convolutions of six channels with a norm after each."""
    conv = lambda a: nn.Conv2d(a, 6, 3, padding=1)  # noqa: E731
    return lambda: [conv(1), norm(6), nn.ReLU(), conv(6), norm(6), nn.ReLU(), *head(6)]


def pixel_major(net: Net, x: Tensor) -> Tensor:
    return net.last(torch.relu(net.conv(x)).permute(0, 2, 3, 1).flatten(1))


def both_orders(net: Net, x: Tensor) -> Tensor:
    h = torch.relu(net.conv(x))
    return net.last(h.flatten(1) + h.permute(0, 2, 3, 1).flatten(1))


def in_place(net: Net, x: Tensor) -> Tensor:
    h = F.relu_(net.a(x))
    h += net.b(h)
    h[:, :, 0] = 0.0
    return net.last(h.mean((2, 3)))


def ghost(net: Net, x: Tensor) -> Tensor:
    """GhostNet's module: channels joined with a cheap function of themselves."""
    h = F.relu(net.a(x))
    return net.last(torch.cat([h, net.b(h)], 1).mean((2, 3)))


def two_norms(net: Net, x: Tensor) -> Tensor:
    h = net.stem(x)
    h = h + net.a(net.norm_a(h))
    return net.last((h + net.b(net.norm_b(h))).mean((2, 3)))


def stream(first: int, second: int) -> Callable[[], Net]:
    """A residual stream of 12 channels read through two GroupNorms."""
    return lambda: Net(
        two_norms,
        stem=nn.Conv2d(1, 12, 1),
        a=nn.Conv2d(12, 12, 1),
        b=nn.Conv2d(12, 12, 1),
        norm_a=nn.GroupNorm(first, 12),
        norm_b=nn.GroupNorm(second, 12),
        last=nn.Linear(12, 2),
    )


CONVOLUTIONAL = [
    sequential(
        "cnn_kernels",
        lambda: [
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 6, (1, 5), stride=(2, 1), bias=False),
            nn.Tanh(),
            nn.Conv2d(6, 5, (3, 1)),
            nn.ReLU(),
            *head(5),
        ],
        (4, 5, 6),
    ),
    sequential(
        "cnn_geometry",
        lambda: [
            nn.Conv2d(1, 4, 3, dilation=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 5, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(5, 6, (3, 1), padding="same", dilation=(1, 2)),
            nn.ReLU(),
            *head(6),
        ],
        (4, 5, 6),
    ),
    sequential(
        "cnn_padding_modes",
        lambda: [
            nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
            nn.Conv2d(4, 5, 3, padding=(1, 0), padding_mode="zeros"),
            nn.ZeroPad2d(1),
            nn.Conv2d(5, 6, 3),
            nn.ReLU(),
            *head(6),
        ],
        (3, 4, 5, 6),
    ),
    sequential(
        "cnn_circular",
        lambda: [nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), *head(4)],
        (4,),
    ),
    sequential(
        "cnn_pools",
        lambda: [
            nn.Conv2d(1, 4, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.AvgPool2d(2, padding=1, count_include_pad=False),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.AdaptiveMaxPool2d(2),
            nn.Conv2d(6, 7, 1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(28, 3),
        ],
        (4, 5, 6, 7),
    ),
    sequential(
        "cnn_flatten",
        lambda: [
            nn.Conv2d(1, 5, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(45, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        ],
        (5, 8),
    ),
    sequential("image_mlp", lambda: [nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)], (8,)),
    sequential("cnn_dropout", lambda: [nn.Conv2d(1, 4, 3), nn.Dropout2d(0.5), nn.ReLU(), *head(4)], (4,)),
    sequential("cnn_batch_norm", normed(nn.BatchNorm2d), (6, 6)),
    sequential("cnn_batch_norm_bare", normed(lambda n: nn.BatchNorm2d(n, affine=False)), (6, 6)),
    sequential("cnn_batch_norm_no_statistics", normed(lambda n: nn.BatchNorm2d(n, track_running_stats=False)), (6, 6)),
    sequential("cnn_layer_norm", normed(lambda n: nn.LayerNorm([n, 8, 8])), (6, 6)),
    sequential("cnn_layer_norm_bare", normed(lambda n: nn.LayerNorm([n, 8, 8], elementwise_affine=False)), (6, 6)),
    sequential("cnn_layer_norm_pixels", normed(lambda n: nn.LayerNorm([8, 8])), (6, 6)),
    sequential("cnn_group_norm", normed(lambda n: nn.GroupNorm(2, n)), (2, 2, Nested(6, 2), Nested(6, 2))),
    sequential("cnn_group_norm_one", normed(lambda n: nn.GroupNorm(1, n)), (6, 6)),
    sequential("cnn_group_norm_each", normed(lambda n: nn.GroupNorm(n, n)), (6, 6)),
    Network("cnn_group_norm_stream", stream(3, 3), image(), (3, Nested(12, 3))),
    Network("cnn_group_norm_clash", stream(3, 4), image(), (2, Nested(4, 2), Nested(6, 2)), frozen="tied to two"),
    sequential(
        "depthwise",
        lambda: [
            nn.Conv2d(1, 6, 3),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.ReLU(),
            nn.Conv2d(6, 5, 1),
            nn.ReLU(),
            *head(5),
        ],
        (5, 6),
    ),
    sequential(
        "transposed",
        lambda: [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 5, 3, 2, 1, 1), nn.ReLU(), *head(5)],
        (4, 5),
    ),
    sequential(
        "channel_shuffle",
        lambda: [nn.Conv2d(1, 6, 3), m.ChannelShuffle(2), nn.Conv2d(6, 5, 1), nn.ReLU(), *head(5)],
        (5, 6),
    ),
    sequential(
        "squeeze_excite",
        lambda: [
            nn.Conv2d(1, 6, 3),
            nn.ReLU(),
            m.SqueezeExcite(6, 3),
            nn.Conv2d(6, 5, 1),
            nn.ReLU(),
            *head(5),
        ],
        (3, 5, 6),
    ),
    sequential(
        "cnn_prelu",
        lambda: [nn.Conv2d(1, 6, 3), nn.PReLU(6), nn.Conv2d(6, 4, 1), nn.PReLU(), *head(4)],
        (4, 6),
    ),
    sequential(
        "cnn_upsample",
        lambda: [
            nn.Conv2d(1, 4, 3),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, 5, 3),
            nn.Upsample(12, mode="bilinear"),
            *head(5),
        ],
        (4, 5),
    ),
    Network("unet", m.UNet, image(), (4, 5, 6)),
    Network("dense_block", m.DenseBlock, image(6, 2), (3, 4, 5)),
    Network("mixer", m.Mixer, image(6), (5, 6, 7)),
    Network(
        "pixel_major",
        lambda: Net(pixel_major, conv=nn.Conv2d(1, 4, 3), last=nn.Linear(16, 3)),
        image(4),
        (4,),
    ),
    Network(
        "both_orders",
        lambda: Net(both_orders, conv=nn.Conv2d(1, 4, 3), last=nn.Linear(16, 3)),
        image(4),
        (),
        frozen="twice",
    ),
    Network(
        "in_place",
        lambda: Net(in_place, a=nn.Conv2d(1, 5, 3), b=nn.Conv2d(5, 5, 1), last=nn.Linear(5, 2)),
        image(5),
        (5,),
    ),
    Network(
        "conv1d",
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(15, 2)),
        lambda: (draw(2, 2, 8),),
        (5,),
    ),
    Network(
        "conv3d",
        lambda: nn.Sequential(nn.Conv3d(1, 4, (3, 2, 1)), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)),
        lambda: (draw(2, 1, 4, 4, 4),),
        (4,),
    ),
    Network(
        "channels_last",
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *head(4)).to(memory_format=torch.channels_last),
        image(),
        (4,),
    ),
    Network(
        "resnet18",
        lambda: r.ResNet(r.BasicBlock, [2, 2, 2, 2], 4),
        image(16, 3),
        (4, 8, 16, 32, *(4, 4, 8, 8, 16, 16, 32, 32)),
    ),
    Network(
        "resnet50",
        lambda: r.ResNet(r.Bottleneck, [1, 2, 1, 1], 2),
        image(16, 3),
        (2, *(8, 16, 32, 64), *(2, 2, 4, 4, 4, 4, 8, 8, 16, 16)),
    ),
    Network("pre_activation", r.PreActivation, image(6), (4, 6, 6)),
]
GROUPED = [
    sequential("cnn_instance_norm", normed(lambda n: nn.InstanceNorm2d(n, affine=True)), None),
    sequential(
        "grouped",
        lambda: [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), *head(6)],
        None,
    ),
    sequential("multiplied", lambda: [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), *head(8)], None),
    sequential(
        "grouped_input",
        lambda: [nn.Unfold(2, stride=2), nn.Conv1d(4, 6, 1, groups=2), nn.Flatten(), nn.Linear(96, 2)],
        None,
    ),
    sequential(
        "transposed_grouped",
        lambda: [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), *head(6)],
        (2, Nested(8, 2), Nested(6, 2)),
    ),
    sequential(
        "transposed_depthwise",
        lambda: [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2, groups=6), nn.Conv2d(6, 5, 1), *head(5)],
        (5, 6),
    ),
    sequential(
        "transposed_multiplied",
        lambda: [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 8, 2, groups=4), nn.ReLU(), *head(8)],
        (4, Nested(8, 4)),
    ),
    sequential(
        "transposed_gathered",
        lambda: [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, groups=4), nn.ReLU(), *head(4)],
        (4, Nested(8, 4), Nested(4, 4)),
    ),
    Network(
        "ghost",
        lambda: Net(ghost, a=nn.Conv2d(1, 6, 3), b=nn.Conv2d(6, 6, 3, padding=1, groups=6), last=nn.Linear(12, 2)),
        image(5),
        (6,),
    ),
    sequential("pixel_shuffle", lambda: [nn.Conv2d(1, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 5, 1), *head(5)], None),
    sequential(
        "grouped_shuffle",
        lambda: [
            nn.Conv2d(1, 6, 1),
            nn.Conv2d(6, 6, 1, groups=3),
            m.ChannelShuffle(3),
            nn.Conv2d(6, 6, 1, groups=3),
            *head(6),
        ],
        None,
    ),
    sequential("local_response", lambda: [nn.Conv2d(1, 6, 3), nn.LocalResponseNorm(3), *head(6)], None),
    Network("option_a", r.OptionA, image(), None),
]
