"""Numbers that choose neurons (experts, entries of a codebook), followed to where they choose.

``topk`` and ``argmax`` return positions among neurons. Permute the neurons, and the numbers change with them: what is
looked up by these numbers stays the same. Rows listed in the order of such numbers (tokens sorted by expert) are listed
in another order, which nobody sees who works row by row and puts them back. Whatever else is done to the numbers or to
the list tells the neurons apart, as if nothing were known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from converters.program import Op, Ref
from converters.trace.context import Context, Operand
from converters.trace.labels import Bundle, Choice, Labels
from converters.trace.rules import elementwise

__all__ = ["chosen_among", "follow"]

Rule = Callable[[Context], list[Labels]]

COPIES = frozenset(
    "clone alias _to_copy lift_fresh contiguous detach view _unsafe_view reshape unsqueeze squeeze".split()
)
"""Operations that lay numbers out anew, or write them in another type."""

LAYOUTS = COPIES | frozenset("expand transpose t permute slice select".split())
SMOOTH = LAYOUTS - {"_to_copy"} | frozenset(
    "_to_copy add sub rsub mul div neg pow sum mean sqrt exp log tanh sigmoid _softmax _log_softmax softplus linear mm "
    "addmm bmm baddbmm convolution linalg_vector_norm log_sigmoid_forward".split()
)
"""Operations whose values are different at almost all weights where one of their operands' are."""

PRODUCTS = frozenset("linear mm addmm bmm baddbmm convolution _cdist_forward _euclidean_dist".split())
DEAD = frozenset("relu threshold hardtanh clamp clamp_min clamp_max where masked_fill zeros full".split())
"""Operations whose values can be alike on a whole set of inputs; what is alike, ``topk`` tells apart by position."""

ELEMENTWISE = frozenset(name for name, rule in elementwise.RULES.items() if rule is elementwise.elementwise)

DEPTH = 16


def chosen_among(context: Context, labels: Labels, axis: int, source: Ref, output: int, reason: str) -> bool:
    """Note that an output holds positions along an axis of neurons; False where that cannot be followed."""
    bundle = labels.bundle_at(axis)
    index = context.op.outputs[output]
    if bundle is None or bundle.axes != (axis,) or index is None or not _distinct(context, source.index, DEPTH):
        return False
    context.choices[index] = Choice(bundle.ids, reason)
    return True


def _maker(context: Context, index: int) -> Op | None:
    if not context.makers:
        context.makers.update({i: op for op in context.recording.ops for i in op.outputs if i is not None})
    return context.makers.get(index)


def _distinct(context: Context, index: int, depth: int) -> bool:
    """Whether no two values of a tensor are alike, for almost all weights and wherever it does not vanish."""
    if index in context.recording.named.values():
        return context.recording.dtypes[index].is_floating_point
    op = _maker(context, index)
    if op is None or not depth or not context.recording.dtypes[index].is_floating_point:
        return False
    if op.name in PRODUCTS:
        return not any(_dead(context, ref, depth) for ref in op.refs())
    if op.name not in SMOOTH:
        return False
    refs = op.refs()
    return all(_smooth(context, ref, depth - 1) for ref in refs) and any(
        _distinct(context, ref, depth - 1) for ref in refs
    )


def _smooth(context: Context, index: int, depth: int) -> bool:
    """Whether a tensor is computed from weights and products by smooth functions alone."""
    if index in context.recording.named.values():
        return True
    op = _maker(context, index)
    if op is None or not depth:
        return False
    return op.name in PRODUCTS or (op.name in SMOOTH and all(_smooth(context, ref, depth - 1) for ref in op.refs()))


def _dead(context: Context, index: int, depth: int) -> bool:
    """Whether a tensor, but for its layout, comes from an operation whose values can all be alike."""
    op = _maker(context, index)
    while op is not None and op.name in LAYOUTS and depth:
        op, depth = _maker(context, op.refs()[0]), depth - 1
    return op is not None and op.name in DEAD


def follow(context: Context, rule: Rule) -> list[Labels]:
    """The labels of an operation that reads numbers or lists: by its own rule, or with what it chooses united."""
    marked = {ref: context.choices[ref.index] for ref in context.tensors() if ref.index in context.choices}
    out = None
    if context.op.name in context.standard and len({id(choice.ids) for choice in marked.values()}) == 1:
        handler = HANDLERS.get(context.op.name, _rowwise)
        out = handler(context, rule, marked)
    if out is None:
        for choice in marked.values():
            context.freeze_ids(choice.ids, choice.reason)
        out = rule(context)
    return out


Marked = dict[Ref, Choice]


def _only(marked: Marked) -> Choice:
    return next(iter(marked.values()))


def _pass(context: Context, out: list[Labels], choice: Choice) -> list[Labels]:
    context.choices.update({index: choice for index in context.op.outputs if index is not None})
    return out


def _rowwise(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """Numbers laid out anew; rows in the order of a list, each on its own."""
    choice, op, shape = _only(marked), context.op, context.out_shape
    first = context.tensors()[0]
    own = context.shape(first)
    if choice.numbers and op.name in COPIES | {"expand"} and len(marked) == 1 and not choice.list:
        return _pass(context, rule(context), choice)
    kept, roles = {each.list for each in marked.values()}, {each.role for each in marked.values()}
    if roles == {"counts"}:
        return rule(context)  # a value per neuron, as others
    if len(kept) != 1 or not choice.list or roles & {"counts", "ends"}:
        return None
    if not shape or not own or shape[0] != choice.length:
        return None
    if op.name in COPIES and own[:1] == shape[:1]:
        plain = "" if choice.role and op.name not in ("_to_copy", "clone", "detach", "alias") else choice.role
        return _pass(context, rule(context), replace(choice, role=plain))
    if any(each.numbers for each in marked.values()):
        return None
    if not _keeps_rows(context, marked):
        return None
    return _pass(context, rule(context), replace(choice, role=""))


def _keeps_rows(context: Context, marked: Marked) -> bool:
    """Whether the operation does to every row what it does to every other."""
    op, shape = context.op, context.out_shape
    tensors = context.tensors()
    rank = len(context.shape(tensors[0]))
    if op.name in ("mm", "linear", "addmm"):
        rows = tensors[1 if op.name == "addmm" else 0]
        biased = op.name == "addmm" and len(context.shape(tensors[0])) > 1
        return set(marked) == {rows} and not biased and (op.name != "linear" or rank > 1)
    if op.name in ("slice", "select", "split", "split_with_sizes", "unbind", "chunk"):
        axis = context.arg(1 if op.name in ("slice", "select", "unbind") else 2, "dim", 0) % rank
        return axis > 0 and all(context.shape(i)[:1] == shape[:1] for i in op.outputs if i is not None)
    if op.name == "_softmax":
        return bool(context.arg(1) % rank)
    if op.name in ("sum", "mean"):
        dims = context.arg(1, "dim", ())
        dims = (dims,) if isinstance(dims, int) else dims
        return (
            bool(dims)
            and op.target.endswith("dim_IntList" if op.name == "sum" else "dim")
            and all(axis % rank for axis in dims)
        )
    if op.name not in ELEMENTWISE:
        return False
    for ref in tensors:
        own = context.shape(ref)
        full = len(own) == len(shape) and own[0] != 1
        if full != (ref in marked):
            return False
    return True


def _sorted(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``sort`` of numbers: a list in their order, and how it was ordered; of that order, the way back."""
    choice = _only(marked)
    x, (values, order) = context.tensors()[0], context.op.outputs
    own = context.shape(x)
    descending = context.arg(3 if context.op.target == "aten.sort.stable" else 2, "descending", False)
    if len(own) != 1 or values is None or order is None or descending or context.of(x).bundles:
        return None
    if choice.role == "order":
        if values in context.used:
            return None
        context.choices[order] = replace(choice, role="inverse", numbers=False)
    elif choice.numbers and not choice.list:
        key = f"sorted {order}"
        context.choices[values] = replace(choice, list=key, length=own[0])
        context.choices[order] = replace(choice, list=key, length=own[0], numbers=False, role="order")
    else:
        return None
    return [Labels((), frozenset(), "", own)] * 2


def _looked_up(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``x[i]`` and ``embedding(x, i)``: by numbers of neurons, by the order of a list, or back from it."""
    op, shape = context.op, context.out_shape
    if op.name == "embedding":
        source, numbers = context.tensors()[:2]
    else:
        listed = op.args[1] if op.name == "index" else (op.args[2],)
        if any(ref is None for ref in listed) or len(listed) != 1 or (op.name == "index_select" and context.arg(1)):
            return None
        source, numbers = op.args[0], listed[0]
    if numbers not in marked:
        return None
    choice, labels = marked[numbers], context.of(source)
    if context.of(numbers).bundles:
        return None
    if source in marked:  # back in the order from before the list
        ok = choice.role == "inverse" and marked[source].list == choice.list and not marked[source].numbers
        return rule(context) if ok and marked[source].role == "" else None
    if choice.numbers:
        bundle = labels.bundle_at(0)
        if bundle is None or bundle.axes != (0,) or bundle.ids.shape != choice.ids.shape:
            return None
        context.solver.union(bundle.ids, choice.ids)
        lead = len(context.shape(numbers))
        rest = Labels(tuple(b for b in labels.bundles if b is not bundle), labels.blank, labels.source, labels.shape)
        out = rest.move({a: a + lead - 1 for a in range(1, len(labels.shape))}, shape)
        out = Labels(out.bundles, out.blank, "", shape)
        return _pass(context, [out], replace(choice, numbers=False)) if choice.list else [out]
    if choice.role not in ("", "order") or labels.bundle_at(0) is not None:
        return None
    return _pass(context, rule(context), replace(choice, role=""))


def _gathered(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``gather(x, dim, i)`` and ``scatter(zeros, dim, i, values)`` along the axis of the neurons."""
    base, numbers = context.op.args[0], context.op.args[2]
    choice = marked.get(numbers)
    if set(marked) != {numbers} or choice is None or not choice.numbers or choice.list:
        return None
    labels, shape, own = context.of(base), context.out_shape, context.shape(numbers)
    axis = context.arg(1) % max(len(shape), 1)
    if context.shape(base)[:axis] != own[:axis] or context.shape(base)[axis + 1 :] != own[axis + 1 :]:
        return None
    if context.shape(base)[axis] != len(choice.ids) or context.of(numbers).bundles:
        return None
    bundle, letters = labels.bundle_at(axis), [str(a) for a in range(len(shape))]
    rest = Labels(tuple(b for b in labels.bundles if b is not bundle), labels.blank, labels.source, labels.shape)
    if bundle is not None and bundle.axes != (axis,):
        return None
    if context.op.name == "gather":
        if bundle is None:
            return None
        context.solver.union(bundle.ids, choice.ids)
        out = rest.move({a: a for a in range(len(shape)) if a != axis}, shape)
        return [Labels(out.bundles, out.blank, "", shape)]
    if axis not in labels.blank or bundle is not None or len(context.op.args) + len(context.op.kwargs) > 4:
        return None
    values = context.op.args[3] if len(context.op.args) > 3 else None
    operands = [Operand(rest, {a: x for a, x in enumerate(letters) if a != axis}, base.index)]
    if isinstance(values, Ref):
        given = context.of(values)
        if context.shape(values) != own or given.bundle_at(axis) is not None:
            return None
        operands.append(Operand(given, {a: x for a, x in enumerate(letters) if a != axis}, values.index))
    sizes = dict(zip(letters, shape, strict=True))
    others = context.combine(operands, [x for a, x in enumerate(letters) if a != axis], sizes)
    out = others.move({i: i + (i >= axis) for i in range(len(shape) - 1)}, shape)
    return [Labels((*out.bundles, Bundle((axis,), choice.ids)), out.blank - {axis}, "", shape)]


def _counted(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``histc(numbers, E, 0, E - 1)``, ``bincount(numbers, None, E)``: how many of each, a value per neuron."""
    choice, shape = _only(marked), context.out_shape
    size = len(choice.ids)
    if not choice.numbers or shape != (size,) or context.of(context.tensors()[0]).bundles:
        return None
    bounds = tuple(context.arg(i) for i in (1, 2, 3))
    if bounds != (size, 0, size - 1) if context.op.name == "histc" else bounds[:2] != (None, size):
        return None
    index = context.op.outputs[0]
    if index is not None and choice.list:
        context.choices[index] = replace(choice, numbers=False, role="counts")
    return [Labels((Bundle((0,), choice.ids),), frozenset(), "", shape)]


def _summed(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``cumsum`` of how many of each: where the rows of each end in the list."""
    choice = _only(marked)
    index = context.op.outputs[0]
    if choice.role != "counts" or index is None or context.arg(1, "dim"):
        return None
    context.choices[index] = replace(choice, role="ends")
    return [Labels((), frozenset(), "", context.out_shape)]


def _multiplied(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``_grouped_mm(rows, weights, ends)``: rows in the order of a list meet the matrix of their number."""
    refs = context.tensors()
    if len(refs) != 3 or set(marked) != {refs[0], refs[2]}:
        return None
    rows, ends, labels = marked[refs[0]], marked[refs[2]], context.of(refs[1])
    bundle = labels.bundle_at(0)
    if ends.role != "ends" or rows.role or rows.numbers or rows.list != ends.list:
        return None
    if bundle is None or bundle.axes != (0,) or bundle.ids.shape != rows.ids.shape or context.of(refs[0]).bundle_at(0):
        return None
    context.solver.union(bundle.ids, rows.ids)
    (x, weight), sizes = (
        refs[:2],
        {"t": context.out_shape[0], "n": context.out_shape[1], "k": context.shape(refs[0])[1]},
    )
    table = Labels(tuple(b for b in labels.bundles if b is not bundle), labels.blank, labels.source, labels.shape)
    named = [Operand(context.of(x), {0: "t", 1: "k"}, x.index), Operand(table, {1: "k", 2: "n"}, weight.index)]
    return _pass(context, [context.reduce(context.combine(named, ["t", "n", "k"], sizes), [2])], rows)


def _put(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``empty[order] = arange``: the way back from a list."""
    base, indices, values = context.op.args[:3]
    (order,) = indices if len(indices) == 1 else (None,)
    known, index = context.constant(values), context.op.outputs[0]
    blank = context.of(base).source == "constant" and not context.of(base).bundles
    if order is None or set(marked) - {base} != {order} or marked[order].role != "order" or index is None or not blank:
        return None
    if context.arg(3, "accumulate", False) or known is None or not np.array_equal(known, np.arange(len(known))):
        return None
    if len(known) != context.out_shape[0] or len(context.out_shape) != 1:
        return None
    context.choices[index] = replace(marked[order], role="inverse")
    return [Labels((), frozenset(), "", context.out_shape)]


def _added(context: Context, rule: Rule, marked: Marked) -> list[Labels] | None:
    """``index_add(x, 0, places, rows)``: rows of a list are summed where they belong."""
    base, places, rows = context.op.args[0], context.op.args[2], context.op.args[3]
    if set(marked) != {places, rows} or context.arg(1) or any(choice.numbers for choice in marked.values()):
        return None
    if marked[places].role not in ("", "order") or marked[rows].role:
        return None
    return rule(context) if marked[places].list == marked[rows].list and base not in marked else None


def _empty(context: Context, rule: Rule, marked: Marked) -> list[Labels]:
    """``empty_like`` and its kin see the shape alone."""
    return rule(context)


HANDLERS: dict[str, Callable[[Context, Rule, Marked], list[Labels] | None]] = {
    "sort": _sorted,
    "index": _looked_up,
    "index_select": _looked_up,
    "embedding": _looked_up,
    "gather": _gathered,
    "scatter": _gathered,
    "histc": _counted,
    "bincount": _counted,
    "cumsum": _summed,
    "_grouped_mm": _multiplied,
    "index_put": _put,
    "index_add": _added,
    **dict.fromkeys(("empty_like", "zeros_like", "ones_like", "new_empty", "new_zeros", "new_ones"), _empty),
}
