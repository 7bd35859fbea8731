"""Dense linear algebra: what permuted rows and columns do to inverses, solutions and factors."""

from __future__ import annotations

from converters.trace.context import Context, Operand
from converters.trace.labels import Labels
from converters.trace.rules.scan import separate

__all__ = ["RULES"]

ORDERED = "a decomposition takes its rows and columns in order"


def _square(context: Context) -> Labels:
    labels = context.of(context.tensors()[0])
    rank = len(labels.shape)
    separated = separate(context, labels, (rank - 2, rank - 1))
    return Labels(separated.bundles, separated.blank - {rank - 2, rank - 1}, separated.source, separated.shape)


def _rest(context: Context, out: Labels, skip: int = 1) -> list[Labels]:
    """Factors and pivots: whoever reads them sees the order of rows and columns."""
    others = [i for i in context.op.outputs[skip:] if i is not None]
    return [Labels((), frozenset(), out.source, context.shape(i)) for i in others]


def _guarded(context: Context, labels: Labels, first: int = 1) -> Labels:
    """Freeze rows and columns where a factor is read besides the results before ``first``."""
    rank = len(labels.shape)
    if any(i in context.used for i in context.op.outputs[first:] if i is not None):
        return context.project(labels, [rank - 2, rank - 1], "fixed", ORDERED)
    return labels


def _together(context: Context, labels: Labels) -> Labels:
    """Rows and columns move as one: where a set of neurons meets anything else, both are fixed."""
    rank = len(labels.shape)
    rows, columns = labels.bundle_at(rank - 2), labels.bundle_at(rank - 1)
    if rows is None or columns is None:
        return context.project(labels, [rank - 2, rank - 1], "fixed", "its rows and columns have to move as one")
    context.solver.union(rows.ids, columns.ids)
    return labels


def inverse(context: Context) -> list[Labels]:
    """``linalg_inv_ex``: the inverse of ``P A Q`` is ``Q^-1 A^-1 P^-1``; rows become columns."""
    labels = _square(context)
    rank = len(labels.shape)
    swap = {a: a for a in range(rank)} | {rank - 2: rank - 1, rank - 1: rank - 2}
    out = labels.move(swap, labels.shape)
    return [out, *_rest(context, out)]


def power(context: Context) -> list[Labels]:
    """``matrix_exp``: of ``P A P^-1`` it is ``P exp(A) P^-1``."""
    return [_together(context, _square(context))]


def determinant(context: Context) -> list[Labels]:
    """``_linalg_det``, ``_linalg_slogdet``: unchanged where rows and columns move as one."""
    kept = 2 if "slogdet" in context.op.name else 1
    labels = _together(context, _guarded(context, _square(context), kept))
    rank = len(labels.shape)
    out = context.reduce(labels, [rank - 2, rank - 1])
    return [*[out] * kept, *_rest(context, out, kept)]


def solve(context: Context) -> list[Labels]:
    """``_linalg_solve_ex(A, B, left)``: rows of both are united, the solution has the columns of ``A`` as rows."""
    a, b = context.tensors()[:2]
    left = context.arg(2, "left", True)
    matrix = _guarded(context, _square(context))
    rank, shape, known = len(matrix.shape), context.out_shape, context.of(b)
    vector = len(context.shape(b)) < rank
    rows, columns = (rank - 2, rank - 1) if left or vector else (rank - 1, rank - 2)
    lead = [str(k) for k in range(rank - 2)]
    side = len(known.shape) - (1 if vector or not left else 2)
    known = separate(context, known, (side,))
    size = {"n": matrix.shape[rows]}
    context.combine([Operand(matrix, {rows: "n"}, a.index), Operand(known, {side: "n"}, b.index)], ["n"], size)
    names = dict(enumerate(lead))
    given = dict(enumerate(lead[: len(known.shape) - (1 if vector else 2)]))
    other = [] if vector else ["r"]
    if not vector:
        given[len(known.shape) - (1 if left else 2)] = "r"
    letters = [*lead, "m", *other] if left or vector else [*lead, *other, "m"]
    operands = [Operand(matrix, names | {columns: "m"}, a.index), Operand(known, given, b.index)]
    out = context.combine(operands, letters, dict(zip(letters, shape, strict=True)))
    out = Labels(out.bundles, out.blank - {letters.index("m")}, out.source, shape)
    return [out, *_rest(context, out)]


def singular_values(context: Context) -> list[Labels]:
    """``_linalg_svd``, ``_linalg_eigh``: values alone forget the order, vectors do not."""
    labels, name = _square(context), context.op.name
    if context.arg(1 if "eigh" not in name else 2, "compute_uv" if "svd" in name else "compute_v", True):
        return decomposition(context)
    rank = len(labels.shape)
    if name == "_linalg_eigh":
        labels = _together(context, labels)
    lead = context.reduce(labels, [rank - 2, rank - 1])
    kept = {a: a for a in range(rank - 2)}
    return [
        Labels(lead.move(kept, context.shape(i)).bundles, frozenset(), labels.source, context.shape(i))
        for i in context.op.outputs
        if i is not None
    ]


def decomposition(context: Context) -> list[Labels]:
    """Cholesky, QR, LU, eigenvectors and their kin: the last two axes of every operand are fixed."""
    out = []
    for ref in context.tensors():
        labels = context.of(ref)
        rank = len(labels.shape)
        out.append(context.project(labels, range(max(rank - 2, 0), rank), "fixed", ORDERED))
    first = out[0]
    lead = max(len(first.shape) - 2, 0)
    bare = [each for each in out[1:] if any(True for _ in each.bundles)]
    for each in bare:
        context.freeze(each, ORDERED)
    results = []
    for i in context.op.outputs:
        if i is None:
            continue
        shape = context.shape(i)
        fits = len(shape) >= lead and shape[:lead] == first.shape[:lead]
        kept = first.move({a: a for a in range(lead)}, shape).bundles if fits else ()
        results.append(Labels(kept, frozenset(), first.source, shape))
    return results


DECOMPOSITIONS = """
    linalg_cholesky_ex cholesky cholesky_solve cholesky_inverse linalg_qr linalg_lu linalg_lu_factor_ex linalg_lu_solve
    linalg_eig _linalg_eigvals linalg_eigvals linalg_ldl_factor_ex linalg_ldl_solve linalg_solve_triangular
    triangular_solve linalg_lstsq linalg_householder_product geqrf ormqr lu_unpack
""".split()

RULES = {
    "linalg_inv_ex": inverse,
    "linalg_matrix_exp": power,
    "matrix_exp": power,
    "_linalg_det": determinant,
    "_linalg_slogdet": determinant,
    "_linalg_solve_ex": solve,
    "_linalg_svd": singular_values,
    "_linalg_eigh": singular_values,
    **dict.fromkeys(DECOMPOSITIONS, decomposition),
}
