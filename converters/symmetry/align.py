"""Alignment of one network's neurons to another's: weight matching for any structure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from converters.structure import Axis, Parameter, Structure
from converters.symmetry.permutation import Permutation, permute
from converters.weights import checked_weights

__all__ = ["align", "aligned"]

Matrix = NDArray[np.float64]


def align(
    weights: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    structure: Structure,
    *,
    max_iterations: int = 100,
    seed: int = 0,
) -> Permutation:
    r"""The permutation that brings ``weights`` closest to ``reference`` (git re-basin, arXiv:2209.04836, Alg. 1).

    Maximises :math:`\sum_p \langle \theta^{\text{ref}}_p, (P\theta)_p \rangle` by coordinate ascent: group after group,
    all others held fixed, one linear assignment is solved exactly. Deviations from the paper: groups come from the
    traced structure, so residual connections, norms, flattened axes and grouped convolutions need no specification; all
    parameters and running statistics of a neuron take part; nested groups (heads, channel groups) are matched within
    and across their cells at once. A local optimum: the result depends on the order, which ``seed`` draws.

    Args:
        weights, reference: state_dicts of the structure.
        max_iterations: passes over all groups; it stops as soon as a pass changes nothing.

    Returns:
        A permutation for ``permute(weights, ...)``; a true symmetry, so the network's function does not change.
    """
    names = [p.name for p in structure.parameters if p.alias_of is None and p.dtype == structure.dtype]
    ours, theirs = (checked_weights(w, structure) for w in (weights, reference))
    ours = {name: ours[name].detach().double().cpu() for name in names}
    theirs = {name: theirs[name].detach().double().cpu() for name in names}
    roots = [g for g, group in enumerate(structure.groups) if group.role == "hidden" and group.parent is None]
    roots = [g for g in roots if structure.groups[g].size > 1 or _children(structure, g)]
    roots = [g for g in roots if not structure.groups[g].factors]
    generator = torch.Generator().manual_seed(seed)
    total = Permutation(structure, {})
    for _ in range(max_iterations):
        changed = False
        for i in torch.randperm(len(roots), generator=generator).tolist():
            family = _descendants(structure, roots[i])
            scores = {g: _similarity(structure, g, theirs, ours) for g in family}
            orders = _match(structure, roots[i], scores)
            moved = {g: order for g, order in orders.items() if not torch.equal(order, torch.arange(len(order)))}
            gain = sum(_gain(scores[g], orders[g]) for g in family)
            if moved and gain > 1e-9 * sum(abs(float(np.trace(scores[g]))) + 1e-12 for g in family):
                step = Permutation(structure, orders)
                ours, total, changed = permute(ours, step), total.then(step), True
        if not changed:
            break
    return total


def aligned(
    weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], structure: Structure, *, seed: int = 0
) -> dict[str, Tensor]:
    """A state_dict, or every network of a stack ``{name: [n, *shape]}``, aligned to ``reference``."""
    first = structure.parameters[0]
    if weights[first.name].dim() == len(first.shape):
        out: dict[str, Tensor] = permute(weights, align(weights, reference, structure, seed=seed))
        return out
    count = weights[first.name].shape[0]
    each = [{name: tensor[i] for name, tensor in weights.items()} for i in range(count)]
    moved = [permute(one, align(one, reference, structure, seed=seed)) for one in each]
    return {name: torch.stack([one[name] for one in moved]) for name in weights}


def _children(structure: Structure, g: int) -> list[int]:
    return [h for h, group in enumerate(structure.groups) if group.parent == g]


def _descendants(structure: Structure, g: int) -> list[int]:
    return [g, *(d for h in _children(structure, g) for d in _descendants(structure, h))]


def _gain(score: Matrix, order: Tensor) -> float:
    return float(score[np.arange(len(score)), order.numpy()].sum() - np.trace(score))


def _similarity(structure: Structure, g: int, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Matrix:
    """``[size, size]``: how well member j of ``weights`` would do in the place of member i of ``reference``."""
    size = structure.groups[g].size
    score = np.zeros((size, size))
    for parameter in structure.parameters:
        if parameter.name not in weights:
            continue
        for axis, number in [*zip(parameter.axes, range(len(parameter.axes)), strict=True), (parameter.grouped, -1)]:
            if axis is None:
                continue
            for h, member, other in _views(structure, g):
                if h in axis.groups:
                    a, b = (_rows(w[parameter.name], parameter, number) for w in (reference, weights))
                    score += _on_axis(axis, h, member, other, size, a, b)
    return score


def _views(structure: Structure, g: int) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Groups whose members move with those of ``g``: itself, and pairs, whose other parts count as slots."""
    own = np.arange(structure.groups[g].size)
    views = [(g, own, 0 * own)]
    for h, group in enumerate(structure.groups):
        if group.factors.count(g) != 1:
            continue  # a group paired with itself moves in both parts at once, which no linear assignment sees
        other = np.zeros(group.size, np.int64)
        for factor, column in zip(group.factors, group.table, strict=True):
            if factor != g:
                other = other * structure.groups[factor].size + column.values
        views.append((h, group.table[group.factors.index(g)].values, other))
    return views


def _rows(tensor: Tensor, parameter: Parameter, axis: int) -> Tensor:
    """The parameter with one of its axes first, the rest flattened; -1: the inputs of a grouped weight."""
    if axis >= 0:
        return tensor.movedim(axis, 0).flatten(1) if tensor.dim() > 1 else tensor[:, None]
    rows, width = parameter.shape[:2]
    cells = len(parameter.grouped or ()) // width
    return tensor.reshape(cells, rows // cells, width, -1).transpose(1, 2).reshape(cells * width, -1)


def _on_axis(
    axis: Axis,
    g: int,
    member_of: NDArray[np.int64],
    other: NDArray[np.int64],
    size: int,
    reference: Tensor,
    weights: Tensor,
) -> Matrix:
    here = np.flatnonzero(axis.group.values == g)
    pair = axis.member.values[here]
    member = member_of[pair]
    slot = axis.slot.values[here] * (int(other.max()) + 1) + other[pair]
    score = np.zeros((size, size))
    for s in np.unique(slot):
        at, who = here[slot == s], member[slot == s]
        score[np.ix_(who, who)] += (reference[at] @ weights[at].T).numpy()
    return score


def _match(structure: Structure, g: int, scores: Mapping[int, Matrix]) -> dict[int, Tensor]:
    """The best order of a root group and, within its cells, of all groups below it."""
    size = structure.groups[g].size
    members = np.arange(size)
    orders = {h: torch.arange(structure.groups[h].size) for h in scores}
    _, pairs = _assign(structure, g, members, members, scores)
    for h, i, j in pairs:
        orders[h][i] = j
    return orders


def _assign(
    structure: Structure, g: int, rows: NDArray[np.int64], columns: NDArray[np.int64], scores: Mapping[int, Matrix]
) -> tuple[float, list[tuple[int, int, int]]]:
    """Optimal assignment of members ``columns`` to places ``rows``; its value and (group, place, member) triples."""
    score = scores[g][np.ix_(rows, columns)].copy()
    below: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for child in _children(structure, g):
        width = structure.groups[child].size // structure.groups[child].cells
        inside = np.arange(width)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                value, pairs = _assign(structure, child, row * width + inside, column * width + inside, scores)
                score[i, j] += value
                below.setdefault((i, j), []).extend(pairs)
    left, right = linear_sum_assignment(score, maximize=True)
    chosen = [(g, int(rows[i]), int(columns[j])) for i, j in zip(left, right, strict=True)]
    for i, j in zip(left, right, strict=True):
        chosen += below.get((int(i), int(j)), [])
    return float(score[left, right].sum()), chosen
