"""Loading a zoo: lazily, and with errors that name the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from converters import to_graphs, to_state_dict, trace
from experiments.zoo import Zoo, ZooError, load_zoo, verify
from experiments.zoo.storage import file_checksum, read_shard


@pytest.fixture
def zoo(tiny_zoo: Zoo, tmp_path: Path) -> Zoo:
    """A copy that may be damaged."""
    shutil.copytree(tiny_zoo.path, tmp_path / "zoo")
    return load_zoo(tmp_path / "zoo")


def first_shard(zoo: Zoo) -> Path:
    return zoo.path / "weights" / str(zoo.header["shards"][0]["file"])


def rewrite(path: Path, change: Any) -> None:
    """Changes the tensors of a shard and what it says about itself."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["zoo"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    change(tensors, described)
    save_file(tensors, path, {"zoo": json.dumps(described)})


def edit_header(zoo: Zoo, **changes: Any) -> None:
    path = zoo.path / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_of_any_rows_in_any_order(zoo: Zoo) -> None:
    for name, architecture in zoo.architectures.items():
        whole = zoo.weights(name)
        count = len(zoo.of(name))
        assert {key: tuple(value.shape) for key, value in whole.items()} == {
            key: (count, *shape) for key, shape in architecture.shapes.items()
        }
        rows = [count - 1, 0, 3, 3]
        some = zoo.weights(name, rows)
        assert all(torch.equal(some[key], whole[key][rows]) for key in whole)
        none = zoo.weights(name, [])
        assert all(len(value) == 0 for value in none.values())
    assert sum(len(zoo.of(name)) for name in zoo.architectures) == len(zoo) == len(zoo.records)


def test_only_the_shards_that_are_needed_are_read(zoo: Zoo) -> None:
    name = next(iter(zoo.architectures))
    records = zoo.of(name)
    first, other = records["shard"].iloc[0], records["shard"].iloc[-1]
    assert first != other
    broken = zoo.path / "weights" / other
    broken.write_bytes(b"0" * broken.stat().st_size)
    rows = records.index[records["shard"] == first].tolist()
    assert len(load_zoo(zoo.path).weights(name, rows)["0.weight"]) == len(rows)
    with pytest.raises(ZooError, match=other):
        load_zoo(zoo.path).weights(name)


def test_structures_come_back(zoo: Zoo) -> None:
    assert zoo.structure is None
    for name, architecture in zoo.architectures.items():
        structure = zoo.structures[name]
        assert structure == trace(architecture.build(), architecture.example_input())
        weights = zoo.weights(name, [0, 1])
        graph = to_graphs(weights, structure).to_data_list()[1]
        state = to_state_dict(graph)
        assert all(torch.equal(state[key], value[1]) for key, value in weights.items())


def test_a_truncated_shard_is_named_before_anything_is_read(zoo: Zoo) -> None:
    shards = [zoo.path / "weights" / entry["file"] for entry in zoo.header["shards"][:2]]
    size = shards[0].stat().st_size
    shards[0].write_bytes(shards[0].read_bytes()[: size // 2])
    shards[1].unlink()
    with pytest.raises(ZooError) as caught:
        load_zoo(zoo.path)
    assert f"{shards[0]} is truncated or damaged: {size // 2} bytes instead of {size}" in str(caught.value)
    assert f"{shards[1]} is missing" in str(caught.value)
    with pytest.raises(ZooError, match=r"is truncated or damaged: .*delete it and generate the zoo again"):
        zoo.weights(zoo.header["shards"][0]["architecture"])


def test_wrong_versions_missing_files_and_other_folders_are_said(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"is not a zoo: it has no zoo\.json"):
        load_zoo(tmp_path / "nothing")
    (zoo.path / "records.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ZooError, match=r"records.parquet is damaged"):
        _ = load_zoo(zoo.path).records
    (zoo.path / "records.parquet").unlink()
    with pytest.raises(ZooError, match=r"records.parquet is missing"):
        _ = load_zoo(zoo.path).records
    rewrite(first_shard(zoo), lambda tensors, described: described.update(schema=7))
    with pytest.raises(ZooError, match="has schema version 7, this version reads 1"):
        read_shard(first_shard(zoo))
    edit_header(zoo, schema=99)
    with pytest.raises(ZooError, match=r"zoo.json has schema version 99, this version reads 1"):
        load_zoo(zoo.path)
    (zoo.path / "zoo.json").write_text("{")
    with pytest.raises(ZooError, match=r"zoo.json is damaged"):
        load_zoo(zoo.path)
    with pytest.raises(ZooError, match="has no architecture 'cnn'; it has mlp-16-8-8-10-relu"):
        zoo.weights("cnn")


def test_values_that_are_not_finite_are_named(zoo: Zoo) -> None:
    def spoil(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> None:
        tensors["2.weight"][1, 0, 0] = torch.nan

    rewrite(first_shard(zoo), spoil)
    with pytest.raises(ZooError, match=r"2.weight has values that are not finite"):
        zoo.weights(zoo.header["shards"][0]["architecture"])
    report = verify(zoo.path)
    assert not report.ok
    assert "checksum is not the recorded one" in str(report)


def test_verify_finds_weights_that_do_not_do_what_the_records_say(zoo: Zoo) -> None:
    best = zoo.records.sort_values("test_accuracy").iloc[-1]
    path = zoo.path / "weights" / best["shard"]

    def swap(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> None:
        tensors["4.weight"][int(best["row"])] = tensors["4.weight"][int(best["row"])].flip(0)

    rewrite(path, swap)
    shards = [dict(entry) for entry in zoo.header["shards"]]
    for entry in shards:
        if entry["file"] == path.name:
            entry["sha256"] = file_checksum(path)
    edit_header(zoo, shards=shards)
    report = verify(zoo.path, networks=len(zoo))
    assert f"network {best['id']}: test_accuracy is recorded as {best['test_accuracy']:.4f}" in str(report)


def test_verify_finds_records_of_other_networks(zoo: Zoo) -> None:
    path = first_shard(zoo)

    def rename(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> None:
        first, second = described["records"][:2]
        first["id"], second["id"] = second["id"], first["id"]

    rewrite(path, rename)
    with pytest.raises(ZooError, match=r"holds other networks than records\.parquet says"):
        zoo.weights(zoo.header["shards"][0]["architecture"])
