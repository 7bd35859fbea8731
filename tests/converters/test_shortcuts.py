"""Recordings with zeros in place of costly values are those with the values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from converters import trace
from converters.trace.shortcuts import SHORTCUTS, Zeros
from tests.converters.entry import draw
from tests.converters.modules import Net

aten = torch.ops.aten

CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "mm": (aten.mm.default, (draw(3, 4), draw(4, 5)), {}),
    "mm_turned": (aten.mm.default, (draw(4, 3).t(), draw(5, 4).t()), {}),
    "mm_empty": (aten.mm.default, (draw(0, 4), draw(4, 5)), {}),
    "addmm": (aten.addmm.default, (draw(5), draw(3, 4), draw(5, 4).t()), {}),
    "bmm": (aten.bmm.default, (draw(2, 3, 4), draw(2, 5, 4).transpose(1, 2)), {}),
    "convolution_1d": (
        aten.convolution.default,
        (draw(2, 4, 9), draw(8, 2, 3), draw(8), [1], [1], [1], False, [0], 2),
        {},
    ),
    "convolution_2d": (
        aten.convolution.default,
        (draw(2, 3, 9, 8), draw(4, 3, 3, 2), None, [2], [1, 0], [1, 2], False, [0, 0], 1),
        {},
    ),
    "convolution_3d": (
        aten.convolution.default,
        (draw(2, 3, 5, 9, 8), draw(4, 3, 1, 3, 3), None, [2, 1, 2], [0, 1, 1], [1, 1, 1], False, [0, 0, 0], 1),
        {},
    ),
    "gelu": (aten.gelu.default, (draw(2, 3),), {"approximate": "tanh"}),
    "relu": (aten.relu.default, (draw(2, 3),), {}),
    "add": (aten.add.Tensor, (draw(2, 3), draw(2, 3)), {"alpha": 2}),
    "mul": (aten.mul.Tensor, (draw(2, 3), draw(2, 3)), {}),
    "add_number": (aten.add.Tensor, (draw(2, 3), 1), {}),
    "roll": (aten.roll.default, (draw(2, 3, 4), [1, -1], [1, 2]), {}),
    "layer_norm": (aten.native_layer_norm.default, (draw(2, 3, 4), [3, 4], draw(3, 4), None, 1e-5), {}),
    "attention": (
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        tuple(draw(2, length, 3, 8).transpose(1, 2) for length in (5, 7, 7)),
        {"attn_mask": draw(1, 1, 5, 7)},
    ),
}
UNUSUAL: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mm": (aten.mm.default, (draw(3, 4), draw(3, 4))),
    "addmm": (aten.addmm.default, (draw(3, 5), draw(3, 4), draw(4, 5))),
    "bmm": (aten.bmm.default, (draw(2, 3, 4), draw(3, 4, 5))),
    "transposed": (
        aten.convolution.default,
        (draw(2, 3, 9), draw(3, 4, 3), None, [1], [0], [1], True, [0], 1),
    ),
    "channels_last": (
        aten.convolution.default,
        (
            draw(2, 3, 9, 8).to(memory_format=torch.channels_last),
            draw(4, 3, 3, 2),
            None,
            [1],
            [0],
            [1],
            False,
            [0, 0],
            1,
        ),
    ),
    "kernel_too_large": (
        aten.convolution.default,
        (draw(2, 3, 2), draw(4, 3, 5), None, [1], [0], [1], False, [0], 1),
    ),
    "gelu": (aten.gelu.default, (draw(3, 2).t(),)),
    "add_broadcast": (aten.add.Tensor, (draw(2, 3), draw(3))),
    "add_complex": (aten.add.Tensor, (draw(2, 3), 1j)),
    "mul_turned": (aten.mul.Tensor, (draw(2, 3), draw(3, 2).t())),
    "mul_promoted": (aten.mul.Tensor, (draw(2, 3), draw(2, 3).double())),
    "roll_integers": (aten.roll.default, (torch.arange(4), [1])),
    "layer_norm": (aten.native_layer_norm.default, (draw(2, 4, 3).transpose(1, 2), [4], None, None, 1e-5)),
    "attention": (aten._scaled_dot_product_flash_attention_for_cpu.default, (draw(2, 3, 5, 8),) * 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_zeros_lie_like_what_is_computed(name: str) -> None:
    func, args, kwargs = CALLS[name]
    expected, found = func(*args, **kwargs), SHORTCUTS[func](Zeros(), *args, **kwargs)
    several = isinstance(expected, tuple)
    assert isinstance(found, tuple) == several
    for a, b in zip(expected, found, strict=True) if several else [(expected, found)]:
        assert (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)
        assert not b.any()


def test_every_shortcut_is_tested() -> None:
    assert {func for func, *_ in CALLS.values()} == set(SHORTCUTS)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_arguments_are_left_to_the_operation(name: str) -> None:
    func, args = UNUSUAL[name]
    assert SHORTCUTS[func](Zeros(), *args) is None


def reads(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    return n.last(torch.relu(h) if (h * h).sum() > 0 else torch.tanh(h))


def catches(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    try:
        large = bool(h.abs().max() > 0)
    except Exception:
        large = False
    return n.last(torch.relu(h) if large else torch.tanh(h))


def fails_on_zeros(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    return n.last(torch.linalg.inv(h[:, :3, None] * h[:, None, :3] + torch.eye(3) * h[:, :1, None]).flatten(1)[:, :6])


def selects(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    return n.last(h.new_zeros(6) + h[h != 0].sum() + h.nonzero().shape[0])


def compares(n: Net, x: Tensor) -> Tensor:
    h = n.first(x)
    return n.last(torch.relu(h) if torch.equal(h, torch.zeros_like(h)) else torch.tanh(h))


def writes(n: Net, x: Tensor) -> Tensor:
    h, other = n.first(x), n.first(x + 1)
    h[:, :2] += 1
    return n.last(h * other)


@pytest.mark.parametrize("between", [reads, catches, fails_on_zeros, selects, compares, writes])
def test_the_network_that_is_recorded_is_the_real_one(
    between: Callable[[Net, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = Net(between, first=nn.Linear(4, 6), last=nn.Linear(6, 2)).eval()
    found = trace(net, draw(2, 4), cache=False)
    for func in list(SHORTCUTS):
        monkeypatch.delitem(SHORTCUTS, func)
    assert found == trace(net, draw(2, 4), cache=False)


class Seen(TorchDispatchMode):
    """Which operations are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("between", "computed"), [(reads, True), (writes, False)])
def test_what_nobody_reads_is_not_computed(between: Callable[[Net, Tensor], Tensor], computed: bool) -> None:
    net = Net(between, first=nn.Linear(4, 6), last=nn.Linear(6, 2)).eval()
    with Seen() as seen:
        structure = trace(net, draw(2, 4), cache=False)
    assert ("aten::addmm" in seen.names) is computed
    assert any(op.name == "addmm" for op in structure.program.ops)
