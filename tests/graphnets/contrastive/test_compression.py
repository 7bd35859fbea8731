"""Compression of weights: exact where nothing is left out, else the best linear one, in the modes of Algorithm 3.1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from converters import Structure, StructureMismatch, execute, trace
from graphnets.contrastive import WeightCompression


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)
    )


@pytest.fixture(scope="module")
def structure() -> Structure:
    torch.manual_seed(0)
    return trace(network().eval(), torch.zeros(2, 1, 4, 4))


def stack_of(structure: Structure, count: int, factors: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random networks; with ``factors`` all of them are sums of so many common ones."""
    generator = torch.Generator().manual_seed(seed)
    stack: dict[str, Tensor] = {}
    for p in structure.parameters:
        if p.dtype != "float32":
            stack[p.name] = torch.full((count, *p.shape), 100)
        elif factors is None:
            stack[p.name] = torch.randn(count, *p.shape, generator=generator).double()
        else:
            common = torch.randn(factors, p.numel, generator=torch.Generator().manual_seed(1)).double()
            shares = torch.randn(count, factors, generator=generator).double()
            stack[p.name] = (shares @ common).reshape(count, *p.shape) + 0.5
    for name in stack:
        if name.endswith("running_var"):
            stack[name] = stack[name].abs() + 0.5
    return stack


def error(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def slices(stack: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    count = len(next(iter(stack.values())))
    return [{name: t[i : i + size] for name, t in stack.items()} for i in range(0, count, size)]


@pytest.mark.parametrize("per", ["parameter", "network"])
@pytest.mark.parametrize("scale", ["each", "together", "none"])
def test_with_all_components_networks_come_back(structure: Structure, per: str, scale: str) -> None:
    stack = stack_of(structure, 12)
    compression = WeightCompression(structure, rank=200, per=per, scale=scale).double().fit([stack])
    back = compression.decode(compression.encode(stack))
    assert list(back) == [p.name for p in structure.parameters]
    assert error(stack, back) < 1e-9
    assert all(back[name].dtype == stack[name].dtype for name in stack)


def test_unseen_networks_of_the_same_few_factors_come_back(structure: Structure) -> None:
    compression = WeightCompression(structure, rank=3).double().fit([stack_of(structure, 40, factors=3)])
    unseen = stack_of(structure, 5, factors=3, seed=7)
    for name in ("1.running_var", "1.num_batches_tracked"):
        unseen[name] = stack_of(structure, 40, factors=3)[name][:5]
    names = [name for name in unseen if not name.startswith("1.running_var")]
    back = compression.decode(compression.encode(unseen))
    assert max(float((back[n].double() - unseen[n].double()).abs().max()) for n in names) < 1e-8
    strangers = stack_of(structure, 5, seed=9)
    assert error(strangers, compression.decode(compression.encode(strangers))) > 0.5, "others do not lie among them"


def test_the_error_is_that_of_the_best_linear_compression(structure: Structure) -> None:
    """The rows' singular values beyond the rank, by Eckart and Young."""
    stack = stack_of(structure, 30)
    compression = WeightCompression(structure, rank=4).double().fit([stack])
    back = compression.decode(compression.encode(stack))
    rows = stack["4.weight"].flatten(1)
    left = torch.linalg.svdvals(rows - rows.mean(0))[4:].square().sum()
    found = (back["4.weight"].flatten(1) - rows).square().sum()
    assert torch.allclose(found, left, rtol=1e-9)


def test_modes_are_those_of_the_algorithm(structure: Structure) -> None:
    stack = stack_of(structure, 20)
    stack["0.bias"] = stack["0.bias"][:1].expand(20, -1) + 1e-6 * torch.randn(20, 4).double()
    compression = WeightCompression(structure, rank=5, variance_threshold=1e-8, dimension_limit=4).double().fit([stack])
    modes = {name: compression.mode_of(name) for name in stack}
    assert modes["0.bias"] == "mean"
    assert modes["1.weight"] == modes["6.bias"] == "centred"
    assert modes["4.weight"] == modes["0.weight"] == "components"
    assert modes["1.num_batches_tracked"] == "mean"
    sizes = {"0.bias": 0, "1.weight": 4, "1.bias": 4, "1.running_mean": 4, "1.running_var": 4, "6.bias": 3}
    assert compression.code_size == sum(sizes.get(p.name, 5) for p in structure.parameters if p.shape)


def test_fitting_in_parts_is_nearly_fitting_at_once(structure: Structure) -> None:
    """Exactly so where the rank holds everything; batches smaller than the rank are put together."""
    stack = stack_of(structure, 40, factors=4)
    once = WeightCompression(structure, rank=4).double().fit([stack])
    parts = WeightCompression(structure, rank=4).double().fit(slices(stack, 3))
    assert torch.allclose(once.means, parts.means, atol=1e-12)
    assert error(once.decode(once.encode(stack)), parts.decode(parts.encode(stack))) < 1e-8


def test_codes_have_the_scale_that_was_asked_for(structure: Structure) -> None:
    stack = stack_of(structure, 60)
    each = WeightCompression(structure, rank=4).double().fit([stack]).encode(stack)
    assert torch.allclose(each.mean(0), torch.zeros(()).double(), atol=1e-9)
    assert torch.allclose(each.std(0), torch.ones(()).double(), atol=1e-9)
    together = WeightCompression(structure, rank=4, scale="together").double().fit([stack]).encode(stack)
    plain = WeightCompression(structure, rank=4, scale="none").double().fit([stack]).encode(stack)
    ratio = plain.std(0) / together.std(0)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio))
    assert abs(float(together.square().mean()) - 1) < 0.05


def test_decoded_networks_run_and_gradients_reach_the_code(structure: Structure) -> None:
    stack = {name: t.float() if t.is_floating_point() else t for name, t in stack_of(structure, 10).items()}
    compression = WeightCompression(structure, rank=4).fit([stack])
    codes = compression.encode(stack).requires_grad_()
    outputs = execute(compression.decode(codes), torch.randn(3, 1, 4, 4), structure=structure)
    assert outputs.shape == (10, 3, 3)
    outputs.square().sum().backward()
    assert codes.grad is not None
    assert bool((codes.grad.abs().sum(1) > 0).all())


def test_a_fitted_one_is_stored_and_read(structure: Structure) -> None:
    stack = stack_of(structure, 10)
    compression = WeightCompression(structure, rank=4).double().fit([stack])
    other = WeightCompression(structure, rank=4).double()
    other.load_state_dict(compression.state_dict())
    assert torch.equal(other.encode(stack), compression.encode(stack))
    assert "code of" in repr(other)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x).tanh() @ self.last.weight

    tied = trace(Tied(), torch.zeros(2, 4))
    weight = torch.randn(8, 6, 4).double()
    compression = WeightCompression(tied, rank=30).double().fit([{"first.weight": weight, "last.weight": weight}])
    back = compression.decode(compression.encode({"first.weight": weight, "last.weight": weight}))
    assert back["last.weight"] is back["first.weight"]
    assert torch.allclose(back["first.weight"], weight, atol=1e-9)


def test_wrong_use_is_told(structure: Structure) -> None:
    compression = WeightCompression(structure, rank=4).double()
    stack = stack_of(structure, 10)
    with pytest.raises(RuntimeError, match="not fitted; call fit"):
        compression.encode(stack)
    with pytest.raises(ValueError, match="1 networks have no variance"):
        compression.fit([stack_of(structure, 1)])
    with pytest.raises(StructureMismatch, match=r"6\.bias: missing"):
        compression.fit([{name: t for name, t in stack.items() if name != "6.bias"}])
    with pytest.raises(ValueError, match=r"codes of shape \[10, 3\], expected"):
        compression.fit([stack]).decode(torch.zeros(10, 3).double())
    with pytest.raises(ValueError, match="one of parameter, network"):
        WeightCompression(structure, per="layer")
    with pytest.raises(ValueError, match="rank=0"):
        WeightCompression(structure, rank=0)
