"""The command line for people without a config: networks, their graphs, zoos, the page of results."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import networkx
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from converters import (
    ConversionError,
    NeuronGraph,
    Structure,
    load_weights,
    to_graph,
    to_networkx,
    trace,
    verify,
)
from experiments import report
from experiments.files import atomic_path, write_text

__all__ = ["main"]

GRAPH_TENSORS: tuple[str, ...] = (
    "x",
    "node_mask",
    "edge_index",
    "edge_attr",
    "node_type",
    "edge_type",
    "node_layer",
    "edge_layer",
)
GRAPH_TENSORS += ("node_group", "node_position", "activation", "node_attributes")


class CommandError(Exception):
    """What the user can repair: a wrong name, file or shape."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Console], int] = options.command
    try:
        return command(options, Console(soft_wrap=True))
    except (CommandError, ConversionError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graphnets", description="Neural networks as data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="show the structure and the symmetries of a network")
    _network_arguments(inspect)
    inspect.add_argument("--no-verify", action="store_true", help="do not test the symmetries by running the network")
    inspect.set_defaults(command=_inspect)

    convert = commands.add_parser("convert", help="write a network as a neuron graph")
    _network_arguments(convert)
    suffixes = ", ".join(WRITERS)
    convert.add_argument(
        "-o", "--output", type=Path, required=True, help=f"file to write; {suffixes} decides the format"
    )
    convert.set_defaults(command=_convert)

    zoo = commands.add_parser("zoo", help="generate, describe and check zoos of trained networks")
    actions = zoo.add_subparsers(required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="train a zoo, or what is missing of it")
    generate.add_argument("config", help="name of a config in configs/zoo, such as digits_mlp")
    generate.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the config, such as size=500")
    generate.add_argument("--root", type=Path, help="folder of zoos [the config's]")
    generate.set_defaults(command=_zoo_generate)
    info = actions.add_parser("info", help="sizes, splits and properties of a zoo")
    info.add_argument("path", type=Path)
    info.add_argument("--json", action="store_true", help="everything, as JSON")
    info.set_defaults(command=_zoo_info)
    check = actions.add_parser("verify", help="check every file, and measure some networks again")
    check.add_argument("path", type=Path)
    check.add_argument("--networks", type=int, default=8, help="how many to measure again [%(default)s]")
    check.set_defaults(command=_zoo_verify)

    page = commands.add_parser("report", help="write docs/results.md from the run records")
    report.add_arguments(page)
    page.set_defaults(command=lambda options, console: report.execute(options))
    return parser


def _network_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help="a file of weights, or package.module:name of a module or of what makes one")
    parser.add_argument("--module", help="package.module:name that builds the network whose weights the file holds")
    parser.add_argument("--input", help="shape of an example input, such as 1,3,32,32; inferred where possible")
    parser.add_argument("--strict", action="store_true", help="fail on operations without a rule")


def _load(options: argparse.Namespace) -> tuple[nn.Module | None, dict[str, Tensor] | None]:
    """The module and the weights that the user named; at least one of them."""
    path = Path(options.network)
    if path.exists():
        weights = dict(load_weights(path))
        if options.module is None:
            return None, weights
        module = _build(options.module)
        module.load_state_dict(weights)
        return module, weights
    if ":" not in options.network:
        raise CommandError(
            f"{options.network!r} is neither a file nor package.module:name, such as torchvision.models:resnet18"
        )
    if options.module is not None:
        raise CommandError(f"--module goes with a file of weights, but there is no file {options.network!r}")
    return _build(options.network), None


def _build(name: str) -> nn.Module:
    where, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = importlib.import_module(where)
    except ImportError as error:
        raise CommandError(f"{name!r}: cannot import {where!r} ({error})") from error
    try:
        for part in attribute.split("."):
            made = getattr(made, part)
    except AttributeError as error:
        raise CommandError(f"{name!r}: {where} has no {attribute!r}") from error
    module = made if isinstance(made, nn.Module) else made() if callable(made) else made
    if not isinstance(module, nn.Module):
        raise CommandError(f"{name!r} is a {type(module).__name__}, not a torch.nn.Module nor what makes one")
    return module


def _example(shape: str | None) -> Tensor | None:
    if shape is None:
        return None
    try:
        return torch.randn([int(size) for size in shape.split(",")], generator=torch.Generator().manual_seed(0))
    except (ValueError, RuntimeError) as error:
        raise CommandError(f"--input {shape!r} is no shape; write sizes with commas, such as 1,3,32,32") from error


def _graph(options: argparse.Namespace) -> tuple[NeuronGraph, nn.Module | None]:
    module, weights = _load(options)
    if module is not None:
        structure = trace(module, _example(options.input), strict=options.strict)
        return to_graph(module, structure=structure), module
    return to_graph(weights or {}), None


def _inspect(options: argparse.Namespace, console: Console) -> int:
    graph, module = _graph(options)
    structure: Structure = graph.structure
    permutable = [group for group in structure.groups if group.permutable]
    console.print(
        f"[bold]{structure.name}[/]: {structure.num_parameters:,} parameters, {structure.num_nodes:,} nodes, "
        f"{structure.num_edges:,} edges; {len(permutable)} groups of neurons may be permuted"
    )
    layers = _table("layer", "kind", "size", "activation", "group", "owns")
    for layer in structure.layers:
        group = layer.axis.sole_group
        name = "" if group is None else f"{group}: {structure.groups[group].role}"
        owned = ", ".join(slot for slot, _ in layer.slots)
        activation = "" if layer.activation == "identity" else layer.activation
        layers.add_row(layer.name, layer.kind, f"{layer.size:,}", activation, name, owned)
    console.print(layers)
    blocks = _table("weight", "from", "to", "pattern", "shape", "kernel")
    for block in structure.blocks:
        if block.parameter is not None:
            ends = (structure.layers[block.source].name, structure.layers[block.target].name)
            shape, kernel = (" x ".join(map(str, sizes)) for sizes in (block.shape, block.kernel))
            blocks.add_row(block.parameter, *ends, block.pattern, shape, kernel)
    console.print(blocks)
    for where, why in structure.frozen_reasons:
        console.print(f"kept fixed: {where}: {why}", markup=False)
    if not structure.certified:
        console.print("guessed from names and shapes alone; give --module to trace the network itself")
    if module is None or options.no_verify:
        return 0
    proof = verify(module, _example(options.input), structure)
    console.print(str(proof), markup=False, highlight=False)
    return 0 if proof.sound else 1


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.justify = "right" if column.header == "size" else "left"
    return table


def _convert(options: argparse.Namespace, console: Console) -> int:
    if options.output.suffix not in WRITERS:
        raise CommandError(f"--output {str(options.output)!r}: the suffix must be one of {', '.join(WRITERS)}")
    graph, _ = _graph(options)
    WRITERS[options.output.suffix](graph, options.output)
    console.print(f"{graph} written to {options.output}", markup=False, highlight=False)
    return 0


def _write_structure(graph: NeuronGraph, path: Path) -> None:
    write_text(path, graph.structure.to_json())


def _write_graphml(graph: NeuronGraph, path: Path) -> None:
    """GraphML knows numbers and texts only, so that every list becomes a text."""
    made = to_networkx(graph)
    for _, attributes in made.nodes(data=True):
        attributes.update({key: _plain(value) for key, value in attributes.items()})
    for *_, attributes in made.edges(data=True):
        attributes.update({key: _plain(value) for key, value in attributes.items()})
    made.graph.clear()
    with atomic_path(path) as temporary:
        networkx.write_graphml(made, temporary)


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)


def _write_tensors(graph: NeuronGraph, path: Path) -> None:
    tensors = {name: graph[name].contiguous() for name in GRAPH_TENSORS}
    tensors |= {f"extras.{name}": tensor.contiguous() for name, tensor in graph.extras.tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"structure": graph.structure.to_json()})


WRITERS: dict[str, Callable[[NeuronGraph, Path], None]] = {
    ".safetensors": _write_tensors,
    ".graphml": _write_graphml,
    ".json": _write_structure,
}
"""Suffix to writer: tensors of the graph with its structure, a graph for other tools, the structure alone."""


def _zoo_generate(options: argparse.Namespace, console: Console) -> int:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from experiments.config import CONFIG_DIR
    from experiments.zoo import get_zoo

    try:
        with initialize_config_dir(str(CONFIG_DIR / "zoo"), version_base="1.3"):
            config = compose(options.config, overrides=options.overrides)
    except HydraException as error:
        known = ", ".join(sorted(path.stem for path in (CONFIG_DIR / "zoo").glob("*.yaml")))
        reason = str(error).splitlines()[0]
        raise CommandError(f"zoo {options.config!r}: {reason}; known zoos are {known}") from error
    zoo = get_zoo(config, options.root)
    console.print(f"{len(zoo.records)} networks in {zoo.path}", markup=False, highlight=False)
    return 0


def _zoo_info(options: argparse.Namespace, console: Console) -> int:
    from experiments.zoo import info

    found = info(options.path)
    if options.json:
        print(json.dumps(found, indent=1, default=str))
        return 0
    console.print(f"[bold]{found['name']}[/]  {found['path']}", highlight=False)
    for title, counts in (("networks", "splits"), ("architectures", "per_architecture")):
        text = ", ".join(f"{count} {name}" for name, count in found[counts].items())
        console.print(f"{title}: {text}", markup=False, highlight=False)
    table = _table("property", *next(iter(found["properties"].values())))
    for name, quantiles in found["properties"].items():
        table.add_row(name, *(f"{value:.3f}" for value in quantiles.values()))
    console.print(table)
    return 0


def _zoo_verify(options: argparse.Namespace, console: Console) -> int:
    from experiments.zoo import verify as verify_zoo

    found = verify_zoo(options.path, options.networks)
    console.print(str(found), markup=False, highlight=False)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
