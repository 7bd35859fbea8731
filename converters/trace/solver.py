"""Elements, the four constraints on them, and the largest symmetry that keeps all constraints.

An element is one neuron wherever it occurs. Constraints: ``union`` (two are the same neuron), ``relate`` (an element
belongs to a parent, at a known slot or at none), ``label`` (told apart, for a reason), ``mark`` (a set that is kept).
They are solved by union-find, congruence closure, colour refinement and a decomposition into units, which are carried
out on the constraints before they are believed. Elements of those that fail are frozen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from converters.trace.decompose import Decomposition, Relations, Unit
from converters.trace.labels import Ids
from converters.trace.pieces import proven
from converters.trace.tables import Colours, as_met, both, classes_of, distinct, mix, repeated

__all__ = ["Family", "Solution", "Solver"]

LIMIT = 20.0
UNPROVEN = "its neurons are tied to two permutable sets at once, and no permutation could be proven"


@dataclass(frozen=True)
class Family:
    """Elements told apart by the same cause: ``kind`` is input, output, fixed, kernel or mark."""

    kind: str
    where: str
    reason: str


@dataclass(frozen=True)
class Solution:
    """Per element: ``unit``, ``member``, ``slot``; if fixed ``family``, ``value``; ``identity`` is equal for equals.

    ``root`` is equal for united elements, ``raw`` tells apart the occurrences of one on one axis; ``sizes`` are those
    of the units.
    """

    identity: Ids
    unit: Ids
    member: Ids
    slot: Ids
    family: Ids
    value: Ids
    raw: Colours
    root: Ids
    units: tuple[Unit, ...]
    sizes: Ids


class Solver:
    """Collects constraints while a program is read, then solves them."""

    def __init__(self) -> None:
        self.count = 0
        self.families: list[Family] = []
        self._unions: list[tuple[Ids, Ids]] = []
        self._labels: list[tuple[Ids, Ids, int]] = []
        self._keyed: list[tuple[Ids, Ids, Ids]] = []
        self._members: list[tuple[Ids, Ids, int]] = []
        self._origins: list[int] = []
        self._child: dict[tuple[int, int, int], int] = {}
        self._parent_of: dict[int, tuple[int, int]] = {}
        self.applied: list[int] = []
        self._repeats: list[tuple[Ids, int]] = []
        self._copies: list[tuple[Ids, int]] = []
        self._kind: Ids = np.zeros(0, np.int64)

    def fresh(self, shape: tuple[int, ...] | int) -> Ids:
        """New elements that share an origin, hence a first colour."""
        size = int(np.prod(shape))
        ids = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self._origins.append(size)
        self.count += size
        return ids

    def family(self, kind: str, where: str, reason: str) -> int:
        """Register a cause for :meth:`label`."""
        self.families.append(Family(kind, where, reason))
        return len(self.families) - 1

    def union(self, a: Ids, b: Ids) -> None:
        """The elements at equal positions are the same neuron."""
        if a is not b:
            self._unions.append((a.ravel(), b.ravel()))

    def label(self, ids: Ids, values: Ids, family: int) -> None:
        """Elements with different ``values`` are told apart."""
        self._labels.append((ids.ravel(), np.broadcast_to(values, ids.shape).ravel(), family))

    def freeze(self, ids: Ids, family: int) -> None:
        """Every element is told apart from every other."""
        self.label(ids, np.arange(ids.size, dtype=np.int64).reshape(ids.shape), family)

    def mark(self, ids: Ids, where: str) -> None:
        """The set of these elements is kept."""
        self.label(ids, np.zeros(ids.shape, np.int64), self.family("mark", where, "part of an axis"))

    def member(self, ids: Ids, parents: Ids, role: int = 0) -> None:
        """Each element belongs to its parent, in no order.

        Args:
            role: which axes of ``ids`` the parents lie on, bit by bit (0: the only way to belong): the element at
                ``(i, j)`` belongs to ``i`` by its row and to ``j`` by its column, which is not the same if both are
                neurons of one kind.
        """
        self._members.append((ids.ravel(), np.broadcast_to(parents, ids.shape).ravel(), role))

    def keyed(self, ids: Ids, parents: Ids, slots: Ids) -> None:
        """Each element is the piece ``slots`` of its parent."""
        triple = (
            ids.ravel(),
            np.broadcast_to(parents, ids.shape).ravel(),
            np.broadcast_to(slots, ids.shape).ravel(),
        )
        self._keyed.append(triple)
        for child, parent, slot in zip(*(part.tolist() for part in triple), strict=True):
            self._parent_of.setdefault(child, (parent, slot))

    def children(self, parents: Ids, slots: Ids, total: int) -> Ids:
        """The pieces ``slots`` (of ``total``) of ``parents``; the same pieces whenever they are asked for."""
        parents, slots = np.broadcast_arrays(parents, slots)
        pairs = list(zip(parents.ravel().tolist(), slots.ravel().tolist(), strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if (pair[0], pair[1], total) not in self._child]
        if new:
            ids = self.fresh(len(new))
            self._child.update({(pair[0], pair[1], total): int(i) for pair, i in zip(new, ids, strict=True)})
            table = np.array(new, dtype=np.int64)
            self.keyed(ids, table[:, 0], table[:, 1] * (2**20) + total)
        return np.array([self._child[pair[0], pair[1], total] for pair in pairs], dtype=np.int64).reshape(parents.shape)

    def known_parents(self, ids: Ids) -> tuple[Ids, Ids] | None:
        """Parent and slot of every element, if each has one."""
        found = [self._parent_of.get(i) for i in ids.ravel().tolist()]
        if any(pair is None for pair in found) or not found:
            return None
        table = np.array(found, dtype=np.int64)
        return table[:, 0].reshape(ids.shape), table[:, 1].reshape(ids.shape)

    def freeze_repeats(self, ids: Ids, family: int) -> None:
        """An element at two positions of one axis cannot be permuted as one."""
        self._repeats.append((ids.ravel(), family))

    def relation_pairs(self) -> tuple[Ids, Ids]:
        """Every (child, parent), keyed or not."""
        parts = [(c, p) for c, p, _ in (*self._keyed, *self._members)]
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate([c for c, _ in parts]), np.concatenate([p for _, p in parts])

    # -- solving ---------------------------------------------------------------------------------------------------

    def solve(self, seconds: float = LIMIT) -> Solution:
        """The units of a large symmetry that provably keeps every constraint.

        Where the search for one runs into elements that it cannot place, or into a unit that does not keep the
        constraints when it is carried out, these elements are frozen and the search starts again; after ``seconds``
        everything that still moves together with something else is frozen.
        """
        root = self._closure()
        raw = self._repeated(root)
        self._kind = self._kinds_of_parents(raw if raw.any() else self._origin_colours())
        deadline = time.process_time() + seconds
        while True:
            colour = self._refine(root)
            heads, classes = self._classes(root, colour)
            relations = self._compact(root, heads)
            found, lost = proven(classes, relations)
            if not len(lost):
                stays = found.unit < 0
                self.applied += [f for ids, f in self._copies if stays[np.searchsorted(heads, ids)].all()]
                return self._units(root, heads, found, raw)
            if time.process_time() > deadline:
                lost = np.unique(np.concatenate([relations.child, relations.parent]))
            self.applied.append(self.family("fixed", "the structure", UNPROVEN))
            self.freeze(heads[lost], self.applied[-1])

    def _kinds_of_parents(self, colours: Colours) -> Ids:
        """Colours as small integers, for elements that others belong to."""
        is_parent = np.zeros(self.count, bool)
        for _, parents, _ in self._members:
            is_parent[parents] = True
        kinds = np.zeros(self.count, np.int64)
        kinds[is_parent] = np.unique(colours[is_parent], return_inverse=True)[1]
        return kinds

    def _repeated(self, root: Ids) -> Colours:
        """Tell apart the copies of elements that lie twice on one axis, or freeze them; the colours that do it."""
        raw, last = np.zeros(self.count, np.uint64), np.zeros(self.count, np.int64)
        kinds: Ids | None = None
        twice_in: dict[tuple[int, int], NDArray[np.bool_] | None] = {}
        for ids, family in self._repeats:
            key = ids.__array_interface__["data"][0], len(ids)
            if key not in twice_in:
                twice_in[key] = repeated(root[ids], last)
            twice = twice_in[key]
            if twice is None:
                continue
            if kinds is None:
                raw = self._raw_colours()
                kinds = np.unique(raw, return_inverse=True)[1].astype(np.int64)
            if repeated(root[ids[twice]] * (int(kinds.max()) + 1) + kinds[ids[twice]]) is None:
                self.label(ids, kinds[ids], self.family("mark", "copies", "which copies it has"))
                self._copies.append((root[ids], family))
            else:
                self.label(ids[twice], np.arange(twice.sum()), family)
                self.applied.append(family)
        return raw

    @staticmethod
    def _classes(root: Ids, colour: Colours) -> tuple[Ids, Ids]:
        """The roots, and their colours as small integers in the order of first occurrence."""
        heads = np.flatnonzero(root == np.arange(len(root)))  # a root is the first of its elements
        return heads, as_met(colour[heads])

    def _compact(self, root: Ids, heads: Ids) -> Relations:
        """The relations between roots, which are numbered ``0..len(heads)-1``."""
        child, parent, key = self._relations(root, self._kind)
        return Relations(np.searchsorted(heads, child), np.searchsorted(heads, parent), key)

    def _relations(self, root: Ids, kind: Ids | None = None) -> tuple[Ids, Ids, Ids]:
        """All relations as (child, parent, key); each once. For membership the key is negative: the role.

        With ``kind``, small integers that tell the occurrences of parents apart, these count as well: what belongs to
        one of two elements that are united later (the two halves of a gate) does not belong to the other.
        """
        plain = np.zeros(self.count, np.int64) if kind is None else kind
        parts = [*self._keyed, *((c, p, -1 - role - (plain[p] << 20)) for c, p, role in self._members)]
        if not parts:
            empty = np.zeros(0, np.int64)
            return empty, empty, empty
        child, parent, key = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        child, parent = root[child], root[parent]
        apart = child != parent
        child, parent, key = distinct(child[apart], parent[apart], key[apart])
        return child, parent, key

    def _closure(self) -> Ids:
        left = [a for a, _ in self._unions]
        right = [b for _, b in self._unions]
        while True:
            a = np.concatenate(left) if left else np.zeros(0, np.int64)
            b = np.concatenate(right) if right else np.zeros(0, np.int64)
            graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(self.count, self.count))
            components = connected_components(graph, directed=False)[1]
            first = np.empty(int(components.max(initial=-1)) + 1, np.int64)
            first[components[::-1]] = np.arange(self.count)[::-1]
            root: Ids = first[components]
            pairs = list(self._implied(root))
            if not pairs:
                return root
            left += [p for p, _ in pairs]
            right += [q for _, q in pairs]

    def _implied(self, root: Ids) -> Iterator[tuple[Ids, Ids]]:
        """Unions that follow: same parent and slot; same child and slot; same set of children."""
        child, parent, key = self._relations(root)
        keyed = key >= 0
        for by, what in ((parent, child), (child, parent)):
            order = np.lexsort((what[keyed], key[keyed], by[keyed]))
            b, k, w = by[keyed][order], key[keyed][order], what[keyed][order]
            same = (b[1:] == b[:-1]) & (k[1:] == k[:-1]) & (w[1:] != w[:-1])
            if same.any():
                yield w[1:][same], w[:-1][same]
        parents, inverse = np.unique(parent, return_inverse=True)
        if len(parents):
            sets = np.zeros(len(parents), np.uint64)
            np.add.at(sets, inverse, both(child, key))
            only = np.bincount(inverse, minlength=len(parents))[inverse] == 1
            if only.any():
                yield parent[only], child[only]
            order = np.argsort(sets, kind="stable")
            same = sets[order][1:] == sets[order][:-1]
            if same.any():
                yield parents[order][1:][same], parents[order][:-1][same]

    def _origin_colours(self) -> Colours:
        """Origin and labels of every element before any union."""
        raw = mix(np.repeat(np.arange(len(self._origins)), self._origins))
        self._add_labels(raw, np.arange(self.count))
        return raw

    def _add_labels(self, colour: Colours, root: Ids) -> None:
        """Mix into the colours of roots what they are labelled with."""
        ids, values, families = self._all_labels()
        here, value, family = distinct(root[ids], values, families)
        np.add.at(colour, here, both(value, family + 2**32))

    def _all_labels(self) -> tuple[Ids, Ids, Ids]:
        """Elements, values and families of all labels, in the order in which they were given."""
        empty = np.zeros(0, np.int64)
        ids = np.concatenate([empty, *(ids for ids, _, _ in self._labels)])
        values = np.concatenate([empty, *(values for _, values, _ in self._labels)])
        sizes = [len(ids) for ids, _, _ in self._labels]
        return ids, values, np.repeat(np.array([family for _, _, family in self._labels], dtype=np.int64), sizes)

    def _raw_colours(self) -> Colours:
        """Origin, labels and surroundings of every element before any union: what tells its occurrences apart."""
        raw = self._origin_colours()
        empty = np.zeros(0, np.int64)
        a = np.concatenate([empty, *(left for left, _ in self._unions)])
        b = np.concatenate([empty, *(right for _, right in self._unions)])
        child, parent, key = self._relations(np.arange(self.count))
        classes = classes_of(raw)
        while True:
            new = mix(raw)
            np.add.at(new, a, mix(raw[b] + np.uint64(1)))
            np.add.at(new, b, mix(raw[a] + np.uint64(1)))
            np.add.at(new, child, both(raw[parent], key * 2 + 4))
            np.add.at(new, parent, both(raw[child], key * 2 + 5))
            after = classes_of(new)
            if after == classes:
                return raw
            raw, classes = new, after

    def _refine(self, root: Ids) -> Colours:
        """The coarsest colouring in which equal colours mean equal labels and equally coloured relatives."""
        colour = np.zeros(self.count, np.uint64)
        ids, origin = distinct(root, np.repeat(np.arange(len(self._origins)), self._origins))
        np.add.at(colour, ids, mix(origin))
        self._add_labels(colour, root)
        child, parent, key = self._relations(root, self._kind)
        related = np.unique(np.concatenate([child, parent]))  # all others keep their colour
        child, parent = np.searchsorted(related, child), np.searchsorted(related, parent)
        here = colour[related]
        classes = classes_of(here)
        while True:
            new = mix(here)
            np.add.at(new, child, both(here[parent], key * 2 + 4))
            np.add.at(new, parent, both(here[child], key * 2 + 5))
            after = classes_of(new)
            if after == classes:
                colour[related] = here
                return colour
            here, classes = new, after

    def _units(self, root: Ids, heads: Ids, found: Decomposition, raw: Colours) -> Solution:
        n = self.count
        unit, member, slot = (np.full(n, -1, np.int64) for _ in range(3))
        still = found.unit < 0
        units = (*found.units, *[Unit(1)] * int(still.sum()))
        sizes = np.append([spec.size for spec in found.units], np.ones(int(still.sum()))).astype(np.int64)
        unit[heads] = np.where(still, len(found.units) + np.cumsum(still) - 1, found.unit)
        member[heads], slot[heads] = np.where(still, 0, found.member), np.where(still, 0, found.slot)
        family, value = np.full(n, -1, np.int64), np.zeros(n, np.int64)
        priority = {"mark": 0, "kernel": 1, "fixed": 2, "input": 3, "output": 4}
        ids, values, families = self._all_labels()
        ranks = np.array([priority[f.kind] for f in self.families], dtype=np.int64)[families]
        chosen = np.flatnonzero(ranks > 0)
        call = np.repeat(np.arange(len(self._labels)), [len(ids) for ids, _, _ in self._labels])[chosen]
        order = chosen[np.lexsort((-chosen, call, -ranks[chosen], root[ids[chosen]]))]
        first = np.append(True, root[ids[order[1:]]] != root[ids[order[:-1]]])[: len(order)]
        best = order[first]
        family[root[ids[best]]], value[root[ids[best]]] = families[best], values[best]
        self._inherit(root, family, value, sizes[unit] == 1)
        fixed = np.array([f.kind not in ("mark", "kernel") for f in self.families] + [False])[family]
        fixed &= sizes[unit] == 1
        identity = np.where(fixed, n + family * (1 << 32) + value, root)[root]
        return Solution(
            identity, unit[root], member[root], slot[root], family[root], value[root], raw, root, units, sizes
        )

    def _inherit(self, root: Ids, family: Ids, value: Ids, stays: NDArray[np.bool_]) -> None:
        """Pieces of fixed elements are fixed for the same cause; what has positions of a kernel alone is one itself."""
        child, parent, _ = self._relations(root)
        derived: dict[int, int] = {}
        count: dict[int, int] = {}
        kinds = [f.kind for f in self.families]
        for c, p in zip(child.tolist(), parent.tolist(), strict=True):
            if family[p] < 0 or kinds[family[p]] in ("mark", "kernel"):
                continue
            if family[c] >= 0 and kinds[family[c]] != "mark":
                continue
            if int(family[p]) not in derived:
                old = self.families[family[p]]
                derived[int(family[p])] = self.family(old.kind, f"pieces of {old.where}", old.reason)
                kinds.append(old.kind)
            family[c] = derived[int(family[p])]
            value[c] = count[int(family[c])] = count.get(int(family[c]), -1) + 1
        free, kernel = (family < 0) & stays, np.array([kind == "kernel" for kind in kinds] + [False])[family]
        below = np.zeros(self.count, np.bool_)
        below[child[kernel[parent]]] = True
        known = kernel | (below & free)
        pieces, positions = (np.bincount(ends, minlength=self.count) for ends in (parent, parent[known[child]]))
        whole = np.flatnonzero(free & (below | ((pieces > 0) & (pieces == positions))))
        family[whole] = self.family("kernel", "a kernel", "it is made of positions of a kernel")
        value[whole] = np.arange(len(whole))
