"""How fast networks become neuron graphs: ``python benchmarks/conversion.py``.

Times are CPU times of this process on one thread. What is compared runs interleaved, round by round, and the table
gives medians; memory is what a step adds beyond the network and its trace.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler would report its starts and stops

import torch
from _timing import interleaved
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from converters import NeuronGraph, to_graph, to_graphs, trace, without_weights


def mlp(*widths: int) -> nn.Sequential:
    """A perceptron with ReLU."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[module for layer in layers for module in (layer, nn.ReLU())][:-1])


def cnn() -> nn.Sequential:
    """Three convolutions with BatchNorm, global pooling and a head."""
    widths = (3, 16, 32, 64)
    modules: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        modules += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of ``stride`` times smaller images."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.downsample(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 for ImageNet, 11.7 million parameters."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths = (64, 64, 128, 256, 512)
    stages = [
        nn.Sequential(BasicBlock(a, b, 1 if b == 64 else 2), BasicBlock(b, b, 1)) for a, b in itertools.pairwise(widths)
    ]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def peak_memory(function: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that ``function`` allocates at its peak, as (Python objects, torch tensors)."""
    function()  # fills caches
    gc.collect()
    tracemalloc.start()
    result = function()
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del result
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = function()
    del result
    live = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return python, peak


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    for row in (header, ("---", *["---:"] * (len(header) - 1)), *rows):
        print("| " + " | ".join(row) + " |")


def duration(seconds: float) -> str:
    """Seconds with a fitting unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.2g} µs"


def size(count: float) -> str:
    """Bytes with a fitting unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def many(networks: int, rounds: int) -> None:
    """One by one, all at once, and a mere copy of the weights."""
    net = mlp(16, 16, 16, 10)
    structure = trace(net)
    stack = {name: torch.randn(networks, *value.shape) for name, value in net.state_dict().items()}
    singles = [{name: value[i] for name, value in stack.items()} for i in range(networks)]

    def one_by_one() -> list[NeuronGraph]:
        return [to_graph(weights, structure=structure) for weights in singles]

    def copied() -> list[torch.Tensor]:
        return [tensor.clone() for tensor in stack.values()]

    work = {"to_graph": one_by_one, "to_graphs": lambda: to_graphs(stack, structure), "copying the weights": copied}
    times = interleaved(work, rounds)
    rows = [(name, duration(t), duration(t / networks), f"{times['to_graph'] / t:.1f}x") for name, t in times.items()]
    table(f"{networks} MLPs 16-16-16-10 to graphs", ("", "all", "each", "speed"), rows)


def large(width: int, rounds: int) -> None:
    """Views of a large network."""
    net = mlp(width, width, width, width, width)
    weights, structure = net.state_dict(), trace(net)
    count, total = structure.num_parameters, sum(value.nbytes for value in weights.values())

    def views() -> NeuronGraph:
        return to_graph(weights, structure=structure, materialize=False)

    def blocks() -> list[Tensor]:
        return to_graph(weights, structure=structure, materialize=False).blocks

    work: dict[str, Callable[[], Any]] = {
        "`to_graph(..., materialize=False)`": views,
        "the same and `.blocks`": blocks,
        "summing every weight once": lambda: [value.sum() for value in weights.values()],
    }
    times = interleaved(work, rounds)
    rows = []
    for name, function in work.items():
        python, tensors = peak_memory(function)
        rows.append((name, duration(times[name]), size(python), size(tensors)))
    # to_graph reads every weight once to refuse NaN; the last row is what such a reading costs.
    title = f"A network of {count / 1e6:.0f} million parameters ({size(total)}), beyond its trace"
    table(title, ("", "time", "memory (Python)", "memory (tensors)"), rows)


def tracing(rounds: int) -> None:
    """Tracing against torch.fx (no symmetries, no run) and torch.export (no symmetries)."""
    image = torch.zeros(2, 3, 32, 32)
    networks: dict[str, tuple[nn.Module, Tensor]] = {
        "MLP 16-16-16-10": (mlp(16, 16, 16, 10), torch.zeros(2, 16)),
        "CNN, 3 convolutions": (cnn(), image),
        "ResNet-18, 32 px": (resnet18(), image),
    }
    rows = []
    for name, (net, example) in networks.items():
        net.eval()

        def export(net: nn.Module = net, example: Tensor = example) -> Any:
            return torch.export.export(net, (example,))

        def forward(net: nn.Module = net, example: Tensor = example) -> Any:
            with torch.no_grad():
                return net(example)

        times = interleaved(
            {
                "trace": lambda net=net, example=example: trace(net, example, cache=False),
                "fx": lambda net=net: torch.fx.symbolic_trace(net),
                "export": export,
                "forward": forward,
            },
            rounds,
        )
        base = times["trace"]
        against = [f"{duration(times[k])} ({base / times[k]:.2f})" for k in ("forward", "fx", "export")]
        rows.append((name, duration(base), *against))
    header = ("", "`trace`", "forward (ratio)", "`torch.fx.symbolic_trace` (ratio)", "`torch.export.export` (ratio)")
    table("Deriving the structure; ratio = time of `trace` / time of the other", header, rows)


def again(rounds: int) -> None:
    """The first network of an architecture, and the second, whose program is known, or all that it holds."""
    import transformers

    bert = transformers.BertModel(transformers.BertConfig(attn_implementation="eager"))
    swin = transformers.SwinModel(transformers.SwinConfig())
    networks: dict[str, tuple[nn.Module, Any]] = {
        "ResNet-18, 32 px": (resnet18(), torch.zeros(2, 3, 32, 32)),
        "ResNet-18, 64 px": (resnet18(), torch.zeros(2, 3, 64, 64)),
        "BERT-base, 8 tokens": (bert, {"input_ids": torch.arange(3, 11)[None]}),
        "Swin-T, 224 px": (swin, {"pixel_values": torch.zeros(1, 3, 224, 224)}),
    }
    rows = []
    for name, (net, example) in networks.items():
        net.eval()

        def forward(net: nn.Module = net, example: Any = example) -> Any:
            with torch.no_grad():
                return net(**example) if isinstance(example, dict) else net(example)

        times = interleaved(
            {
                "first": lambda net=net, example=example: trace(net, example, cache=False),
                "second": lambda net=net, example=example: trace(net, example),
                "held": lambda net=net, example=example: trace(net, example, cache="attributes"),
                "forward": forward,
            },
            rounds,
        )
        against = [f"{duration(times[k])} ({times['first'] / times[k]:.1f}x)" for k in ("second", "held")]
        rows.append((name, duration(times["first"]), *against, duration(times["forward"])))
    header = ("", "first", "second", '`cache="attributes"`', "forward")
    table("Tracing the first network of an architecture and the second; speed against the first", header, rows)


def billion() -> None:
    """A network of 1.1 billion parameters, on the meta device."""
    import resource

    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        attn_implementation="eager",
        use_cache=False,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with without_weights():
        net = transformers.LlamaForCausalLM(config).eval()
    built = time.process_time()
    structure = trace(net, {"input_ids": torch.arange(3, 11)[None]})
    traced = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    rows = [
        ("building it without weights", duration(built - start)),
        ("tracing it", duration(traced - built)),
        ("resident memory added", size(peak * 1024)),
        ("its weights in float32", size(4 * structure.num_parameters)),
    ]
    title = f"A Llama of {structure.num_parameters / 1e9:.1f} billion parameters without its weights"
    table(title, ("", ""), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=2000, help="small MLPs to convert [%(default)s]")
    parser.add_argument("--width", type=int, default=5000, help="of the large network's five layers [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds [%(default)s]")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, median of {options.rounds} rounds, CPU time")
    billion()  # first, so that the peak of resident memory is its own
    many(options.networks, options.rounds)
    large(options.width, options.rounds)
    tracing(options.rounds)
    again(options.rounds)


if __name__ == "__main__":
    main()
