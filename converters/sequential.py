"""Guesses the structure of a bare state_dict: a chain of linear, convolution and norm layers, nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.errors import StructureMismatch
from converters.structure import Structure
from converters.trace import trace

__all__ = ["guess_structure"]

CONVOLUTIONS: Mapping[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
BATCH_NORMS: Mapping[int, type[nn.Module]] = {
    0: nn.BatchNorm1d,
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
POOLS: Mapping[int, type[nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}

BRANCHES = ("downsample", "shortcut", "skip", "residual", "attn", "attention", "embed", "gate", "transformer")
"""Names that say the network is more than a chain."""

MAX_SEARCH = 10_000
REMEDY = (
    "Pass structure=trace(model, example_inputs), or pass the module itself to to_graph, "
    "or name what makes it with architecture=."
)


def guess_structure(weights: Mapping[str, Tensor]) -> Structure:
    """The structure of a plain MLP or CNN, from the names and shapes of its state_dict alone.

    Modules are taken in the state_dict's order, or where that was sorted away (as safetensors do), in the order of the
    numbers in their names. Recognised are Linear, Conv1d-3d (depthwise too), BatchNorm, LayerNorm after Linear, and
    convolution -> pooling or flatten -> Linear. What names and shapes do not tell is chosen and hence not to be relied
    on: ReLU as activation, stride 1, padding that keeps the size, a global average pool where a Linear takes one number
    per channel, an input just large enough. The groups do not depend on these choices.

    Returns:
        a structure with ``certified=False``.

    Raises:
        StructureMismatch: the tensors form no chain, or more than one; what could not be placed is listed.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> guess = guess_structure(net.state_dict())
    >>> guess.groups == trace(net).groups, guess.certified
    (True, False)
    """
    modules = _modules(weights)
    guess = trace(*_network(weights, _ordered(modules, weights)))
    return dataclasses.replace(guess, name="Sequential", certified=False)


# -- modules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Module:
    """The tensors under one prefix, and what layer they are."""

    name: str
    kind: str
    shape: tuple[int, ...]
    slots: tuple[str, ...]

    def takes(self, size: int | None, spatial: int | None) -> bool:
        """Whether it can follow ``size`` channels (None: it is the first) on ``spatial`` axes (None: any)."""
        if size is None:
            return True
        if self.kind == "linear":
            return self.shape[1] % size == 0 if spatial else self.shape[1] == size
        if self.kind == "convolution":
            depthwise = self.shape[1] == 1 and self.shape[0] % size == 0
            return spatial in (None, len(self.shape) - 2) and (self.shape[1] == size or depthwise)
        return self.shape[0] == size and not (self.kind == "layer_norm" and spatial)

    def gives(self, spatial: int | None) -> tuple[int, int | None]:
        """Channels and spatial axes after it."""
        if self.kind == "convolution":
            return self.shape[0], len(self.shape) - 2
        return self.shape[0], spatial if self.kind == "batch_norm" else 0

    @property
    def tokens(self) -> tuple[tuple[str, int], ...]:
        """The name cut before its numbers: ``features.10`` is ``(("features.", 10), ("", -1))``."""
        parts = re.split(r"(\d+)", self.name)
        return tuple((text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True))

    def before(self, other: _Module) -> bool:
        """Whether the first number in which the two names differ is smaller here."""
        pairs = itertools.dropwhile(lambda pair: pair[0] == pair[1], zip(self.tokens, other.tokens, strict=False))
        mine, its = next(pairs, (("", 0), ("", 0)))
        return mine[0] == its[0] and 0 <= mine[1] < its[1]

    def __str__(self) -> str:
        return f"{self.name or 'the network'} ({self.kind} {list(self.shape)})"


def _modules(weights: Mapping[str, Tensor]) -> list[_Module]:
    """Every prefix as a layer, in the order of the state_dict."""
    slots: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        prefix, _, slot = name.rpartition(".")
        slots.setdefault(prefix, {})[slot] = tensor
    modules, faults = [], []
    for prefix, tensors in slots.items():
        kind, why = _kind(tensors)
        shape = tuple(tensors["weight" if "weight" in tensors else "running_mean"].shape) if kind else ()
        modules.append(_Module(prefix, kind, shape, tuple(tensors)))
        if not kind:
            shapes = ", ".join(f"{slot} {list(tensor.shape)}" for slot, tensor in tensors.items())
            faults.append(f"{prefix or 'the network'}: {shapes} {why}")
    faults += [
        f"{module.name}: its name says that the network is more than a chain"
        for module in modules
        if any(word in module.name.lower() for word in BRANCHES)
    ]
    faults += _blocks(modules) + _nested(modules) + _shared(weights)
    if not modules:
        raise StructureMismatch(f"an empty state_dict has no structure. {REMEDY}")
    if faults:
        raise _refusal(faults)
    return modules


def _kind(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """The kind of layer that has these tensors, or why there is none."""
    slots, shapes = set(tensors), {slot: tuple(tensor.shape) for slot, tensor in tensors.items()}
    if not all(tensor.is_floating_point() for slot, tensor in tensors.items() if slot != "num_batches_tracked"):
        return "", "is not of floating-point numbers"
    if {"running_mean", "running_var"} <= slots <= STATISTICS | {"weight", "bias"}:
        vectors = {shapes[slot] for slot in slots - {"num_batches_tracked"}}
        if len(vectors) == 1 and len(next(iter(vectors))) == 1:
            return "batch_norm", ""
    if "weight" in slots and slots <= {"weight", "bias"}:
        rank = len(shapes["weight"])
        if shapes.get("bias", shapes["weight"][:1]) == shapes["weight"][:1]:
            if rank == 2:
                return "linear", ""
            if rank in CONVOLUTIONS:
                return "convolution", ""
            if rank == 1 and "bias" in slots:
                return "layer_norm", ""
    return "", "is no Linear, convolution, BatchNorm or LayerNorm"


def _blocks(modules: Sequence[_Module]) -> list[str]:
    """Numbered blocks with several named weight layers: a class of their own, which may hold skip connections."""
    inside: dict[str, list[str]] = {}
    for module in modules:
        block = re.match(r"(.*\.)?[^.]*\d\.(?=[^.]*[A-Za-z])", module.name)
        if block and module.kind in ("linear", "convolution"):
            inside.setdefault(block[0].rstrip("."), []).append(module.name)
    return [
        f"{block}: holds {', '.join(names)}, a block that may have skip connections, which names do not show"
        for block, names in inside.items()
        if len(names) > 1
    ]


def _nested(modules: Sequence[_Module]) -> list[str]:
    """Modules that own tensors and hold other modules: no plain chain has them."""
    return [
        f"{', '.join(f'{outer.name}.{slot}'.lstrip('.') for slot in outer.slots)}: beside the layer {inner.name}"
        for outer in modules
        for inner in modules
        if inner is not outer and inner.name.startswith(f"{outer.name}." if outer.name else "")
    ]


def _shared(weights: Mapping[str, Tensor]) -> list[str]:
    """Tensors that are one: layers that share weights are permuted together, which a chain does not know."""
    faults: list[str] = []
    first: dict[object, str] = {}
    for name, tensor in weights.items():
        if not tensor.numel() or tensor.device.type == "meta":
            continue
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if place in first:
            faults.append(f"{name}: shares its memory with {first[place]}")
        first.setdefault(place, name)
    return faults


def _refusal(faults: Sequence[str]) -> StructureMismatch:
    listed, noun = "\n  ".join(faults), "fault" if len(faults) == 1 else "faults"
    return StructureMismatch(
        f"this state_dict is not that of a plain sequential MLP or CNN ({len(faults)} {noun}):\n  {listed}\n{REMEDY}"
    )


# -- order -------------------------------------------------------------------------------------------------------------


def _ordered(modules: list[_Module], weights: Mapping[str, Tensor]) -> list[_Module]:
    """The modules in the order in which they follow each other."""
    names = list(weights)
    numbered = not any(later.before(earlier) for earlier, later in itertools.combinations(modules, 2))
    faults = _breaks(modules)
    if numbered and names != sorted(names) and not faults:
        return modules
    found = _orders(modules)
    if len(found) == 1:
        return found[0]
    if found:
        first, second = (" -> ".join(module.name for module in order) for order in found)
        raise _refusal([f"the names are not in the order of the layers, and several orders fit: {first}; or {second}"])
    convolutions_first = sorted(modules, key=lambda module: (module.kind == "linear", module.tokens))
    raise _refusal(
        faults if numbered and faults else _breaks(convolutions_first) or ["the layers have no order that fits"]
    )


def _breaks(modules: Sequence[_Module]) -> list[str]:
    """Every place where a module does not take what the one before gives."""
    faults: list[str] = []
    size: int | None = None
    spatial: int | None = None
    before = ""
    for module in modules:
        if not module.takes(size, spatial):
            names = ", ".join(f"{module.name}.{slot}" if module.name else slot for slot in module.slots)
            faults.append(f"{names}: {module} does not take the {size} values per position that {before} gives")
        size, spatial = module.gives(spatial)
        before = module.name
    return faults


def _orders(modules: Sequence[_Module]) -> list[list[_Module]]:
    """Up to two orders that chain and agree with the numbers in the names."""
    after = [{i for i, other in enumerate(modules) if other.before(module)} for module in modules]
    found: list[list[_Module]] = []
    stack: list[tuple[list[int], int | None, int | None]] = [([], None, None)]
    steps = 0
    while stack and len(found) < 2 and steps < MAX_SEARCH:
        steps += 1
        order, size, spatial = stack.pop()
        if len(order) == len(modules):
            found.append([modules[i] for i in order])
        placed = set(order)
        for i, module in enumerate(modules):
            if i not in placed and after[i] <= placed and module.takes(size, spatial):
                stack.append(([*order, i], *module.gives(spatial)))
    return found if steps < MAX_SEARCH or len(found) > 1 else []


# -- the network -------------------------------------------------------------------------------------------------------


class _Steps(nn.Module):
    """Runs modules in order. The list is a plain one, so that it adds no names to those of the layers."""

    def __init__(self) -> None:
        super().__init__()
        self._in_order: list[nn.Module] = []

    def add(self, step: nn.Module, name: str | None = None) -> None:
        """Append a step; with a name (``features.0``) it is registered under it."""
        self._in_order.append(step)
        if name is not None:
            owner: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.add_module(leaf, step)

    def forward(self, x: Tensor) -> Tensor:
        """All steps, one after the other."""
        for step in self._in_order:
            x = step(x)
        return x


def _network(weights: Mapping[str, Tensor], modules: Sequence[_Module]) -> tuple[nn.Module, Tensor]:
    """A network with these weights, shared and not copied, in this order; and an input for it."""
    rank = next((len(module.shape) - 2 for module in modules if module.kind == "convolution"), 0)
    positions = (4,) * rank
    steps, size, spatial, active = _Steps(), 0, rank, False
    for module in modules:
        matrix = module.kind in ("linear", "convolution")
        if matrix and active:
            steps.add(nn.ReLU())
        if module.kind == "linear" and spatial:
            count, spatial = module.shape[1] // size, 0
            if count == 1:
                steps.add(POOLS[rank](1))
            else:
                positions = _factors(count, rank)
            steps.add(nn.Flatten())
        layer = _layer(module, size, spatial)
        _assign(layer, {slot: weights[f"{module.name}.{slot}".lstrip(".")] for slot in module.slots})
        steps.add(layer, module.name or None)
        size, active = module.shape[0], active or matrix
    first, like = modules[0], next(t for t in weights.values() if t.is_floating_point())
    channels = first.shape[1] if first.kind in ("linear", "convolution") else first.shape[0]
    example = torch.zeros(2, channels, *positions, dtype=like.dtype, device=like.device)
    return (steps if first.name else layer), example


def _layer(module: _Module, size: int, spatial: int) -> nn.Module:
    """The layer without its tensors; ``size`` channels come in (0: it is the first)."""
    if module.kind == "linear":
        return nn.Linear(module.shape[1], module.shape[0], device="meta")
    if module.kind == "convolution":
        groups = 1 if module.shape[1] == size or not size else size
        kind, channels = CONVOLUTIONS[len(module.shape)], module.shape[1] * groups
        return kind(channels, module.shape[0], module.shape[2:], padding="same", groups=groups, device="meta")
    if module.kind == "layer_norm":
        return nn.LayerNorm(module.shape[0], device="meta")
    return BATCH_NORMS[spatial](module.shape[0], device="meta")


def _assign(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a layer exactly these tensors."""
    for slot in list(layer._parameters):
        tensor = tensors.get(slot)
        shared = None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)
        layer.register_parameter(slot, shared)
    for slot in list(layer._buffers):
        layer.register_buffer(slot, tensors.get(slot))


def _factors(count: int, rank: int) -> tuple[int, ...]:
    """``rank`` numbers, as equal as can be, whose product is ``count``.

    >>> _factors(49, 2), _factors(12, 2), _factors(7, 1), _factors(12, 3)
    ((7, 7), (3, 4), (7,), (2, 2, 3))
    """
    if rank == 1:
        return (count,)
    side = max(d for d in range(1, round(count ** (1 / rank)) + 1) if count % d == 0)
    return (side, *_factors(count // side, rank - 1))
