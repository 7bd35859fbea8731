"""The command line for people without a config: networks, their graphs, zoos, the page of results."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from converters import (
    ConversionError,
    NeuronGraph,
    Structure,
    SymmetryReport,
    load_pretrained,
    load_weights,
    to_graph,
    to_networkx,
    trace,
    verify,
)
from converters.neuron_graph import MAX_EDGES
from experiments import report
from experiments.files import atomic_path, write_text
from experiments.inspection import describe, show, table

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


MAX_VERIFIED = 200_000_000
"""Parameters up to which `inspect` verifies; copies in float64 take 24 bytes for each."""


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
    inspect.add_argument("--json", action="store_true", help="everything, as JSON")
    inspect.set_defaults(command=_inspect)

    convert = commands.add_parser("convert", help="write a network as a neuron graph")
    _network_arguments(convert)
    suffixes = ", ".join(WRITERS)
    convert.add_argument(
        "-o", "--output", type=Path, required=True, help=f"file to write; {suffixes} decides the format"
    )
    convert.add_argument(
        "--max-edges", type=int, default=MAX_EDGES, help="refuse larger graphs, 0 for no limit [%(default)s]"
    )
    convert.set_defaults(command=_convert)

    zoo = commands.add_parser("zoo", help="generate, import, describe and check zoos of trained networks")
    actions = zoo.add_subparsers(required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="train a zoo, or what is missing of it")
    generate.add_argument("config", help="name of a config in configs/zoo, such as digits_mlp")
    generate.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the config, such as size=500")
    generate.add_argument("--root", type=Path, help="folder of zoos [the config's]")
    generate.set_defaults(command=_zoo_generate)
    bring = actions.add_parser("import", help="convert a published zoo, once, to a folder in our own format")
    bring.add_argument("format", help="the published format: small_cnn_zoo or siren_set")
    bring.add_argument("folder", type=Path, help="where its files lie")
    bring.add_argument("--name", help="name of the zoo [the folder's]")
    bring.add_argument("--w0", type=float, help="of SIRENs: the frequency of their sines [30]")
    bring.add_argument(
        "--split-points",
        type=int,
        nargs=2,
        metavar=("VALIDATION", "TEST"),
        help="of SIRENs without a split file: numbers of the first validation image and of the first test image",
    )
    bring.add_argument("--root", type=Path, help="folder of zoos [$GRAPHNETS_ZOO_ROOT or data/zoos]")
    bring.set_defaults(command=_zoo_import)
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
    parser.add_argument(
        "network",
        help="a file of weights, a Hugging Face folder, or package.module:name of a module or of what makes one",
    )
    parser.add_argument(
        "--module", help="package.module:name of what the weights belong to, where no config.json tells"
    )
    parser.add_argument("--input", help="shape of an example input, such as 1,3,32,32; inferred where possible")
    parser.add_argument("--strict", action="store_true", help="fail on operations without a rule")


@dataclass(frozen=True)
class _Found:
    """What the user named: a structure, the module where there is one, its weights and an input that it accepts."""

    structure: Structure
    weights: Mapping[str, Tensor]
    module: nn.Module | None = None
    inputs: Any = None
    notes: tuple[str, ...] = ()

    def filled(self) -> nn.Module | None:
        """The module with its weights."""
        if self.module is not None and any(p.device.type == "meta" for p in self.module.parameters()):
            self.module.load_state_dict(dict(self.weights), assign=True)
        return self.module


def _find(options: argparse.Namespace) -> _Found:
    """The network that the user named."""
    path, example = Path(options.network), _example(options.input)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if path.exists() and options.module is None and not (path / "config.json").is_file():
        weights = load_weights(path)
        return _Found(to_graph(weights, materialize=False).structure, weights)
    if path.exists():
        loaded = load_pretrained(path, options.module)
        structure = loaded.trace(example, strict=options.strict)
        inputs = example if example is not None else loaded.inputs_of(structure)
        return _Found(structure, loaded.weights, loaded.model, inputs, loaded.notes)
    if ":" not in options.network:
        raise CommandError(
            f"{options.network!r} is neither a file nor package.module:name, such as torchvision.models:resnet18"
        )
    if options.module is not None:
        raise CommandError(f"--module goes with a file of weights, but there is no file {options.network!r}")
    module = _build(options.network)
    return _Found(trace(module, example, strict=options.strict), module.state_dict(), module, example)


def _build(name: str) -> nn.Module:
    where, _, attribute = name.partition(":")
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


def _inspect(options: argparse.Namespace, console: Console) -> int:
    network = _find(options)
    structure, notes = network.structure, list(network.notes)
    proof: SymmetryReport | None = None
    module = None if options.no_verify else network.filled()
    if module is not None and structure.num_parameters <= MAX_VERIFIED:
        proof = verify(module, network.inputs, structure)
    elif module is not None:
        gigabytes = 3 * 8 * structure.num_parameters / 1e9
        notes.append(f"not verified: copies in float64 would take {gigabytes:.0f} GB; call converters.verify")
    if not structure.certified:
        notes.append("guessed from names and shapes alone; give --module to trace the network itself")
    found = describe(structure, proof, tuple(notes))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found, console)
        if proof is not None:
            lines = str(proof).splitlines()
            kept = [line for line in lines if not line.startswith("  frozen: ")]  # shown above
            console.print("\n".join(kept), markup=False, highlight=False)
    return 0 if proof is None or proof.sound else 1


def _convert(options: argparse.Namespace, console: Console) -> int:
    if options.output.suffix not in WRITERS:
        raise CommandError(f"--output {str(options.output)!r}: the suffix must be one of {', '.join(WRITERS)}")
    network = _find(options)
    limit = options.max_edges or None
    graph = to_graph(network.weights, structure=network.structure, max_edges=limit)
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


def _zoo_import(options: argparse.Namespace, console: Console) -> int:
    from experiments.zoo import ImportConfig, import_zoo

    name = options.name or options.folder.resolve().name
    config = {"importer": options.format, "name": name, "folder": str(options.folder)}
    config |= {key: getattr(options, key) for key in ("w0", "split_points")}
    zoo = import_zoo(ImportConfig.parse(config), options.root)
    left_out = zoo.header["networks"]["left_out"]
    console.print(
        f"{len(zoo)} networks in {zoo.path}, {left_out} left out as not finite", markup=False, highlight=False
    )
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
    if found["properties"]:
        rows = table("property", *next(iter(found["properties"].values())))
        for name, quantiles in found["properties"].items():
            rows.add_row(name, *(f"{value:.3f}" for value in quantiles.values()))
        console.print(rows)
    return 0


def _zoo_verify(options: argparse.Namespace, console: Console) -> int:
    from experiments.zoo import verify as verify_zoo

    found = verify_zoo(options.path, options.networks)
    console.print(str(found), markup=False, highlight=False)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
