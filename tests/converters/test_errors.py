"""Weights that do not belong: every fault is named at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters import (
    ConversionError,
    ExampleInputError,
    StructureMismatch,
    UnsupportedOperation,
    WeightsError,
    collate,
    execute,
    permute,
    sample_permutation,
    to_graph,
    to_graphs,
    to_state_dict,
    trace,
)
from tests.converters.entry import draw
from tests.converters.laws import case, difference
from tests.converters.modules import Net


def mlp_state() -> dict[str, Tensor]:
    return {key: value.clone() for key, value in case("mlp").model.state_dict().items()}


def test_missing_surplus_and_misshapen_names_are_listed_together() -> None:
    state = mlp_state()
    del state["2.bias"]
    state["0.weight"] = torch.zeros(9, 4)
    state["6.weight"] = torch.zeros(2, 2)
    with pytest.raises(StructureMismatch) as error:
        to_graph(state, structure=case("mlp").structure)
    assert str(error.value) == (
        "these weights are not of Sequential (3 faults):\n"
        "  0.weight: shape [9, 4], expected [8, 4]\n"
        "  2.bias: missing, expected shape [6]\n"
        "  6.weight: not a parameter of this structure\n"
        "Trace the network they come from, or pass its own structure."
    )
    assert isinstance(error.value, ConversionError)


def test_weights_that_are_not_finite_are_listed_together() -> None:
    state = mlp_state()
    state["0.weight"][0, :3] = float("nan")
    state["4.bias"][1] = float("inf")
    with pytest.raises(WeightsError) as error:
        to_graph(state, structure=case("mlp").structure)
    assert str(error.value) == (
        "Sequential has weights that are NaN or infinite:\n"
        "  0.weight: 3 of 32 elements are not finite\n"
        "  4.bias: 1 of 3 elements are not finite\n"
        "The training that made them diverged, or the file is damaged; leave this network out."
    )


def test_opposite_infinities_are_found() -> None:
    state = mlp_state()
    state["0.weight"][0, 0], state["0.weight"][0, 1] = float("inf"), float("-inf")
    with pytest.raises(WeightsError, match=r"0\.weight: 2 of 32"):
        to_graph(state, structure=case("mlp").structure)


def test_large_finite_weights_are_accepted() -> None:
    state = mlp_state()
    state["0.weight"].fill_(3e38)
    graph = to_graph(state, structure=case("mlp").structure)
    assert torch.equal(to_state_dict(graph)["0.weight"], state["0.weight"])


def test_a_stack_names_its_faults() -> None:
    c = case("mlp")
    stack = {key: torch.stack([value] * 3) for key, value in mlp_state().items()}
    bad = {**stack, "0.bias": stack["0.bias"][:2], "2.bias": stack["2.bias"][:, :5]}
    with pytest.raises(StructureMismatch) as error:
        to_graphs(bad, c.structure)
    assert "2.bias: shape [5], expected [6]" in str(error.value)
    assert "length differs" in str(error.value)
    broken = {**stack, "0.bias": stack["0.bias"].clone()}
    broken["0.bias"][1, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"0\.bias: 1 of 24"):
        to_graphs(broken, c.structure)
    with pytest.raises(StructureMismatch):
        to_graphs(mlp_state(), c.structure)


def test_untied_copies_of_tied_tensors_are_refused() -> None:
    c = case("shared")
    state = {key: value.clone() for key, value in c.model.state_dict().items()}
    assert torch.equal(to_state_dict(to_graph(state, structure=c.structure))["again.weight"], state["first.weight"])
    state["again.weight"] += 1
    with pytest.raises(StructureMismatch, match=r"again\.weight: differs from first\.weight"):
        to_graph(state, structure=c.structure)


def test_no_precision_is_lost_in_silence() -> None:
    """One tensor of a wider dtype than all others would be rounded."""
    state = mlp_state()
    state["2.weight"] = state["2.weight"].double() + 1e-12
    with pytest.raises(StructureMismatch, match=r"2\.weight.*float64"):
        to_graph(state, structure=case("mlp").structure)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_cast_as_a_whole_is_accepted(dtype: torch.dtype) -> None:
    c = case("cnn_batch_norm")
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in c.model.state_dict().items()}
    back = to_state_dict(to_graph(state, structure=c.structure))
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in state.items())


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "missing": ((), {}, "input 0 is missing"),
    "shape": ((draw(3, 5),), {}, r"input 0 has shape \[3, 5\]; the network was traced on input 0 \[\*, 4\]"),
    "rank": ((draw(3, 1, 4),), {}, "input 0 has shape"),
    "type": (([1.0, 2.0],), {}, "input 0 must be a tensor, got a list"),
    "surplus": ((draw(3, 4), draw(3, 4)), {}, "input 1"),
    "surplus_name": ((draw(3, 4),), {"mask": draw(3, 4)}, "mask"),
}


@pytest.mark.parametrize("fault", CALLS)
def test_inputs_other_than_the_traced_ones_are_refused(fault: str) -> None:
    args, kwargs, text = CALLS[fault]
    with pytest.raises(StructureMismatch, match=text):
        execute(mlp_state(), *args, structure=case("mlp").structure, **kwargs)


def test_batches_of_different_size_are_refused() -> None:
    c = case("two_inputs")
    with pytest.raises(StructureMismatch, match=r"different batch sizes: \[3, 4\]"):
        execute(c.model.state_dict(), left=draw(3, 3), right=draw(4, 5), structure=c.structure)


def test_weights_alone_cannot_be_run() -> None:
    with pytest.raises(StructureMismatch, match="pass structure=trace"):
        execute(mlp_state(), draw(3, 4))


def test_running_incomplete_weights_names_what_lacks() -> None:
    state = mlp_state()
    del state["0.weight"]
    with pytest.raises(StructureMismatch, match=r"0\.weight"):
        execute(state, draw(3, 4), structure=case("mlp").structure)


def test_graphs_with_nodes_or_edges_removed_are_refused() -> None:
    c = case("mlp")
    graph = to_graph(c.model, structure=c.structure)
    graph.edge_attr = graph.edge_attr[:-1]
    with pytest.raises(StructureMismatch, match="97 edges"):
        to_state_dict(graph)


def test_mixed_batches_have_no_one_state_dict() -> None:
    graphs = [to_graph(case(name).model, structure=case(name).structure) for name in ("mlp", "siren")]
    with pytest.raises(StructureMismatch, match="several architectures"):
        to_state_dict(collate(graphs))
    with pytest.raises(StructureMismatch, match="empty"):
        collate([])


def test_permutations_belong_to_their_structure() -> None:
    permutation = sample_permutation(case("mlp").structure)
    other = case("siren")
    with pytest.raises(StructureMismatch):
        permute(to_graph(other.model, structure=other.structure), permutation)
    with pytest.raises(StructureMismatch, match="unknown"):
        permute({"unknown": torch.zeros(3)}, permutation)


def test_kernels_that_do_not_fit_are_refused() -> None:
    c = case("cnn_kernels")
    with pytest.raises(StructureMismatch, match="larger kernel_size"):
        to_graph(c.model, structure=c.structure, kernel_size=(1, 1))


def value_of_a_weight(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last(h * float(h.detach().max()))


def branch(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last(h if h.sum() > 0 else -h)


def through_numpy(net: Any, x: Tensor) -> Tensor:
    return net.last(torch.from_numpy(net.first(x).detach().numpy() * 2))


def batch_constant(net: Any, x: Tensor) -> Tensor:
    return net.last(net.first(x)) / torch.tensor(float(x.shape[0]))


def deviation(model: nn.Module, x: Tensor) -> float:
    """Largest error of the recorded program, at other weights and batch sizes; 0 where it is refused with a reason."""
    worst = 0.0
    try:
        structure = trace(model, x)
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            state = {k: torch.randn(v.shape, generator=generator) for k, v in model.state_dict().items()}
            for batch in (x, torch.randn(7, 4, generator=generator)):
                expected = torch.func.functional_call(model, state, (batch,))
                worst = max(worst, difference(expected, execute(state, batch, structure=structure)))
    except (ExampleInputError, UnsupportedOperation, StructureMismatch):
        return 0.0
    return worst


@pytest.mark.parametrize("forward", [value_of_a_weight, branch, through_numpy, batch_constant])
def test_a_program_that_would_be_wrong_is_never_run_in_silence(forward: Any) -> None:
    """Numbers that leave the tensors and come back are not in the program: refuse, or be right."""
    model = Net(forward, first=nn.Linear(4, 8), last=nn.Linear(8, 2)).eval()
    assert deviation(model, draw(3, 4)) < 1e-4
