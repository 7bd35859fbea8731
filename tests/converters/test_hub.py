"""The laws on small random networks of the ``transformers`` library; ``make long`` takes every type of the survey."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage.hub import cases
from converters import Structure, StructureMismatch, execute, to_graph, to_state_dict, trace, verify
from converters.symmetry.widened import widened
from tests.converters.laws import difference, random_state

SOUND = 1e-9
EXACT = 1e-10

WHOLE = {
    "bert": 9,
    "albert": 5,
    "gpt2": 9,
    "gpt_neox": 9,
    "mpt": 19,
    "llama": 9,
    "t5": 20,
    "bart": 22,
    "mamba": 7,
    "vit": 8,
    "resnet": 14,
    "convnext": 8,
}
"""Types all of whose hidden axes are permutable, with the number of their groups."""

DATA_DEPENDENT = {"xlm", "flaubert", "dbrx", "switch_transformers", "maskformer", "rt_detr", "vits"}
"""Types whose forward pass branches on values, so that they have no program that holds for other inputs."""

NARROW = {"fnet": 1e-5, "deberta": 1e-8, "deberta_v2": 1e-8, "dinov3_vit": 1e-6}
"""Types with constants in float32, in the program or in the module alone, with the difference that these make.

The modules of DeBERTa take the root of a size in float32, programs in float64. In float64 in both, nothing differs.
"""

GUARDED = {"jetmoe", "superpoint", "fastspeech2_conformer"}
"""Types that read values in Python or size outputs by them: their programs refuse inputs that lead elsewhere."""

OTHERS = [name for name in cases() if name not in WHOLE]


@cache
def traced(name: str) -> tuple[nn.Module, dict[str, Tensor], Structure]:
    """The network, its inputs and its structure; once for all tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = cases()[name].make()
        return model, inputs, trace(model, inputs)


def assert_comes_back(model: nn.Module, structure: Structure) -> None:
    """The graph gives the state_dict back bit for bit, and holds every element once."""
    state = model.state_dict()
    found = to_state_dict(to_graph(model, structure=structure, materialize=True))
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def outputs_of(model: nn.Module, state: dict[str, Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    """All tensors that the network gives in float64, whatever it casts to inside."""
    network = copy.deepcopy(model).double().eval()
    wide = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad(), warnings.catch_warnings(), widened():
        warnings.simplefilter("ignore")
        return flat(torch.func.functional_call(network, state, kwargs=wide, tie_weights=False))


def flat(tree: Any) -> list[Tensor]:
    """The tensors of an output."""
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    return [leaf for value in values for leaf in flat(value)]


def assert_runs(model: nn.Module, inputs: dict[str, Tensor], structure: Structure, tolerance: float = EXACT) -> None:
    """The network run from its graph equals the module, on random weights."""
    state = random_state(model)
    wide = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        found = flat(execute(state, structure=structure, **wide))
    assert difference(outputs_of(model, state, inputs), found) < tolerance


@pytest.mark.parametrize("name", WHOLE)
def test_every_hidden_axis_is_permutable(name: str) -> None:
    model, inputs, structure = traced(name)
    report = verify(model, inputs, structure)
    assert report.unsound == ()
    assert report.error < SOUND
    assert report.control > 1e-3
    assert report.coverage == 1.0
    assert report.units == WHOLE[name]


@pytest.mark.parametrize("name", WHOLE)
def test_state_dict_comes_back(name: str) -> None:
    model, _, structure = traced(name)
    assert_comes_back(model, structure)


@pytest.mark.parametrize("name", WHOLE)
def test_runs_from_its_graph(name: str) -> None:
    assert_runs(*traced(name))


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_laws_of_every_type(name: str) -> None:
    model, inputs, structure = traced(name)
    report = verify(model, inputs, structure)
    assert report.unsound == ()
    assert report.error < report.tolerance
    assert_comes_back(model, structure)
    assert structure.program is not None
    if name.split("/")[0] in DATA_DEPENDENT:
        assert structure.program.baked
    elif name in GUARDED:
        with pytest.raises(StructureMismatch, match="value"):
            assert_runs(model, inputs, structure, EXACT)
    else:
        assert_runs(model, inputs, structure, NARROW.get(name, EXACT))
