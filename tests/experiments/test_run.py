"""A run leaves one folder with everything in it; the same seed gives the same numbers, killed or not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock
from hydra import compose, initialize_config_dir

from experiments import jobs
from experiments.config import CONFIG_DIR, ConfigError
from experiments.evaluation.metrics import METRICS
from experiments.run import run

EXPERIMENT = "weightnet/properties"
METHODS = [
    "flat_mlp",
    "flat_mlp_aug",
    "stat_nn",
    "dws",
    "nfn_pt",
    "nfn_np",
    "nfn_hnp",
    "nft",
    "weightnet_paper",
    "weightnet_sorted",
    "weightnet_invariant",
    "neuron_gnn",
    "neuron_transformer",
]
INVARIANT = [name for name in METHODS if name not in ("flat_mlp", "flat_mlp_aug", "weightnet_paper")]
PROPERTIES = ["accuracy", "robustness", "generalization_gap"]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this run of the tests."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "shared_run"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def zoos(shared: Path) -> Path:
    return shared / "zoos"


@pytest.fixture(autouse=True)
def _zoo_root(zoos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHNETS_ZOO_ROOT", str(zoos))


def go(folder: Path, *overrides: str, figures: bool = False) -> Path:
    given = [f"output={folder}", f"experiment={EXPERIMENT}", "scale=tiny", f"execution.figures={figures}", *overrides]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides=given)
    run(config, folder)
    return folder


@pytest.fixture(scope="session")
def finished(shared: Path, zoos: Path) -> Path:
    """One finished run with two seeds, computed by the first worker; tests copy it where they change it."""
    with pytest.MonkeyPatch.context() as patch, FileLock(shared / "run.lock"):
        patch.setenv("GRAPHNETS_ZOO_ROOT", str(zoos))
        return go(shared / "run", "seeds=[0,1]", figures=True)


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def test_metrics_json_is_exactly_what_is_promised(finished: Path) -> None:
    content = metrics_of(finished)
    assert list(content) == ["models"]
    assert list(content["models"]) == METHODS
    for values in content["models"].values():
        assert list(values) == [*PROPERTIES, "permutation_delta"]
        assert len(values["permutation_delta"]) == 2
        for name in PROPERTIES:
            assert set(values[name]) == {"tau", "r2", "mae", "rmse"}
            assert all(len(numbers) == 2 and isinstance(numbers[0], float) for numbers in values[name].values())


def test_invariant_models_do_not_see_the_order_of_neurons_and_the_flat_one_does(finished: Path) -> None:
    models = metrics_of(finished)["models"]
    for name in METHODS:
        delta = max(models[name]["permutation_delta"])
        assert (delta <= 1e-4) if name in INVARIANT else (delta > 1e-3)


def test_the_folder_holds_everything(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["experiment"] == EXPERIMENT
    assert config["seeds"] == [0, 1]
    assert "${" not in (finished / "config.yaml").read_text()
    versions = json.loads((finished / "versions.json").read_text())
    assert {"python", "torch", "torch-geometric", "lightning"} <= set(versions)
    tables = {path.name for path in (finished / "tables").iterdir()}
    for name in ("overview", "table1_mae", "table2_r2", "tau", "differences", *(f"details_{m}" for m in METHODS)):
        assert {f"{name}.md", f"{name}.csv"} <= tables
    figures = {path.stem for path in (finished / "figures").glob("*.png")}
    assert figures == {path.stem for path in (finished / "figures").glob("*.svg")}
    assert [name[:4] for name in sorted(figures)] == ["fig1", "fig2", "fig3", "fig4", "fig5"]
    for method in METHODS:
        for seed in (0, 1):
            assert (finished / "methods" / method / f"seed{seed}" / "result.json").exists()
    assert (finished / "methods" / "neuron_gnn" / "seed0" / "trial0" / "best.ckpt").exists()
    attention = {path.parts[-3] for path in (finished / "methods").glob("*/seed0/attention.png")}
    assert attention == {name for name in METHODS if name.startswith("weightnet")}
    report = (finished / "report.md").read_text()
    assert "(methods/weightnet_invariant/seed0/attention.png)" in report
    for path in (finished / "figures").glob("*.png"):
        assert f"(figures/{path.name})" in report


def test_tables_and_metrics_come_from_the_stored_predictions(finished: Path) -> None:
    import torch

    for method in METHODS:
        table = pd.read_csv(finished / "methods" / method / "seed1" / "predictions.csv")
        for name in PROPERTIES:
            one, two = (torch.tensor(table[f"{name} {column}"].to_numpy()) for column in ("predicted", "true"))
            for metric, function in METRICS.items():
                stored = metrics_of(finished)["models"][method][name][metric][1]
                assert stored == pytest.approx(function(one, two), abs=1e-12)
    shown = pd.read_csv(finished / "tables" / "table1_mae.csv")
    mean = metrics_of(finished)["models"]["neuron_gnn"]["accuracy"]["mae"]
    row = shown[shown["method"] == "NeuronGNN"].iloc[0]
    assert row["accuracy"] == pytest.approx(sum(mean) / 2)
    assert row["accuracy low"] <= row["accuracy"] <= row["accuracy high"]


def test_records_are_one_per_seed_and_know_nothing_of_this_machine(finished: Path) -> None:
    paths = sorted((finished / "records").rglob("*.json"))
    assert [p.relative_to(finished / "records").as_posix() for p in paths] == [
        f"{EXPERIMENT}/tiny-tiny-seed{seed}.json" for seed in (0, 1)
    ]
    for seed, path in enumerate(paths):
        record = json.loads(path.read_text())
        assert {"experiment", "scale", "seed", "zoo", "rows", "config", "versions", "commit"} <= set(record)
        assert (record["experiment"], record["scale"], record["seed"]) == (EXPERIMENT, "tiny", seed)
        assert [(row["method"], row["setting"]) for row in record["rows"]] == [
            (method, {"property": name}) for method in METHODS for name in PROPERTIES
        ]
        for row in record["rows"]:
            assert set(row["metrics"]) == {"tau", "r2", "mae", "rmse", "permutation_delta"}
            stored = metrics_of(finished)["models"][row["method"]][row["setting"]["property"]]
            assert row["metrics"]["tau"] == pytest.approx(stored["tau"][seed], rel=1e-6)
            assert row["parameters"] > 0
            assert row["cpu_seconds"] >= 0
        assert str(finished.parent) not in path.read_text()
        assert str(os.environ["GRAPHNETS_ZOO_ROOT"]) not in path.read_text()


def test_one_seed_gives_the_same_numbers_alone_and_in_parallel(finished: Path, tmp_path: Path) -> None:
    alone = metrics_of(go(tmp_path / "parallel", "seeds=[1]", "execution.workers=2"))
    for method, values in metrics_of(finished)["models"].items():
        for name in PROPERTIES:
            for metric, numbers in values[name].items():
                assert alone["models"][method][name][metric] == [numbers[1]]


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("this job was finished before")


def test_finished_jobs_are_not_computed_again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("metrics.json", "report.md"):
        (folder / name).unlink()
    shutil.rmtree(folder / "methods" / "neuron_gnn" / "seed1")
    done: list[str] = []
    compute = jobs.run_job

    def counted(job: jobs.Job, *arguments: Any, **options: Any) -> Any:
        done.append(job.name)
        return compute(job, *arguments, **options)

    monkeypatch.setattr(jobs, "run_job", counted)
    go(folder, "seeds=[0,1]")
    assert done == ["neuron_gnn seed 1"]
    assert metrics_of(folder) == metrics_of(finished)
    monkeypatch.setattr(jobs, "run_job", forbidden)
    go(folder, "seeds=[0,1]")


def test_a_changed_config_is_computed_again_in_the_same_folder(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    go(folder, "seeds=[0]", "trainer.epochs=3")
    history = json.loads((folder / "methods" / "neuron_gnn" / "seed0" / "result.json").read_text())["history"]
    assert len(history["val"]) == 3


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ConfigError, match="another run is writing to"):
        go(tmp_path / "run")


def test_an_experiment_without_sizes_for_a_scale_says_which_it_has(tmp_path: Path) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides=["output=x", f"experiment={EXPERIMENT}", "scale=tiny"])
    config.scale = "huge"
    with pytest.raises(ConfigError, match="'huge' has no sizes for this experiment; known are paper, small, tiny"):
        run(config, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"experiment={EXPERIMENT}", "scale=tiny", "trainer.epochs=0"], "trainer.epochs: 0 must be at least 1"),
        (
            [f"experiment={EXPERIMENT}", "scale=tiny", "zoo=fashion_cnn"],
            "error: the data set fashion-mnist has no folder",
        ),
        (
            [f"experiment={EXPERIMENT}", "scale=tiny", "split=unseen_depth"],
            "error: unseen: no network has depth 4; there are 2",
        ),
    ],
)
def test_the_command_line_refuses_what_it_does_not_know(
    tmp_path: Path, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAPHNETS_DATA", raising=False)
    command = [sys.executable, "-m", "experiments", f"output={tmp_path / 'run'}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=CONFIG_DIR.parent)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.long
def test_a_run_killed_at_any_time_is_continued_to_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "experiments", f"experiment={EXPERIMENT}", "scale=tiny", f"output={folder}"]
    command += ["seeds=[0,1]", "execution.workers=2"]
    for pattern in ("methods/*/*/trial0/last.ckpt", "methods/*/*/result.json", "methods/*/seed0/result.json"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=CONFIG_DIR.parent)
        while not list(folder.glob(pattern)):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("methods/*/*/result.json")}
    assert before
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=CONFIG_DIR.parent, timeout=600)
    assert metrics_of(folder) == metrics_of(finished)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
