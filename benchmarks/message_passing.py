"""How fast message passing is beside PyTorch Geometric: ``python benchmarks/message_passing.py``.

`NeuronMessagePassing` and `NeuronAttention` (no gates), each with the same parameters, forward and backward, on the
same batches: ours with its dense blocks, ours with indexed edges (as batches of mixed architectures use it), and the
textbook layer written for ``torch_geometric.nn.MessagePassing``. The outputs are compared before anything is timed.
Times are CPU times of this process on one thread, interleaved, medians.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from converters import NeuronGraphs, to_graphs, trace
from graphnets import NeuronAttention, NeuronMessagePassing
from graphnets.layered import Layered

CHANNELS = 32
EDGE_CHANNELS = {"message passing": 32, "attention": 4, "attention, wide edges": 32}


class TextbookMessages(MessagePassing):  # type: ignore[misc]
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


class TextbookAttention(MessagePassing):  # type: ignore[misc]
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


def mlp(*widths: int) -> nn.Sequential:
    """A perceptron with ReLU."""
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[module for pair in layers for module in pair][:-1])


def networks() -> dict[str, tuple[nn.Module, Tensor, int]]:
    """Networks, an input, and how many make a batch."""
    cnn = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return {
        "MLP 16-16-16-10": (mlp(16, 16, 16, 10), torch.zeros(1, 16), 64),
        "SIREN 2-32-32-1": (mlp(2, 32, 32, 1), torch.zeros(1, 2), 32),
        "CNN 1-16-16-16-10": (nn.Sequential(cnn, head), torch.zeros(1, 1, 8, 8), 32),
        "MLP 784-128-128-10": (mlp(784, 128, 128, 10), torch.zeros(1, 784), 1),
    }


def stack_of(net: nn.Module, example: Tensor, count: int) -> NeuronGraphs:
    """A batch of networks with random weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {k: torch.randn(count, *v.shape, generator=generator) for k, v in net.state_dict().items()}
    return to_graphs(weights, trace(net, example))


def make_layers(kind: str, count: int) -> tuple[nn.ModuleList, list[MessagePassing]]:
    """A stack of layers of a kind, and the textbook's with the same parameters."""
    width = EDGE_CHANNELS[kind]
    if kind == "message passing":
        ours = [NeuronMessagePassing(CHANNELS, width) for _ in range(count)]
        return nn.ModuleList(ours), [TextbookMessages(layer) for layer in ours]
    heeding = [NeuronAttention(CHANNELS, width, gates=0) for _ in range(count)]
    return nn.ModuleList(heeding), [TextbookAttention(layer) for layer in heeding]


def variants(
    batch: NeuronGraphs, layers: nn.ModuleList, textbook: list[MessagePassing], edge_channels: int
) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """One stack of layers in three forms; each returns node and edge states."""
    view, nodes, edges = Layered(batch), len(batch.x), len(batch.edge_attr)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(nodes, CHANNELS, generator=generator)
    edge_attr = torch.randn(edges, edge_channels, generator=generator)

    def dense() -> tuple[Tensor, Tensor]:
        states: Any = view.split(view.nodes(x))
        links: Any = view.split_edges(view.edges(edge_attr))
        for layer in layers:
            states, links = layer.parallel(states, links, view)
        return torch.cat(states, 1).reshape(nodes, -1), torch.cat(links, 1).reshape(edges, -1)

    def indexed() -> tuple[Tensor, Tensor]:
        states, links = x, edge_attr
        for layer in layers:
            states, links = layer(states, batch.edge_index, links)
        return states, links

    def pyg() -> tuple[Tensor, Tensor]:
        states, links = x, edge_attr
        for layer in textbook:
            states, links = layer(states, batch.edge_index, links)
        return states, links

    return {"dense": dense, "indexed": indexed, "PyG": pyg}


def measure(work: dict[str, Callable[[], tuple[Tensor, Tensor]]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of forward and backward; every round runs all variants, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for i in range(rounds + 1):
        for name, run in work.items():
            gc.collect()
            start = time.process_time()
            x, edge_attr = run()
            (x.square().mean() + edge_attr.square().mean()).backward()
            if i:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{options.layers} layers, {CHANNELS} channels, forward and backward, torch {torch.__version__}")
    for kind, edge_channels in EDGE_CHANNELS.items():
        print(f"\n{kind.capitalize()}, {edge_channels} edge channels\n")
        print("| batch | dense blocks | indexed edges | PyG textbook | PyG / dense | PyG / indexed |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, (net, example, count) in networks().items():
            batch = stack_of(net, example, count)
            layers, textbook = make_layers(kind, options.layers)
            work = variants(batch, layers, textbook, edge_channels)
            reference = work["PyG"]()
            for other in (work["dense"](), work["indexed"]()):
                for ours, theirs in zip(other, reference, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
            times = measure(work, options.rounds)
            cells = [f"{1000 * times[key]:.0f} ms" for key in ("dense", "indexed", "PyG")]
            ratios = [f"{times['PyG'] / times[key]:.1f}" for key in ("dense", "indexed")]
            print(f"| {count} x {name} | {' | '.join(cells + ratios)} |", flush=True)


if __name__ == "__main__":
    main()
