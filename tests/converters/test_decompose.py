"""The decomposition into units, on relations written down by hand, against all permutations tried one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from converters.trace.decompose import Decomposition, Relations, Unit, broken, decompose
from converters.trace.pieces import without_pieces


def relations(pairs: list[tuple[int, int]], keys: list[int] | None = None) -> Relations:
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    slots = np.array(keys if keys is not None else [-1] * len(pairs), dtype=np.int64)
    return Relations(table[:, 0], table[:, 1], slots)


def order_of_group(colour: list[int], edges: Relations) -> int:
    """How many permutations keep colours and relations."""
    known = set(zip(edges.child.tolist(), edges.parent.tolist(), edges.key.tolist(), strict=True))
    classes = [[i for i, other in enumerate(colour) if other == c] for c in sorted(set(colour))]
    count = 0
    for images in itertools.product(*(itertools.permutations(members) for members in classes)):
        image = {
            a: b for members, moved in zip(classes, images, strict=True) for a, b in zip(members, moved, strict=True)
        }
        count += {(image[c], image[p], k) for c, p, k in known} == known
    return count


def order_found(found: Decomposition) -> int:
    count = 1
    for unit in found.units:
        if not unit.factors:
            count *= math.factorial(unit.size // unit.cells) ** unit.cells
    return count


CASES = {
    "free": ([0] * 4, relations([])),
    "wreath": ([0, 0, 1, 1, 1, 1, 1, 1], relations([(2, 0), (3, 0), (4, 0), (5, 1), (6, 1), (7, 1)])),
    "pieces": ([0, 0, 0, 1, 1, 1, 2, 2, 2], relations([(3 + i, i % 3) for i in range(6)], [0] * 3 + [1] * 3)),
    # two rows and three columns, and an element for each pair: a product
    "product": ([0, 0, 1, 1, 1] + [2] * 3, relations([(5, 0), (5, 2), (6, 0), (6, 3), (7, 1), (7, 4)])),
    "grid": (
        [0, 0, 1, 1, *[2] * 4],
        relations([(4 + 2 * i + j, p) for i in range(2) for j in range(2) for p in (i, 2 + j)]),
    ),
    # rows known by two elements each (a mean and a product over the same row): they move together
    "rows_twice": (
        [0, 0, 1, 1, 1, 2, 2, *[3] * 6],
        relations([(7 + 3 * i + j, p) for i in range(2) for j in range(3) for p in (i, 2 + j, 5 + i)]),
    ),
    "two_components": ([0, 0, 1, 1], relations([(2, 0), (3, 1)])),
}


def grid_of_pieces(heads: int, dimensions: int, places: int) -> tuple[list[int], Relations]:
    """Dimensions of heads; each has a piece at every place, which belongs to what all heads have in that dimension."""
    size = heads * dimensions
    pairs, keys = [], []
    for h in range(heads):
        for j in range(dimensions):
            whole = heads + dimensions + h * dimensions + j
            pairs.append((whole, h))
            keys.append(-1)
            for place in range(places):
                piece = heads + dimensions + size + (h * dimensions + j) * places + place
                pairs += [(piece, whole), (piece, heads + j)]
                keys += [place, -2]
    colour = [0] * heads + [1] * dimensions + [2] * size + [3 + place for _ in range(size) for place in range(places)]
    return colour, relations(pairs, keys)


@pytest.mark.parametrize(("heads", "dimensions", "places"), [(2, 2, 1), (2, 2, 2), (2, 3, 1), (3, 4, 3)])
def test_pieces_move_with_what_they_are_pieces_of(heads: int, dimensions: int, places: int) -> None:
    colour, edges = grid_of_pieces(heads, dimensions, places)
    found = without_pieces(np.array(colour), edges)
    assert not len(found.lost)
    assert broken(found, edges) == []
    assert order_found(found) == math.factorial(heads) * math.factorial(dimensions)
    if heads * dimensions < 6:  # few enough to try all
        assert order_of_group(colour, edges) == order_found(found)
    direct = decompose(np.array(colour), edges)
    assert len(direct.lost) or broken(direct, edges), "there would be no need"


def test_pieces_that_tell_elements_apart_are_refused() -> None:
    """A piece at another place for one of the heads: no heads change places, and the claim that they do is named."""
    colour, edges = grid_of_pieces(2, 2, 2)
    keys = edges.key.copy()
    first = np.flatnonzero(keys == 0)[:1]
    keys[first] = 7
    found = without_pieces(np.array(colour), Relations(edges.child, edges.parent, keys))
    assert len(found.lost) or broken(found, Relations(edges.child, edges.parent, keys))


@pytest.mark.parametrize("name", ["free", "wreath", "pieces", "grid", "two_components", "rows_twice"])
def test_whole_group_is_found(name: str) -> None:
    colour, edges = CASES[name]
    found = decompose(np.array(colour), edges)
    assert not len(found.lost)
    assert broken(found, edges) == []
    assert order_found(found) == order_of_group(colour, edges)


def test_every_element_has_an_address_of_its_own() -> None:
    for colour, edges in CASES.values():
        found = decompose(np.array(colour), edges)
        placed = np.flatnonzero(found.unit >= 0)
        address = {(int(found.unit[i]), int(found.member[i]), int(found.slot[i])) for i in placed}
        assert len(address) == len(placed) or len(found.lost)


def test_a_false_unit_is_named() -> None:
    """Two pairs of elements tied to each other may only move together; moving one pair alone is refused."""
    edges = relations([(2, 0), (3, 1)])
    false = Decomposition(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.zeros(4, np.int64), [Unit(2), Unit(2)])
    assert broken(false, edges) == [0, 1]
    true = Decomposition(np.zeros(4, np.int64), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), [Unit(2)])
    assert broken(true, edges) == []


def test_pairs_that_are_not_all_there_are_not_believed() -> None:
    """Three of the four pairs of two rows and two columns: rows and columns cannot move freely."""
    colour = np.array([0, 0, 1, 1, 2, 2, 2])
    edges = relations([(4, 0), (4, 2), (5, 0), (5, 3), (6, 1), (6, 2)])
    found = decompose(colour, edges)
    assert len(found.lost) or broken(found, edges)
