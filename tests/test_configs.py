"""Every YAML file composes, every experiment runs at tiny size, and ``scale`` decides."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from experiments.__main__ import check_choice
from experiments.config import CONFIG_DIR, ConfigError, parse
from experiments.run import run
from experiments.zoo import ImportConfig

FILES = sorted(CONFIG_DIR.rglob("*.yaml"))
EXPERIMENTS = [
    path.relative_to(CONFIG_DIR / "experiment").with_suffix("").as_posix()
    for path in FILES
    if path.is_relative_to(CONFIG_DIR / "experiment")
]
EXPERIMENT = "weightnet/properties"
SCALES = [path.stem for path in FILES if path.parent == CONFIG_DIR / "scale"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=["output=unused", *overrides])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIG_DIR).as_posix())
def test_every_file_is_reached_from_the_root_and_composes(path: Path) -> None:
    group, _, name = path.relative_to(CONFIG_DIR).with_suffix("").as_posix().partition("/")
    first = f"experiment={EXPERIMENT}"
    overrides = {
        "train": [first],
        "model": [first, f"+model@methods.one_more.model={name}"],
        "experiment": [f"experiment={name}"],
        "sizes": [f"experiment={name.rpartition('/')[0]}", f"scale={name.rpartition('/')[2]}"],
    }
    config = parse(composed(*overrides.get(group, [first, f"{group}={name}"])))
    if group == "experiment":
        assert config.name == name
    if group == "model":
        assert config.methods[-1].name == "one_more"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_states_its_cost_and_its_report(name: str) -> None:
    config = parse(composed(f"experiment={name}"))
    assert config.budget_minutes > 0
    assert config.report["setting"]
    methods = {method.name for method in config.methods}
    for claim in config.report.get("claims", []):
        assert {claim["better"], claim["worse"]} <= methods
    for printed in (config.report.get("paper", {}), *config.report.get("paper_of", {}).values()):
        assert set(printed) <= methods


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_scale_changes_every_experiment_in_size_and_not_in_kind(name: str) -> None:
    plain = {scale: OmegaConf.to_container(composed(f"experiment={name}", f"scale={scale}")) for scale in SCALES}
    small, paper = plain["small"], plain["paper"]
    assert isinstance(small, dict)
    assert isinstance(paper, dict)
    assert {**small, "scale": None} != {**paper, "scale": None}
    for scale in SCALES:
        assert plain[scale]["scale"] == scale
        assert set(plain[scale]["methods"]) == set(small["methods"])
        assert plain[scale]["task"]["_target_"] == small["task"]["_target_"]


def test_sizes_win_over_the_experiment_and_the_command_line_wins_over_sizes() -> None:
    name = EXPERIMENT
    sizes = OmegaConf.load(CONFIG_DIR / "sizes" / name / "paper.yaml")
    assert composed(f"experiment={name}", "scale=paper").seeds == sizes.seeds
    assert composed(f"experiment={name}", "scale=paper", "seeds=[7]").seeds == [7]


@pytest.mark.parametrize(
    ("name", "zoo"),
    [
        ("nfn/cnn_generalization", "small_cnn_svhn"),
        ("nfn/inr_classification", "mnist_inrs"),
        ("nfn/inr_classification", "fashion_inrs"),
        ("nfn/inr_classification", "cifar10_inrs"),
    ],
)
def test_the_papers_own_networks_go_with_the_papers_sizes(name: str, zoo: str) -> None:
    experiment = parse(composed(f"experiment={name}", "scale=paper", f"zoo={zoo}"))
    assert ImportConfig.parse(experiment.zoo).name == experiment.variant == zoo


def test_both_stages_of_a_method_see_the_same_weights() -> None:
    for kinds in (["sign"], None):
        text = "null" if kinds is None else "[sign]"
        for name in ("nft/inr_classification", "nft/ablation"):
            experiment = parse(composed(f"experiment={name}", f"task.canonical={text}"))
            stages = [method.trials[0].pretraining for method in experiment.methods]
            seen = [stage.task["canonical"] for stage in stages if stage is not None]
            assert len(seen) >= 3
            assert all(each == kinds for each in seen)


@pytest.mark.parametrize("override", ["optim.learning_rate=1", "tuning.trails=2", "zoo.sise=3", "colour=red"])
def test_an_unknown_override_is_an_error(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override.partition("=")[0]):
        composed(f"experiment={EXPERIMENT}", override)


@pytest.mark.parametrize("override", ["scale=smal", "zoo=digits", "optim=adam"])
def test_an_unknown_choice_is_an_error_that_lists_the_known_ones(override: str) -> None:
    with pytest.raises(MissingConfigException, match="Available options"):
        composed(f"experiment={EXPERIMENT}", override)


def test_an_unknown_or_missing_experiment_is_answered_with_the_known_ones() -> None:
    check_choice([f"experiment={','.join(EXPERIMENTS)}", "scale=tiny"])
    check_choice(["--help"])
    for arguments in (["experiment=weightnet/propertys"], ["scale=tiny"]):
        with pytest.raises(ConfigError, match=f"known are {', '.join(EXPERIMENTS)}"):
            check_choice(arguments)


def faults(*overrides: str, **changes: Any) -> str:
    config = composed(f"experiment={EXPERIMENT}", *overrides)
    OmegaConf.set_struct(config, False)
    with pytest.raises(ConfigError) as caught:
        parse(OmegaConf.merge(config, changes))
    return str(caught.value)


def test_added_keys_that_nobody_reads_are_named_with_the_known_ones() -> None:
    text = faults("+optim.momentum=0.9", "+colour=red")
    assert "colour: unknown; known are bootstrap, " in text
    text = faults("+methods.flat_mlp.epochs=3", "+trainer.max_epochs=3")
    assert (
        "methods.flat_mlp.epochs: unknown; known are model, one_layout, optim, pretraining, task, trainer, tuning"
        in text
    )
    assert "trainer.max_epochs: unknown; known are accelerator, " in text


def test_all_faults_come_at_once_with_place_and_remedy() -> None:
    text = faults("optim.schedule=linear", "seeds=[0,0]", "tuning.trials=99", "trainer.epochs=0")
    assert text.startswith(f"there are {text.count(chr(10))} faults in the config of {EXPERIMENT}:")
    assert "seeds: [0, 0] is not a list of different integers, for instance seeds=[0,1,2]" in text
    assert "tuning.trials asks every method for 99; list more, or lower tuning.trials" in text
    text = faults("optim.schedule=linear", "trainer.epochs=0")
    assert "optim.schedule: 'linear' is not one of constant, cosine, onecycle" in text
    assert "trainer.epochs: 0 must be at least 1" in text


def test_a_setting_that_changes_what_is_not_there_is_refused() -> None:
    text = faults(methods={"flat_mlp": {"tuning": [{"optim": {"optimiser": {"lr": 1.0}}}]}})
    assert "methods.flat_mlp.tuning[0].optim.optimiser: unknown here; known are optimizer, " in text


def test_an_argument_that_the_model_does_not_take_is_named() -> None:
    text = faults(methods={"flat_mlp": {"model": {"depth": 3}, "tuning": [{"model": {"width": 1}}]}})
    assert "methods.flat_mlp.model.depth: FlatMLP takes no such argument; it takes hidden, dropout" in text
    assert "methods.flat_mlp.model.width: FlatMLP takes no such argument" in text
    inner = {"examples": {"_target_": "experiments.data.probe_examples", "size": 3}}
    assert "methods.flat_mlp.model.examples.size: probe_examples takes no such" in faults(
        methods={"flat_mlp": {"model": inner}}
    )
    text = faults(methods={"flat_mlp": {"model": {"_target_": "graphnets.FlatMPL"}}})
    assert "methods.flat_mlp.model._target_: cannot find 'graphnets.FlatMPL'" in text


def test_every_method_gets_the_same_number_of_settings() -> None:
    config = parse(composed(f"experiment={EXPERIMENT}", "tuning.trials=2"))
    assert {len(method.trials) for method in config.methods} == {2}
    for method in config.methods:
        assert method.trials[0] != method.trials[1], f"{method.name} tries one setting twice"


@pytest.mark.parametrize("name", ["nft/inr2array", "nft/inr_classification", "nft/ablation"])
def test_every_method_may_try_three_learning_rates(name: str) -> None:
    for method in parse(composed(f"experiment={name}", "tuning.trials=3")).methods:
        optims = [trial.optim if trial.pretraining is None else trial.pretraining.optim for trial in method.trials]
        rates = {optim.optimizer["lr"] for optim in optims}
        assert len(rates) == 3
        assert rates >= {5e-3, 5e-4}


def test_a_grid_of_settings_is_every_combination_and_its_faults_are_named() -> None:
    grid = {"grid": {"model.dropout": [0.1, 0.2], "optim.optimizer.lr": [1e-3, 1e-4]}}
    config = composed(f"experiment={EXPERIMENT}")
    OmegaConf.set_struct(config, False)
    config.methods = {"flat_mlp": {**config.methods["flat_mlp"], "tuning": [grid]}}
    config.tuning.trials = 4
    (method,) = parse(config).methods
    found = [(trial.model["dropout"], trial.optim.optimizer["lr"]) for trial in method.trials]
    assert found == [(0.1, 1e-3), (0.1, 1e-4), (0.2, 1e-3), (0.2, 1e-4)]
    config.tuning.trials = 5
    with pytest.raises(ConfigError, match=r"lists 4 settings, tuning\.trials asks every method for 5"):
        parse(config)
    config.methods["flat_mlp"].tuning = [{"grid": {"optim.optimiser.lr": [1e-3]}}]
    config.tuning.trials = 1
    with pytest.raises(ConfigError, match=r"tuning\[0\].optim.optimiser: unknown here"):
        parse(config)
    config.methods["flat_mlp"].tuning = [{"grid": {"optim.optimizer.lr": 1e-3}}]
    with pytest.raises(ConfigError, match=r"flat_mlp\.tuning: grid\.optim\.optimizer\.lr: is not a list"):
        parse(config)


def test_the_papers_sweeps_are_those_of_its_appendix() -> None:
    paper = "scale=paper", "zoo=mnist_inrs"
    config = parse(composed("experiment=nft/inr2array", *paper, "tuning.trials=64"))
    for method in config.methods:
        assert len({str(trial) for trial in method.trials}) == 64
        assert method.trials[0].optim.optimizer["lr"] == 1e-4
    nft = next(method for method in config.methods if method.name == "inr2array_nft")
    for key, values in {
        **{"blocks": {4, 6}, "channels": {256, 512}, "hidden": {512, 1024}},
        **{"fourier": {3.0, 10.0}, "heads": {4, 8}, "dropout": {0.0, 0.1}},
    }.items():
        assert {trial.model["encoder"][key] for trial in nft.trials} == values
    assert parse(composed("experiment=nft/inr2array", *paper)).methods[2].trials == nft.trials[:1]
    for name in ("nft/inr_classification", "nft/ablation"):
        readers = [m for m in parse(composed(f"experiment={name}", *paper)).methods if m.name.startswith("inr2array")]
        assert len(readers) >= 5
        for method in readers:
            stages = [trial.pretraining for trial in method.trials]
            swept = [(t.optim.optimizer["weight_decay"], t.pretraining.mixup) for t in method.trials if t.pretraining]
            assert swept == [(decay, alpha) for decay in (0.1, 0.01) for alpha in (0.2, 0.0, 1.0)]
            assert len({str(replace(stage, mixup=0.0)) for stage in stages if stage is not None}) == 1
            assert all(stage.optim.optimizer["lr"] == 1e-4 for stage in stages if stage is not None)


@pytest.fixture(scope="session")
def small_fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set in the format of Fashion-MNIST: 300 images of patches, a place for every class."""
    folder = tmp_path_factory.mktemp("data") / "fashion-mnist"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 100)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 128, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[7 * (label // 4) :, 7 * (label % 4) :][:7, :7] += 127
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder.parent


@pytest.mark.parametrize("choice", ["zoo=digits_cnn", "zoo=fashion_cnn_shared", "zoo=digits_mixed"])
def test_the_properties_of_every_kind_of_zoo_are_learned(
    choice: str, tmp_path: Path, small_fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHNETS_ZOO_ROOT", str(tmp_path / "zoos"))
    monkeypatch.setenv("GRAPHNETS_DATA", str(small_fashion))
    changes = [] if "fashion" not in choice else ["zoo.data.pool_images=null", "zoo.data.test_images=null"]
    changes += ["trainer.epochs=1", "zoo.size=40", "execution.figures=false"]
    config = composed(f"experiment={EXPERIMENT}", "scale=tiny", choice, *changes)
    run(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    mixed = choice == "zoo=digits_mixed"
    wanted = {name for name, method in config.methods.items() if not (mixed and method.get("one_layout"))}
    assert set(metrics["models"]) == wanted
    assert mixed == (len(wanted) < len(config.methods))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_at_tiny_size(
    name: str, tmp_path: Path, small_fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHNETS_ZOO_ROOT", str(tmp_path / "zoos"))
    monkeypatch.setenv("GRAPHNETS_DATA", str(small_fashion))
    config = composed(f"experiment={name}", "scale=tiny", f"record={tmp_path / 'records'}", "execution.figures=false")
    run(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["models"]) == set(config.methods)
    assert sorted((tmp_path / "records").rglob("tiny-*-seed*.json"))
