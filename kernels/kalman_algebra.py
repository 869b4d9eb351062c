"""Small matrices of scalars, where a scalar is a number, a torch tensor of many tracks, or a traced expression.

The formulas of the Kalman filters are written once, over scalars. Run on torch tensors (one element per track) they
are the torch backend; run on traced expressions (`kalman_trace`) they become source code for numba and Triton.
A matrix is a list of rows. The numbers 0.0 and 1.0 are known to be such and cost nothing, so a formula may be written
in full matrices and still does only the work that the structure of F, H and Q leaves.
"""

from collections.abc import Sequence
from typing import Any

Scalar = Any
Vector = list[Scalar]
Matrix = list[list[Scalar]]


def is_number(x: Scalar, value: float) -> bool:
    """Whether x is that very constant, known before any data."""
    return isinstance(x, int | float) and x == value


def times(a: Scalar, b: Scalar) -> Scalar:
    """a·b, free of charge if one is 0 or 1."""
    if is_number(a, 0.0) or is_number(b, 0.0):
        return 0.0
    if is_number(a, 1.0):
        return b
    return a if is_number(b, 1.0) else a * b


def plus(a: Scalar, b: Scalar) -> Scalar:
    """a + b, free of charge if one is 0."""
    if is_number(a, 0.0):
        return b
    return a if is_number(b, 0.0) else a + b


def minus(a: Scalar, b: Scalar) -> Scalar:
    """a − b, free of charge if b is 0."""
    if is_number(b, 0.0):
        return a
    return -b if is_number(a, 0.0) else a - b


def total(terms: Sequence[Scalar]) -> Scalar:
    """Sum of scalars, from the left."""
    out: Scalar = 0.0
    for term in terms:
        out = plus(out, term)
    return out


def dot(a: Sequence[Scalar], b: Sequence[Scalar]) -> Scalar:
    """Σ a_i b_i."""
    return total([times(x, y) for x, y in zip(a, b, strict=True)])


def times_vector(A: Matrix, x: Vector) -> Vector:
    """A x."""
    return [dot(row, x) for row in A]


def product(A: Matrix, B: Matrix) -> Matrix:
    """A B."""
    columns = transposed(B)
    return [[dot(row, column) for column in columns] for row in A]


def transposed(A: Matrix) -> Matrix:
    """Aᵀ."""
    return [list(column) for column in zip(*A, strict=True)]


def symmetric(size: int, entry: Any) -> Matrix:
    """The symmetric matrix of entry(i, j), asked for i ≤ j only: both halves are the same scalars."""
    out: Matrix = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            out[i][j] = out[j][i] = entry(i, j)
    return out


def congruence(F: Matrix, P: Matrix, Q: Matrix) -> Matrix:
    """F P Fᵀ + Q for symmetric P and Q."""
    left = product(F, P)
    return symmetric(len(F), lambda i, j: plus(dot(left[i], F[j]), Q[i][j]))


def weighted_spread(weights: Sequence[Scalar], offsets: Sequence[Vector], start: Matrix) -> Matrix:
    """start + Σ_k w_k o_k o_kᵀ."""
    scaled = [[times(w, x) for x in offset] for w, offset in zip(weights, offsets, strict=True)]

    def entry(i: int, j: int) -> Scalar:
        return plus(start[i][j], total([times(s[i], o[j]) for s, o in zip(scaled, offsets, strict=True)]))

    return symmetric(len(start), entry)


def identity(size: int) -> Matrix:
    """The unit matrix."""
    return [[1.0 if i == j else 0.0 for j in range(size)] for i in range(size)]


def zeros(size: int) -> Matrix:
    """The zero matrix."""
    return [[0.0] * size for _ in range(size)]


def cholesky(P: Matrix) -> Matrix:
    """Lower L with L Lᵀ = P."""
    size = len(P)
    L = zeros(size)
    for j in range(size):
        L[j][j] = sqrt(minus(P[j][j], total([times(v, v) for v in L[j][:j]])))
        per_pivot = 1.0 / L[j][j]
        for i in range(j + 1, size):
            rest = minus(P[i][j], dot(L[i][:j], L[j][:j]))
            L[i][j] = times(rest, per_pivot)
    return L


def solve_lower(L: Matrix, b: Vector) -> Vector:
    """x with L x = b, for lower triangular L."""
    x: Vector = []
    for i, row in enumerate(L):
        rest = minus(b[i], dot(row[:i], x))
        x.append(0.0 if is_number(rest, 0.0) else rest * (1.0 / row[i]))
    return x


def solve_upper(L: Matrix, b: Vector) -> Vector:
    """x with Lᵀ x = b, for lower triangular L."""
    size = len(L)
    x: Vector = [0.0] * size
    for i in reversed(range(size)):
        rest = minus(b[i], total([times(L[k][i], x[k]) for k in range(i + 1, size)]))
        x[i] = 0.0 if is_number(rest, 0.0) else rest * (1.0 / L[i][i])
    return x


SWEEPS = 6  # of Jacobi's method; convergence is quadratic, five suffice for n ≤ 6 in float64


def eigen(A: Matrix) -> tuple[Vector, Matrix]:
    """Eigenvalues and, as columns, eigenvectors of a symmetric matrix, by cyclic Jacobi rotations (Jacobi 1846)."""
    size = len(A)
    A, V = [list(row) for row in A], identity(size)
    for _ in range(SWEEPS):
        for i in range(size):
            for j in range(i + 1, size):
                _rotate(A, V, i, j)
    return [A[k][k] for k in range(size)], V


def _rotate(A: Matrix, V: Matrix, i: int, j: int) -> None:
    """Turn A and V in the plane i, j so that A[i][j] becomes 0."""
    apart, twice = A[j][j] - A[i][i], A[i][j] + A[i][j]
    # Not √0 where there is nothing to turn: its gradient would be NaN.
    reach = (apart * apart + twice * twice + 1e-30).sqrt()
    tangent = where(apart < 0.0, -twice, twice) / (maximum(apart, -apart) + reach)
    cosine = 1.0 / (tangent * tangent + 1.0).sqrt()
    sine = tangent * cosine
    shift = tangent * A[i][j]
    A[i][i], A[j][j], A[i][j], A[j][i] = A[i][i] - shift, A[j][j] + shift, 0.0, 0.0
    for k in range(len(A)):
        if k not in (i, j):
            left, right = A[k][i], A[k][j]
            A[k][i] = A[i][k] = minus(times(cosine, left), times(sine, right))
            A[k][j] = A[j][k] = plus(times(sine, left), times(cosine, right))
        left, right = V[k][i], V[k][j]
        V[k][i] = minus(times(cosine, left), times(sine, right))
        V[k][j] = plus(times(sine, left), times(cosine, right))


def sqrt(x: Scalar) -> Scalar:
    """√x."""
    return x**0.5 if isinstance(x, int | float) else x.sqrt()


def where(condition: Any, a: Scalar, b: Scalar) -> Scalar:
    """a where the condition holds, else b."""
    if isinstance(condition, bool):
        return a if condition else b
    if hasattr(condition, "choose"):
        return condition.choose(a, b)
    import torch

    return torch.where(condition, a, b)


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """The larger one."""
    if hasattr(a, "larger"):
        return a.larger(b)
    return where(a > b, a, b)


def largest(values: Sequence[Scalar]) -> Scalar:
    """The largest of some values."""
    top = values[0]
    for value in values[1:]:
        top = maximum(top, value)
    return top


def mixture(weights: Sequence[Scalar], parts: Sequence[tuple[Vector, Matrix]]) -> tuple[Vector, Matrix]:
    """Moments of a mixture of (mean, covariance), by offsets from its first part: large coordinates cost no digits."""
    size, reference = len(parts[0][0]), parts[0][0]
    offsets = [[minus(x[a], reference[a]) if k else 0.0 for a in range(size)] for k, (x, _) in enumerate(parts)]
    mean = [total([times(w, o[a]) for w, o in zip(weights, offsets, strict=True)]) for a in range(size)]
    inner = symmetric(size, lambda a, b: total([times(w, P[a][b]) for w, (_, P) in zip(weights, parts, strict=True)]))
    apart = [[minus(o[a], mean[a]) for a in range(size)] for o in offsets]
    return [plus(reference[a], mean[a]) for a in range(size)], weighted_spread(weights, apart, inner)


def log_sum_exp(values: Sequence[Scalar]) -> tuple[Scalar, Vector]:
    """log Σ exp(v) and the shares exp(v) / Σ, safe for very negative values."""
    top = largest(values)
    raised = [(value - top).exp() for value in values]
    whole = total(raised)
    per_whole = 1.0 / whole
    return top + whole.log(), [r * per_whole for r in raised]
