"""How fast weight-space attention is beside the paper's package ``nfn``: ``python benchmarks/nft.py``.

The peer comes with ``pip install --no-deps nfn==0.1.2 einops``. `WeightSpaceSelfAttention` with the peer's options
(means attend to each other, theta has biases) beside its ``NPAttention`` with the same parameters, whose results are
compared before anything is timed (not for convolutions: the peer projects kernels inside its layer), and `NFTBlock`
beside the block that one composes from the peer's layers: ``SimpleLayerNorm``, ``NPAttention`` and two ``Pointwise``
with GELU between and four times the channels. Forward and backward on random features, four heads. Times are CPU times
of this process on one thread, interleaved, medians.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from _timing import interleaved
from torch import Tensor, nn

from converters import Structure, WeightSpaceFeatures, trace
from graphnets import NFTBlock, WeightSpaceSelfAttention
from graphnets.nft import FibreAttention, Project

try:
    from nfn import common as peer_common
    from nfn import layers as peer
except ImportError as error:
    print(f"{error}; this benchmark needs the peer: pip install --no-deps nfn==0.1.2 einops")
    sys.exit(0)

HEADS = 4


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Sequential:
    stages = [part for i, o in ((1, 16), (16, 16), (16, 16)) for part in (nn.Conv2d(i, o, 3), nn.ReLU())]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "32 x SIREN 2-32-32-1, 64 channels": (lambda: mlp(2, 32, 32, 1), (1, 2), 32, 64),
    "32 x SIREN 2-32-32-1, 256 channels": (lambda: mlp(2, 32, 32, 1), (1, 2), 32, 256),
    "8 x CNN 1-16-16-16-10, 64 channels": (cnn, (1, 1, 8, 8), 8, 64),
    "4 x MLP 784-128-128-10, 32 channels": (lambda: mlp(784, 128, 128, 10), (1, 784), 4, 32),
}


class PeerBlock(nn.Module):
    """Eq. 10-11 from the peer's layers."""

    def __init__(self, spec: Any, channels: int, shared: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(peer.SimpleLayerNorm(spec, channels) for _ in range(2))
        self.attention = peer.NPAttention(spec, channels, HEADS, share_projections=shared)
        inner, outer = peer.Pointwise(spec, channels, 4 * channels), peer.Pointwise(spec, 4 * channels, channels)
        self.perceptron = nn.Sequential(inner, peer.TupleOp(nn.GELU()), outer)

    def forward(self, x: Any) -> Any:
        """The block."""
        z = x + self.attention(self.norms[0](x))
        return z + self.perceptron(self.norms[1](z))


def peer_features(features: WeightSpaceFeatures) -> Any:
    """The same features as the peer has them, channels first."""
    tensors = [value.detach().movedim(-1, 1).contiguous().requires_grad_() for value in features.values()]
    return peer_common.WeightSpaceFeatures(tensors[::2], tensors[1::2])


def adopt(ours: FibreAttention, theirs: Any) -> None:
    """Give the peer's layer the parameters of ours: it has queries, keys and values of each head together."""
    with torch.no_grad():
        for own, other in zip((ours.qkv.weight, ours.qkv.bias), theirs.to_qkv.linear.parameters(), strict=True):
            heads: Tensor = own.unflatten(0, (3, HEADS, -1)).transpose(0, 1)
            other.copy_(heads.flatten(0, 2))


def work_of(structure: Structure, batch: int, channels: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of attention and block, ours and the peer's."""
    attention = WeightSpaceSelfAttention(structure, channels, HEADS, bias=True)
    rows = attention.attention.rows
    shapes = {name: structure.parameter[name].shape for name in rows.pieces.names}
    features = WeightSpaceFeatures({name: torch.randn(batch, *shape, channels) for name, shape in shapes.items()})
    other = peer_features(features)
    spec = peer_common.network_spec_from_wsfeat(other)
    shared = all(piece.fixed == 1 for piece in rows.pieces)
    peer_block = PeerBlock(spec, channels, shared)
    if shared:
        adopt(attention.attention, peer_block.attention)
        theirs = peer_block.attention(other)
        pairs = zip(attention(features).values(), itertools.chain(*theirs), strict=True)
        for mine, its in pairs:
            torch.testing.assert_close(mine, its.movedim(1, -1), rtol=1e-3, atol=1e-4)
    x = Project(structure, channels, channels)(features).detach().requires_grad_()

    def ours(layer: nn.Module) -> Callable[[], None]:
        direction = torch.randn_like(x)
        return lambda: layer(x).backward(direction)

    def peers(layer: nn.Module) -> Callable[[], None]:
        directions = [torch.randn_like(t) for t in (*other.weights, *other.biases)]

        def work() -> None:
            out = layer(other)
            torch.autograd.backward([*out.weights, *out.biases], directions)

        return work

    return {
        "attention": ours(attention.attention),
        "attention of nfn": peers(peer_block.attention),
        "block": ours(NFTBlock(structure, channels, HEADS, bias=True)),
        "block of nfn": peers(peer_block),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| forward and backward | attention | of `nfn` | ratio | block | of `nfn` | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (build, shape, batch, channels) in CASES.items():
        torch.manual_seed(0)
        found = interleaved(work_of(trace(build(), torch.zeros(shape)), batch, channels), rounds)
        cells = []
        for kind in ("attention", "block"):
            mine, its = found[kind], found[f"{kind} of nfn"]
            cells += [f"{1e3 * mine:.0f} ms", f"{1e3 * its:.0f} ms", f"{its / mine:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
