"""The structure itself: a value that serialises, compares by content and says the same in every process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from converters import Structure, execute, same_structure, to_graph, to_state_dict, trace
from converters.structure import IndexArray
from tests.converters.entry import draw
from tests.converters.laws import case, difference, double, outputs, random_state
from tests.converters.networks import ALL

ROOT = Path(__file__).resolve().parents[2]
ACROSS = [
    "mlp",
    "siren",
    "cnn_padding_modes",
    "resnet18",
    "mlp_group_norm",
    "constant_each",
    "two_inputs",
    "attention",
]


@pytest.mark.parametrize("name", ALL)
def test_json_round_trip(name: str) -> None:
    structure = case(name).structure
    text = structure.to_json()
    back = Structure.from_json(text)
    assert back == structure
    assert hash(back) == hash(structure)
    assert back.to_json() == text
    for field in dataclasses.fields(Structure):
        if field.name == "program":
            assert structure.program is not None
            assert back.program is not None
            assert back.program.to_json() == structure.program.to_json()
            continue
        assert getattr(back, field.name) == getattr(structure, field.name), field.name
    assert back.num_nodes == structure.num_nodes
    assert back.edge_offsets == structure.edge_offsets


@pytest.mark.parametrize("name", ["mlp", "resnet18", "mlp_layer_norm", "odds", "transformer", "batch_views"])
def test_structure_from_json_does_all_the_original_does(name: str) -> None:
    c = case(name)
    back = Structure.from_json(c.structure.to_json())
    state = random_state(c.model)
    found = execute(state, *double(c.args), structure=back, **double(c.kwargs))
    assert difference(outputs(c.model, state, c.args, c.kwargs), found) < 1e-10
    graph = to_graph(c.model, structure=back)
    assert all(torch.equal(value, to_state_dict(graph)[key]) for key, value in c.model.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_other_weights_have_the_same_structure(name: str) -> None:
    c = case(name)
    other = ALL[name].make(seed=1)
    assert trace(other, c.inputs).fingerprint == c.structure.fingerprint


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "residual_mlp", "shared", "odds"])
def test_degenerate_weights_have_the_same_structure(name: str) -> None:
    """Zero, constant and identical weights do not look like symmetries."""
    c = case(name)
    for value in (0.0, 1.0):
        other = ALL[name].make()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.fill_(value)
        assert trace(other, c.inputs) == c.structure


def test_training_mode_and_gradients_do_not_count() -> None:
    c = case("mlp_batch_norm")
    other = ALL["mlp_batch_norm"].make().train().requires_grad_(False)
    assert trace(other, c.inputs) == c.structure


def test_other_inputs_of_the_same_shape_have_the_same_structure() -> None:
    c = case("cnn_flatten")
    assert trace(c.model, torch.zeros(2, 1, 8, 8)) == c.structure


def test_structures_differ_where_architectures_do() -> None:
    prints = {name: case(name).structure.fingerprint for name in ALL if name != "batch_of_one"}
    assert len(set(prints.values())) == len(prints)


def test_fingerprints_are_equal_in_every_process() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.converters.laws import case
print(*[case(name).structure.fingerprint for name in {ACROSS!r}])
"""
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        assert run.stdout.split() == [case(name).structure.fingerprint for name in ACROSS]


def test_older_schema_is_refused() -> None:
    data = json.loads(case("mlp").structure.to_json())
    data["schema"] = 0
    with pytest.raises(ValueError, match=r"schema 0.*trace.* again"):
        Structure.from_json(json.dumps(data))


def test_structures_are_frozen() -> None:
    structure = case("mlp").structure
    for thing, field in (
        (structure, "name"),
        (structure.groups[0], "size"),
        (structure.parameters[0].axes[0], "group"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, None)
    with pytest.raises(ValueError, match="read-only"):
        structure.parameters[0].axes[0].member.values[0] = 5


@pytest.mark.parametrize("name", ["mlp", "odds", "shared", "cnn_batch_norm", "resnet18", "autoencoder"])
def test_parameters_describe_the_state_dict(name: str) -> None:
    c = case(name)
    state = c.model.state_dict()
    trained = {key for key, _ in c.model.named_parameters(remove_duplicate=False)}
    assert [p.name for p in c.structure.parameters] == list(state)
    for parameter in c.structure.parameters:
        tensor = state[parameter.name]
        assert parameter.shape == tuple(tensor.shape)
        assert parameter.dtype == str(tensor.dtype).removeprefix("torch.")
        assert tuple(len(axis) for axis in parameter.axes) == parameter.shape
        assert parameter.buffer == (parameter.name not in trained)
    assert c.structure.num_parameters == sum(p.numel() for p in c.model.parameters())


def test_tied_names_are_known() -> None:
    aliases = {p.name: p.alias_of for p in case("shared").structure.parameters if p.alias_of is not None}
    assert aliases == {"again.weight": "first.weight", "again.bias": "first.bias"}


@pytest.mark.parametrize(
    "values", [[], [3], [0, 0, 0], [0, 1, 2, 3], [5, 3, 1, 7, 7, 7, 2], [0, 0, 1, 1, 2, 2], [-1, -1, 4]]
)
def test_index_arrays_hold_any_integers(values: list[int]) -> None:
    import numpy as np

    array = IndexArray.of(np.array(values, dtype=np.int64))
    assert array.values.tolist() == values
    assert array == IndexArray.of(np.array(values, dtype=np.int64))


def test_layers_of_a_perceptron() -> None:
    structure = case("mlp").structure
    assert [(layer.kind, layer.size, layer.activation) for layer in structure.layers] == [
        ("input", 4, "identity"),
        ("linear", 8, "relu"),
        ("linear", 6, "relu"),
        ("linear", 3, "identity"),
    ]
    assert [(b.source, b.target, b.pattern, b.parameter, b.shape) for b in structure.blocks] == [
        (0, 1, "dense", "0.weight", (8, 4)),
        (1, 2, "dense", "2.weight", (6, 8)),
        (2, 3, "dense", "4.weight", (3, 6)),
    ]
    assert structure.node_offsets == (0, 4, 12, 18, 21)
    assert structure.edge_offsets == (0, 32, 80, 98)
    assert structure.kernel_size == ()
    assert [group.role for group in structure.groups] == ["input", "hidden", "hidden", "output"]


def test_convolution_then_flatten_keeps_one_kernel_column_for_the_linear() -> None:
    structure = case("cnn_flatten").structure
    assert [layer.kind for layer in structure.layers] == [
        "input",
        "convolution",
        "flatten",
        "linear",
        "linear",
    ]
    assert {block.parameter: block.kernel for block in structure.blocks if block.parameter} == {
        "0.weight": (3, 3),
        "3.weight": (),
        "5.weight": (),
    }
    (flatten,) = [block for block in structure.blocks if block.parameter is None]
    assert flatten.edge_type == "flatten"
    assert flatten.sources is not None
    assert flatten.sources.values.tolist() == [channel for channel in range(5) for _ in range(9)]


def test_siren_records_its_frequency() -> None:
    structure = case("siren").structure
    hidden = [layer for layer in structure.layers if layer.activation == "sin"]
    assert [dict(layer.attributes)["activation_scale"] for layer in hidden] == [30.0, 30.0]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_size_of_the_example_batch_does_not_count(batch: int) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    first, other = (trace(net, draw(n, 4)) for n in (3, batch))
    assert first == other
    assert same_structure(to_graph(net, structure=first)) == other


def test_documents_of_the_first_schema_are_read() -> None:
    structure = trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    data = json.loads(structure.to_json())
    data["schema"] = 1
    for group in data["groups"]:
        del group["factors"], group["table"]
    for block in data["blocks"]:
        del block["span"]
    assert Structure.from_json(json.dumps(data)) == structure
