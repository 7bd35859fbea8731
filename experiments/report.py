"""``docs/results.md`` from the run records: ``python -m experiments.report``. No number enters by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf

from experiments.config import CONFIG_DIR
from experiments.evaluation.bootstrap import Interval, seed_spread
from experiments.evaluation.labels import axis_label, method_label
from experiments.evaluation.metrics import DIGITS, HIGHER_IS_BETTER
from experiments.evaluation.tables import Cell, Table
from experiments.files import write_text
from experiments.layer_sizes import layer_sizes
from experiments.records import RecordError, read_records

__all__ = ["Finding", "add_arguments", "decide", "execute", "main", "results_page"]

Record = Mapping[str, Any]
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable at this scale"


class Finding:
    """What the records say of one claim on one setting.

    Args:
        verdict: ``holds``, ``does not hold`` or ``not decidable at this scale``.
        difference: better minus worse, mean over seeds, with the mean bounds of the seeds' paired bootstraps.
    """

    def __init__(self, verdict: str, difference: Interval) -> None:
        self.verdict, self.difference = verdict, difference


def decide(differences: Sequence[Interval], higher_is_better: bool) -> Finding:
    """The verdict on "the first method is better", from the paired difference of every seed.

    It holds if every seed has the sign the claim asks for and the interval of the mean excludes 0; it does
    not hold if every seed has the other sign and the interval excludes 0; else the seeds and networks at hand
    do not decide.

    >>> decide([Interval(0.2, 0.1, 0.3), Interval(0.3, 0.2, 0.4)], higher_is_better=True).verdict
    'holds'
    >>> decide([Interval(0.2, -0.1, 0.3)], higher_is_better=True).verdict
    'not decidable at this scale'
    """
    value, low, high = np.mean([[d.value, d.low, d.high] for d in differences], axis=0)
    sign = 1 if higher_is_better else -1
    signs = {bool(sign * d.value > 0) for d in differences}
    clear = low > 0 or high < 0
    verdict = OPEN if len(signs) > 1 or not clear else HOLDS if signs == {True} else FAILS
    return Finding(verdict, Interval(float(value), float(low), float(high)))


def results_page(root: Path, configs: Path = CONFIG_DIR) -> str:
    """The whole page, in Markdown.

    Args:
        root: the folder of records, ``docs/runs``.
        configs: where experiments state the paper's numbers and claims, under ``report``.

    Raises:
        RecordError: records are damaged, or belong to no experiment.
    """
    records = read_records(root)
    parts = [
        "# Results",
        "Made by `python -m experiments.report` from the run records in `docs/runs`; every number of ours "
        "comes from a record (sizes of layers: from the layers), the papers' numbers from the experiments' configs. "
        "A claim *holds* if every "
        "seed shows it and the 95% interval of the paired bootstrap over test networks excludes zero, "
        "*does not hold* if the opposite is so, and is *not decidable at this scale* otherwise.",
    ]
    if not records:
        parts.append("No run is recorded yet: add `record=docs/runs` to a run.")
    for experiment, runs in records.items():
        parts.append(f"<!-- {experiment} -->")
        parts += _experiment(experiment, runs, _report(experiment, configs))
        parts.append(f"<!-- end of {experiment} -->")
    parts.append(layer_sizes().section())
    return "\n\n".join(parts) + "\n"


def _report(experiment: str, configs: Path) -> dict[str, Any]:
    path = configs / "experiment" / f"{experiment}.yaml"
    if not path.exists():
        raise RecordError(f"records of {experiment!r} belong to no experiment: there is no {path}")
    content = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    if "report" not in content:
        raise RecordError(
            f"{path} has no section `report`: state the paper's numbers and claims, or remove the records"
        )
    return {"title": content["title"], **content["report"]}


def _experiment(
    name: str, runs: Mapping[tuple[str, str], Sequence[Record]], report: Mapping[str, Any]
) -> Iterator[str]:
    yield f"## {report['title']} (`{name}`)"
    if "paper_title" in report:
        yield f"Paper: *{report['paper_title']}*."
    if "note" in report:
        yield str(report["note"]).strip()
    if len(runs) > 1:
        yield from (_overview(runs, metric).section(3) for metric in report["metrics"][:2])
    for (scale, variant), records in runs.items():
        yield f"### `{variant}`, scale `{scale}`"
        yield _provenance(records, report)
        paper = report.get("paper_of", {}).get(variant, report.get("paper", {}))
        yield from (table.section(4) for table in _metric_tables(name, records, {**report, "paper": paper}))
        yield _costs(name, records).section(4)
        if report.get("claims"):
            yield _claims(name, records, report).section(4)


def _overview(runs: Mapping[tuple[str, str], Sequence[Record]], metric: str) -> Table:
    """The first setting's metric of every method in every run, in the order of the run that has most methods."""
    fullest = max(runs.values(), key=lambda records: len(_rows(records)))
    methods: dict[str, dict[tuple[str, str], float]] = {method: {} for method, _ in _rows(fullest)}
    first = ""
    for key, records in runs.items():
        for (method, setting), rows in _rows(records).items():
            first = first or setting
            if setting == first:
                values = [row["metrics"][metric] for row in rows]
                methods.setdefault(method, {})[key] = float(np.mean(values))
    columns = ("method", *(variant if scale == "small" else f"{variant} ({scale})" for scale, variant in runs))
    lines: list[tuple[Cell, ...]] = [
        (method_label(method), *(values.get(key) for key in runs)) for method, values in methods.items() if values
    ]
    return Table(
        f"overview_{metric}", f"{axis_label(metric)}, {axis_label(first)}", columns, tuple(lines), "Mean over seeds."
    )


def _provenance(records: Sequence[Record], report: Mapping[str, Any]) -> str:
    seeds = ", ".join(str(record["seed"]) for record in records)
    commits = ", ".join(sorted({str(record["commit"])[:12] for record in records}))
    torch = ", ".join(sorted({str(record["versions"].get("torch")) for record in records}))
    trials = records[0]["config"].get("tuning", {}).get("trials", "?")
    command = f"python -m experiments experiment={records[0]['experiment']} scale={records[0]['scale']}"
    if "choose" in report:
        variant = records[0]["variant"]
        command += " " + report.get("variants", {}).get(variant, f"{report['choose']}={variant}")
    return (
        f"`{command}`: seeds {seeds}; zoo `{str(records[0]['zoo'])[:12]}`; settings tried per method on validation: "
        f"{trials}; torch {torch}; commit {commits}."
    )


def _rows(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """(method, setting) to its row in every record."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        for row in record["rows"]:
            found.setdefault((row["method"], _setting(row["setting"])), []).append(row)
    return found


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in setting.values())


def _metric_tables(name: str, records: Sequence[Record], report: Mapping[str, Any]) -> Iterator[Table]:
    rows = _rows(records)
    methods, settings = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    paper = report.get("paper", {})
    for metric in report["metrics"]:
        digits = DIGITS.get(metric, 3)
        printed = any(metric in values for of in paper.values() for values in of.values())
        columns = ["method"]
        for setting in settings:
            columns += [axis_label(setting), "paper"] if printed else [axis_label(setting)]
        columns += ["mean", "paper"] if printed else ["mean"]
        lines: list[tuple[Cell, ...]] = []
        for method in methods:
            line: list[Cell] = [method_label(method)]
            theirs = [paper.get(method, {}).get(setting, {}).get(metric) for setting in settings]
            ours = [[row["metrics"][metric] for row in rows[method, setting]] for setting in settings]
            for setting, values, number in zip(settings, ours, theirs, strict=True):
                bounds = [row.get("intervals", {}).get(metric) for row in rows[method, setting]]
                line.append(_with_spread(values, bounds, digits))
                line += [number] if printed else []
            line.append(float(np.mean(ours)))
            line += [float(np.mean(theirs)) if None not in theirs else None] if printed else []
            lines.append(tuple(line))
        arrow = "higher" if HIGHER_IS_BETTER.get(metric, True) else "lower"
        yield Table(
            metric,
            f"{axis_label(metric)} ({arrow} is better)",
            tuple(columns),
            tuple(lines),
            "Mean over seeds ± their standard deviation; in brackets the 95% bootstrap interval over test networks.",
            digits,
        )


def _with_spread(values: Sequence[float], bounds: Sequence[Sequence[float] | None], digits: int) -> str:
    mean, deviation = seed_spread(values)
    text = f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation == deviation else "")
    known = [pair for pair in bounds if pair is not None]
    if known:
        low, high = np.mean(known, axis=0)
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text


def _costs(name: str, records: Sequence[Record]) -> Table:
    lines: list[tuple[Cell, ...]] = []
    rows = _rows(records)
    for method in dict.fromkeys(method for method, _ in rows):
        mine = [row for (of, _), found in rows.items() if of == method for row in found]
        deltas = [row["metrics"]["permutation_delta"] for row in mine if "permutation_delta" in row["metrics"]]
        seconds = float(np.mean([row["cpu_seconds"] for row in mine]))
        lines.append(
            (
                method_label(method),
                max(deltas) if deltas else None,
                int(mine[0]["parameters"]),
                round(seconds, 1),
            )
        )
    return Table(
        "costs",
        "Invariance and cost",
        ("method", "permutation Δ", "parameters", "CPU s"),
        tuple(lines),
        "Permutation Δ: the largest change of any test prediction, over all seeds, when hidden neurons are "
        "reordered. CPU seconds of the training that was kept.",
    )


def _claims(name: str, records: Sequence[Record], report: Mapping[str, Any]) -> Table:
    lines: list[tuple[Cell, ...]] = []
    rows = {row["method"] for record in records for row in record["rows"]}
    for claim in report["claims"]:
        if not {claim["better"], claim["worse"]} <= rows:
            continue  # a run without these methods says nothing of them
        findings = list(_findings(records, claim))
        verdicts = [finding.verdict for _, finding in findings]
        overall = verdicts[0] if len(set(verdicts)) == 1 else FAILS if FAILS in verdicts else OPEN
        lines.append((f"**{claim['text']}**", None, f"**{overall}**"))
        lines += [(axis_label(setting), finding.difference, finding.verdict) for setting, finding in findings]
    return Table(
        "claims",
        "Claims",
        ("claim", "difference", "verdict"),
        tuple(lines),
        "Difference: the first method's value minus the second's, mean over seeds, with the bounds of the "
        "paired bootstrap averaged over seeds.",
        max((DIGITS.get(claim["metric"], 3) for claim in report["claims"]), default=3),
    )


def _findings(records: Sequence[Record], claim: Mapping[str, Any]) -> Iterator[tuple[str, Finding]]:
    """The finding for every setting of a claim."""
    better, worse, metric = claim["better"], claim["worse"], claim["metric"]
    found: dict[str, list[Interval]] = {}
    for record in records:
        for c in record.get("comparisons", ()):
            if c["metric"] != metric or {c["first"], c["second"]} != {better, worse}:
                continue
            low, high = c["interval"]
            difference = Interval(c["difference"], low, high)
            if c["first"] == worse:
                difference = Interval(-c["difference"], -high, -low)
            found.setdefault(_setting(c["setting"]), []).append(difference)
    wanted = claim.get("settings") or list(found)
    missing = [setting for setting in wanted if len(found.get(setting, ())) != len(records)]
    if missing or not wanted:
        raise RecordError(
            f"claim {claim['text']!r}: some record has no comparison of {better} with {worse} by {metric} "
            f"for {', '.join(missing) or 'any setting'}; run the experiment again"
        )
    for setting in wanted:
        yield setting, decide(found[setting], HIGHER_IS_BETTER[metric])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command, also of ``graphnets report``."""
    parser.add_argument("--runs", type=Path, default=Path("docs/runs"), help="folder of run records [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="page to write [%(default)s]")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")


def execute(options: argparse.Namespace) -> int:
    """Write or check the page; returns the exit status."""
    try:
        page = results_page(options.runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check:
        current = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
        if current != page:
            print(
                f"error: {options.output} is not what the records say; run python -m experiments.report",
                file=sys.stderr,
            )
        return int(current != page)
    write_text(options.output, page)
    print(f"wrote {options.output}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    add_arguments(parser)
    return execute(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
