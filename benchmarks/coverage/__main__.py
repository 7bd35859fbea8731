"""Measures the cases of a source, stores the rows and writes the page: ``python -m benchmarks.coverage --help``."""

from __future__ import annotations

import argparse
import importlib
import logging
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.coverage.page import page
from benchmarks.coverage.records import merged, read, write
from benchmarks.coverage.survey import survey

SOURCES = {
    "own": "benchmarks.coverage.own",
    "torch": "benchmarks.coverage.plain",
    "transformers": "benchmarks.coverage.hub",
    "torchvision": "benchmarks.coverage.vision",
    "timm": "benchmarks.coverage.image_models",
    "wheels": "benchmarks.coverage.wheels",
}
DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=main.__doc__)
    parser.add_argument("--source", action="append", choices=SOURCES, help="default: every source that is installed")
    parser.add_argument("--names", nargs="+", help="only these cases")
    parser.add_argument(
        "--merge", action="store_true", help="add to the stored rows; without it only the new ones stay"
    )
    parser.add_argument("--missing", action="store_true", help="only cases that have no stored row, or one that failed")
    parser.add_argument("--below", type=float, help="only cases whose stored coverage is lower than this")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from the stored rows")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of coverage.json and coverage.md")
    options = parser.parse_args()
    store = options.output / "coverage.json"
    rows = read(store) if options.merge or options.missing or options.below or options.page else []
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for source in [] if options.page else options.source or list(SOURCES):
        module = importlib.import_module(SOURCES[source])
        version = _version(module.LIBRARY)
        if version is None:
            print(f"{source}: {module.LIBRARY} is not installed here, its rows stay as they are", flush=True)
            continue
        cases = module.cases()
        unknown = sorted(set(options.names or ()) - set(cases))
        if unknown and options.source:
            parser.error(f"{source} has no {', '.join(unknown)}; see --list")
        names = [name for name in cases if not options.names or name in options.names]
        if options.missing:
            done = {row["name"] for row in rows if row["source"] == source and "failed" not in row}
            names = [name for name in names if name not in done]
        if options.below is not None:
            low = {row["name"] for row in rows if row["source"] == source and row.get("coverage", 2) < options.below}
            names = [name for name in names if name in low]
        if options.list:
            print(f"{source}: {' '.join(names)}")
            continue
        environment = {
            "torch": torch.__version__,
            "library": f"{module.LIBRARY} {version}",
            "python": platform.python_version(),
        }
        for row in survey([cases[name] for name in names], source):
            rows = merged(rows, [{**row, "environment": environment}])
            print(_line(row), flush=True)
            write(store, rows)
    if not options.list:
        (options.output / "coverage.md").write_text(page(rows), encoding="utf-8")


def _version(library: str) -> str | None:
    """The installed version; None where the library is missing or does not import beside this torch."""
    try:
        importlib.import_module(library)
        return metadata.version(library)
    except Exception as error:
        print(f"{library}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return None


def _line(row: dict[str, Any]) -> str:
    name = f"{row['source']}/{row['name']}"
    done = f"coverage {row['coverage']:.3f}, {row['units']} units" if "coverage" in row else ""
    if "failed" in row:
        return f"{name:40} FAILED {row['failed']}: {row['message'][:240]} {done}"
    sound = "sound" if row["sound"] else f"NOT SOUND {row['error']:.0e} {row['unsound_names'][:4]}"
    trip = "exact" if row["exact"] else "NOT EXACT"
    return f"{name:40} {done}, {sound}, {trip}, execute {row['execute_error']:.0e}, {row['trace_ms']:.0f} ms"


if __name__ == "__main__":
    main()
