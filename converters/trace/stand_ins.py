"""Weights without memory: tensors that have a shape and a dtype alone take their place while a network is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.weak import WeakIdKeyDictionary

from converters.errors import ExampleInputError

__all__ = ["call", "is_weightless", "stand_ins", "without_weights"]


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules built inside have no weights: their parameters are on the meta device, their buffers are real.

    Buffers often are part of the function (position numbers, frequencies, masks), and ``trace`` needs their values.
    What ``torch.device("meta")`` builds has lost them.

    >>> with without_weights():
    ...     net = nn.Linear(10_000, 10_000)
    >>> net.weight.device.type, net.weight.shape
    ('meta', torch.Size([10000, 10000]))
    """
    register = nn.Module.register_parameter
    made = WeakIdKeyDictionary()  # a parameter that is registered twice stays one

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            if parameter not in made:
                made[parameter] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            module._parameters[name] = made[parameter]

    setattr(nn.Module, "register_parameter", on_meta)  # noqa: B010 - an assignment is no method to mypy
    try:
        yield
    finally:
        setattr(nn.Module, "register_parameter", register)  # noqa: B010


def is_weightless(model: nn.Module) -> bool:
    """Whether a parameter or buffer of the state_dict is on the meta device.

    Raises:
        ExampleInputError: a buffer outside the state_dict is; nobody can fill it in.
    """
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    lost = [name for name, b in model.named_buffers() if b.device.type == "meta" and id(b) not in kept]
    if lost:
        raise ExampleInputError(
            f"{type(model).__name__}: {', '.join(lost[:6])} on the meta device lost their values, and no state_dict "
            "holds them; build the network with `with converters.without_weights():` in place of torch.device('meta')"
        )
    tensors = (*model.parameters(), *model.buffers())
    return any(tensor.device.type == "meta" for tensor in tensors)


def call(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operation, also where torch does not know the shape it gives stand-ins (experts in float32)."""
    if func is torch.ops.aten._grouped_mm.default and any(isinstance(arg, FakeTensor) for arg in args[:2]):
        x, weight = args[:2]
        if (x.dim(), weight.dim()) == (2, 3):
            return x.new_empty((x.shape[0], weight.shape[2]))
    return func(*args, **kwargs)


@contextmanager
def stand_ins(model: nn.Module, state: Mapping[str, Tensor], weights: bool) -> Iterator[dict[str, Tensor]]:
    """The state_dict with memory-free tensors in place of weights, and the network with them; put back afterwards.

    Args:
        model: a module; nothing of it changes.
        state: its state_dict, with ``keep_vars=True``.
        weights: replace real parameters too, not those on the meta device alone. Buffers that have values keep them.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    parameters = {id(parameter) for parameter in model.parameters()}
    made: dict[int, Tensor] = {}
    for tensor in state.values():
        absent = tensor.device.type == "meta"
        if id(tensor) not in made and (absent or (weights and id(tensor) in parameters)):
            with mode:
                made[id(tensor)] = torch.empty_strided(
                    tensor.shape,
                    tensor.stride(),
                    dtype=tensor.dtype,
                    device="cpu" if absent else tensor.device,
                    requires_grad=tensor.requires_grad,  # torch multiplies in another way where it is
                )
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for module in model.modules():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for name, old in list(table.items()):
                    if id(old) in made:
                        replaced.append((table, name, old))
                        table[name] = made[id(old)]
            if isinstance(module, nn.RNNBase):
                module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        yield {name: made.get(id(tensor), tensor) for name, tensor in state.items()}
    finally:
        for table, name, old in replaced:
            table[name] = old
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
