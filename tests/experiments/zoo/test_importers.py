"""The published Small CNN Zoo: read from files as they are published, and the same networks afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from converters import to_graphs
from experiments.cli import main
from experiments.jobs import new_splits
from experiments.zoo import (
    ImportConfig,
    ZooConfigError,
    ZooDataset,
    ZooError,
    get_zoo,
    import_zoo,
    info,
    load_zoo,
    verify,
)

LAYERS = {"conv2d": (3, 3, 1, 16), "conv2d_1": (3, 3, 16, 16), "conv2d_2": (3, 3, 16, 16), "dense": (16, 10)}
RUNS, STEPS = 20, (0, 40, 86)
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}


def layout() -> pd.DataFrame:
    """As published: the bias of a layer before its kernel."""
    rows, start = [], 0
    for layer, shape in LAYERS.items():
        for kind, size in (("bias", shape[-1:]), ("kernel", shape)):
            stop = start + int(np.prod(size))
            rows.append((f"sequential/{layer}/{kind}:0", start, stop, str(tuple(size))))
            start = stop
    return pd.DataFrame(rows, columns=["varname", "start_idx", "end_idx", "shape"])


def write(folder: Path) -> Path:
    """Random networks in the three published files."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = [
        {
            "config.activation": ("relu", "tanh")[run % 2],
            "config.b_init": "zeros",
            "config.dropout": 0.1 * (run % 3),
            "config.init_std": np.nan,
            "config.l2reg": 1e-4,
            "config.learning_rate": 0.01,
            "config.optimizer": "adam",
            "config.train_fraction": 0.5,
            "modeldir": f"/runs/{run:03d}",
            "step": step,
            "test_accuracy": generator.uniform(),
            "test_loss": generator.uniform(),
            "train_accuracy": generator.uniform(),
            "train_loss": generator.uniform(),
        }
        for run in range(RUNS)
        for step in STEPS
    ]
    weights = generator.normal(scale=0.3, size=(len(rows), 4970)).astype(np.float32)
    np.save(folder / "weights.npy", weights)
    pd.DataFrame(rows).to_csv(folder / "metrics.csv.gz", index=False)
    layout().to_csv(folder / "layout.csv", index=False)
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write(tmp_path / "published" / "cifar10")


@pytest.fixture
def config(published: Path, tmp_path: Path) -> dict[str, Any]:
    return {"importer": "small_cnn_zoo", "name": "grey", "folder": str(published), "root": str(tmp_path / "zoos")}


@pytest.fixture(autouse=True)
def own_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHNETS_ZOO_ROOT", raising=False)


def run_as_published(row: np.ndarray, activation: str, images: np.ndarray) -> np.ndarray:
    """As TensorFlow defines it: images ``[N, H, W, C]``, kernels ``[h, w, in, out]``, stride 2, no padding."""
    values = images
    table = layout().set_index("varname")
    for layer, shape in LAYERS.items():
        parts = {}
        for kind in ("bias", "kernel"):
            found = table.loc[f"sequential/{layer}/{kind}:0"]
            parts[kind] = row[found["start_idx"] : found["end_idx"]].astype(np.float64)
        kernel = parts["kernel"].reshape(shape)
        if layer == "dense":
            return np.asarray(values.mean((1, 2)) @ kernel + parts["bias"])
        side = (values.shape[1] - 3) // 2 + 1
        after = np.zeros((len(values), side, side, shape[-1])) + parts["bias"]
        for y in range(side):
            for x in range(side):
                after[:, y, x] += np.einsum("nhwi,hwio->no", values[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3], kernel)
        values = FUNCTIONS[activation](after)
    raise AssertionError("no dense layer")


def test_the_modules_compute_what_the_published_networks_compute(config: dict[str, Any], published: Path) -> None:
    zoo = get_zoo(config)
    matrix = np.load(published / "weights.npy")
    metrics = pd.read_csv(published / "metrics.csv.gz")
    images = np.random.default_rng(1).normal(size=(3, 20, 18, 1))[:, :18]
    for name, architecture in zoo.architectures.items():
        assert architecture.sizes == (1, 16, 16, 16, 10)
        weights = zoo.weights(name)
        for position, record in zoo.of(name).iterrows():
            row = metrics.iloc[record["id"]]
            assert (row["step"], row["config.activation"]) == (86, record["activation"])
            assert row["test_accuracy"] == pytest.approx(record["test_accuracy"])
            module = architecture.build().double()
            module.load_state_dict({key: value[position].double() for key, value in weights.items()})
            with torch.no_grad():
                found = module(torch.from_numpy(images).movedim(-1, 1)).numpy()
            expected = run_as_published(matrix[record["id"]], row["config.activation"], images)
            assert expected.std() > 0.05
            assert np.abs(found - expected).max() < 1e-12


def test_only_final_checkpoints_are_read_with_splits_by_run(config: dict[str, Any], tmp_path: Path) -> None:
    zoo = get_zoo(config)
    records = zoo.records
    assert records["id"].tolist() == [3 * run + 2 for run in range(RUNS)]
    assert records["run"].tolist() == list(range(RUNS))
    assert records["split"].value_counts().to_dict() == {"test": 10, "train": 8, "val": 2}
    assert np.allclose(records["generalization_gap"], records["train_accuracy"] - records["test_accuracy"])
    assert set(records["optimiser"]) == {"adam"}
    assert (records["family"] == "cnn").all()
    again = new_splits(zoo, {"by": "run", "seed": 5})
    assert sorted(again.values()).count("test") == 10
    assert again != dict(zip(records["id"], records["split"], strict=True))
    graphs, target = next(iter(ZooDataset(zoo, "train", ["test_accuracy"]).loader(8)))
    assert graphs.num_graphs == len(target) == 8
    name = next(iter(zoo.architectures))
    assert to_graphs(zoo.weights(name, [0, 1]), zoo.structures[name]).num_graphs == 2
    report = verify(zoo.path)
    assert report.ok, report
    assert "20 networks in 2 shards, 0 measured again; no faults" in str(report)
    published = {"test_accuracy", "train_accuracy", "generalization_gap", "test_loss", "train_loss"}
    assert set(info(zoo.path)["properties"]) == published
    assert zoo.config == ImportConfig.parse({key: config[key] for key in ("importer", "name")})


def test_an_imported_zoo_is_read_from_the_cache_and_needs_its_source_no_more(
    config: dict[str, Any], published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get_zoo(config)
    with monkeypatch.context() as patch:
        patch.setattr("experiments.zoo.importers.convert._convert", None)
        assert get_zoo(config).fingerprint == first.fingerprint
    metrics = pd.read_csv(published / "metrics.csv.gz")
    metrics.assign(test_accuracy=0.5).to_csv(published / "metrics.csv.gz", index=False)
    with pytest.raises(ZooError, match="was imported from other files than those in"):
        get_zoo(config)
    for path in published.iterdir():
        path.unlink()
    published.rmdir()
    assert get_zoo(config).fingerprint == first.fingerprint
    with pytest.raises(ZooError, match="run graphnets zoo import small_cnn_zoo FOLDER --name other"):
        import_zoo(ImportConfig.parse({**config, "name": "other", "folder": None}))


def test_networks_that_are_not_finite_are_named_and_left_out(config: dict[str, Any], published: Path) -> None:
    matrix = np.load(published / "weights.npy")
    matrix[2, 100], matrix[4, 100] = np.nan, np.inf  # a final checkpoint and one that is not
    np.save(published / "weights.npy", matrix)
    metrics = pd.read_csv(published / "metrics.csv.gz")
    metrics.loc[5, "test_loss"] = np.inf
    metrics.to_csv(published / "metrics.csv.gz", index=False)
    zoo = get_zoo(config)
    assert zoo.header["left_out"] == [2, 5]
    assert zoo.header["networks"] == {"trained": 20, "kept": 18, "left_out": 2}
    assert verify(zoo.path).ok


def edited(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        change(pd.read_csv(folder / name)).to_csv(folder / name, index=False)

    return edit


def truncated(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return cut


def swap_shapes(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[3, "shape"] = "(16, 3, 3, 16)"
    return table


DAMAGES: list[tuple[Callable[[Path], Any], list[str]]] = [
    (truncated("weights.npy"), ["weights.npy is truncated or damaged"]),
    (truncated("metrics.csv.gz"), ["metrics.csv.gz is truncated or damaged"]),
    (lambda folder: (folder / "layout.csv").unlink(), ["layout.csv is missing"]),
    (lambda folder: np.save(folder / "weights.npy", np.zeros(7)), ["should be a matrix of floats"]),
    (
        lambda folder: np.save(folder / "weights.npy", np.zeros((9, 4000), np.float32)),
        ["layout.csv describes 4970 columns, weights.npy has 4000", "metrics.csv.gz has 60 rows, weights.npy has 9"],
    ),
    (edited("layout.csv", lambda t: t.drop(columns="shape")), ["layout.csv: no column shape"]),
    (
        edited("layout.csv", lambda t: t.drop(index=2)),
        ["conv2d_1/kernel:0 of shape (3, 3, 16, 16) should take columns"],
    ),
    (edited("layout.csv", swap_shapes), ["conv2d_1 with kernel (16, 3, 3, 16)", "is not a 3x3 convolution after 16"]),
    (edited("layout.csv", lambda t: t.assign(start_idx="x")), ["start_idx and end_idx should be integers"]),
    (
        edited("metrics.csv.gz", lambda t: t.drop(columns=["step", "modeldir"])),
        ["metrics.csv.gz: no column modeldir", "metrics.csv.gz: no column step"],
    ),
    (edited("metrics.csv.gz", lambda t: t.assign(step=18)), ["no row has step 86, the end of a run"]),
    (
        edited("metrics.csv.gz", lambda t: t.assign(**{"config.activation": "selu"})),
        ["activations selu; known are relu, tanh"],
    ),
]


@pytest.mark.parametrize(("damage", "messages"), DAMAGES)
def test_files_that_do_not_fit_are_named_with_every_fault(
    config: dict[str, Any], published: Path, damage: Callable[[Path], Any], messages: list[str]
) -> None:
    damage(published)
    with pytest.raises(ZooError) as caught:
        get_zoo(config)
    for message in messages:
        assert message in str(caught.value)
    assert str(published) in str(caught.value)


def test_a_wrong_configuration_is_refused_with_every_fault(config: dict[str, Any]) -> None:
    with pytest.raises(ZooConfigError) as caught:
        get_zoo(config | {"importer": "pickles", "splits": {"train": 1.0}})
    assert "importer: 'pickles' is not one of small_cnn_zoo" in str(caught.value)
    assert "are not shares of train, val and test that add up to 1" in str(caught.value)
    with pytest.raises(ZooConfigError, match="size: unknown; known are importer, name, folder"):
        get_zoo(config | {"size": 3})


def test_the_command_line_imports_describes_and_checks(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zoo", "import", "small_cnn_zoo", str(published), "--root", str(tmp_path / "here")]) == 0
    assert "20 networks in" in capsys.readouterr().out
    (path,) = (tmp_path / "here").glob("cifar10-*/")
    assert isinstance(load_zoo(path).config, ImportConfig)
    assert main(["zoo", "info", str(path)]) == 0
    assert main(["zoo", "verify", str(path)]) == 0
    assert main(["zoo", "import", "small_cnn_zoo", str(tmp_path / "nowhere")]) == 1
    assert "layout.csv is missing" in capsys.readouterr().err
