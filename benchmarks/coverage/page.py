"""The page ``docs/coverage.md``, written from the stored rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

__all__ = ["page"]

Row = Mapping[str, Any]

TITLES = {
    "own": "Networks written here",
    "torch": "Modules of `torch.nn`",
    "transformers": "`transformers`",
    "torchvision": "`torchvision`",
    "timm": "`timm`",
    "wheels": "Trained weights that Python packages carry",
}
FAILURES = {
    "unavailable": "not available",
    "build": "the network could not be built",
    "run": "the network does not run",
    "limit": "over the limit of time or memory",
    "trace": "not traced",
    "verify": "traced; symmetries could not be tested",
    "round trip": "traced; the graph could not be built",
    "execute": "traced; does not run from its graph",
}
OUTSIDE = ("unavailable", "build", "run")
"""Failures in which the converters had no part."""

HEADER = """# Coverage

Which architectures become neuron graphs, and how much of their symmetry is found. Made by
`python -m benchmarks.coverage`; the rows lie in `docs/coverage.json`, and below every table stands the environment that
made it. Networks are small and have random weights, except in the last section.

- **units**: permutable groups of neurons (heads, channels, features). All of them are tested at once by
  {func}`converters.verify`: float64, six draws of weights and permutations, an uncoupled permutation as the control.
  *unsound* is the number of groups that change the function when permuted; it must be 0.
- **coverage**: share of the parameters' axes that lie in permutable groups. Kernel axes and the network's inputs and
  outputs are not counted. Many axes below 100% cannot be permuted at all (rotary and sinusoidal positions, parameters
  that the forward pass never uses), others are frozen because no proof was found; the reasons are named.
- **of used**: the same without parameters that the forward pass never uses (mask tokens, heads that the task leaves
  out).
- **frozen**: places whose axes stay fixed, each with its reason; the most frequent reasons are written below the table.
- **exact**: whether the graph gives back every entry of the `state_dict`, bit for bit; *views*: from a graph that is
  not written out (`materialize=False`), where the largest kernel would pad it to more than 1.2 GB.
- **execute**: largest difference between the network and its run from the graph alone, relative to the largest output,
  in float64 with random weights.
- **trace**: CPU time of `trace`, one thread.
"""


def page(rows: Iterable[Row]) -> str:
    """The whole page."""
    known = list(TITLES)
    ordered = sorted(rows, key=lambda row: (known.index(row["source"]), row["kind"], row["name"]))
    parts = [HEADER, _summary(ordered)]
    for source, of_source in groupby(ordered, key=lambda row: row["source"]):
        parts.append(f"## {TITLES[source]}\n")
        for kind, of_kind in groupby(of_source, key=lambda row: row["kind"]):
            parts.append(_section(kind, list(of_kind)))
    return "\n".join(parts)


def _summary(rows: list[Row]) -> str:
    lines = [
        "| | networks | traced | sound | exact | run from their graph | coverage 100% | ≥ 99% | ≥ 90% | < 50% "
        "| median |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    sources = {source: [row for row in rows if row["source"] == source] for source in TITLES}
    for source, of_source in [*sources.items(), ("all", rows)]:
        tried = [row for row in of_source if row.get("failed") not in OUTSIDE]
        shares = sorted(row["coverage"] for row in tried if "coverage" in row)
        counts = [
            len(tried),
            sum("units" in row for row in tried),
            sum(bool(row.get("sound")) for row in tried),
            sum(bool(row.get("exact")) for row in tried),
            sum("execute_error" in row for row in tried),
            sum(share == 1 for share in shares),
            sum(share >= 0.99 for share in shares),
            sum(share >= 0.9 for share in shares),
            sum(share < 0.5 for share in shares),
        ]
        median = f"{shares[len(shares) // 2]:.1%}" if shares else ""
        lines.append(f"| {source} | {' | '.join(map(str, counts))} | {median} |")
    return "\n".join(lines) + "\n"


def _section(kind: str, rows: list[Row]) -> str:
    lines = [
        f"### {kind.capitalize()}\n",
        "| network | parameters | units | unsound | coverage | of used | frozen | exact | execute | trace (CPU) | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    marks = _environments(rows)
    lines += [_line(row, marks) for row in rows]
    lines += [f"\nMade with {_list(marks)}.\n"] if marks else [""]
    reasons = [
        f"- `{row['name']}` ({row['coverage']:.0%}): {_reasons(row)}" for row in rows if row.get("coverage", 1) < 1
    ]
    if reasons:
        lines += ["Why axes are frozen:\n", *reasons, ""]
    failures = [
        f"- `{row['name']}`: {FAILURES[row['failed']]}. {_cell(row['message'])}" for row in rows if "failed" in row
    ]
    if failures:
        lines += ["What did not work:\n", *failures, ""]
    return "\n".join(lines)


def _line(row: Row, marks: Mapping[str, str]) -> str:
    cells = [f"`{row['name']}`{marks[_environment(row)]}", _count(row.get("parameters"))]
    traced = "units" in row
    cells += [str(row["units"]) if traced else ""]
    unsound = ""
    if "sound" in row:
        unsound = "0" if row["sound"] else str(row["unsound"] or f"error {row['error']:.0e}")
    cells += [unsound, f"{row['coverage']:.1%}" if "coverage" in row else ""]
    used = row.get("coverage_used", 1.0 if row.get("coverage") == 1 else None)
    cells += ["" if used is None else f"{used:.1%}", str(row["frozen"]) if traced else ""]
    cells += [_exact(row)]
    cells += [f"{row['execute_error']:.0e}" if row.get("execute_error") else "0" if "execute_error" in row else ""]
    cells += [f"{row['trace_ms']:.0f} ms" if traced else ""]
    cells += [f"{FAILURES[row['failed']]}" if "failed" in row else row.get("note", "")]
    return "| " + " | ".join(cells) + " |"


def _exact(row: Row) -> str:
    if "exact" not in row:
        return ""
    return ("yes" if row.get("written", True) else "views") if row["exact"] else "**no**"


def _environment(row: Row) -> str:
    found = row["environment"]
    parts = (
        [found["library"]] if found["library"].startswith("torch ") else [found["library"], f"torch {found['torch']}"]
    )
    return ", ".join([*parts, f"Python {found['python']}"])


def _environments(rows: list[Row]) -> dict[str, str]:
    """Every environment, the most frequent first, with the mark that rows of it carry."""
    counts = Counter(_environment(row) for row in rows)
    return {name: "" if number == 0 else f" ({number})" for number, (name, _) in enumerate(counts.most_common())}


def _list(marks: Mapping[str, str]) -> str:
    return "; ".join(f"{mark.strip()} {name}".strip() for name, mark in marks.items())


def _reasons(row: Row) -> str:
    """The most frequent reasons, each with a place."""
    parts = []
    for reason, count, place in row["reasons"][:3]:
        where = f"{count} places, the first `{_cell(place)}`" if count > 1 else f"`{_cell(place)}`"
        parts.append(f"{_cell(reason)} ({where})")
    return "; ".join(parts) or "no reason given"


def _count(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k" if number >= 1e3 else str(number)


def _cell(text: str) -> str:
    """One line of a table: no bars, no line breaks, no angle brackets."""
    return " ".join(text.replace("|", "\\|").replace("<", "‹").replace(">", "›").split())
