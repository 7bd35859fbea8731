"""Run records: the small JSON files under ``docs/runs`` that every reported number comes from."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.config import CONFIG_DIR, Experiment
from experiments.evaluation.summary import Summary
from experiments.files import read_json

__all__ = [
    "PACKAGES",
    "RecordError",
    "build_records",
    "read_records",
    "record_path",
    "record_text",
    "versions",
]

PACKAGES = (
    "torch",
    "torch-geometric",
    "lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "hydra-core",
)
RECORD_KEYS = {"experiment", "scale", "variant", "seed", "zoo", "rows", "config", "versions", "commit"}
ROW_KEYS = {"method", "setting", "metrics", "parameters", "cpu_seconds"}


class RecordError(ValueError):
    """A run record is not as it should be."""


def versions() -> dict[str, str]:
    """Versions of Python and of everything that numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in ("graphnets", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """The commit of the source tree, marked where files were changed since; None outside a repository."""
    try:
        command = [
            "git",
            "-C",
            str(CONFIG_DIR.parent),
            "describe",
            "--always",
            "--abbrev=40",
            "--exclude=*",
            "--dirty",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def record_path(root: Path, experiment: str, scale: str, variant: str, seed: int) -> Path:
    """Where a record lies: ``<root>/<paper>/<table>/<scale>-<variant>-seed<k>.json``.

    >>> record_path(Path("docs/runs"), "weightnet/properties", "small", "digits_mlp", 0).as_posix()
    'docs/runs/weightnet/properties/small-digits_mlp-seed0.json'
    """
    return root / experiment / f"{scale}-{variant}-seed{seed}.json"


def build_records(experiment: Experiment, summary: Summary, zoo: str) -> dict[int, dict[str, Any]]:
    """One record per seed.

    ``rows`` hold a method's metrics for one setting on the test split; ``comparisons`` the paired bootstrap
    of pairs of methods on this seed. Where the run lay on disk is left out of ``config``.
    """
    config = {k: v for k, v in experiment.resolved.items() if k not in ("output", "record", "execution", "report")}
    for zoo_key in ("zoo", "test_zoo"):
        if config[zoo_key] is not None:
            config[zoo_key] = {
                k: v for k, v in config[zoo_key].items() if k not in ("root", "folder", "executor", "workers")
            }
    key = str(experiment.report.get("setting", "setting"))
    made, stamp, found = {}, commit(), versions()
    for position, seed in enumerate(summary.seeds):
        alone = replace(summary, results={m: [r[position]] for m, r in summary.results.items()})
        spans = alone.intervals()
        rows = [
            {
                "method": method,
                "setting": {key: setting},
                "metrics": {**metrics, "permutation_delta": result.permutation_delta},
                "intervals": {
                    metric: [spans[method, setting, metric].low, spans[method, setting, metric].high]
                    for metric in summary.resampled
                },
                "parameters": result.parameters,
                "cpu_seconds": round(result.cpu_seconds, 2),
            }
            for method, (result,) in alone.results.items()
            for setting, metrics in result.metrics.items()
        ]
        comparisons = [
            {
                "first": c.first,
                "second": c.second,
                "setting": {key: c.setting},
                "metric": c.metric,
                "difference": c.difference.value,
                "interval": [c.difference.low, c.difference.high],
            }
            for c in alone.comparisons()
        ]
        made[seed] = {
            "experiment": experiment.name,
            "scale": experiment.scale,
            "variant": experiment.variant,
            "seed": seed,
            "zoo": zoo,
            "rows": rows,
            "comparisons": comparisons,
            "config": config,
            "versions": found,
            "commit": stamp,
        }
    return made


def record_text(record: Mapping[str, Any]) -> str:
    """A record as JSON, a line per row and per comparison, so that records stay small and their changes readable.

    Numbers are kept to seven significant digits.

    >>> print(record_text({"seed": 0, "rows": [{"tau": 0.123456789}, {"tau": 1.5e-07}]}), end="")
    {
     "seed": 0,
     "rows": [
      {"tau": 0.1234568},
      {"tau": 1.5e-07}
     ]
    }
    """
    parts = []
    for key, value in record.items():
        text = json.dumps(_rounded(value), ensure_ascii=False, allow_nan=False)
        if isinstance(value, list) and value:
            lines = ",\n  ".join(json.dumps(_rounded(each), ensure_ascii=False, allow_nan=False) for each in value)
            text = f"[\n  {lines}\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def read_records(root: Path) -> dict[str, dict[tuple[str, str], list[dict[str, Any]]]]:
    """All records below ``root``: experiment to (scale, variant) to records in the order of their seeds.

    Raises:
        RecordError: records lack keys, lie in the wrong place, or mix zoos in a table; all faults at once.
    """
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    faults: list[str] = []
    for path in sorted(root.glob("*/*/*-seed*.json")):
        record = read_json(path)
        faults += _faults(path, record, root)
        if not faults:
            place = record["scale"], record["variant"]
            found.setdefault(record["experiment"], {}).setdefault(place, []).append(record)
    for experiment, runs in found.items():
        for (scale, variant), records in runs.items():
            records.sort(key=lambda record: int(record["seed"]))
            faults += _mixed(f"{experiment}/{scale}-{variant}", records)
    if faults:
        raise RecordError("\n  ".join([f"the run records under {root} cannot be reported:", *faults]))
    return found


def _faults(path: Path, record: Any, root: Path) -> list[str]:
    if not isinstance(record, Mapping):
        return [f"{path}: not an object"]
    missing = sorted(RECORD_KEYS - record.keys())
    if missing:
        return [f"{path}: lacks {', '.join(missing)}; run the experiment again with record={root}"]
    faults = []
    own = record_path(root, *(record[key] for key in ("experiment", "scale", "variant", "seed")))
    if path != own:
        faults.append(f"{path}: belongs at {own}")
    for number, row in enumerate(record["rows"]):
        lacking = sorted(ROW_KEYS - row.keys())
        if lacking:
            faults.append(f"{path}: row {number} lacks {', '.join(lacking)}")
    return faults


def _mixed(where: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    zoos = {str(record["zoo"]) for record in records}
    rows = {tuple((row["method"], str(row["setting"])) for row in record["rows"]) for record in records}
    faults = (
        [f"{where}: seeds used different zoos ({', '.join(sorted(zoos))}); run all seeds again"]
        if len(zoos) > 1
        else []
    )
    if len(rows) > 1:
        faults.append(f"{where}: seeds have different rows; run all seeds again")
    return faults
