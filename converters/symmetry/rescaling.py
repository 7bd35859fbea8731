"""The symmetries of activations (signs, the period of sines, scales of rectifiers), and weights without them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric.data import Batch

from converters.errors import StructureMismatch
from converters.neuron_graph import NeuronGraph, same_structure
from converters.structure import Layer, Structure
from converters.symmetry.permutation import with_weights
from converters.to_state_dict import stacked_weights

__all__ = ["RESCALINGS", "Rescaling", "canonicalize", "rescale", "sample_rescaling"]

RESCALINGS = ("sign", "reflection", "period", "scale")
"""Kinds of symmetries; see `canonicalize`."""

ODD, HOMOGENEOUS = ("tanh", "erf", "sin"), ("relu", "leaky_relu")
Factors = Mapping[int, Tensor]


@dataclass(frozen=True)
class _Step:
    """One layer of a chain: its parameters, its activation, and the sines' frequency."""

    layer: int
    weight: str
    bias: str | None
    activation: str
    frequency: float


def _chain(structure: Structure) -> list[_Step]:
    """The layers of a network that is a chain of linear maps and activations with such symmetries, the output last."""
    steps, faults = [], list[str]()
    for number, layer in enumerate(structure.layers[1:], 1):
        blocks = [block for block in structure.blocks if number in (block.target, block.source) and block.target > 0]
        into = [block for block in blocks if block.target == number]
        whole = len(into) == 1 and (into[0].source, into[0].pattern, into[0].groups) == (number - 1, "dense", 1)
        slots = dict(layer.slots)
        if layer.kind not in ("linear", "convolution") or not whole or into[0].index or into[0].span:
            faults.append(f"{layer.name} ({layer.kind}) does not follow the layer before it by one dense weight alone")
        elif set(slots) - {"bias"} or into[0].parameter is None:
            faults.append(f"{layer.name} has parameters besides a weight and a bias")
        elif number < len(structure.layers) - 1 and (fault := _activation_fault(structure, layer)):
            faults.append(f"{layer.name}: {fault}")
        else:
            frequency = dict(layer.attributes).get("activation_scale", 1.0)
            steps.append(_Step(number, into[0].parameter, slots.get("bias"), layer.activation, frequency))
    names = [name for step in steps for name in (step.weight, step.bias) if name is not None]
    if not faults and (len(set(names)) < len(names) or len(names) != len(structure.parameters)):
        faults.append("parameters are used twice, or not at all")
    if faults:
        known = ", ".join((*ODD, *HOMOGENEOUS))
        raise StructureMismatch(
            "\n  ".join([f"{structure.name} is no chain of linear layers with the activations {known}:", *faults])
        )
    return steps


def _activation_fault(structure: Structure, layer: Layer) -> str:
    group = layer.axis.sole_group
    if group is None or structure.groups[group].role != "hidden" or structure.groups[group].parent is not None:
        return "its neurons are not free"
    attributes = dict(layer.attributes)
    if layer.activation not in ODD + HOMOGENEOUS:
        return f"{layer.activation} is neither odd nor positively homogeneous"
    if attributes.get("activation_shift", 0.0) != 0.0:
        return f"the argument of {layer.activation} is shifted"
    return ""


@dataclass(frozen=True)
class Rescaling:
    r"""One symmetry of the activations: neuron :math:`a(z)` becomes :math:`a(i z + s)`, which is :math:`o\,a(z)`.

    The weights into the neuron and its bias are multiplied by :math:`i`, the shift :math:`s` is added to its bias, and
    the weights out of it are divided by :math:`o`.

    Args:
        structure: of the networks.
        into, shift, out: by hidden layer, ``[n]`` or, for every network its own, ``[B, n]``.

    Raises:
        StructureMismatch: the network is no chain of activations with symmetries, or these factors are none of them.
    """

    structure: Structure
    into: Factors
    shift: Factors
    out: Factors
    _steps: list[_Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_steps", _chain(self.structure))
        for step in self._steps[:-1]:
            fault = _fault(step, self.into[step.layer], self.shift[step.layer], self.out[step.layer])
            if fault:
                raise StructureMismatch(f"{self.structure.layers[step.layer].name}: {fault}")

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same functions with other weights, of stacks ``{name: [B, *shape]}``."""
        found = dict(weights)
        before: Tensor | None = None
        for step in self._steps:
            weight, bias = found[step.weight], None if step.bias is None else found[step.bias]
            if before is not None:
                weight = weight / _along(before, weight, 2)
            before = self.out.get(step.layer)
            if before is not None:
                into, shift = self.into[step.layer].to(weight), self.shift[step.layer].to(weight)
                weight = weight * _along(into, weight, 1)
                bias = None if bias is None else bias * into + shift
            found[step.weight] = weight
            if step.bias is not None and bias is not None:
                found[step.bias] = bias
        return found


def _along(factors: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Factors ``[n]`` or ``[B, n]`` in the shape that goes with axis ``axis`` of a stack of weights."""
    shape = [1] * weight.dim()
    shape[0], shape[axis] = (factors.shape[0] if factors.dim() == 2 else 1), factors.shape[-1]
    return factors.to(weight).reshape(shape)


def _entries(weight: Tensor) -> Tensor:
    """A stack of weights as ``[B, out, in, kernel entries]``."""
    return weight.reshape(*weight.shape[:3], -1)


def _fault(step: _Step, into: Tensor, shift: Tensor, out: Tensor) -> str:
    """Why a neuron that is changed so is not the same function times ``out``; empty if it is."""
    one = torch.ones_like(out)
    if step.bias is None and bool((shift != 0).any()):
        return "it has no bias that could be shifted"
    if step.activation in HOMOGENEOUS:
        if bool((into <= 0).any()) or not torch.allclose(into, out) or bool((shift != 0).any()):
            return f"{step.activation} is not odd: its arguments may be multiplied by positive numbers, and no more"
    elif step.activation == "sin":
        halves = shift * (step.frequency / math.pi)
        sign = 1 - 2 * (halves.round() % 2)
        if not (torch.allclose(into.abs(), one) and torch.allclose(halves, halves.round(), atol=1e-3)):
            return "a sine's argument may change its sign and be shifted by half periods, and no more"
        if not torch.allclose(out, into * sign):
            return "a sine changes its sign with its argument's and with every half period"
    elif not (torch.allclose(into.abs(), one) and torch.allclose(into, out)) or bool((shift != 0).any()):
        return f"the argument of {step.activation} may change its sign together with the output, and no more"
    return ""


def sample_rescaling(
    structure: Structure,
    generator: torch.Generator | None = None,
    kinds: Collection[str] = RESCALINGS,
    dtype: torch.dtype = torch.float64,
) -> Rescaling:
    """A random symmetry of the activations.

    Args:
        structure: a chain of linear layers with odd or positively homogeneous activations.
        generator: of the draws.
        kinds: those of `RESCALINGS` to draw.
        dtype: of the factors.

    Raises:
        StructureMismatch: the network is no such chain.
        ValueError: a kind is unknown.

    >>> from torch import nn
    >>> from converters import execute, trace
    >>> net, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 4)
    >>> structure = trace(net)
    >>> other = rescale(net.state_dict(), sample_rescaling(structure))
    >>> torch.allclose(execute(other, x, structure=structure), net(x), atol=1e-6)
    True
    """
    _check(kinds)
    into, shift, out = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
    for number, step in enumerate(_chain(structure)[:-1]):
        size = structure.layers[step.layer].size
        one, none = torch.ones(size, dtype=dtype), torch.zeros(size, dtype=dtype)
        factor, moved, flipped = one, none, one
        if step.activation in HOMOGENEOUS:
            if "scale" in kinds:
                factor = torch.randn(size, generator=generator, dtype=dtype).exp()
            flipped = factor
        elif "sign" in kinds:
            factor = flipped = 1 - 2 * torch.randint(2, (size,), generator=generator).to(dtype)
        if step.activation == "sin" and step.bias is not None:
            half = math.pi / step.frequency
            if "reflection" in kinds and number == 0:
                turned = torch.randint(2, (size,), generator=generator).to(dtype)
                factor, moved = factor * (1 - 2 * turned), moved + half * turned
            if "period" in kinds:
                moved = moved + 2 * half * torch.randint(-2, 3, (size,), generator=generator).to(dtype)
        into[step.layer], shift[step.layer], out[step.layer] = factor, moved, flipped
    return Rescaling(structure, into, shift, out)


def rescale(source: Any, rescaling: Rescaling) -> Any:
    """Apply a symmetry of the activations to a state_dict, stacked weights, a graph or a batch.

    Raises:
        StructureMismatch: the source is of another structure.
    """
    return _transformed(source, rescaling.structure, rescaling.apply)


def canonicalize(source: Any, structure: Structure | None = None, kinds: Collection[str] = RESCALINGS) -> Any:
    r"""The representative of all networks that differ by symmetries of their activations alone.

    The function is unchanged; networks that are copies of each other by the symmetries of ``kinds`` become equal; the
    result of permuted networks is permuted.

    - ``sign`` (:math:`a(-z) = -a(z)`: tanh, erf, sine): the weights out of every neuron have a positive sum, from the
      last hidden layer to the first.
    - ``reflection`` (:math:`\sin(\pi - z) = \sin z`): the first weight into every sine of the first hidden layer is
      positive. Deeper sines have the same symmetry, but their inputs change signs as well; they are left as they are.
    - ``period``: the biases of :math:`\sin(\omega_0 z)` lie within :math:`\pm\pi/\omega_0`.
    - ``scale`` (:math:`a(cz) = c\,a(z), c > 0`: ReLU, leaky ReLU): the weights into every neuron have norm 1, from the
      first hidden layer to the last.

    A kind that no activation of the network has changes nothing.

    Args:
        source: a state_dict, stacked weights ``{name: [B, *shape]}``, a graph or a batch of one structure.
        structure: of weights; graphs have their own.
        kinds: those of `RESCALINGS` to remove.

    Returns:
        A new object of the same kind.

    Raises:
        StructureMismatch: the network is no chain of linear layers (or convolutions) with activations that have such
            symmetries; every place is named.
        ValueError: a kind is unknown.

    >>> from torch import nn
    >>> from converters import trace
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    >>> structure, state = trace(net), net.state_dict()
    >>> flipped = {"0.weight": -1, "0.bias": -1, "2.weight": -1, "2.bias": 1}
    >>> other = {name: tensor * flipped[name] for name, tensor in state.items()}
    >>> one, two = canonicalize(state, structure), canonicalize(other, structure)
    >>> all(torch.equal(one[name], two[name]) for name in state)
    True
    """
    _check(kinds)
    if isinstance(source, (NeuronGraph, Batch)):
        structure = structure or same_structure(source)
    if structure is None:
        raise StructureMismatch("weights alone do not tell their activations; pass structure=trace(model)")
    known = structure
    return _transformed(source, known, lambda weights: _canonical(known, weights, kinds).apply(weights))


def _check(kinds: Collection[str]) -> None:
    unknown = [kind for kind in kinds if kind not in RESCALINGS]
    if unknown or isinstance(kinds, str):
        raise ValueError(f"kinds {kinds!r}: choose a list of {', '.join(RESCALINGS)}")


def _canonical(structure: Structure, weights: Mapping[str, Tensor], kinds: Collection[str]) -> Rescaling:
    steps = _chain(structure)
    into, shift, out = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
    for number, step in enumerate(steps[:-1]):
        weight = weights[step.weight]
        one = torch.ones(weight.shape[:2], dtype=weight.dtype, device=weight.device)
        into[step.layer], shift[step.layer], out[step.layer] = one, torch.zeros_like(one), one
        if step.activation in HOMOGENEOUS and "scale" in kinds:
            if number:
                weight = weight / _along(out[steps[number - 1].layer], weight, 2)
            norms = weight.flatten(2).norm(dim=2)
            into[step.layer] = out[step.layer] = torch.where(norms > 0, 1 / norms.clamp_min(1e-30), one)
    for step, following in reversed(list(itertools.pairwise(steps))):
        if step.activation in ODD and "sign" in kinds:
            weight = weights[following.weight]
            if following.layer in into:
                weight = weight * _along(into[following.layer], weight, 1)
            sums = _entries(weight).sum((1, 3))
            into[step.layer] = out[step.layer] = torch.where(sums < 0, -1.0, 1.0).to(sums)
    for number, step in enumerate(steps[:-1]):
        if step.activation != "sin" or step.bias is None:
            continue
        half = math.pi / step.frequency
        if "reflection" in kinds and number == 0:
            first = _entries(weights[step.weight])[:, :, 0].sum(2)
            turned = (first * into[step.layer] < 0).to(first)
            into[step.layer] = into[step.layer] * (1 - 2 * turned)
            shift[step.layer] = half * turned
        if "period" in kinds:
            bias = weights[step.bias] * into[step.layer] + shift[step.layer]
            shift[step.layer] = shift[step.layer] - 2 * half * (bias / (2 * half)).round()
    return Rescaling(structure, into, shift, out)


def _transformed(source: Any, structure: Structure, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Any:
    """A source with changed weights, as an object of the same kind."""
    changed = change(stacked_weights(source, structure))
    if isinstance(source, (NeuronGraph, Batch)):
        return with_weights(cast(NeuronGraph, source), structure, changed)
    single = source[structure.parameters[0].name].dim() == len(structure.parameters[0].shape)
    return {name: tensor[0] if single else tensor for name, tensor in changed.items()}
