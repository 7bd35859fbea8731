"""Where stacks are trained: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from experiments.zoo.errors import ZooError

__all__ = ["EXECUTORS", "in_process", "processes", "ray_cluster", "refuse_in_import_of_script"]

GUARD = "put what your script does under `if __name__ == '__main__':`, or choose zoo.executor=in_process"

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_process(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """One task after the other, here."""
    for task in tasks:
        yield function(task)


def processes(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """Worker processes of one thread each; results come as they are ready.

    Workers are spawned, so a script that calls this needs the usual ``if __name__ == "__main__":``.

    Raises:
        ZooError: the script has none, or a worker was killed.
    """
    refuse_in_import_of_script()
    count = min(workers or os.cpu_count() or 1, len(tasks))
    if count <= 1:
        yield from in_process(function, tasks, None)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker)
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ZooError(f"a worker process ended before its work was done; {GUARD}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def refuse_in_import_of_script() -> None:
    """Raise where a worker imports the script that started it, which would begin all over and wait for its parent.

    Raises:
        ZooError: always there.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ZooError(f"a worker process imports the script that started it, and came to generate a zoo; {GUARD}")


def _begin_worker() -> None:
    """One thread for the work, and one that ends the worker when its parent is killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ray_cluster(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """Ray tasks of one core each, on the cluster that ``RAY_ADDRESS`` names or on this machine.

    ``workers`` limits how many run at once; None leaves it to Ray.
    """
    try:
        import ray
    except ImportError as error:
        raise ZooError(
            "zoo.executor=ray needs the package ray, which is not installed; "
            "`pip install graphnets[ray]`, or choose zoo.executor=processes"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote: Any = ray.remote(num_cpus=1)(function)
    waiting = list(tasks)
    running: list[Any] = []
    limit = workers or len(waiting)
    while waiting or running:
        while waiting and len(running) < limit:
            running.append(remote.remote(waiting.pop(0)))
        ready, running = ray.wait(running, num_returns=1)
        yield from ray.get(ready)


EXECUTORS: dict[str, Callable[..., Iterator[Any]]] = {
    "in_process": in_process,
    "processes": processes,
    "ray": ray_cluster,
}
"""Each gives the results of ``function`` over ``tasks`` in any order."""
