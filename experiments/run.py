"""One experiment from its config to its folder: zoo, jobs, metrics, tables, figures, records."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table as RichTable

from converters.layout import same_layout
from experiments.config import CONFIG_DIR, ConfigError, Experiment, parse
from experiments.display import Display
from experiments.evaluation.bootstrap import Interval
from experiments.evaluation.labels import method_label
from experiments.evaluation.pictures import save_pictures
from experiments.evaluation.summary import Summary
from experiments.evaluation.tables import Table, shown
from experiments.files import write_json, write_text
from experiments.jobs import Job, Networks, run_jobs
from experiments.records import build_records, record_path, record_text, versions
from experiments.zoo import Zoo, get_zoo

__all__ = ["run"]


def run(config: DictConfig, folder: Path) -> Summary:
    """Run an experiment; all it leaves lies in ``folder``, and what is there already is not computed again.

    The folder gets ``config.yaml``, ``versions.json``, ``metrics.json``, ``report.md``, ``tables/``,
    ``figures/``, ``records/`` and ``methods/`` (checkpoints and predictions of every method and seed).

    Raises:
        ConfigError: the config is wrong, or another run is writing to the folder.
    """
    experiment = parse(config)
    _check_sizes(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            return _run(experiment, config, folder)
    except Timeout as error:
        raise ConfigError(
            experiment.name, [f"output: another run is writing to {folder}; wait or name another"]
        ) from error


def _check_sizes(experiment: Experiment) -> None:
    path = CONFIG_DIR / "sizes" / experiment.name / f"{experiment.scale}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml")) or ["none"]
        raise ConfigError(
            experiment.name,
            [f"scale: {experiment.scale!r} has no sizes for this experiment; known are {', '.join(known)}"],
        )


def _run(experiment: Experiment, config: DictConfig, folder: Path) -> Summary:
    started = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_json(folder / "versions.json", versions())
    console.print(f"[bold]{experiment.title}[/]  ({experiment.name}, {experiment.scale})")
    zoo = get_zoo(experiment.zoo)
    console.print(f"zoo: {len(zoo.records)} networks, {zoo.path}")
    test_zoo = None if experiment.test_zoo is None else get_zoo(experiment.test_zoo)
    if test_zoo is not None:
        console.print(f"tested on: {len(test_zoo.records)} networks, {test_zoo.path}")
    experiment = _applicable(experiment, zoo, console)
    networks = Networks(_located(zoo), experiment.split, None if test_zoo is None else _located(test_zoo))
    jobs = [
        Job(
            method,
            seed,
            {**experiment.task, **method.task},
            networks.for_seed(seed),
            folder / "methods" / method.name / f"seed{seed}",
            experiment.threads,
            experiment.figures,
            experiment.trainings or folder / "pretraining",
            experiment.trainings is not None,
        )
        for seed in experiment.seeds
        for method in experiment.methods
    ]
    with Display(console, len(jobs), experiment.progress) as display:
        # Methods are listed from cheap to expensive: the long ones start first, the short ones fill the gaps.
        results = run_jobs(
            jobs[::-1],
            experiment.workers,
            listen=display.listen,
            done=display.done,
            progress=experiment.progress and sys.stderr.isatty(),
        )[::-1]
    by_method = {
        method.name: [result for result in results if result.method == method.name] for method in experiment.methods
    }
    trials, base = len(experiment.methods[0].trials), experiment.report.get("base")
    weightnet = "paper" in experiment.report and experiment.name.startswith("weightnet/")
    summary = Summary(by_method, experiment.bootstrap, trials, base, weightnet)
    _write(experiment, summary, zoo, folder, console)
    minutes = (time.monotonic() - started) / 60
    console.print(f"finished in {minutes:.1f} minutes; everything lies in {folder}")
    return summary


def _applicable(experiment: Experiment, zoo: Zoo, console: Console) -> Experiment:
    """Without the methods that cannot read this zoo, which are named."""
    first, *others = zoo.structures.values()
    if all(same_layout(first, other) for other in others):
        return experiment
    left = [method.name for method in experiment.methods if method.one_layout]
    if not left:
        return experiment
    console.print(f"left out, as these networks differ in their layout: {', '.join(map(method_label, left))}")
    kept = tuple(method for method in experiment.methods if not method.one_layout)
    if not kept:
        raise ConfigError(experiment.name, ["methods: none of them reads networks that differ in their layout"])
    return replace(experiment, methods=kept)


def _located(zoo: Zoo) -> tuple[str, str]:
    return str(zoo.path), zoo.fingerprint


def _write(experiment: Experiment, summary: Summary, zoo: Zoo, folder: Path, console: Console) -> None:
    write_json(folder / "metrics.json", summary.metrics_json())
    tables = summary.tables()
    for table in tables:
        table.save(folder / "tables")
    figures = summary.save_figures(folder / "figures") if experiment.figures else []
    drawn = sorted((folder / "methods").glob(f"*/seed{summary.seeds[0]}/*.png"))
    figures += [path for path in drawn if path.parts[-3] in summary.results]
    if experiment.figures:
        shown_by = {method: folder / "methods" / method / f"seed{summary.seeds[0]}" for method in summary.results}
        figures += save_pictures(shown_by, folder / "figures")
    shown = [path.relative_to(folder).as_posix() for path in figures if path.suffix == ".png"]
    parts = [f"# {experiment.title}", f"`{experiment.name}`, scale `{experiment.scale}`", tables[0].section()]
    parts += [f"![{path}]({path})" for path in shown]
    parts += [table.section() for table in tables[1:]]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    for seed, record in build_records(experiment, summary, zoo.fingerprint).items():
        for root in (folder / "records", experiment.record):
            if root is not None:
                path = record_path(root, experiment.name, experiment.scale, experiment.variant, seed)
                write_text(path, record_text(record))
    show(tables[0], console)
    for table in tables[1:4]:
        show(table, console)
    if shown:
        console.print(f"figures: {folder / 'figures'} ({', '.join(Path(path).name for path in shown)}; SVG beside)")
    console.print(f"report:  {folder / 'report.md'}    metrics: {folder / 'metrics.json'}")


def show(table: Table, console: Console) -> None:
    """Print a table."""
    printed = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for position, column in enumerate(table.columns):
        printed.add_column(column, justify="left" if position == 0 else "right")
    for row in table.rows:
        printed.add_row(*(shown(cell.value if isinstance(cell, Interval) else cell, table.digits) for cell in row))
    console.print(printed)
    console.print()
