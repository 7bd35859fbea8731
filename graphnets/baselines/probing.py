"""What running a network on inputs, and a glance at its weights, tells of it; nothing is learned here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from converters import ACTIVATIONS, Structure, StructureMismatch, execute, to_state_dict
from converters.layout import same_layout
from converters.to_state_dict import stacked_weights
from graphnets.layered import Networks, structures_of

__all__ = [
    "POINTS",
    "Group",
    "by_structure",
    "describe",
    "description_width",
    "input_and_classes",
    "interpolate",
    "read_scores",
    "scores_width",
]

POINTS = 4
"""Places between a network's first and last layer at which `describe` reads."""

TINY = 1e-6
READINGS = 4
FREQUENCY, STEP = 200.0, 77.7

Group = tuple[Structure, Tensor, Mapping[str, Tensor]]
"""A structure, the places ``[n]`` of its networks in the batch, and their stacked weights."""


def by_structure(batch: Networks) -> list[Group]:
    """The networks of a batch grouped by structure, each group's weights stacked."""
    everyone = structures_of(batch)
    places: dict[Structure, list[int]] = {}
    for place, structure in enumerate(everyone):
        places.setdefault(structure, []).append(place)
    first = everyone[0]
    groups: list[Group] = []
    if all(same_layout(first, structure) for structure in places):
        stack = stacked_weights(batch, first)
        if len(places) == 1:
            return [(first, torch.arange(len(everyone), device=batch.x.device), stack)]
        for structure, each in places.items():
            index = torch.tensor(each, device=batch.x.device)
            groups.append((structure, index, {name: value.index_select(0, index) for name, value in stack.items()}))
        return groups
    for structure, each in places.items():
        states = [to_state_dict(batch[place]) for place in each]
        stack = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        groups.append((structure, torch.tensor(each, device=batch.x.device), stack))
    return groups


@lru_cache(maxsize=256)
def input_and_classes(structure: Structure) -> tuple[tuple[int, ...], int]:
    """Shape of one input without its batch axis, and the number of classes.

    Raises:
        StructureMismatch: the network was not traced, does not take one batch of real-valued inputs of any size, or
            does not answer with one score per class.
    """
    cannot = f"{structure.name} cannot be probed: "
    program = structure.program
    if program is None:
        raise StructureMismatch(cannot + "its structure holds no program; trace the module itself")
    if len(program.inputs) != 1:
        raise StructureMismatch(cannot + f"it takes {len(program.inputs)} input tensors, probes are one")
    given = program.inputs[0]
    if not given.free or not given.free[0]:
        raise StructureMismatch(
            cannot + f"its {given.where} {list(given.shape)} has no batch axis of free size in front"
        )
    if not getattr(torch, given.dtype).is_floating_point:
        raise StructureMismatch(cannot + f"its {given.where} is of type {given.dtype}; learned probes are real numbers")
    weights = {p.name: torch.zeros(1, *p.shape, dtype=getattr(torch, p.dtype)) for p in structure.parameters}
    with torch.no_grad():
        scores = execute(
            weights, torch.zeros(2, *given.shape[1:], dtype=getattr(torch, given.dtype)), structure=structure
        )
    if not isinstance(scores, Tensor) or scores.dim() != 3 or scores.shape[-1] < 2:
        found = list(scores.shape[1:]) if isinstance(scores, Tensor) else type(scores).__name__
        raise StructureMismatch(
            cannot + f"for 2 inputs it gives {found} instead of [2, classes] with at least 2 classes"
        )
    return tuple(given.shape[1:]), int(scores.shape[-1])


def description_width() -> int:
    """Columns of `describe`."""
    return POINTS * (2 + len(ACTIVATIONS)) + 2


def scores_width(classes: int, temperatures: int) -> int:
    """Columns of `read_scores`."""
    return 2 * (temperatures * (1 + classes) + READINGS)


def describe(weights: Mapping[str, Tensor], structure: Structure) -> Tensor:
    """Log-spread of weights and biases, activations, depth, ``[B, columns]``, with the same columns for all structures.

    What is known per layer is interpolated at `POINTS` places, so that networks of any depth have as many columns.
    """
    own = [p for p in structure.parameters if not p.buffer and p.alias_of is None]
    columns = []
    for tensors in ([p.name for p in own if len(p.shape) > 1], [p.name for p in own if len(p.shape) == 1]):
        if tensors:
            squares = torch.stack([weights[name].flatten(1).square().mean(1) for name in tensors], 1)
            columns.append(interpolate((squares + TINY**2).log() / 2))
        else:
            columns.append(weights[own[0].name].new_zeros(len(weights[own[0].name]), POINTS))
    known = _weight_free(structure).to(columns[0])
    return torch.cat([*columns, known.expand(len(columns[0]), -1)], 1)


@lru_cache(maxsize=256)
def _weight_free(structure: Structure) -> Tensor:
    """Activations at `POINTS` places, number of layers and parameters, ``[columns]``."""
    names = [layer.activation for layer in structure.layers if layer.kind != "input"] or ["identity"]
    active = functional.one_hot(torch.tensor([ACTIVATIONS.index(name) for name in names]), len(ACTIVATIONS))
    sizes = torch.tensor([len(structure.layers), structure.num_parameters], dtype=torch.float64).log()
    return torch.cat([interpolate(active.double().unsqueeze(0))[0], sizes])


def interpolate(values: Tensor) -> Tensor:
    """``[B, layers, ...]`` at `POINTS` equally spaced places, first and last included, ``[B, POINTS * ...]``."""
    layers = values.shape[1]
    place = torch.linspace(0, layers - 1, POINTS, dtype=values.dtype, device=values.device)
    low = place.floor().long()
    high = (low + 1).clamp(max=layers - 1)
    share = (place - low).view(-1, *[1] * (values.dim() - 2))
    return (values[:, low] * (1 - share) + values[:, high] * share).flatten(1)


def read_scores(scores: Tensor, labels: Tensor, temperatures: Sequence[float]) -> Tensor:
    r"""How a network answers labelled probes: means and spreads over the probes.

    With :math:`p_T = \mathrm{softmax}(z / T)`, of every temperature the agreement :math:`\sum_k p_T \ell`, of every
    class and temperature :math:`p_T \ell`, and at temperature 1 entropy, cross-entropy, the logarithm of one plus the
    margin between the two best scores, and the log-spread of the scores.

    Shapes:
        - scores: ``[B, probes, classes]``; labels: distributions ``[probes, classes]``
        - result: ``[B, 2 (T + 4 + T classes)]``
    """
    each, by_class = [], []
    logs = scores.log_softmax(-1)
    soft = logs.exp()
    for temperature in temperatures:
        shares = (soft if temperature == 1 else (scores / temperature).softmax(-1)) * labels
        each.append(shares.sum(-1))
        by_class.append(shares)
    best = scores.topk(2, -1).values
    spread = (scores - scores.mean(-1, keepdim=True)).square().mean(-1)
    each += [-(soft * logs).sum(-1), -(logs * labels).sum(-1)]
    each += [(best[..., 0] - best[..., 1]).log1p(), (spread + TINY).log() / 2]
    values = torch.cat([torch.stack(each, -1), *by_class], -1)
    mean = values.mean(1)
    return torch.cat([mean, ((values - mean.unsqueeze(1)).square().mean(1) + TINY).sqrt()], 1)


def changed(
    weights: Mapping[str, Tensor], structure: Structure, function: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Weights with every trainable tensor changed once; tied ones stay tied, buffers stay as they are."""
    out = dict(weights)
    for parameter in structure.parameters:
        if parameter.alias_of is not None:
            out[parameter.name] = out[parameter.alias_of]
        elif not parameter.buffer:
            out[parameter.name] = function(out[parameter.name])
    return out


def shaken(value: Tensor, amount: float, number: int) -> Tensor:
    """Stacked weights ``[B, *shape]`` with noise, ``amount`` times the root mean square of each network's tensor.

    The noise is drawn by nobody: it is a fast wave of the weight's own value, so it is the same every time and follows
    its weight wherever a permutation moves it. ``number`` tells one such noise from another.
    """
    size = (value.flatten(1).square().mean(1) + TINY**2).sqrt().view(-1, *[1] * (value.dim() - 1))
    return value + amount * 2**0.5 * size * torch.sin((FREQUENCY + STEP * number) * value + number)
