"""What a running experiment shows: a bar per running job on a terminal, a line per finished job elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments.evaluation.labels import method_label
from experiments.results import JobResult

__all__ = ["Display"]


class Display:
    """Progress of several jobs at once.

    Args:
        console: where to show it.
        jobs: how many there are.
        bars: show moving bars if the console is a terminal.
    """

    def __init__(self, console: Console, jobs: int, bars: bool = True) -> None:
        self.console, self.jobs, self.finished, self.started = console, jobs, 0, time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not (bars and console.is_terminal))
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def listen(self, job: str, trial: int, epochs: int, total: int, loss: float) -> None:
        """An epoch of a job has ended."""
        if job not in self.bars:
            self.bars[job] = self.progress.add_task(job, total=total, note="")
        note = f"setting {trial + 1}, validation loss {loss:.3f}"
        self.progress.update(self.bars[job], completed=epochs, total=total, note=note)

    def done(self, result: JobResult) -> None:
        """A job has ended."""
        self.finished += 1
        bar = self.bars.pop(f"{result.method} seed {result.seed}", None)
        if bar is not None:
            self.progress.remove_task(bar)
        score = result.trial_scores[result.trial]
        seconds = time.monotonic() - self.started
        self.console.print(
            f"[{seconds:5.0f} s] {self.finished}/{self.jobs} {method_label(result.method)}, "
            f"seed {result.seed}: validation {score:.4f}, {result.tuning_seconds:.0f} CPU seconds",
            highlight=False,
            markup=False,
        )
