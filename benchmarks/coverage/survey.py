"""Runs the cases one by one, each in a process of its own with a limit on CPU time and memory."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from benchmarks.coverage.cases import Case
from benchmarks.coverage.measure import measure

__all__ = ["survey"]

CPU_SECONDS = 60
WALL_SECONDS = 240
MEMORY = 8 << 30


def survey(cases: Iterable[Case], source: str) -> Iterator[dict[str, Any]]:
    """A row per case; a case that breaks a limit or kills its process gives a row that says so.

    Processes are forked, so the libraries are imported once, by whoever calls this.
    """
    torch.set_num_threads(1)
    for case in cases:
        yield _isolated(case, source)


def _isolated(case: Case, source: str) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(case, source, send), daemon=True)
    process.start()
    send.close()
    row = {"source": source, "name": case.name, "kind": case.kind, "note": case.note, "failed": "limit"}
    try:
        if receive.poll(WALL_SECONDS):
            return dict(receive.recv())
        row["message"] = f"no result after {WALL_SECONDS} s"
    except EOFError:
        process.join()
        row["message"] = _death(process.exitcode)
    finally:
        process.kill()
        process.join()
        receive.close()
    return row


def _death(code: int | None) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"more than {CPU_SECONDS} s of CPU time"
    return f"the process ended with code {code}"


def _work(case: Case, source: str, send: multiprocessing.connection.Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)  # libraries print what they think of random weights
    os.dup2(null, sys.stdout.fileno())
    os.dup2(null, sys.stderr.fileno())
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    send.send(measure(case, source))
    send.close()
