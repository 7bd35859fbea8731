"""Tables: one content, written as Markdown for reading and as CSV for computing."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from experiments.evaluation.bootstrap import Interval
from experiments.files import write_text

__all__ = ["Cell", "Table", "shown"]

Cell = str | int | float | Interval | None


def shown(cell: Cell, digits: int) -> str:
    """A cell as readers see it."""
    if cell is None or cell != cell:
        return "–"
    if isinstance(cell, Interval):
        return f"{cell.value:.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    if isinstance(cell, float):
        return f"{cell:.1e}" if cell != 0 and abs(cell) < 10**-digits else f"{cell:.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Args:
        name: the file's name without suffix.
        title: the heading.
        columns: one heading per column.
        rows: cells; an `Interval` becomes three columns in CSV, None and not-a-number a dash in Markdown.
        caption: what a reader must know to read it.
        digits: decimals shown in Markdown; CSV has every digit.

    >>> table = Table("mae", "Error", ("method", "mae"), (("mlp", 0.15),), digits=2)
    >>> print(table.markdown())
    | method | mae |
    |---|---:|
    | mlp | 0.15 |
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    digits: int = 3

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.name}: {len(self.columns)} columns, but a row is {wrong[0]}")

    def text_rows(self) -> list[list[str]]:
        """The cells as they are shown."""
        return [[shown(cell, self.digits) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """The table alone, in Markdown."""
        numeric = [any(not isinstance(row[i], str | None) for row in self.rows) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(self.columns) + " |",
            "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in self.text_rows()]
        return "\n".join(lines)

    def section(self, level: int = 2) -> str:
        """Heading, table and caption."""
        parts = [f"{'#' * level} {self.title}", self.markdown()]
        return "\n\n".join([*parts, self.caption] if self.caption else parts)

    def csv(self) -> str:
        """The table with full precision; bounds of intervals in columns of their own."""
        spans = [any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.columns))]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            [
                name
                for column, span in zip(self.columns, spans, strict=True)
                for name in ([column, f"{column} low", f"{column} high"] if span else [column])
            ]
        )
        for row in self.rows:
            cells: list[str | int | float | None] = []
            for cell, span in zip(row, spans, strict=True):
                if isinstance(cell, Interval):
                    cells += [cell.value, cell.low, cell.high]
                else:
                    cells += [cell, None, None] if span else [cell]
            writer.writerow(cells)
        return stream.getvalue()

    def save(self, folder: Path) -> None:
        """Write ``<name>.md`` and ``<name>.csv``."""
        write_text(folder / f"{self.name}.md", self.section(1) + "\n")
        write_text(folder / f"{self.name}.csv", self.csv())
