"""Trainings that experiments have in common are done once, with the results that each would get alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from experiments.config import CONFIG_DIR
from experiments.run import run

ENCODERS = ["inr2array_nfn", "inr2array_nft", "inr2array_gnn", "inr2array_gnn_probes", "inr2array_transformer"]
ENCODERS += ["inr2array_transformer_probes"]
CLASSIFIERS = [
    "pixel_reference",
    "flat_mlp",
    "dws",
    "nfn_np",
    "nfn_hnp",
    "spatial_nfn",
    "nft",
    "nft_adjacent",
    "neuron_gnn",
]
CLASSIFIERS += ["neuron_gnn_probes", "neuron_transformer", "neuron_transformer_probes", "inr2vec"]
CLASSIFIERS += ["inr2array_nft_adjacent"]


@pytest.fixture(autouse=True)
def _zoo_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHNETS_ZOO_ROOT", str(tmp_path / "zoos"))


def go(folder: Path, experiment: str, trainings: Path | None, *overrides: str) -> dict[str, Any]:
    given = [f"output={folder}", f"experiment={experiment}", "scale=tiny", "task.permutations=4", *overrides]
    if trainings is not None:
        given.append(f"execution.trainings={trainings}")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        run(compose("train", overrides=given), folder)
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["models"]
    return found


def trained(trainings: Path) -> set[Path]:
    return {path.parent for path in trainings.glob("*/*/best.ckpt")}


def test_experiments_with_a_common_folder_train_their_common_encoders_once(tmp_path: Path) -> None:
    common = tmp_path / "trainings"
    drawn = go(tmp_path / "drawn", "nft/inr2array", common)
    encoders = trained(common)
    assert len(encoders) == len(drawn) == 1 + len(ENCODERS)
    stamps = {path / "best.ckpt": (path / "best.ckpt").stat().st_mtime_ns for path in encoders}

    ablation = go(tmp_path / "ablation", "nft/ablation", common)
    assert len(trained(common) - encoders) == 2, "all terms are the encoder of nft/inr2array"
    left_out = [f"~methods.{name}" for name in CLASSIFIERS]
    told = go(tmp_path / "told", "nft/inr_classification", common, *left_out)
    assert list(told) == ENCODERS
    assert len(trained(common) - encoders) == 2, "all encoders are those of nft/inr2array"
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert told["inr2array_nft"] == ablation["inr2array_nft_full"]

    assert go(tmp_path / "drawn_alone", "nft/inr2array", None) == drawn
    assert go(tmp_path / "ablation_alone", "nft/ablation", None) == ablation
    assert (tmp_path / "drawn_alone" / "methods" / "inr2array_nft" / "seed0" / "trial0" / "best.ckpt").exists()


def test_another_seed_or_length_is_another_training(tmp_path: Path) -> None:
    common, rows = tmp_path / "trainings", [f"~methods.{name}" for name in ["inr2array_hnp", *ENCODERS[1:]]]
    first = go(tmp_path / "a", "nft/inr2array", common, *rows)
    assert len(trained(common)) == 1
    assert go(tmp_path / "b", "nft/inr2array", common, *rows, "seeds=[1]") != first
    assert go(tmp_path / "c", "nft/inr2array", common, *rows, "trainer.epochs=2") != first
    assert len(trained(common)) == 3
