"""A zoo is the same however it is generated, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.data import ImageData
from experiments.zoo import PROPERTIES, Zoo, ZooConfig, ZooError, generate, get_zoo, info, load_zoo, verify
from experiments.zoo.generation import StackTask, plan_stacks, train_shards
from experiments.zoo.nets import architectures_of
from experiments.zoo.properties import noisy_images
from experiments.zoo.storage import read_shard


def content(zoo: Zoo) -> dict[str, bytes]:
    """Every file of a zoo, but the lock."""
    files = sorted(path for path in zoo.path.rglob("*") if path.is_file())
    return {str(path.relative_to(zoo.path)): path.read_bytes() for path in files}


def test_a_generated_zoo_holds_what_was_asked_for(small: Any, tmp_path: Path) -> None:
    zoo = get_zoo(small, tmp_path, progress=False)
    assert zoo.path.parent == tmp_path
    records = zoo.records
    assert records["id"].tolist() == list(range(24))
    assert records["split"].value_counts().to_dict() == {"train": 17, "val": 3, "test": 4}
    assert set(PROPERTIES) <= set(records.columns)
    assert set(small["ranges"]) <= set(records.columns)
    assert np.allclose(records["generalization_gap"], records["train_accuracy"] - records["test_accuracy"], atol=1e-12)
    assert records["test_accuracy"].between(0, 1).all()
    assert records["test_accuracy"].std() > 0.05
    assert {path.name for path in zoo.path.iterdir()} == {"zoo.json", "records.parquet", "weights"}
    assert not list(zoo.path.rglob("*.pt")) + list(zoo.path.rglob("*.pkl"))
    report = verify(zoo.path, networks=24)
    assert report.ok, report
    assert "24 measured again; no faults" in str(report)
    summary = info(zoo.path)
    assert summary["networks"] == {"trained": 24, "kept": 24, "left_out": 0}
    assert summary["splits"] == {"train": 17, "val": 3, "test": 4}
    assert summary["properties"]["test_accuracy"]["max"] == round(records["test_accuracy"].max(), 4)


def test_properties_equal_those_of_the_rebuilt_modules(small: Any, tmp_path: Path, data: ImageData) -> None:
    zoo = get_zoo(small | {"size": 8}, tmp_path, progress=False)
    noisy, noisy_labels = noisy_images(zoo.config, data)
    assert 0.4 < float((noisy - data.test).std()) < 0.6

    for name, architecture in zoo.architectures.items():
        weights = zoo.weights(name)
        for index, row in zoo.of(name).iterrows():
            module = architecture.build()
            module.load_state_dict({key: value[index] for key, value in weights.items()})

            def accuracy(images: torch.Tensor, labels: torch.Tensor, net: Any = module) -> float:
                with torch.no_grad():
                    return float((net(images.flatten(1)).argmax(1) == labels).double().mean())

            assert abs(accuracy(data.test, data.test_labels) - row["test_accuracy"]) < 2e-3
            assert abs(accuracy(noisy, noisy_labels) - row["robustness_input_noise"]) < 2e-3
            assert abs(accuracy(data.shifted, data.shifted_labels) - row["robustness_shift"]) < 2e-3
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(module(data.test.flatten(1)), data.test_labels)
            assert abs(float(loss) - row["test_loss"]) < 1e-4


def test_weight_noise_is_what_lowers_robustness(small: Any, tmp_path: Path) -> None:
    small |= {"size": 16}
    small["ranges"] |= {"steps": 200, "optimiser": "adam", "learning_rate": 0.02, "train_fraction": 1.0}
    small["ranges"] |= {"dropout": 0.0, "label_noise": 0.0}
    means = []
    for noise in (0.0, 0.3, 1.0):
        small["properties"]["weight_noise"] = noise
        records = get_zoo(small, tmp_path, progress=False).records
        means.append(records["robustness"].mean())
        if noise == 0:
            assert records["robustness"].tolist() == records["test_accuracy"].tolist()
    assert means[0] > means[1] + 0.02 > means[2] + 0.1


def test_ray_is_asked_for_by_name_and_used_when_there(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ZooError, match=r"needs the package ray.*pip install graphnets\[ray\]"):
        generate(small | {"executor": "ray"}, tmp_path / "none", progress=False)

    running: list[int] = []

    class Remote:
        def __init__(self, function: Any) -> None:
            self.function = function

        def remote(self, task: Any) -> tuple[Any, Any]:
            running.append(task.number)
            assert len(running) <= 2, "more tasks at once than workers"
            return self.function, task

    def get(pairs: list[tuple[Any, Any]]) -> list[Any]:
        for _, task in pairs:
            running.remove(task.number)
        return [function(task) for function, task in pairs]

    cluster = types.SimpleNamespace(
        is_initialized=lambda: True,
        remote=lambda **resources: Remote,
        wait=lambda refs, num_returns: (refs[-1:], refs[:-1]),
        get=get,
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    far = generate(small | {"executor": "ray", "workers": 2}, tmp_path / "far", progress=False)
    assert content(far) == content(generate(small, tmp_path / "here", progress=False))


@pytest.mark.ray
def test_a_real_ray_cluster_gives_the_same_files(small: Any, tmp_path: Path) -> None:
    far = generate(small | {"executor": "ray", "workers": 2}, tmp_path / "far", progress=False)
    assert content(far) == content(generate(small, tmp_path / "here", progress=False))


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, parent, state in rows if int(parent) == process and state[0] != "Z"]


def is_running(process: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return listed.stdout.strip() not in ("", "Z")


def test_a_killed_generation_continues_and_ends_bit_for_bit_the_same(small: Any, tmp_path: Path) -> None:
    """Worker processes are used here and one process is used for comparison, so they are compared too."""
    small |= {"size": 90, "stack_size": 3, "executor": "processes", "workers": 2}
    small["ranges"]["steps"] = 60
    script = tmp_path / "generate.py"
    script.write_text(
        "import json, sys\nfrom experiments.zoo import generate\nif __name__ == '__main__':\n"
        f"    generate(json.loads({json.dumps(small)!r}), sys.argv[1], progress=False)\n"
    )
    killed = tmp_path / "killed"
    folder = killed / ZooConfig.parse(small).folder_name
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", *sys.path])}
    process = subprocess.Popen([sys.executable, str(script), str(killed)], env=environment)
    deadline = time.monotonic() + 300
    while len(list((folder / "weights").glob("shard-*"))) < 6:
        assert process.poll() is None, "the generation ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the process that was killed"
        time.sleep(0.05)

    shards = list((folder / "weights").glob("shard-*"))
    planned = sum(len(task.files) for task in plan_of(small))
    assert 6 <= len(shards) < planned
    assert json.loads((folder / "zoo.json").read_text())["status"] == "generating"
    (folder / "weights" / ".shard-0019.safetensors.1.tmp").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in shards}
    with pytest.raises(ZooError, match=r"has not finished \(\d+ shards so far\); generate the zoo again"):
        load_zoo(folder)

    resumed = generate(small, killed, progress=False)
    assert {path: path.stat().st_mtime_ns for path in shards} == times, "finished shards were trained again"
    whole = generate(small | {"executor": "in_process"}, tmp_path / "whole", progress=False)
    assert content(resumed) == content(whole)


def plan_of(config: dict[str, Any]) -> Any:
    parsed = ZooConfig.parse(config)
    return plan_stacks(parsed, architectures_of(parsed.architecture, (1, 4, 4), 10))


def test_a_finished_zoo_is_not_trained_again(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = content(get_zoo(small, tmp_path, progress=False))
    monkeypatch.setattr("experiments.zoo.generation.train_shards", None)
    assert content(get_zoo(small, tmp_path, progress=False)) == first
    monkeypatch.setenv("GRAPHNETS_ZOO_ROOT", str(tmp_path))
    assert content(get_zoo(small, progress=False)) == first


def test_networks_that_are_not_finite_are_counted_and_left_out(small: Any, tmp_path: Path) -> None:
    small["ranges"]["learning_rate"] = {"sgd": 0.1, "adam": 0.01, "momentum": 1e30}
    small["ranges"]["dropout"] = 0.0
    recipes = [recipe for task in plan_of(small) for recipe in task.recipes]
    wild = [recipe.id for recipe in recipes if recipe.optimiser == "momentum"]
    assert 0 < len(wild) < 24
    zoo = get_zoo(small, tmp_path, progress=False)
    assert zoo.header["left_out"] == wild
    assert zoo.header["networks"] == {"trained": 24, "kept": 24 - len(wild), "left_out": len(wild)}
    assert len(zoo) == len(zoo.records) == 24 - len(wild)
    assert not set(zoo.records["id"]) & set(wild)
    assert verify(zoo.path).ok
    small["ranges"]["optimiser"] = "momentum"
    with pytest.raises(ZooError, match=r"none of 24 networks is finite; narrow ranges\.learning_rate"):
        get_zoo(small, tmp_path, progress=False)


def test_splits_do_not_depend_on_what_is_left_out(small: Any, tmp_path: Path) -> None:
    whole = get_zoo(small, tmp_path, progress=False).records.set_index("id")["split"]
    small["ranges"]["learning_rate"] = {"sgd": 0.1, "adam": 0.01, "momentum": 1e30}
    part = get_zoo(small, tmp_path, progress=False).records.set_index("id")["split"]
    assert len(part) < len(whole)
    assert part.to_dict() == whole[part.index].to_dict()


def test_a_failing_write_leaves_no_half_file(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    zoo = get_zoo(small, tmp_path, progress=False)
    shard = sorted((zoo.path / "weights").iterdir())[0]
    before = content(zoo)
    shard.unlink()
    trained: list[int] = []

    def counted(task: StackTask) -> Any:
        trained.extend(recipe.id for recipe in task.recipes)
        return train_shards(task)

    monkeypatch.setattr("experiments.zoo.generation.train_shards", counted)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            get_zoo(small, tmp_path, progress=False)
    assert not shard.exists()
    assert not list(zoo.path.rglob("*.tmp"))
    assert content(get_zoo(small, tmp_path, progress=False)) == before
    lost = zoo.records[zoo.records["shard"] == shard.name]["id"].tolist()
    assert trained == 2 * lost, "only the networks of the lost shard are trained, in both attempts"


def test_one_shard_holds_one_architecture_and_says_what_it_holds(small: Any, tmp_path: Path) -> None:
    for task in plan_of(small):
        for shard in train_shards(task):
            path = tmp_path / shard.name
            path.write_bytes(shard.data)
            described, weights = read_shard(path)
            assert shard.name == task.files[described.architecture]
            assert {record["architecture"] for record in described.records} == {described.architecture}
            assert {len(tensor) for tensor in weights.values()} == {len(described.records)}


def test_a_folder_of_another_zoo_is_not_touched(small: Any, tmp_path: Path) -> None:
    zoo = get_zoo(small, tmp_path, progress=False)
    header = json.loads((zoo.path / "zoo.json").read_text())
    header["data"]["fingerprint"] = "another"
    (zoo.path / "zoo.json").write_text(json.dumps(header))
    before = content(zoo)
    with pytest.raises(ZooError, match="was generated with another data"):
        get_zoo(small, tmp_path, progress=False)
    assert content(zoo) == before


def test_a_script_without_a_guard_is_told_of_it(small: Any, tmp_path: Path) -> None:
    """Its workers import it again; they must not wait for their own parent."""
    script = tmp_path / "script.py"
    config = {**small, "executor": "processes", "workers": 2}
    script.write_text(f"from experiments.zoo import get_zoo\nget_zoo({config!r}, {str(tmp_path)!r}, progress=False)\n")
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode != 0
    assert "put what your script does under `if __name__ == '__main__':`" in done.stderr
