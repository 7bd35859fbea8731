"""Weights from disk: every format gives the same tensors; every damaged or hostile file says what is wrong with it."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from converters import StructureMismatch, WeightsError, load_weights, to_graph, to_state_dict, trace


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


EXAMPLE = torch.zeros(2, 1, 4, 4)


def same(loaded: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(loaded) == set(expected) and all(
        loaded[name].dtype == value.dtype and torch.equal(loaded[name], value) for name, value in expected.items()
    )


def shard(folder: Path, weights: dict[str, Tensor], suffix: str, count: int = 3) -> Path:
    """Writes ``weights`` as Hugging Face does: shards by turns, and the index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-{i + 1:05d}-of-{count:05d}{suffix}" for i in range(count)]
    weight_map = {name: names[i % count] for i, name in enumerate(weights)}
    for file in names:
        part = {name: value for name, value in weights.items() if weight_map[name] == file}
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


WRITERS: dict[str, Callable[[Path, dict[str, Tensor]], Path]] = {
    "safetensors": lambda f, w: save_file(w, f / "net.safetensors") or f / "net.safetensors",
    "pt": lambda f, w: torch.save(w, f / "net.pt") or f / "net.pt",
    "pth": lambda f, w: torch.save(w, f / "net.pth") or f / "net.pth",
    "legacy": lambda f, w: torch.save(w, f / "old.pt", _use_new_zipfile_serialization=False) or f / "old.pt",
    "sharded safetensors": lambda f, w: shard(f, w, ".safetensors"),
    "sharded bin": lambda f, w: shard(f, w, ".bin"),
    "folder": lambda f, w: save_file(w, f / "model.safetensors") or f,
    "folder of bin": lambda f, w: torch.save(w, f / "pytorch_model.bin") or f,
    "folder of shards": lambda f, w: shard(f, w, ".safetensors").parent,
    "folder of bin shards": lambda f, w: shard(f, w, ".bin").parent,
    "folder of one file": lambda f, w: torch.save(w, f / "epoch=3.ckpt") or f,
    "lightning": lambda f, w: torch.save({"epoch": 3, "state_dict": w, "loops": {}}, f / "l.ckpt") or f / "l.ckpt",
    "model": lambda f, w: torch.save({"model": w, "optimizer": {"lr": 0.1}}, f / "m.pt") or f / "m.pt",
    "model_state_dict": lambda f, w: torch.save({"model_state_dict": w, "loss": 0.5}, f / "m.pt") or f / "m.pt",
    "nested": lambda f, w: torch.save({"model": {"state_dict": w, "step": 1}}, f / "m.pt") or f / "m.pt",
    "unknown entry": lambda f, w: torch.save({"my_weights": w, "step": 1}, f / "m.pt") or f / "m.pt",
    "preferred entry": lambda f, w: torch.save({"ema": {"a": torch.ones(1)}, "model": w}, f / "m.pt") or f / "m.pt",
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    weights = network().state_dict()
    path = WRITERS[form](tmp_path, dict(weights))
    assert same(load_weights(path), weights)
    structure = trace(network(), EXAMPLE)
    loaded = load_weights(str(path), structure=structure)
    assert same(loaded, weights)
    assert list(loaded) == list(weights)
    assert same(to_state_dict(to_graph(loaded, structure=structure)), weights)


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    torch.save(dict(network().named_parameters()), tmp_path / "p.pt")
    loaded = load_weights(tmp_path / "p.pt")
    assert loaded
    assert not any(tensor.requires_grad for tensor in loaded.values())


def test_every_dtype_survives(tmp_path: Path) -> None:
    weights = {
        str(dtype): torch.tensor([0, 1, 3]).to(dtype)
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool)
    }
    save_file(weights, tmp_path / "w.safetensors")
    assert same(load_weights(tmp_path / "w.safetensors"), weights)


def test_uniform_prefixes_stay_and_the_error_names_them(tmp_path: Path) -> None:
    weights = {f"model.{name}": value for name, value in network().state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "l.ckpt")
    assert same(load_weights(tmp_path / "l.ckpt"), weights)
    with pytest.raises(StructureMismatch, match=r"Every name starts with 'model\.'; without it they are names"):
        load_weights(tmp_path / "l.ckpt", structure=trace(network(), EXAMPLE))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_tied_names_that_safetensors_leave_out_come_back(tmp_path: Path) -> None:
    net = Tied()
    weights = net.state_dict()
    save_file({name: value for name, value in weights.items() if name != "b.weight"}, tmp_path / "t.safetensors")
    loaded = load_weights(tmp_path / "t.safetensors", structure=trace(net))
    assert same(loaded, weights)
    assert loaded["b.weight"].data_ptr() == loaded["a.weight"].data_ptr()


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that operations make and that are not views."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        owned = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in owned:
            self.bytes += out.untyped_storage().nbytes()
        return out


@pytest.mark.parametrize("form", ["safetensors", "pt", "sharded safetensors", "lightning"])
def test_nothing_is_copied(form: str, tmp_path: Path) -> None:
    net = nn.Linear(512, 512)
    size = sum(value.nbytes for value in net.state_dict().values())
    path = WRITERS[form](tmp_path, dict(net.state_dict()))
    structure = trace(net)
    with Allocations() as first:
        load_weights(path)
    with Allocations() as second:
        load_weights(path, structure=structure)
    # Reading makes each tensor at most once; the checks make single numbers.
    assert first.bytes < 1.1 * size
    assert second.bytes < 1.1 * size


# -- refused ---------------------------------------------------------------------------------------------------------


class Hostile:
    """Pickles into a call of ``os.mkdir``."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def dump(payload: Any, file: Path, protocol: int) -> None:
    with file.open("wb") as stream:
        pickle.dump(payload, stream, protocol=protocol)


HOSTILE: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda payload, file: torch.save(payload, file),
    "legacy": lambda payload, file: torch.save(payload, file, _use_new_zipfile_serialization=False),
    **{f"protocol {i}": lambda payload, file, i=i: dump(payload, file, i) for i in range(6)},
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("form", HOSTILE)
def test_a_pickle_with_code_is_refused_and_nothing_runs(form: str, suffix: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "executed", tmp_path / f"net{suffix}"
    hostile = Hostile(mark)
    HOSTILE[form]({"weight": torch.ones(2).tolist(), "more": hostile}, file)
    with pytest.raises(WeightsError, match=rf"net{suffix} .*wants to run code.*{os.mkdir.__module__}\.mkdir") as caught:
        load_weights(file)
    assert not mark.exists()
    assert "save model.state_dict()" in str(caught.value)
    call, arguments = hostile.__reduce__()  # what the file asks for leaves the mark
    call(*arguments)
    assert mark.exists()


def test_a_pickled_module_names_the_class_it_wanted(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(WeightsError, match=r"asks for torch\.nn\.modules\.linear\.Linear.*save model\.state_dict"):
        load_weights(tmp_path / "m.pt")


def test_a_hostile_shard_is_refused(tmp_path: Path) -> None:
    index = shard(tmp_path, network().state_dict(), ".bin")
    torch.save({"w": Hostile(tmp_path / "executed")}, tmp_path / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(WeightsError, match=r"00002-of-00003\.bin wants to run code"):
        load_weights(index)
    assert not (tmp_path / "executed").exists()


def test_an_index_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "notes.txt"):
        (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(WeightsError, match="names shards that are no weight files beside it"):
            load_weights(inner)


# -- damaged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "pt", "legacy"])
def test_every_truncation_is_named(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path, {"0.weight": torch.randn(64, 64), "0.bias": torch.randn(64)})
    whole = path.read_bytes()
    for size in [1, 2, 7, 8, 9, 60, 200, len(whole) // 2, len(whole) - 300, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError) as caught:
            load_weights(path)
        assert path.name in str(caught.value), size
        if size > 2:
            assert "truncated" in str(caught.value), (size, str(caught.value))
            assert "again" in str(caught.value), size
    path.write_bytes(whole)
    assert set(load_weights(path)) == {"0.weight", "0.bias"}


def test_a_truncated_safetensors_file_says_how_much_is_missing(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1000)}, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-10])
    with pytest.raises(WeightsError, match=rf"promises {len(whole)} bytes, the file has {len(whole) - 10}"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_files_that_hold_something_else(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w{suffix}"
    for content, words in [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"is a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "is not a"),
    ]:
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=rf"w{suffix} {words}"):
            load_weights(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "its keys are none, it is empty"),
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, r"its keys are epoch \(int\), optimizer \(dictionary of 1\)"),
        ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, r"several state_dicts: a, b; say which with key="),
        (
            {"model": {"w": torch.ones(1)}, "state_dict": {"w": torch.ones(1)}},
            r"several state_dicts: state_dict, model",
        ),
        ({"w": torch.ones(1), "epoch": 3}, r"mixes tensors with other entries: epoch \(int\)"),
        ([torch.ones(1)], "is a list, not a state_dict"),
        (torch.ones(1), "is a Tensor, not a state_dict"),
        ({0: torch.ones(1)}, r"mixes|keys"),
    ],
)
def test_checkpoints_without_an_obvious_state_dict(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match=words):
        load_weights(tmp_path / "c.pt")


def test_a_checkpoint_that_contains_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = OrderedDict()
    content["model"] = content
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match="nests its state_dict more than"):
        load_weights(tmp_path / "c.pt")


def test_key_chooses_the_entry(tmp_path: Path) -> None:
    torch.save({"a": {"w": torch.zeros(1)}, "b": {"w": torch.ones(1)}, "n": 1}, tmp_path / "c.pt")
    assert load_weights(tmp_path / "c.pt", key="b")["w"] == 1
    with pytest.raises(WeightsError, match=r"no entry 'c'; it has a \(dictionary of 1\), b"):
        load_weights(tmp_path / "c.pt", key="c")
    with pytest.raises(WeightsError, match=r"the entry 'n' \(int\) is not a dictionary of tensors"):
        load_weights(tmp_path / "c.pt", key="n")
    save_file({"w": torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="leave out key='b'"):
        load_weights(tmp_path / "c.safetensors", key="b")


# -- folders and shards ----------------------------------------------------------------------------------------------


def test_paths_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pt does not exist"):
        load_weights(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match=r"holds no weights, only nothing; wanted is model\.safetensors"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"holds no weights, only config\.json"):
        load_weights(tmp_path)
    with pytest.raises(WeightsError, match=r"\.json are not read; known are \.safetensors, \.pt"):
        load_weights(tmp_path / "config.json")
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(WeightsError, match=r"several weight files: a\.pt, b\.pt; pass the one you mean"):
        load_weights(tmp_path)


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    index = shard(tmp_path, network().state_dict(), ".safetensors")
    for i in (1, 3):
        (tmp_path / f"model-0000{i}-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"2 are missing: model-00001-of-00003.*, model-00003-of-00003"):
        load_weights(index)


def test_shards_that_do_not_belong_to_the_index(tmp_path: Path) -> None:
    index = shard(tmp_path, network().state_dict(), ".safetensors")
    save_file({"0.weight": torch.ones(1), "other": torch.ones(1)}, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(WeightsError, match="do not belong together") as caught:
        load_weights(index)
    assert "00002-of-00003.safetensors lacks 0.bias" in str(caught.value)
    assert "00002-of-00003.safetensors also holds 0.weight, other" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match="is not an index of shards"):
        load_weights(tmp_path)


# -- content ---------------------------------------------------------------------------------------------------------


def test_nan_tensors_are_named(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["0.weight"][0, 0, 0, 0] = float("nan")
    weights["4.bias"][1:] = float("inf")
    torch.save(weights, tmp_path / "w.pt")
    for structure in (None, trace(network(), EXAMPLE)):
        with pytest.raises(WeightsError, match=r"w\.pt") as caught:
            load_weights(tmp_path / "w.pt", structure=structure)
        assert "0.weight: 1 of 36 elements are not finite" in str(caught.value)
        assert "4.bias: 2 of 3 elements are not finite" in str(caught.value)
        loaded = load_weights(tmp_path / "w.pt", structure=structure, allow_nonfinite=True)
        assert loaded["0.weight"].isnan().sum() == 1


def test_missing_surplus_and_misshapen_tensors_are_all_named(tmp_path: Path) -> None:
    weights = dict(network().state_dict())
    del weights["0.bias"]
    weights["4.weight"] = torch.ones(3, 15)
    weights["head"] = torch.ones(2)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(StructureMismatch, match=r"w\.pt.*3 faults") as caught:
        load_weights(tmp_path / "w.pt", structure=trace(network(), EXAMPLE))
    for fault in ("0.bias: missing", "4.weight: shape [3, 15], expected [3, 16]", "head: not a parameter"):
        assert fault in str(caught.value)
