"""One program from two runs: which integers follow the batch size, and whether values leaked into Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from converters.program import Constant, Input, Op, Program, Ref, Size, map_leaves
from converters.trace.recorder import Recording

__all__ = ["same_path", "with_free_batch"]


def with_free_batch(first: Recording, second: Recording | None, batch: int, other: int, dtype: torch.dtype) -> Program:
    """The program of ``first``; integers that differ in ``second``, run at another batch size, follow the batch."""
    fit = _Fit(batch, other)
    ops, reasons = list(first.ops), []
    free = second is not None and len(second.ops) == len(ops) and other != batch
    if second is not None and len(second.ops) == len(ops):
        try:
            ops = [fit.op(a, b) for a, b in zip(ops, second.ops, strict=True)]
        except _Different:
            free, ops = False, list(first.ops)
    if second is not None and other == batch and not _agree(first, second):
        reasons.append("what it computes with depends on the values of its inputs, read outside torch")
    program_inputs = tuple(
        Input(
            path,
            first.shapes[index],
            str(first.dtypes[index]).removeprefix("torch."),
            tuple(axis == 0 and free and size == batch for axis, size in enumerate(first.shapes[index])),
        )
        for path, index in first.inputs
    )
    ops = _prune(ops, first.outputs, {*(i for i, _ in first.baked), *(i for i, *_ in first.guards)})
    used = {index for op in ops for index in op.refs()}
    map_leaves(first.outputs, lambda leaf: used.add(leaf.index) if isinstance(leaf, Ref) else None)
    return Program(
        inputs=program_inputs,
        input_refs=tuple(index for _, index in first.inputs),
        named_refs=tuple(first.named.items()),
        constants=tuple((i, Constant.of(t)) for i, t in first.constants.items() if i in used),
        ops=tuple(ops),
        outputs=first.outputs,
        batch=batch,
        length=len(first.shapes),
        dtype=str(dtype).removeprefix("torch."),
        baked=tuple(dict.fromkeys([*(reason for _, reason in first.baked), *reasons])),
        guards=tuple({(i, v is None): (i, _known(i, v, first, second, fit), p) for i, v, p in first.guards}.values()),
    )


def _agree(a: Recording, b: Recording) -> bool:
    """Whether two runs of one batch size used the same operations, numbers and constants."""
    if [(op.target, op.args, op.kwargs) for op in a.ops] != [(op.target, op.args, op.kwargs) for op in b.ops]:
        return False
    return _same_constants(a, b)


def same_path(first: Recording, second: Recording, program: Program) -> bool:
    """Whether Python, in the second run of ``program``, made the same constants and read what it says it reads."""
    size = second.shapes[next(i for spec, i in zip(program.inputs, program.input_refs, strict=True) if any(spec.free))][
        0
    ]
    values = {index: value for index, value, _ in second.guards}
    for index, known, _ in program.guards:
        if isinstance(known, Constant):
            other = values.get(index)
            if other is None or Constant.of(other) != known:
                return False
        elif second.shapes[index] != tuple(
            n.coefficient * size + n.offset if isinstance(n, Size) else n for n in known
        ):
            return False
    return _same_constants(first, second)


def _same_constants(a: Recording, b: Recording) -> bool:
    """Whether two runs made the same constants."""
    pairs = zip(a.constants.values(), b.constants.values(), strict=False)
    return len(a.constants) == len(b.constants) and all(torch.equal(x, y) for x, y in pairs)


def _known(
    index: int, value: torch.Tensor | None, first: Recording, second: Recording | None, fit: _Fit
) -> Constant | tuple[int | Size, ...]:
    """What a guard compares with: a value, or a shape, which may follow the batch size."""
    if value is not None:
        return Constant.of(value)
    shape = first.shapes[index]
    try:
        return tuple(fit.tree(shape, second.shapes[index] if second is not None else shape))
    except (_Different, IndexError):
        return shape


class _Different(Exception):
    """Two runs took different paths."""


class _Fit:
    def __init__(self, batch: int, other: int) -> None:
        self.batch, self.other = batch, other

    def op(self, a: Op, b: Op) -> Op:
        if a.target != b.target or a.outputs != b.outputs:
            raise _Different
        if a.args == b.args and a.kwargs == b.kwargs:
            return a
        kwargs = tuple((k, self.tree(v, w)) for (k, v), (_, w) in zip(a.kwargs, b.kwargs, strict=True))
        return Op(a.target, self.tree(a.args, b.args), kwargs, a.outputs, a.scope)

    def tree(self, a: Any, b: Any) -> Any:
        if a == b:
            return a
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return tuple([self.tree(x, y) for x, y in zip(a, b, strict=True)])
        if type(a) is not int or type(b) is not int:
            raise _Different
        coefficient, rest = divmod(b - a, self.other - self.batch) if self.other != self.batch else (0, 1)
        if rest:
            raise _Different
        return Size(coefficient, a - coefficient * self.batch)


def _prune(ops: list[Op], outputs: Any, read: set[int]) -> list[Op]:
    """Operations that neither the outputs nor values read into Python depend on are dropped."""
    needed = set(read)
    collect: Callable[[Any], Any] = lambda leaf: needed.add(leaf.index) if isinstance(leaf, Ref) else None  # noqa: E731
    map_leaves(outputs, collect)
    kept = []
    for op in reversed(ops):
        if any(index in needed for index in op.outputs if index is not None):
            kept.append(op)
            needed.update(op.refs())
    return kept[::-1]
