"""How fast message passing is beside PyTorch Geometric: ``python benchmarks/message_passing.py``.

`NeuronMessagePassing` and `NeuronAttention` (no gates), four of each with the same parameters as the textbook layers
written for ``torch_geometric.nn.MessagePassing``, forward and backward (also to nodes and edges), on the same batches.
Outputs are compared before anything is timed. Times are CPU times of this process on one thread, interleaved, medians;
memory is the allocator's peak above what was there before, from torch's profiler. Two shares tell how far ours is from
what the machine can do: of the rate of matrix products (all that ours does, recomputation included) and of the memory's
bandwidth (every state of an edge read and written as often as an algorithm without scratch memory must).

Everything runs twice, with malloc as it is and with malloc told to keep what is freed (``MALLOC_TRIM_THRESHOLD_``).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from _timing import interleaved
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from converters import NeuronGraphs, collate, to_graph, to_graphs, trace
from graphnets import NeuronAttention, NeuronMessagePassing
from graphnets.layered import Layered

ALLOCATORS = {
    "malloc as it is": {},
    "malloc keeps what is freed": {
        "MALLOC_MMAP_THRESHOLD_": "34359738368",
        "MALLOC_TRIM_THRESHOLD_": "34359738368",
        "MALLOC_TOP_PAD_": "67108864",
    },
}
FORMS = ("blocks", "edge_index", "PyG")


class TextbookMessages(MessagePassing):
    """`NeuronMessagePassing` as one writes it for PyTorch Geometric, sharing the parameters of ``layer``."""

    def __init__(self, layer: NeuronMessagePassing) -> None:
        super().__init__(aggr="mean")
        self.layer = layer

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """New node and edge states."""
        layer = self.layer
        heard = self.propagate(edge_index, x=x, edge_attr=edge_attr)
        reached = torch.bincount(edge_index[1], minlength=len(x)).unsqueeze(1) > 0
        x = torch.where(reached, layer.node_norm(x + layer.update(torch.cat([x, heard], -1))), x)
        return x, self.edge_updater(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """Two linear maps per edge."""
        layer = self.layer
        weight = torch.cat([layer.source.weight, layer.target.weight, layer.edge.weight], 1)
        hidden = functional.linear(torch.cat([x_j, x_i, edge_attr], -1), weight, layer.source.bias).relu()
        return functional.linear(hidden, layer.message.weight, layer.message_bias)

    def edge_update(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """New edge states."""
        layer = self.layer
        weight = torch.cat([layer.edge_source.weight, layer.edge_target.weight, layer.edge_edge.weight], 1)
        hidden = functional.linear(torch.cat([x_j, x_i, edge_attr], -1), weight, layer.edge_source.bias).relu()
        out: Tensor = layer.edge_norm(edge_attr + layer.edge_message(hidden))
        return out


class TextbookAttention(MessagePassing):
    """`NeuronAttention` likewise: query, key and value of every edge, as in ``torch_geometric.nn.TransformerConv``."""

    def __init__(self, layer: NeuronAttention) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.layer = layer

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """New node and edge states."""
        layer = self.layer
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        heard = self.propagate(edge_index, query=query, key=key, value=value, edge_attr=edge_attr, size=None)
        new = layer.node_norm(x + layer.update(torch.cat([x, heard.flatten(1)], -1)))
        reached = torch.bincount(edge_index[1], minlength=len(x)).unsqueeze(1) > 0
        x = torch.where(reached, new, x)
        return x, self.edge_updater(edge_index, x=x, edge_attr=edge_attr)

    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_attr: Tensor,
        index: Tensor,
        ptr: Tensor | None,
        size_i: int | None,
    ) -> Tensor:
        """The attended values, one ``[heads, channels]`` per edge."""
        layer = self.layer
        parts = query_i + layer.edge_query(edge_attr), key_j + layer.edge_key(edge_attr), value_j
        query, key, value = (part.view(len(part), layer.heads, layer.head_channels) for part in parts)
        score = (query * key).sum(-1) / layer.head_channels**0.5
        attention = softmax(score, index, ptr, size_i)
        squares = scatter(attention.square(), index, dim=0, dim_size=size_i)
        signed = functional.linear(edge_attr, layer.gate.weight) / squares[index].sqrt()
        carried = layer.edge_value(edge_attr).view(len(value), layer.heads, layer.head_channels)
        return attention.unsqueeze(-1) * ((layer.gate.bias + signed).unsqueeze(-1) * value + carried)

    edge_update = TextbookMessages.edge_update


class Block(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential() if inputs == outputs else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        inner = self.norms[0](self.first(x)).relu()
        out: Tensor = (self.norms[1](self.second(inner)) + self.shortcut(x)).relu()
        return out


def resnet20() -> nn.Sequential:
    """He et al. 2016 (arXiv:1512.03385), section 4.2, with projections where widths change."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(*pair) for pair in itertools.pairwise(widths)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp(*widths: int) -> nn.Sequential:
    """A perceptron with ReLU."""
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[module for pair in layers for module in pair][:-1])


def cnn(*widths: int) -> nn.Sequential:
    """Convolutions 3x3 with ReLU and a linear layer to 10 classes."""
    layers = [(nn.Conv2d(a, b, 3), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def stack_of(net: nn.Module, example: Tensor, count: int) -> NeuronGraphs:
    """A batch of networks with random weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {k: torch.randn(count, *v.shape, generator=generator) for k, v in net.state_dict().items()}
    return to_graphs(weights, trace(net, example))


def mixture(count: int) -> NeuronGraphs:
    """Convolutional networks of different widths."""
    generator = torch.Generator().manual_seed(0)
    widths = torch.randint(4, 33, (count, 3), generator=generator).tolist()
    return collate([to_graph(cnn(1, *width), torch.zeros(1, 1, 8, 8)) for width in widths])


@dataclass(frozen=True)
class Case:
    """Layers of a kind on a batch."""

    batch: str
    kind: str
    channels: int
    edge_channels: int

    def graphs(self) -> NeuronGraphs:
        """The batch."""
        return BATCHES[self.batch]()


BATCHES: dict[str, Callable[[], NeuronGraphs]] = {
    "32 x SIREN 2-32-32-1": lambda: stack_of(mlp(2, 32, 32, 1), torch.zeros(1, 2), 32),
    "32 x CNN 1-16-16-16-10": lambda: stack_of(cnn(1, 16, 16, 16), torch.zeros(1, 1, 8, 8), 32),
    "4 x ResNet-20": lambda: stack_of(resnet20(), torch.zeros(1, 3, 16, 16), 4),
    "4 x MLP 784-128-128-10": lambda: stack_of(mlp(784, 128, 128, 10), torch.zeros(1, 784), 4),
    "32 mixed CNNs, widths 4-32": lambda: mixture(32),
}
WIDTHS = dict(zip(BATCHES, (64, 64, 32, 32, 64), strict=True))
CASES = [
    *(Case(batch, "message passing", width, width) for batch, width in WIDTHS.items()),
    *(Case(batch, "attention", 32, edges) for edges in (4, 32) for batch in BATCHES),
]


def make_layers(case: Case, count: int) -> tuple[nn.ModuleList, list[MessagePassing]]:
    """A stack of layers of a kind, and the textbook's with the same parameters."""
    if case.kind == "message passing":
        ours = [NeuronMessagePassing(case.channels, case.edge_channels) for _ in range(count)]
        return nn.ModuleList(ours), [TextbookMessages(layer) for layer in ours]
    heeding = [NeuronAttention(case.channels, case.edge_channels, gates=0) for _ in range(count)]
    return nn.ModuleList(heeding), [TextbookAttention(layer) for layer in heeding]


Run = Callable[[], list[Tensor]]


def variants(
    batch: NeuronGraphs, layers: nn.ModuleList, textbook: list[MessagePassing], x: Tensor, edge_attr: Tensor
) -> dict[str, Run]:
    """One stack of layers in three forms; each returns node and edge states, after it was found right."""
    view = Layered(batch)

    def blocks() -> list[Tensor]:
        states: Any = view.split(view.nodes(x))
        links: Any = view.split_edges(view.edges(edge_attr))
        for layer in layers:
            states, links = layer.parallel(states, links, view)
        return [*states, *links]

    def edge_index() -> list[Tensor]:
        states, links = x, edge_attr
        for layer in layers:
            states, links = layer(states, batch.edge_index, links)
        return [states, links]

    def pyg() -> list[Tensor]:
        states, links = x, edge_attr
        for layer in textbook:
            states, links = layer(states, batch.edge_index, links)
        return [states, links]

    with torch.no_grad():
        expected = pyg()
        found, parts = edge_index(), blocks()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        joined = [torch.cat(parts[: view.layers], 1), torch.cat(parts[view.layers :], 1)]
        ordered = [view.nodes(expected[0]), view.edges(expected[1])]
        torch.testing.assert_close(joined, ordered, rtol=1e-3, atol=1e-4)
    return dict(zip(FORMS, (blocks, edge_index, pyg), strict=True))


def differentiate(run: Run, grads: Sequence[Tensor]) -> None:
    """Forward and backward."""
    torch.autograd.backward(run(), grads)


def gradients(run: Run) -> list[Tensor]:
    """Something to go back from."""
    with torch.no_grad():
        return [torch.randn_like(out) for out in run()]


def peak(run: Run) -> int:
    """The most bytes allocated at once beyond those that were when it began."""
    grads = gradients(run)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        differentiate(run, grads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    return max(itertools.accumulate(size for _, size in sorted(changes, key=lambda change: change[0])))


def fastest(run: Callable[[], object], times: int = 20) -> float:
    """Least CPU seconds."""
    found = []
    for _ in range(times):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def products_per_second(channels: int) -> float:
    """Multiplications of a product of 512 KiB of edge states with a matrix."""
    edges, weight = torch.randn(512 * 256 // channels, channels), torch.randn(channels, channels)
    out = torch.empty_like(edges)
    return edges.numel() * channels / fastest(lambda: [torch.mm(edges, weight, out=out) for _ in range(8)]) * 8


def bytes_per_second() -> float:
    """Bytes that a copy of 256 MB reads and writes."""
    values = torch.randn(64 * 2**20)
    out = torch.empty_like(values)
    return 8 * values.numel() / fastest(lambda: out.copy_(values), 5)


def products(case: Case, nodes: int, edges: int) -> int:
    """Multiplications of ours, forward, again and backward, in one layer."""
    width, inner = case.channels, case.edge_channels
    mapped, per_node = (width, 11) if case.kind == "message passing" else (3 * width + 4, 12)
    return edges * (8 * width + 4 * mapped) * inner + 3 * nodes * per_node * width**2


EDGE_PASSES = 9
"""Edge states: read by the sum and by the update and written, all twice, and three passes over their gradients."""


def measure(case: Case, options: argparse.Namespace, copied: float) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    batch = case.graphs()
    layers, textbook = make_layers(case, options.layers)
    generator = torch.Generator().manual_seed(1)
    nodes, edges = len(batch.x), len(batch.edge_attr)
    x = torch.randn(nodes, case.channels, generator=generator).requires_grad_()
    edge_attr = torch.randn(edges, case.edge_channels, generator=generator).requires_grad_()
    work = variants(batch, layers, textbook, x, edge_attr)
    grads = {name: gradients(run) for name, run in work.items()}
    timed = {name: partial(differentiate, run, grads[name]) for name, run in work.items()}
    times, peaks = interleaved(timed, options.rounds), {name: peak(run) for name, run in work.items()}
    speed, memory = ([values["PyG"] / values[name] for name in FORMS[:2]] for values in (times, peaks))
    rate = products(case, nodes, edges) * options.layers / times["blocks"]
    moved = 4 * EDGE_PASSES * edges * case.edge_channels * options.layers / times["blocks"]
    cells = [
        *(f"{1000 * times[name]:.0f} ms" for name in FORMS),
        *(f"{ratio:.2f}" for ratio in speed),
        *(f"{peaks[name] / 2**20:.0f} MiB" for name in FORMS),
        *(f"{ratio:.1f}" for ratio in memory),
        f"{rate / products_per_second(case.channels):.0%} / {moved / copied:.0%}",
    ]
    return f"| {case.batch}, d {case.channels} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--allocator", choices=["here", *ALLOCATORS], help="only one; here: as this process has it")
    parser.add_argument("--only", default="", help="only rows whose batch and kind hold this")
    options = parser.parse_args()
    if options.allocator != "here":
        for name, settings in ALLOCATORS.items():
            if options.allocator in (None, name):
                print(f"\n## {name[0].upper()}{name[1:]}", flush=True)
                own = [*sys.argv[1:], "--allocator", "here"]
                subprocess.run([sys.executable, __file__, *own], env=os.environ | settings, check=True)
        return
    torch.set_num_threads(1)
    print(f"\n{options.layers} layers, forward and backward, torch {torch.__version__}")
    title = None
    copied = bytes_per_second()
    for case in CASES:
        if options.only not in f"{case.batch}, {case.kind}":
            continue
        heading = case.kind if case.kind == "message passing" else f"{case.kind}, {case.edge_channels} edge channels"
        if heading != title:
            print(f"\n### {heading[0].upper()}{heading[1:]}\n")
            print(
                "| batch | blocks | edge_index | PyG | PyG / blocks | PyG / edge_index | blocks | edge_index | PyG "
                "| PyG / blocks | PyG / edge_index | share of products / bandwidth |"
            )
            print(f"| --- |{' ---: |' * 11}")
            title = heading
        print(measure(case, options, copied), flush=True)


if __name__ == "__main__":
    main()
