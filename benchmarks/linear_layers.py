"""How fast `NPLinear` and `HNPLinear` are beside the paper's package ``nfn``: ``python benchmarks/linear_layers.py``.

The peer comes with ``pip install --no-deps nfn==0.1.2 einops``. Two layers with ReLU between them, forward and
backward, on the same networks with the same number of channels: a SIREN, a small CNN and a wide perceptron. Both have
the same terms; ours has a bias per tensor where the peer has several. Times are CPU times of this process on one
thread, interleaved, medians.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from _timing import interleaved
from torch import nn

from converters import Structure, WeightSpaceFeatures, trace
from graphnets import HNPLinear, NPLinear

try:
    from nfn import common as peer_common
    from nfn import layers as peer_layers
except ImportError as error:
    raise SystemExit(f"{error}: pip install --no-deps nfn==0.1.2 einops") from None


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Sequential:
    stages = [part for i, o in ((1, 16), (16, 16), (16, 16)) for part in (nn.Conv2d(i, o, 3), nn.ReLU())]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, str]] = {
    "32 x SIREN 2-32-32-1, 64 channels, NP": (lambda: mlp(2, 32, 32, 1), (1, 2), 32, 64, "NPLinear"),
    "32 x SIREN 2-32-32-1, 256 channels, NP": (lambda: mlp(2, 32, 32, 1), (1, 2), 32, 256, "NPLinear"),
    "32 x SIREN 2-32-32-1, 64 channels, HNP": (lambda: mlp(2, 32, 32, 1), (1, 2), 32, 64, "HNPLinear"),
    "8 x CNN 1-16-16-16-10, 64 channels, NP": (cnn, (1, 1, 8, 8), 8, 64, "NPLinear"),
    "8 x CNN 1-16-16-16-10, 16 channels, HNP": (cnn, (1, 1, 8, 8), 8, 16, "HNPLinear"),
    "4 x MLP 784-128-128-10, 32 channels, NP": (lambda: mlp(784, 128, 128, 10), (1, 784), 4, 32, "NPLinear"),
}


def ours(structure: Structure, batch: int, channels: int, kind: str) -> Callable[[], None]:
    """Forward and backward of our two layers."""
    make = {"NPLinear": NPLinear, "HNPLinear": HNPLinear}[kind]
    first, second = make(structure, channels, channels), make(structure, channels, channels)
    shapes = {name: structure.parameter[name].shape for name in first.pieces.names}
    features = WeightSpaceFeatures({name: torch.randn(batch, *shape, channels) for name, shape in shapes.items()})
    parts = [part.requires_grad_() for part in first.pieces.split(features)]
    directions = [torch.randn_like(part) for part in parts]

    def work() -> None:
        hidden = [part.relu() for part in first.on_pieces(parts)]
        torch.autograd.backward(second.on_pieces(hidden), directions)

    return work


def theirs(structure: Structure, batch: int, channels: int, kind: str) -> Callable[[], None]:
    """The same with the peer's layers, channels first as it has them."""
    names = [p.name for p in structure.parameters]
    weights = [torch.randn(batch, channels, *structure.parameter[n].shape).requires_grad_() for n in names[::2]]
    biases = [torch.randn(batch, channels, *structure.parameter[n].shape).requires_grad_() for n in names[1::2]]
    features = peer_common.WeightSpaceFeatures(weights, biases)
    spec = peer_common.network_spec_from_wsfeat(features)
    make = getattr(peer_layers, kind)
    first, second = make(spec, channels, channels), make(spec, channels, channels)
    directions = [torch.randn_like(t) for t in (*weights, *biases)]
    relu = peer_layers.TupleOp(nn.ReLU())

    def work() -> None:
        out = second(relu(first(features)))
        torch.autograd.backward([*out.weights, *out.biases], directions)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| two layers, forward and backward | ours | `nfn` | nfn / ours |\n| --- | ---: | ---: | ---: |")
    for name, (build, shape, batch, channels, kind) in CASES.items():
        torch.manual_seed(0)
        structure = trace(build(), torch.zeros(shape))
        work = {side.__name__: side(structure, batch, channels, kind) for side in (ours, theirs)}
        found = interleaved(work, rounds)
        ratio = found["theirs"] / found["ours"]
        print(f"| {name} | {1e3 * found['ours']:.0f} ms | {1e3 * found['theirs']:.0f} ms | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
