"""Ways to solve (H/F + a I) x = q in low precision, emulated: what tensor cores round, or every number there is.

All are given the same: matrices B = H/F (M, D, D) with eigenvalues in [0, 1] and columns q (M, D, N) in float64, and
give x in float64. F is ‖H‖_F, which float32 has to enough digits in each way, and a is the ridge over F.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ssrtrack.kernels.gka_form import relaxations, shortest_step

Tensor = torch.Tensor
Solve = Callable[[Tensor, Tensor, float, int, str], Tensor]
Rounding = Callable[[Tensor], Tensor]

# float64: nothing is rounded. float32: everything in it. … products: the operands of H x in 16 bits, sums and all else
# in float32, as tensor cores have it. float16 and bf16: every vector and coefficient in them too, sums in float32.
WAYS = ("float64", "float32", "float16 products", "float16", "bf16 products", "bf16")
ROUGH = {"float16": torch.float16, "bf16": torch.bfloat16}
# Of ‖q‖: the residual where conjugate gradients are done. In float16 numbers below are short of digits.
STOP = {"float64": 1e-15, "float16": 2.0**-14}
STOP_ELSE = 1e-7


class Arithmetic(NamedTuple):
    """A way of computing: B and q in its precision, and what it rounds an operand and a result to."""

    B: Tensor
    q: Tensor
    operand: Rounding
    result: Rounding

    def times(self, x: Tensor, a: float) -> Tensor:
        """(B + a I) x."""
        return self.result(self.result(self.B @ self.operand(x)) + self.result(a * x))


def rounder(dtype: torch.dtype) -> Rounding:
    """v rounded to 16 bits, in its own type."""
    return lambda v: v.to(dtype).to(v.dtype)


def kept(v: Tensor) -> Tensor:
    """v as it is."""
    return v


def arithmetic(B: Tensor, q: Tensor, way: str) -> Arithmetic:
    """One of WAYS, ready for use."""
    if way == "float64":
        return Arithmetic(B, q, kept, kept)
    if way == "float32":
        return Arithmetic(B.float(), q.float(), kept, kept)
    near = rounder(ROUGH[way.removesuffix(" products")])
    result = near if way in ROUGH else kept
    return Arithmetic(near(B.float()), result(q.float()), near, result)


def chebyshev(B: Tensor, q: Tensor, a: float, steps: int, way: str) -> Tensor:
    """The operator's own iteration (`gka_form.relaxations`), between the bounds a and 1 + a."""
    on = arithmetic(B, q, way)
    s, rho = shortest_step(a)
    before, x = torch.zeros_like(on.q), on.result(s * on.q)
    for w in relaxations(rho, steps):
        x, before = on.result(w * x - s * w * (on.times(x, a) - on.q) - (w - 1.0) * before), x
    return x.to(q.dtype)


def rounded_chebyshev(B: Tensor, q: Tensor, a: float, steps: int, way: str) -> Tensor:
    """The same with x rounded wherever it stands, not in the product alone.

    A rounding δ of x in the product alone is one of the right side, s w H δ, which later iterations answer by Chebyshev
    polynomials of the second kind: along the keys, at the end of the spectrum, they grow before they fall. A rounding
    of x itself is answered by those of the first kind, which do not.
    """
    on = arithmetic(B, q, way)
    s, rho = shortest_step(a)
    before, x = torch.zeros_like(on.q), on.result(s * on.q)
    for w in relaxations(rho, steps):
        near = on.operand(x)
        x, before = on.result(w * near - s * w * (on.times(near, a) - on.q) - (w - 1.0) * before), near
    return x.to(q.dtype)


def conjugate_gradient(B: Tensor, q: Tensor, a: float, steps: int, way: str) -> Tensor:
    """Hestenes and Stiefel, as many products with H as `chebyshev` has; a column rests that has no residual left.

    So does one whose direction has no length in this precision.
    """
    on = arithmetic(B, q, way)
    rounding, right = on.result, on.q
    x, rest, p = torch.zeros_like(right), right, right
    size = (rest * rest).sum(-2, keepdim=True)
    least = STOP.get(way, STOP_ELSE) ** 2 * size
    for _ in range(steps):
        Ap = on.times(p, a)
        along = (p * Ap).sum(-2, keepdim=True)
        going = (size > least) & (along > 0.0)
        alpha = torch.where(going, rounding(size / torch.where(going, along, 1.0)), 0.0)
        x, rest = rounding(x + alpha * p), rounding(rest - alpha * Ap)
        new = (rest * rest).sum(-2, keepdim=True)
        p = rounding(rest + torch.where(going, rounding(new / torch.where(going, size, 1.0)), 0.0) * p)
        size = torch.where(going, new, size)
    return x.to(q.dtype)


def gradient_descent(B: Tensor, q: Tensor, a: float, steps: int, way: str) -> Tensor:
    """Richardson's iteration with the best constant step, Chebyshev's first."""
    on = arithmetic(B, q, way)
    s, _ = shortest_step(a)
    x = on.result(s * on.q)
    for _ in range(steps):
        x = on.result(x - s * (on.times(x, a) - on.q))
    return x.to(q.dtype)


def direct(B: Tensor, q: Tensor, a: float, steps: int, way: str) -> Tensor:
    """Cholesky's factor and two substitutions; NaN where a pivot is not positive. `steps` is not asked.

    Its products are no tensor core's: with "bf16 products" H is rounded, and the rest is float32.
    """
    del steps
    if way == "float64":
        return exact(B, q, a)
    on = arithmetic(B, q, way)
    A = on.result(on.B + a * torch.eye(B.shape[-1], dtype=on.B.dtype))
    return _substituted(_factor(A, on.result), on.q, on.result).to(q.dtype)


def exact(B: Tensor, q: Tensor, a: float) -> Tensor:
    """The solution in float64."""
    x: Tensor = torch.linalg.solve(B + a * torch.eye(B.shape[-1], dtype=B.dtype), q)
    return x


def _factor(A: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """L (M, D, D) with L Lᵀ = A in its lower triangle, column after column, each number rounded as it is made."""
    L = A.clone()
    for j in range(A.shape[-1]):
        L[:, j:, j] = rounding(L[:, j:, j] / L[:, j, j, None].sqrt())
        below = L[:, j + 1 :, j]
        L[:, j + 1 :, j + 1 :] = rounding(L[:, j + 1 :, j + 1 :] - below[:, :, None] * below[:, None, :])
    return L


def _substituted(L: Tensor, right: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """x with L Lᵀ x = right, row after row, forwards and backwards."""
    x, size = right.clone(), L.shape[-1]
    for j in range(size):
        x[:, j] = rounding(x[:, j] / L[:, j, j, None])
        x[:, j + 1 :] = rounding(x[:, j + 1 :] - L[:, j + 1 :, j, None] * x[:, j, None])
    for j in reversed(range(size)):
        x[:, j] = rounding(x[:, j] / L[:, j, j, None])
        x[:, :j] = rounding(x[:, :j] - L[:, j, :j, None] * x[:, j, None])
    return x


SOLVERS: dict[str, Solve] = {
    "Chebyshev": chebyshev,
    "Chebyshev, x rounded": rounded_chebyshev,
    "conjugate gradient": conjugate_gradient,
    "gradient descent": gradient_descent,
    "direct": direct,
}


class Implicit(torch.autograd.Function):
    """x by a solver, and its gradient by the same solver on ∂L/∂x: no iteration is remembered (lemma 1)."""

    @staticmethod
    def forward(ctx: Any, B: Tensor, q: Tensor, a: float, steps: int, way: str, solver: str) -> Tensor:
        x = SOLVERS[solver](B, q, a, steps, way)
        ctx.save_for_backward(B, x)
        ctx.asked = a, steps, way, solver
        return x

    @staticmethod
    def backward(ctx: Any, gx: Tensor) -> tuple[Tensor | None, ...]:
        B, x = ctx.saved_tensors
        a, steps, way, solver = ctx.asked
        d = SOLVERS[solver](B, gx, a, steps, way)
        return -d @ x.mT, d, None, None, None, None
