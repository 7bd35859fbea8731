"""The symmetries of a coloured relation, as units: sets of interchangeable neurons, nested or in pairs.

Elements that move are vertices, their relations edges. Connected components that look alike may change places as
wholes: a unit, whose members are the components. An element that is the only one of its colour in its component moves
with it: a piece of the member. What is left falls apart into smaller components, and so on: units inside units (the
dimensions of attention heads). Where a component does not fall apart, elements that belong to two others at once (the
dimension of a key and one of the query heads that share it) are set aside, and move as pairs.

Nothing here has to be believed: :func:`broken` carries out every unit on the relations and names those that do not
keep them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from converters.trace.labels import Ids
from converters.trace.tables import Colours, mix

__all__ = ["Decomposition", "Relations", "Unit", "broken", "decompose"]

DRAWS = 12
Link = tuple[int, int]


@dataclass(frozen=True)
class Unit:
    """``size`` interchangeable members; in ``cells`` cells that move with the members of a ``parent`` unit.

    With ``factors`` the members are tuples of members of other units, ``table[m]``, and move with these.
    """

    size: int
    parent: int | None = None
    cells: int = 1
    factors: tuple[int, ...] = ()
    table: Any = None


@dataclass(frozen=True)
class Relations:
    """Who belongs to whom: ``child[i]`` is a piece of ``parent[i]``, at slot ``key[i]`` (-1: at none)."""

    child: Ids
    parent: Ids
    key: Ids

    def among(self, chosen: NDArray[np.bool_]) -> tuple[Ids, Ids]:
        """Children and parents where both are chosen."""
        here = chosen[self.child] & chosen[self.parent]
        return self.child[here], self.parent[here]


@dataclass
class Decomposition:
    """Per element its unit (-1: it stays), which member of it, and which piece of that member; ``lost``: unresolved."""

    unit: Ids
    member: Ids
    slot: Ids
    units: list[Unit] = field(default_factory=list)
    lost: Ids = field(default_factory=lambda: np.zeros(0, np.int64))


def decompose(colour: Ids, relations: Relations) -> Decomposition:
    """Units of elements ``0..n-1``, whose colours are small integers that refinement no longer splits."""
    n = len(colour)
    out = Decomposition(np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.full(n, -1, np.int64))
    active = np.bincount(colour)[colour] > 1 if n else np.zeros(0, bool)
    home, place = np.full(n, -1, np.int64), np.zeros(n, np.int64)  # the member that an element is inside of
    pairs: list[tuple[int, list[Link]]] = []
    ties = np.zeros((2, 0), np.int64)
    before = -1
    while active.any():
        vertices = np.flatnonzero(active)
        count, component = _components(vertices, n, relations.among(active), ties)
        settled = _level(out, colour, vertices, component, count, home, place)
        active[vertices[settled]] = False
        astray = vertices[settled & (out.unit[vertices] < 0)]
        if len(astray):
            out.lost = astray
            return out
        if settled.any() or count != before:
            before = count if not settled.any() else -1
            continue
        aside = _aside(active, relations)
        if not len(aside):
            out.lost = _smallest(colour, vertices, component)
            return out
        above = _parents(aside, active, relations)
        pairs += [(int(v), above[int(v)]) for v in aside]
        active[aside] = False
        ties = np.concatenate([ties, _ties(above, active, colour)], axis=1)
        before = -1
    _place_pairs(out, colour, pairs)
    return out


def _components(vertices: Ids, n: int, edges: tuple[Ids, Ids], ties: Ids) -> tuple[int, Ids]:
    index = np.full(n, -1, np.int64)
    index[vertices] = np.arange(len(vertices))
    ends = index[np.concatenate([np.stack(edges), ties], axis=1)]
    ends = ends[:, (ends >= 0).all(0)]
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(len(vertices), len(vertices)))
    count, component = connected_components(graph, directed=False)
    return int(count), component.astype(np.int64)


def _ties(above: Mapping[int, list[Link]], active: NDArray[np.bool_], colour: Ids) -> Ids:
    """Parents that meet a single one of another colour in their children set aside: the two move together."""
    met = {
        (p, q)
        for links in above.values()
        for p, _ in links
        for q, _ in links
        if colour[p] != colour[q] and active[p] and active[q]
    }
    if not met:
        return np.zeros((2, 0), np.int64)
    table = np.array(sorted(met), dtype=np.int64)
    _, inverse, counts = np.unique(
        np.stack([table[:, 0], colour[table[:, 1]]], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    ties: Ids = table[counts[inverse] == 1].T
    return ties


def _level(
    out: Decomposition, colour: Ids, vertices: Ids, component: Ids, count: int, home: Ids, place: Ids
) -> NDArray[np.bool_]:
    """Turn components that look alike into members of units; True where an element got its place."""
    first = np.full(count, len(home), np.int64)
    np.minimum.at(first, component, vertices)
    look = np.zeros(count, np.uint64)
    np.add.at(look, component, mix(colour[vertices]))
    inside, cell = home[first], place[first]
    order = np.lexsort((first, cell, look, inside))
    kind = np.flatnonzero(np.append(True, (np.diff(inside[order]) != 0) | (np.diff(look[order]) != 0)))
    unit, member = inside.copy(), cell.copy()
    for start, stop in zip(kind, np.append(kind[1:], count), strict=True):
        alike = order[start:stop]
        outer = int(inside[alike[0]])
        cells = np.unique(cell[alike], return_counts=True)[1]
        expected = out.units[outer].size if outer >= 0 else 1
        if len(cells) != expected or (cells != cells[0]).any():
            unit[alike] = -2  # cells that look alike and fall apart differently
        elif cells[0] > 1:
            unit[alike], member[alike] = len(out.units), np.arange(len(alike))
            out.units.append(Unit(len(alike), outer if outer >= 0 else None, expected))
    keys = component * (int(colour.max()) + 1) + colour[vertices]
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    alone = counts[inverse] == 1
    doubtful = unit[component] == -2
    home[vertices], place[vertices] = np.maximum(unit[component], -1), member[component]
    done: NDArray[np.bool_] = alone | doubtful
    placed = alone & ~doubtful & (unit[component] >= 0)
    at = vertices[placed]
    out.unit[at], out.member[at], out.slot[at] = unit[component[placed]], member[component[placed]], colour[at]
    return done


def _aside(active: NDArray[np.bool_], relations: Relations) -> Ids:
    """Elements with two parents or more, and all that belong to them."""
    child, parent = relations.among(active)
    table = np.unique(np.stack([child, parent], axis=1), axis=0)
    children, counts = np.unique(table[:, 0], return_counts=True)
    chosen = np.zeros(len(active), bool)
    chosen[children[counts > 1]] = True
    while True:
        more = child[chosen[parent] & ~chosen[child]]
        if not len(more):
            aside: Ids = np.flatnonzero(chosen)
            return aside
        chosen[more] = True


def _parents(aside: Ids, active: NDArray[np.bool_], relations: Relations) -> dict[int, list[Link]]:
    """Per element its parents, each with how it belongs to it."""
    here = active[relations.child] & active[relations.parent] & np.isin(relations.child, aside)
    above: dict[int, list[Link]] = {int(v): [] for v in aside}
    columns = (relations.child[here], relations.parent[here], relations.key[here])
    for c, p, k in zip(*(column.tolist() for column in columns), strict=True):
        above[c].append((p, k))
    return above


def _smallest(colour: Ids, vertices: Ids, component: Ids) -> Ids:
    """The smallest set of one colour within a component that does not fall apart."""
    keys = component * (int(colour.max()) + 1) + colour[vertices]
    found, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    within = found // (int(colour.max()) + 1)
    sizes = np.bincount(component)
    stuck = np.flatnonzero(sizes[within] > 1)
    least = stuck[np.argmin(counts[stuck])]
    chosen: Ids = vertices[inverse == least]
    return chosen


def _place_pairs(out: Decomposition, colour: Ids, pairs: list[tuple[int, list[Link]]]) -> None:
    """Elements with several parents are addressed by these; where two share an address, the parents are lost."""
    found: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    waiting = pairs
    while waiting:
        rest = []
        for element, above in waiting:
            if any(out.unit[p] < 0 for p, _ in above):
                rest.append((element, above))
                continue
            address = _factors(out, above)
            if len(address) == 1:
                out.unit[element], out.member[element] = address[0]
                out.slot[element] = colour[element]
            else:
                key = tuple(u for u, _ in address)
                found.setdefault(key, {}).setdefault(tuple(m for _, m in address), []).append(element)
        for factors, members in found.items():
            ordered = sorted(members)
            for m, key in enumerate(ordered):
                for element in members[key]:
                    out.unit[element], out.member[element] = len(out.units), m
                    out.slot[element] = colour[element]
            out.units.append(Unit(len(ordered), None, 1, factors, np.array(ordered, dtype=np.int64)))
        found.clear()
        if len(rest) == len(waiting):
            out.lost = np.array([element for element, _ in rest], dtype=np.int64)
            return
        waiting = rest
    at = np.flatnonzero(out.unit >= 0)
    order = at[np.lexsort((out.slot[at], out.member[at], out.unit[at]))]
    places = np.stack([out.unit[order], out.member[order], out.slot[order]])
    same = (places[:, 1:] == places[:, :-1]).all(0)
    twice = {*order[1:][same].tolist(), *order[:-1][same].tolist()}
    holders = {parent for element, above in pairs if element in twice for parent, _ in above}
    out.lost = np.array(sorted(holders or twice), dtype=np.int64)


def _factors(out: Decomposition, above: list[Link]) -> list[tuple[int, int]]:
    """Unit and member of every parent, by how it is one; those that another one lies inside of say nothing more."""
    address = sorted((int(out.unit[p]), -key, int(out.member[p])) for p, key in above)
    flat = list(dict.fromkeys((u, m) for u, _, m in address))
    inner = [pair for pair in flat if not any(pair != other and pair in _above(out, *other) for other in flat)]
    return inner


def _above(out: Decomposition, unit: int, member: int) -> Iterator[tuple[int, int]]:
    spec = out.units[unit]
    if spec.factors:
        for factor, m in zip(spec.factors, spec.table[member].tolist(), strict=True):
            yield factor, m
            yield from _above(out, factor, m)
    elif spec.parent is not None:
        cell = member // (spec.size // spec.cells)
        yield spec.parent, cell
        yield from _above(out, spec.parent, cell)


def broken(found: Decomposition, relations: Relations, seed: int = 0) -> list[int]:
    """The units whose movement does not keep the relations.

    Each draw moves a random half of the units, so that two which may only move together show.
    """
    generator = np.random.default_rng(seed)
    free = [u for u, unit in enumerate(found.units) if not unit.factors]
    if not free:
        return []
    trial = _Trial(found, relations)
    for _ in range(DRAWS):
        chosen = [u for u in free if generator.random() < 0.5]
        if not trial.keeps(chosen, generator):
            return [u for u in free if not trial.keeps([u], generator)] or free
    return []


class _Trial:
    """Carries out movements of units on the relations; what does not move is not looked at again."""

    def __init__(self, found: Decomposition, relations: Relations) -> None:
        self.units, self.relations = found.units, relations
        self.starts = np.cumsum([0, *(unit.size for unit in found.units)])
        at = np.flatnonzero(found.unit >= 0)
        seats = self.starts[found.unit[at]] + found.member[at]  # members counted over all units
        keys = found.slot[at] * self.starts[-1] + seats
        order = np.argsort(keys)
        self.at, self.seats, self.keys = at[order], seats[order], keys[order]
        self.hashes = mix(np.arange(len(found.unit)))
        self.kinds = mix(relations.key)
        self.before = self._hashed(relations.child, relations.parent, self.kinds)

    def keeps(self, moving: list[int], generator: np.random.Generator) -> bool:
        """Whether a random movement of these units maps the set of relations onto itself."""
        orders = _orders(self.units, set(moving), generator)
        if orders is None:
            return False
        seats = np.concatenate([order + start for order, start in zip(orders, self.starts, strict=False)])
        shift = seats[self.seats] - self.seats
        here = np.flatnonzero(shift)
        wanted = self.keys[here] + shift[here]
        there = np.clip(here + shift[here], 0, len(self.keys) - 1)  # right where every member has this piece
        astray = self.keys[there] != wanted
        if astray.any():
            there[astray] = np.minimum(np.searchsorted(self.keys, wanted[astray]), len(self.keys) - 1)
            if (self.keys[there] != wanted).any():
                return False
        image = np.arange(len(self.hashes))
        image[self.at[here]] = self.at[there]
        child, parent = image[self.relations.child], image[self.relations.parent]
        other = (child != self.relations.child) | (parent != self.relations.parent)
        after = self._hashed(child[other], parent[other], self.kinds[other])
        return int(after.sum(dtype=np.uint64)) == int(self.before[other].sum(dtype=np.uint64))

    def _hashed(self, child: Ids, parent: Ids, kinds: Colours) -> Colours:
        ends = self.hashes[child] * np.uint64(3) + self.hashes[parent] * np.uint64(5)
        return mix((ends + kinds).view(np.int64))


def _orders(units: list[Unit], moving: set[int], generator: np.random.Generator) -> list[Ids] | None:
    """A random image of every member; None where pairs have no image."""
    orders: list[Ids] = []
    for number, unit in enumerate(units):
        if unit.factors:
            image = np.stack([orders[f][unit.table[:, i]] for i, f in enumerate(unit.factors)], axis=1)
            found = _rows([units[f].size for f in unit.factors], unit.table, image)
            if found is None:
                return None
            orders.append(found)
            continue
        width = unit.size // unit.cells
        inner = np.tile(np.arange(width), (unit.cells, 1))
        if number in moving:
            inner = generator.permuted(inner, axis=1)
            same = (inner == np.arange(width)).all(1)
            inner[same] = np.roll(inner[same], 1, axis=1)
        outer = np.arange(unit.cells) if unit.parent is None else orders[unit.parent]
        orders.append((outer[:, None] * width + inner).ravel().astype(np.int64))
    return orders


def _rows(sizes: list[int], table: Ids, wanted: Ids) -> Ids | None:
    """Where each row of ``wanted`` is in ``table``, whose rows are sorted; None where one is not or is not told."""
    if math.prod(sizes) >= 2**62:
        return None
    radix = np.cumprod([1, *sizes[:0:-1]])[::-1]
    keys, codes = table @ radix, wanted @ radix
    found = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    return found.astype(np.int64) if np.array_equal(keys[found], codes) else None
