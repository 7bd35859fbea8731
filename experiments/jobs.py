"""Jobs: one method with one seed, its settings tried on validation, the best one tested once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer

import converters
import experiments
import graphnets
from experiments.config import Method
from experiments.evaluation import figures
from experiments.evaluation.attention import attention_figure
from experiments.evaluation.mask_scores import draw_mask_scores
from experiments.evaluation.pictures import store_pictures
from experiments.evaluation.space import draw_interpolation, draw_space
from experiments.files import atomic_path, digest_of, read_json, write_json
from experiments.learner import Learner
from experiments.predictor import Predictor, predict
from experiments.results import JobResult
from experiments.tasks import Task
from experiments.tasks.task import Picturing
from experiments.training import train_members, training_folder
from experiments.zoo import Zoo, load_zoo, unseen
from experiments.zoo.splits import split_runs
from graphnets import WeightNet

__all__ = ["Job", "Listener", "Networks", "run_job", "run_jobs", "source_fingerprint"]

Listener = Callable[[str, int, int, int, float], None]
"""Called with (job name, trial, epochs done, epochs in all, validation loss)."""


@dataclass(frozen=True)
class Networks:
    """Which networks a job learns from and is tested on, in plain values.

    Args:
        zoo: folder of the zoo, and its fingerprint.
        split: see ``configs/split``; its seed is filled in.
        test_zoo: the same of another zoo whose test networks are predicted instead; None: the zoo's own.
    """

    zoo: tuple[str, str]
    split: dict[str, Any]
    test_zoo: tuple[str, str] | None = None

    def for_seed(self, seed: int) -> Networks:
        """The same where a split without a seed of its own takes the job's."""
        own = self.split["seed"]
        return replace(self, split={**self.split, "seed": seed if own is None else own})


@dataclass(frozen=True)
class Job:
    """What a worker needs, in plain values.

    ``shared`` is the folder for first stages that several methods have in common; None: each trains its own. With
    ``all_shared`` trainings of one stage lie there as well.
    """

    method: Method
    seed: int
    task: dict[str, Any]
    networks: Networks
    folder: Path
    threads: int
    figures: bool = True
    shared: Path | None = None
    all_shared: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method.name} seed {self.seed}"

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal results: method, seed, task, zoo and source code."""
        others = self.networks
        zoos = [others.zoo[1], others.split, others.test_zoo and others.test_zoo[1]]
        content = [asdict(self.method), self.seed, self.task, zoos, source_fingerprint()]
        return digest_of(content)


@lru_cache(maxsize=1)
def source_fingerprint() -> str:
    """A hash of the source of the three packages: results of other code are not taken for this code's."""
    digest = hashlib.sha256()
    for package in (converters, graphnets, experiments):
        for root in package.__path__:
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def finished(job: Job) -> JobResult | None:
    """The result of a job that an earlier run finished, or None."""
    path = job.folder / "result.json"
    if not path.exists():
        return None
    stored = read_json(path)
    if stored.pop("fingerprint") != job.fingerprint:
        return None
    columns = np.loadtxt(job.folder / "predictions.csv", delimiter=",", skiprows=1, ndmin=2)
    return JobResult(**stored, prediction=columns[:, 1::2], truth=columns[:, 0::2])


def run_job(job: Job, listen: Listener | None = None, progress: bool = False) -> JobResult:
    """Train every setting of the method, keep the best on validation, test it.

    What an interrupted run left in ``job.folder`` is continued if it belongs to the very same job, else it
    is removed.
    """
    torch.set_num_threads(job.threads)
    task = load_task(json.dumps(job.task), json.dumps(asdict(job.networks)))
    stamp = job.folder / "job.json"
    if stamp.exists() and read_json(stamp)["fingerprint"] != job.fingerprint:
        shutil.rmtree(job.folder)
    write_json(stamp, {"fingerprint": job.fingerprint})
    models, outcomes = [], []
    shared = None if job.shared is None else job.shared / digest_of([asdict(job.networks), source_fingerprint()])[:12]
    for number, settings in enumerate(job.method.trials):
        callbacks = [] if listen is None else [Announce(listen, job.name, number)]
        folder = job.folder / f"trial{number}"
        held: AbstractContextManager[Any] = nullcontext()
        if shared and job.all_shared and settings.pretraining is None and settings.trainer.members == 1:
            folder = training_folder(shared, job.task, settings, job.seed)
            held = FileLock(folder / "lock")
        with held:
            model, outcome = train_members(
                settings, task, job.seed, folder, progress=progress, callbacks=callbacks, shared=shared
            )
        models.append(model)
        outcomes.append(outcome)
    scores = [outcome.score for outcome in outcomes]
    higher = job.method.trials[0].trainer.monitor not in ("loss", "mae", "rmse")
    trial = int(np.argmax(scores) if higher else np.argmin(scores))
    model, outcome, settings = models[trial], outcomes[trial], job.method.trials[trial]
    prediction, truth = predict(model, task, "test", settings.trainer.batch_size)
    metrics = task.score(prediction, truth)
    for split in task.also_scored:
        for name, found in task.score(*predict(model, task, split, settings.trainer.batch_size)).items():
            metrics[name] |= {f"{split}_{metric}": value for metric, value in found.items()}
    answers, truths = task.answers(prediction, truth)
    result = JobResult(
        method=job.method.name,
        seed=job.seed,
        metrics=metrics,
        permutation_delta=task.invariance(model),
        trial=trial,
        trial_scores=scores,
        epoch=outcome.epoch,
        history=outcome.history,
        parameters=outcome.parameters,
        cpu_seconds=outcome.cpu_seconds,
        tuning_seconds=sum(each.cpu_seconds for each in outcomes),
        prediction=answers.numpy(),
        truth=truths.numpy(),
    )
    _store(job, result)
    if job.figures:
        draw_attention(predictor=model, task=task, folder=job.folder)
        draw_mask_scores(model, task, job.folder, result.metrics)
        draw_space(model, task, job.folder)
        draw_interpolation(model, task, job.folder)
        if isinstance(task, Picturing):
            store_pictures(job.folder, task.pictures(model))
    return result


def _store(job: Job, result: JobResult) -> None:
    columns = {}
    for i, setting in enumerate(result.metrics):
        columns[f"{setting} true"], columns[f"{setting} predicted"] = (
            result.truth[:, i],
            result.prediction[:, i],
        )
    with atomic_path(job.folder / "predictions.csv") as temporary:
        pd.DataFrame(columns).to_csv(temporary, index=False)
    plain = {key: value for key, value in vars(result).items() if key not in ("prediction", "truth")}
    write_json(job.folder / "result.json", {"fingerprint": job.fingerprint, **plain})


def draw_attention(predictor: Predictor, task: Task, folder: Path) -> None:
    """A figure of what WeightNet attends to in the first test network; nothing for other models."""
    if not isinstance(predictor.first, WeightNet):
        return
    networks, _ = next(iter(task.loader("test", 1)))
    with torch.no_grad():
        maps = predictor.first.attention_maps(networks)
    layers = networks.structure[0].layers
    panels = [(f"layer {n}: {layers[n].kind}", found.mean(0)) for n, found in maps.intra[-1][0].items()]
    panels.append(("layers", maps.cross[-1][0].mean(0)))
    shown = [(name, attention.double().numpy()) for name, attention in panels]
    title = "Attention in WeightNet's last blocks, mean over heads (1: uniform)"
    figures.save(attention_figure(shown, title), folder / "attention")


@lru_cache(maxsize=1)
def load_task(task: str, networks: str) -> Task:
    """The task on its networks; a worker builds it once for jobs that follow one another on the same ones."""
    given = json.loads(networks)
    zoo, split = load_zoo(given["zoo"][0]), given["split"]
    if split["by"] is not None:
        zoo = zoo.resplit(new_splits(zoo, split))
    test_zoo = None if given["test_zoo"] is None else load_zoo(given["test_zoo"][0])
    return cast(Task, instantiate(json.loads(task), zoo=zoo, test_zoo=test_zoo, _convert_="all"))


def new_splits(zoo: Zoo, split: dict[str, Any]) -> dict[int, str]:
    """The split of every network by its id, as ``configs/split`` says: by run anew, or unseen values of a column."""
    if split["by"] != "run":
        options = {name: split[name] for name in ("share", "validation", "seed")}
        return unseen(zoo.records, split["by"], split["held_out"], **options)
    runs = dict(zip(zoo.records["id"], zoo.records["run"], strict=True))
    own = split_runs(runs.values(), zoo.config.splits, split["seed"])
    return {int(network): own[run] for network, run in runs.items()}


class Announce(Callback):
    """Tells a listener of every epoch, and stops when the process that started this one is gone."""

    def __init__(self, listen: Listener, name: str, trial: int) -> None:
        self.listen, self.name, self.trial = listen, name, trial

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, unless nobody is there any more."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            sys.exit("the run that this worker belongs to has ended")
        loss = cast(Learner, pl_module).history["val"][-1]
        self.listen(self.name, self.trial, trainer.current_epoch + 1, trainer.max_epochs or 0, loss)


_queue: Any = None


def _start_worker(queue: Any) -> None:
    global _queue
    _queue = queue


def _announce(*news: Any) -> None:
    _queue.put(news)


def _work(job: Job) -> JobResult:
    return run_job(job, _announce)


def run_jobs(
    jobs: Sequence[Job],
    workers: int | None,
    *,
    listen: Listener,
    done: Callable[[JobResult], None],
    progress: bool,
) -> list[JobResult]:
    """Run the jobs that are not finished yet, in their order, and return all results in that order.

    Args:
        jobs: what is to be done.
        workers: processes; None: one per core. With one, everything happens in this process.
        listen: hears of every epoch.
        done: hears of every job that ends.
        progress: show Lightning's own progress bar (one worker only; several would write over each other).
    """
    results: dict[str, JobResult] = {}
    waiting = []
    for job in jobs:
        earlier = finished(job)
        if earlier is None:
            waiting.append(job)
        else:
            results[job.name] = earlier
    threads = max((job.threads for job in waiting), default=1)
    count = min(workers or max(1, _cores() // threads), len(waiting))
    if count <= 1:
        for job in waiting:
            results[job.name] = run_job(job, None if progress else listen, progress=progress)
            done(results[job.name])
    else:
        for result, job in _in_parallel(waiting, count, listen, done):
            results[job.name] = result
    return [results[job.name] for job in jobs]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_parallel(
    jobs: Sequence[Job], count: int, listen: Listener, done: Callable[[JobResult], None]
) -> list[tuple[JobResult, Job]]:
    # Workers are forked from a clean process that has imported everything once, before any thread started.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["experiments.jobs"])
    threads = {"OMP_NUM_THREADS": str(jobs[0].threads), "MKL_NUM_THREADS": str(jobs[0].threads)}
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    results = []
    try:
        with context.Manager() as manager:
            queue = manager.Queue()
            with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(queue,)) as pool:
                running: dict[Future[JobResult], Job] = {pool.submit(_work, job): job for job in jobs}
                try:
                    while running:
                        ready, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                        while not queue.empty():
                            listen(*queue.get())
                        for future in ready:
                            job = running.pop(future)
                            results.append((future.result(), job))
                            done(results[-1][0])
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return results
