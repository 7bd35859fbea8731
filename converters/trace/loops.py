"""Steps that a network repeats with the same weights: one of them stands for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.program import Op, Program, Ref, map_leaves
from converters.trace.kinds import VIEWS

__all__ = ["Folded", "State", "fold"]

PER_STEP = {"select": (2,), "slice": (2, 3), "narrow": (2,), "select_scatter": (3,), "slice_scatter": (3, 4)}
"""Operations that read or write another position at every step, and which arguments say where."""

PIECES = frozenset("unbind split split_with_sizes unsafe_split chunk unsafe_chunk".split())
"""Operations whose results are the steps' inputs, one each."""


@dataclass(frozen=True)
class State:
    """A tensor handed from step to step: ``index`` stands for it in the one step that is kept.

    Args:
        initial: the tensor that takes its place in the first step.
        produced: the tensor of the kept step that the next one reads.
        direction: by how many positions the steps' inputs move on.
    """

    index: int
    initial: int
    produced: int
    direction: tuple[float, ...]


@dataclass
class Folded:
    """A program whose repeated steps occur once."""

    ops: list[Op]
    alias: dict[int, int] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)

    def resolve(self, tree: Any) -> Any:
        """References to later steps as references to the one that is kept."""
        return map_leaves(tree, lambda leaf: Ref(self.alias.get(leaf.index, leaf.index)) if _is(leaf) else leaf)


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Ref)


def fold(program: Program, alike: Any) -> Folded:
    """Find runs of operations that walk along an input with the same weights and a state; keep one step of each.

    How many steps there are is the input's length. What repeats without reading on (one block applied three times)
    is as deep as it is long and stays as it is.

    Args:
        alike: ``alike(a, b)`` says whether two tensors have the same neurons.
    """
    kinds: dict[Any, int] = {}
    codes = np.array([kinds.setdefault(_shape(op), len(kinds)) for op in program.ops], dtype=np.int64)
    after = _next_alike(codes)
    out, position, fresh = Folded([]), 0, program.length
    while position < len(program.ops):
        for period in _periods(codes, after, position):
            repeats = _repeats(codes, position, period)
            loop = _Loop(program.ops, position, period)
            repeats = loop.confirmed(repeats, alike) if repeats > 1 else 0
            if repeats > 1:
                fresh = loop.keep(out, repeats, fresh)
                position += repeats * period
                break
        else:
            out.ops.append(program.ops[position])
            position += 1
    if out.alias:
        out.ops = [Op(o.target, out.resolve(o.args), out.resolve(o.kwargs), o.outputs, o.scope) for o in out.ops]
        out.ops = _alive(out, program)
    return out


def _alive(folded: Folded, program: Program) -> list[Op]:
    """The operations left without those that only the steps left out have read."""
    before = {index for op in program.ops for index in op.refs()}
    wanted: set[int] = {state.initial for state in folded.states}
    map_leaves(folded.resolve(program.outputs), lambda leaf: wanted.add(leaf.index) if _is(leaf) else None)
    kept: list[Op] = []
    for op in reversed(folded.ops):
        if any(i in wanted or (i is not None and i not in before) for i in op.outputs):
            kept.append(op)
            wanted.update(op.refs())
    return kept[::-1]


def _shape(op: Op) -> Any:
    """What two operations of different steps have in common."""
    places = PER_STEP.get(op.name, ())
    args = tuple("place" if n in places and isinstance(arg, int) else arg for n, arg in enumerate(op.args))
    leaves = map_leaves(args, lambda leaf: "tensor" if _is(leaf) else leaf)
    return op.target, op.scope, repr(leaves), repr(map_leaves(op.kwargs, lambda leaf: "tensor" if _is(leaf) else leaf))


def _next_alike(codes: np.ndarray[Any, Any]) -> list[int]:
    """Where the same kind of operation occurs next (the end if never)."""
    out: list[int] = [len(codes)] * len(codes)
    seen: dict[int, int] = {}
    for position in range(len(codes) - 1, -1, -1):
        out[position] = seen.get(int(codes[position]), len(codes))
        seen[int(codes[position])] = position
    return out


def _periods(codes: np.ndarray[Any, Any], after: Sequence[int], start: int) -> Iterator[int]:
    """Lengths of steps that begin at ``start``, shortest first; few are tried."""
    other, tried = after[start], 0
    while other < len(codes) and tried < 16:
        period = other - start
        if other + period <= len(codes) and np.array_equal(codes[start:other], codes[other : other + period]):
            yield period
        other, tried = after[other], tried + 1


def _repeats(codes: np.ndarray[Any, Any], start: int, period: int) -> int:
    count = 1
    body = codes[start : start + period]
    while np.array_equal(codes[start + count * period : start + (count + 1) * period], body):
        count += 1
    return count


class _Loop:
    """A candidate: operations ``start`` to ``start + period`` and their repetitions."""

    def __init__(self, ops: Sequence[Op], start: int, period: int) -> None:
        self.ops, self.start, self.period = ops, start, period
        self.place = {r: (j, o) for j, op in enumerate(self.step(0)) for o, r in enumerate(op.outputs) if r is not None}
        self.carried: dict[tuple[int, int], tuple[int, int]] = {}
        self.initial: dict[tuple[int, int], int] = {}
        self.moves: set[float] = set()
        self.maker: dict[int, tuple[Op, int]] = {}
        for op in ops[:start]:
            self.maker.update({r: (op, o) for o, r in enumerate(op.outputs) if r is not None})

    def step(self, t: int) -> Sequence[Op]:
        return self.ops[self.start + t * self.period : self.start + (t + 1) * self.period]

    def confirmed(self, repeats: int, alike: Any) -> int:
        """How many steps in a row do the same with the same weights and read what the step before wrote."""
        count = 1
        while count < repeats and self._follows(count, alike):
            count += 1
        works = any(op.name not in VIEWS and op.name not in PER_STEP for op in self.step(0))
        return count if self.carried and len(self.moves) == 1 and works else 0

    def _follows(self, t: int, alike: Any) -> bool:
        carried, moves = dict(self.carried), set(self.moves)
        before = self.step(t - 1)
        made = {r: (j, o) for j, op in enumerate(self.step(t)) for o, r in enumerate(op.outputs) if r is not None}
        earlier = {r: (j, o) for j, op in enumerate(before) for o, r in enumerate(op.outputs) if r is not None}
        for j, (first, now) in enumerate(zip(self.step(0), self.step(t), strict=True)):
            leaves, mine = first.refs(), now.refs()
            for number, (a, b) in enumerate(zip(leaves, mine, strict=True)):
                key = (j, number)
                if a in self.place:
                    if made.get(b) != self.place[a]:
                        return False
                elif b in earlier and (t == 1 or carried.get(key) == earlier[b]):
                    if carried.setdefault(key, earlier[b]) != earlier[b] or b in made:
                        return False
                    self.initial[key] = a
                elif key in carried or (a != b and not self._moved(a, b, t, moves)):
                    return False
            if _difference(first, now, t) and first.refs()[0] not in self.place and (j, 0) not in carried:
                moves |= _difference(first, now, t)
        for first, now in zip(self.step(0), self.step(t), strict=True):
            pairs = zip(first.outputs, now.outputs, strict=True)
            if not all(a is None or b is None or alike(a, b) for a, b in pairs):
                return False
        self.carried, self.moves = carried, moves
        return True

    def _moved(self, a: int, b: int, t: int, moves: set[float]) -> bool:
        """Whether two tensors from outside are the inputs of two steps."""
        if a not in self.maker or b not in self.maker:
            return False
        (one, i), (two, j) = self.maker[a], self.maker[b]
        if one is two and one.name in PIECES:
            moves.add((j - i) / t)
            return True
        if one.name in PER_STEP and _shape(one) == _shape(two) and one.refs() == two.refs():
            moves |= _difference(one, two, t)
            return True
        return False

    def keep(self, out: Folded, repeats: int, fresh: int) -> int:
        """Add the first step to ``out``, its states in place of their first values."""
        states: dict[tuple[tuple[int, int], int], int] = {}
        for key, source in self.carried.items():
            pair = (source, self.initial[key])
            if pair not in states:
                states[pair] = fresh
                produced = self.step(0)[source[0]].outputs[source[1]]
                assert produced is not None
                out.states.append(State(fresh, self.initial[key], produced, tuple(sorted(self.moves))))
                fresh += 1
        for j, op in enumerate(self.step(0)):
            places = [n for n in range(len(op.refs())) if (j, n) in self.carried]
            swap = {n: states[self.carried[j, n], self.initial[j, n]] for n in places}
            out.ops.append(_substituted(op, swap))
        for t in range(1, repeats):
            for first, now in zip(self.step(0), self.step(t), strict=True):
                pairs = zip(first.outputs, now.outputs, strict=True)
                out.alias.update({b: a for a, b in pairs if a is not None and b is not None})
        return fresh


def _difference(first: Op, now: Op, t: int) -> set[float]:
    """By how much the positions that two steps read differ, per step."""
    if first.name not in PER_STEP:
        return set()
    pairs = zip(first.args, now.args, strict=True)
    return {(y - x) / t for x, y in pairs if isinstance(x, int) and isinstance(y, int) and x != y}


def _substituted(op: Op, swap: Mapping[int, int]) -> Op:
    """The operation with its n-th tensor replaced."""
    count = iter(range(10**9))

    def replace(leaf: Any) -> Any:
        if not _is(leaf):
            return leaf
        number = next(count)
        return Ref(swap.get(number, leaf.index))

    if not swap:
        return op
    args, kwargs = map_leaves((op.args, op.kwargs), replace)
    return Op(op.target, args, kwargs, op.outputs, op.scope)
