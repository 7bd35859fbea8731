"""Zoos of several families: from the configuration to graphs, rebuilt modules and splits of unseen networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from converters import execute, to_state_dict
from experiments.zoo import Zoo, ZooConfig, ZooConfigError, ZooDataset, ZooError, get_zoo, unseen, verify
from experiments.zoo.nets import architectures_of
from tests.experiments.zoo.configs import CONFIGS, of_kind

MIXED: dict[str, Any] = {
    "activation": ["relu", "tanh"],
    "families": [
        {"family": "mlp", "hidden": [[6], [5, 7]]},
        {"family": "cnn", "hidden": [[4, 3]], "strides": [1, 2]},
        {"family": "resnet", "hidden": [[3, 4]], "strides": [1, 2]},
    ],
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    config: dict[str, Any] = {
        "name": "mixed",
        "size": 32,
        "data": {"name": "digits", "pooling": 2},
        "architecture": MIXED,
        "ranges": {
            "optimiser": ["sgd", "adam"],
            "learning_rate": 0.02,
            "weight_decay": 1e-4,
            "initial_scale": 1.0,
            "dropout": {"uniform": [0.0, 0.5]},
            "label_noise": 0.1,
            "train_fraction": {"log": [0.1, 1.0]},
            "steps": {"uniform": [4, 10]},
        },
        "batch_size": 16,
        "stack_size": 8,
        "properties": {"weight_noise_draws": 2, "input_noise_draws": 1},
        "executor": "in_process",
    }
    return get_zoo(config, tmp_path_factory.mktemp("mixed"), progress=False)


def test_records_say_what_each_network_is_made_of(mixed: Zoo) -> None:
    assert verify(mixed.path, networks=16).ok
    records = mixed.records.set_index("id")
    assert set(records["family"]) == {"mlp", "cnn", "resnet"}
    for row in records.itertuples():
        architecture = mixed.architectures[row.architecture]
        assert (row.family, row.depth, row.width) == (architecture.family, architecture.depth, architecture.width)
        assert row.architecture == f"{row.topology}-{row.activation}"
    assert mixed.structure is None
    assert len({architecture.topology for architecture in mixed.architectures.values()}) == 4


def test_batches_of_all_families_run_as_their_modules(mixed: Zoo) -> None:
    dataset = ZooDataset(mixed, None, ["test_accuracy"])
    batch, _ = dataset.batch(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    for index, graph in zip(order, batch.to_data_list(), strict=True):
        architecture = mixed.architectures[dataset.architectures[index]]
        module = architecture.build()
        state = {name: value[0] for name, value in dataset.weights([index]).items()}
        module.load_state_dict(state, strict=True)
        restored = to_state_dict(graph)
        assert restored.keys() == state.keys()
        assert all(torch.equal(restored[name], value) for name, value in state.items())
        images = architecture.prepare(torch.randn(3, 1, 8, 8) if architecture.strides else torch.randn(3, 1, 4, 4))
        with torch.no_grad():
            assert torch.allclose(execute(graph, images), module.eval()(images), atol=1e-5)


@pytest.mark.parametrize(
    ("by", "held_out"),
    [
        ("family", ["resnet"]),
        ("depth", [1]),
        ("width", lambda width: width >= 6),
        ("topology", None),
        ("activation", None),
    ],
)
def test_unseen_splits_hold_out_whole_values(mixed: Zoo, by: str, held_out: Any) -> None:
    splits = unseen(mixed.records, by, held_out, validation=0.2)
    other = mixed.resplit(splits)
    assert splits == unseen(mixed.records, by, held_out, validation=0.2)
    records = other.records
    test = records[records["split"] == "test"]
    rest = records[records["split"] != "test"]
    assert not set(test[by]) & set(rest[by])
    assert set(rest["split"]) == {"train", "val"}
    assert abs((rest["split"] == "val").mean() - 0.2) < 0.05
    assert ZooDataset(other, "test", ["test_accuracy"]).ids.tolist() == test["id"].tolist()
    assert mixed.records["split"].tolist() != records["split"].tolist(), "the zoo's own splits stay"
    assert other.fingerprint == mixed.fingerprint
    if held_out is None:
        share = test[by].nunique() / records[by].nunique()
        assert 0.2 <= share <= 0.5


def test_impossible_unseen_splits_are_named(mixed: Zoo) -> None:
    with pytest.raises(ZooError, match="no column 'size'; usual ones are topology, family"):
        unseen(mixed.records, "size")
    with pytest.raises(ZooError, match="no network has family 'vit'; there are cnn, mlp, resnet"):
        unseen(mixed.records, "family", ["vit"])
    with pytest.raises(ZooError, match=r"2 of 2 values of 'depth' are held out; networks must be left on both sides"):
        unseen(mixed.records, "depth", lambda depth: True)
    records = mixed.records.assign(run=0)
    with pytest.raises(ZooError, match="some runs have networks with held-out and with other values"):
        unseen(records, "family", ["mlp"])


def test_an_older_zoo_without_these_columns_is_read(mixed: Zoo, tmp_path: Path) -> None:
    import shutil

    from experiments.zoo import load_zoo
    from experiments.zoo.storage import read_records, write_records

    folder = Path(shutil.copytree(mixed.path, tmp_path / "older"))
    write_records(folder, read_records(folder).drop(columns=["topology", "family", "depth", "width"]))
    assert load_zoo(folder).records["width"].tolist() == mixed.records["width"].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_the_name_of_its_file(name: str) -> None:
    assert CONFIGS[name].name == name


@pytest.mark.parametrize("name", of_kind(ZooConfig))
def test_every_zoo_config_says_what_it_is(name: str) -> None:
    config = CONFIGS[name]
    assert (config.initialisation == "shared") == name.endswith("_shared")
    if name.endswith("_shared"):
        assert config.ranges["initial_scale"] == 1.0, "starts that are scaled differently are not shared"
    architectures = architectures_of(config.architecture, (1, 8, 8), 10)
    families = 3 if name.removesuffix("_shared") == "digits_mixed" else 1
    assert len({each.family for each in architectures}) == families
    assert len({each.activation for each in architectures}) == (
        1 if isinstance(config.architecture["activation"], str) else 4
    )
    if families == 3:
        assert len({each.topology for each in architectures}) == 40
        assert {each.depth for each in architectures} == {1, 2, 3, 4}
        widths = {width for each in architectures for width in each.sizes[1:-1]}
        assert (min(widths), max(widths)) == (8, 48)
    assert len({each.name for each in architectures}) == len(architectures)


def test_the_folder_of_the_images_does_not_change_the_zoo(small: Any) -> None:
    data = {"name": "idx", "pooling": 2}
    one = ZooConfig.parse(small | {"data": data})
    other = ZooConfig.parse(small | {"data": data | {"folder": "elsewhere"}})
    assert one.fingerprint == other.fingerprint
    assert other.data["folder"] == "elsewhere"


def test_all_faults_of_architectures_are_listed(small: Any) -> None:
    small["architecture"] = {
        "activation": "relu",
        "families": [
            {"family": "vit", "hidden": [4]},
            {"family": "cnn", "hidden": [[], [4, 0]], "strides": [5], "padding": 2, "kernel": 3},
            {"family": "mlp"},
        ],
    }
    with pytest.raises(ZooConfigError) as caught:
        ZooConfig.parse(small)
    for part in (
        "architecture.families[0].family: 'vit' is not one of mlp, cnn, cnn_bn, resnet",
        "architecture.families[1].hidden: [] is not a list of at least one positive widths",
        "architecture.families[1].hidden: [4, 0] is not a list",
        "architecture.families[1].strides: [5] are not all 1, 2 or 3",
        "architecture.families[1].padding: 2 is not 0 or 1",
        "architecture.families[1].kernel: unknown",
        "architecture.families[2].hidden: missing",
    ):
        assert part in str(caught.value)
