from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments.evaluation.bootstrap import Interval
from experiments.evaluation.tables import Table

TABLE = Table(
    "scores",
    "Scores",
    ("method", "R²", "delta", "parameters"),
    (("GNN", Interval(0.8, 0.75, 0.85), 2.5e-7, 12345), ("MLP, flat", None, 0.25, 10)),
    "A caption.",
)


def test_markdown_shows_intervals_small_numbers_and_gaps() -> None:
    assert TABLE.markdown().splitlines() == [
        "| method | R² | delta | parameters |",
        "|---|---:|---:|---:|",
        "| GNN | 0.800 [0.750, 0.850] | 2.5e-07 | 12,345 |",
        "| MLP, flat | – | 0.250 | 10 |",
    ]


def test_csv_has_every_digit_and_the_bounds(tmp_path: Path) -> None:
    TABLE.save(tmp_path)
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["method", "R²", "R² low", "R² high", "delta", "parameters"]
    assert [float(cell) for cell in rows[1][1:]] == [0.8, 0.75, 0.85, 2.5e-7, 12345]
    assert rows[2] == ["MLP, flat", "", "", "", "0.25", "10"]
    assert (tmp_path / "scores.md").read_text(encoding="utf-8").startswith("# Scores\n\n| method |")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.md"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="table wrong: 2 columns, but a row is"):
        Table("wrong", "Wrong", ("a", "b"), ((1, 2), (1,)))
