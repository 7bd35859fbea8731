"""From the results of all jobs to ``metrics.json``, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation import figures
from experiments.evaluation.bootstrap import (
    RESAMPLED,
    Comparison,
    Interval,
    compare,
    interval,
    resample_counts,
    resampled_metric,
    seed_spread,
)
from experiments.evaluation.labels import axis_label, method_label
from experiments.evaluation.metrics import DIGITS, HIGHER_IS_BETTER
from experiments.evaluation.tables import Cell, Table
from experiments.results import JobResult

__all__ = ["Summary"]

DETAILED = (
    *("mae", "rmse", "r2", "tau", "accuracy", "train_accuracy", "mse", "train_mse", "relative_mse", "psnr"),
    *("ticket_accuracy", "ticket_recall", "kept"),
    *("agreement", "correlation", "cosine", "class_entropy", "accuracy_drop", "noise_agreement"),
    *("recalibrated_agreement", "recalibrated_drop"),
    *("recall_1", "recall_10", "recall_1_weights", "recall_1_lift", "nt_xent", "chance", "below_chance"),
    *("probe_accuracy", "probe_loss", "probe_class"),
    *("best_accuracy", "reached_accuracy", "spearman", "diversity", "distance"),
)
TABLED = ("mae", "r2", "tau", "accuracy", "mse", "ticket_accuracy", "agreement", "recall_1", "best_accuracy")
FOLLOWED = ("tau", "r2", "accuracy", "agreement", "correlation", "cosine")
"""Validation scores that are drawn over the epochs, where one of them decides."""

NUMBERS = {"mae": 1, "r2": 2}
"""Of WeightNet's tables."""


@dataclass(frozen=True)
class Summary:
    """All results of one experiment.

    Args:
        results: method to its results, one per seed, seeds in the same order everywhere.
        bootstrap: ``resamples``, ``level`` and ``seed``.
        trials: settings every method was allowed to try.
        base: compare every method with this one alone; None compares every pair.
        paper: whether the tables are those of WeightNet's paper, and say so.
    """

    results: Mapping[str, Sequence[JobResult]]
    bootstrap: Mapping[str, Any]
    trials: int
    base: str | None = None
    paper: bool = False

    @property
    def _first(self) -> JobResult:
        return next(iter(self.results.values()))[0]

    @property
    def settings(self) -> tuple[str, ...]:
        """What is scored apart."""
        return tuple(self._first.metrics)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What every setting is scored by."""
        return tuple(next(iter(self._first.metrics.values())))

    @property
    def resampled(self) -> tuple[str, ...]:
        """The metrics of stored predictions, which have intervals."""
        return tuple(metric for metric in self.metrics if metric in RESAMPLED)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(result.seed for result in next(iter(self.results.values())))

    def counts(self) -> list[Any]:
        """The resamples of every seed's test networks, the same for every method."""
        sizes = [len(result.truth) for result in next(iter(self.results.values()))]
        drawn = {n: resample_counts(n, self.bootstrap["resamples"], self.bootstrap["seed"]) for n in set(sizes)}
        return [drawn[n] for n in sizes]

    def values(self, method: str, setting: str, metric: str) -> list[float]:
        """A metric for every seed."""
        return [result.metrics[setting][metric] for result in self.results[method]]

    def deltas(self, method: str) -> list[float]:
        """The permutation delta for every seed."""
        return [result.permutation_delta for result in self.results[method]]

    def metrics_json(self) -> dict[str, Any]:
        """The content of ``metrics.json``: one number per seed."""
        return {
            "models": {
                method: {
                    **{s: {m: self.values(method, s, m) for m in self.metrics} for s in self.settings},
                    "permutation_delta": self.deltas(method),
                }
                for method in self.results
            }
        }

    @cached_property
    def _resampled(self) -> dict[tuple[str, str, str], list[Any]]:
        """Every resample's value by (method, setting, metric), per seed; seeds may have test networks of their own."""
        counts = self.counts()
        return {
            (method, setting, metric): [
                resampled_metric(metric, drawn, result.prediction[:, i], result.truth[:, i])
                for drawn, result in zip(counts, results, strict=True)
            ]
            for method, results in self.results.items()
            for i, setting in enumerate(self.settings)
            for metric in self.resampled
        }

    def intervals(self) -> dict[tuple[str, str, str], Interval]:
        """The mean over seeds by (method, setting, metric), with the bootstrap over test networks."""
        return {
            key: interval(float(np.mean(self.values(*key))), np.mean(values, axis=0), self.bootstrap["level"])
            for key, values in self._resampled.items()
        }

    def comparisons(self) -> list[Comparison]:
        """Pairs of methods, every setting and metric: the mean difference over seeds, on the same resamples."""
        methods, found = list(self.results), []
        pairs = [(first, second) for i, second in enumerate(methods) for first in methods[i + 1 :]]
        if self.base is not None:
            pairs = [(method, self.base) for method in methods if method != self.base]
        for first, second in pairs:
            for setting in self.settings:
                for metric in self.resampled:
                    one, two = ((method, setting, metric) for method in (first, second))
                    value = float(np.mean(self.values(*one)) - np.mean(self.values(*two)))
                    resampled = self._resampled[one], self._resampled[two]
                    difference = compare(value, *resampled, self.bootstrap["level"])
                    found.append(Comparison(first, second, setting, metric, difference))
        return found

    def caption(self, brackets: bool = True) -> str:
        """What every table's reader must know."""
        seeds = f"mean of {len(self.seeds)} seeds" if len(self.seeds) > 1 else f"seed {self.seeds[0]}"
        level = round(100 * self.bootstrap["level"])
        bounds = f"; in brackets the {level}% bootstrap interval over test networks" if brackets else ""
        tried = "1 setting" if self.trials == 1 else f"{self.trials} settings"
        return (
            f"{self._networks()} test networks, {seeds}{bounds}. "
            f"Every method had the same tuning budget: {tried} tried, the best on validation kept; "
            "the test split was read once, after that."
        )

    def _networks(self) -> str:
        sizes = sorted({len(result.truth) for result in next(iter(self.results.values()))})
        return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"

    def tables(self) -> list[Table]:
        """An overview, the paper's Tables 1 to 4 (3 and 4 for every method), tau, paired differences."""
        spans = self.intervals()
        tables = [self._overview()]
        for metric in TABLED:
            number = NUMBERS.get(metric)
            if metric not in self.resampled:
                continue
            rows: list[tuple[Cell, ...]] = [
                (method_label(m), *(spans[m, s, metric] for s in self.settings), self._overall(m, metric))
                for m in self.results
            ]
            name = f"table{number}_{metric}" if number else metric
            title = f"{axis_label(metric)} by property" + (
                f" (the paper's Table {number})" if number and self.paper else ""
            )
            columns = ("method", *map(axis_label, self.settings), "mean")
            tables.append(Table(name, title, columns, tuple(rows), self.caption(), DIGITS.get(metric, 3)))
        tables += [self._details(method) for method in self.results]
        return [*tables, self._differences()]

    def _overall(self, method: str, metric: str) -> float:
        return float(np.mean([self.values(method, setting, metric) for setting in self.settings]))

    def _overview(self) -> Table:
        delta = " Permutation Δ: the largest change of any test prediction when hidden neurons are reordered."
        caption = self.caption(brackets=False) + delta
        rows: list[tuple[Cell, ...]] = []
        if "r2" not in self.metrics:
            for method in self.results:
                scores = [self._overall(method, metric) for metric in self.metrics]
                rows.append((method_label(method), *scores, *self._costs(method)))
            columns = ("method", *map(axis_label, self.metrics), "permutation Δ", "parameters", "CPU s")
            digits = max(DIGITS.get(metric, 3) for metric in self.metrics)
            return Table("overview", "Overview", columns, tuple(rows), caption, digits)
        base = next(iter(self.results))
        for method in self.results:
            r2, reference = self._overall(method, "r2"), self._overall(base, "r2")
            taus = [seed_spread(self.values(method, setting, "tau"))[0] for setting in self.settings]
            # Relative to an R2 near zero a gain could be any number.
            gain = f"{100 * (r2 / reference - 1):+.1f}%" if method != base and reference > 0.1 else None
            rows.append((method_label(method), *taus, r2, gain, *self._costs(method)))
        columns = (
            "method",
            *(f"τ {axis_label(setting)}" for setting in self.settings),
            "mean R²",
            f"gain in R² over {method_label(base)}",
            "permutation Δ",
            "parameters",
            "CPU s",
        )
        return Table("overview", "Overview", columns, tuple(rows), caption)

    def _costs(self, method: str) -> tuple[float, int, float]:
        """Permutation delta, parameters and seconds."""
        results = self.results[method]
        seconds = round(float(np.mean([r.cpu_seconds for r in results])), 1)
        return max(self.deltas(method)), results[0].parameters, seconds

    def _details(self, method: str) -> Table:
        rows: list[tuple[Cell, ...]] = []
        metrics = [metric for metric in DETAILED if metric in self.metrics]
        for setting in self.settings:
            cells: list[Cell] = []
            for metric in metrics:
                mean, deviation = seed_spread(self.values(method, setting, metric))
                cells.append(f"{mean:.4f}" + (f" ± {deviation:.4f}" if deviation == deviation else ""))
            rows.append((axis_label(setting), *cells))
        rows.append(("overall", *(f"{self._overall(method, metric):.4f}" for metric in metrics)))
        theirs = {"weightnet_invariant": " (the paper's Table 3)", "flat_mlp": " (the paper's Table 4)"}
        number = theirs.get(method, "") if self.paper else ""
        spread = "± is the standard deviation over seeds. " if len(self.seeds) > 1 else ""
        return Table(
            f"details_{method}",
            f"{method_label(method)} in detail{number}",
            ("property", *map(axis_label, metrics)),
            tuple(rows),
            spread + "Overall is the mean over properties.",
        )

    def _differences(self) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for c in self.comparisons():
            if c.metric not in RESAMPLED or c.metric in ("mae", "rmse"):
                continue
            clear = c.difference.low > 0 or c.difference.high < 0
            better = c.first if (c.difference.value > 0) == HIGHER_IS_BETTER[c.metric] else c.second
            verdict = method_label(better) if clear else "undecided"
            pair = f"{method_label(c.first)} − {method_label(c.second)}"
            rows.append((pair, axis_label(c.setting), axis_label(c.metric), c.difference, verdict))
        return Table(
            "differences",
            "Paired differences",
            ("methods", "property", "metric", "difference", "better"),
            tuple(rows),
            self.caption() + " Both methods of a pair are scored on the same resamples.",
        )

    def save_figures(self, folder: Path) -> list[Path]:
        """Figures 1 to 5 of WeightNet's paper, of other tasks their first metric and losses.

        Where single networks are shown they are those of the first seed.
        """
        first = self.settings[0]
        truth = self._first.truth[:, 0]
        predictions = {method: results[0].prediction[:, 0] for method, results in self.results.items()}
        spans = self.intervals()

        def bounds(metric: str) -> dict[str, dict[str, tuple[float, float, float]]]:
            def found(method: str, setting: str) -> tuple[float, float, float]:
                span = spans[method, setting, metric]
                return span.value, span.low, span.high

            return {m: {s: found(m, s) for s in self.settings} for m in self.results}

        histories: dict[str, dict[str, Sequence[float]]] = {
            m: {**r[0].history, "kept": [] if r[0].epoch is None else [r[0].epoch]}
            for m, r in self.results.items()
            if len(r[0].history["val"]) > 1
        }
        if "r2" in self.metrics:
            r2 = {m: {s: spans[m, s, "r2"].value for s in self.settings} for m in self.results}
            drawn = {
                "fig1_predicted_against_true": figures.predicted_against_true(truth, predictions, first),
                "fig2_error_histogram": figures.error_histogram(truth, predictions, first),
                "fig3_mae": figures.bars(bounds("mae"), "mae"),
                "fig4_r2_radar": figures.radar(r2, "r2"),
            }
        else:
            metric = self.resampled[0]
            drawn = {metric: figures.bars(bounds(metric), metric)}
        if histories:
            drawn["fig5_loss_curves"] = figures.loss_curves(histories)
        scored = {method: history for method, history in histories.items() if history.keys() & set(FOLLOWED)}
        common = [m for m in FOLLOWED if scored and all(m in history for history in scored.values())]
        if common:
            drawn["score_curves"] = figures.score_curves(scored, common)
        return [path for name, figure in drawn.items() for path in figures.save(figure, folder / name)]
