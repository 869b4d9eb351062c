"""What bfloat16 costs Gated KalmaNet's solution, by solver, and what the adaptive ridge is good for.

    python -m ssrtrack.experiments.gka_stability --output DIR

The paper's central claims (arXiv 2511.21016, sections 4 and 5): Chebyshev's iteration is accurate in bfloat16 where
conjugate gradients are not, in the gradient above all; and a ridge in proportion to ‖H‖_F keeps the condition number
below (a + 1)/a, where a constant one lets it grow. Four questions, each against exact solutions in float64:

length     error of x = (H + λ I)⁻¹q and of the recall Uᵀx over the number of keys, by solver and arithmetic
condition  error of x over the condition number, by solver and arithmetic
ridge      condition number and error over the number of keys, λ = a ‖H‖_F against constant λ, with γ = 1
depth      error of the gradient of a stack of layers (`gka_depth`), and implicit against unrolled gradients

Rounding is emulated on a CPU (`gka_solvers`); nothing decays (γ = 1) but in `depth`, whose weights are random. The
table begins with the special cases of `gka_identities`.

What is found (benchmarks/results/gka_stability.csv). The claim about the ridge holds: the condition number stays below
51 and, for keys of a strong mean, the recall's error in bfloat16 at 1 %, where constant ridges let them come to a
condition number of 1,000 and more and an error of 30 to 45 %.

The claim about the solver holds in part. With every vector in bfloat16 Chebyshev's recall is up to six times closer
than conjugate gradients' where keys are few, and about as close where they are many; its gradient after five layers is
three times closer. With operands alone in 16 bits and sums in float32, which is what tensor cores have, it is the other
way round: Chebyshev's iteration amplifies what is rounded in the product alone, to fourteen times conjugate gradients'
error for a single key and five to ten for keys of a strong mean, and to six times in the gradient. Most of that goes
where x is rounded everywhere alike (`rounded_chebyshev`), for nothing. In float32 conjugate gradients are closer by
far: the condition number is small, and Chebyshev's error is what 30 iterations leave.

Implicit and unrolled gradients agree to rounding with Chebyshev's iteration, as lemma 2 says, of q and in one layer;
with more layers they do not, and that they agree says nothing of their error. Gradient descent is not done after 30
iterations. A factorisation in bfloat16 is the least accurate and breaks down from a condition number of 2,000 on.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.experiments.evidence import Row, main, rounded
from ssrtrack.experiments.gka_depth import apart, gradient
from ssrtrack.experiments.gka_identities import identities
from ssrtrack.experiments.gka_solvers import SOLVERS, WAYS, exact, rounder
from ssrtrack.report.figures_gka import stability_figure

Tensor = torch.Tensor
Array = NDArray[np.float64]
RIDGE, ROUNDS = 0.02, 30
HEADS, QUERIES = 4, 16
WIDTHS = (64, 128)
KEYS = ("isotropic", "SiLU", "strong mean")
LENGTHS = (1, 4, 16, 64, 256, 1024, 4096)
RIDGES = (0.5, 0.1, 0.02, 5e-3, 1e-3, 2e-4, 1e-5)
CONSTANTS = (0.02, 0.25, 1.0)  # 0.25 is what the paper tried
DEPTHS, SEEDS = (1, 3, 5), (0, 1)
DEEP = ("Chebyshev", "Chebyshev, x rounded", "conjugate gradient")
LOW = tuple(way for way in WAYS if way != "float32")
RIDGE_WAYS = ("float64", "bf16")  # what 30 iterations leave, and what rounding adds
CHUNK = 64
MEMORY = "exact, H carried in bf16"


@dataclass(frozen=True, eq=False)
class Stability:
    """Errors are RMS(error)/RMS(value), infinite where a factorisation broke down.

    length: by (quantity, keys, D, solver, way) over `lengths`: of the recall, for the largest D of x too. condition: by
    (rounds, solver, way) over `conditions`. kappa: by (keys, ridge) over `lengths`; ridge: by (keys, ridge, solver,
    way), of the recall. depth: by (what, solver, way) over `depths`, the median over seeds. identity:
    `gka_identities.identities`.
    """

    lengths: Array
    length: Mapping[tuple[str, str, int, str, str], Array]
    conditions: Array
    condition: Mapping[tuple[int, str, str], Array]
    kappa: Mapping[tuple[str, str], Array]
    ridge: Mapping[tuple[str, str, str, str], Array]
    depths: Array
    depth: Mapping[tuple[str, str, str], Array]
    identity: list[tuple[str, str, float]]


def keys_of(kind: str, count: int, width: int, heads: int = HEADS, seed: int = 0) -> Tensor:
    """Unit vectors (heads, count, D), float64, of one of KEYS.

    SiLU: of normal numbers, as the layer makes them. strong mean: three times as much of one direction as of noise.
    """
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(heads, count, width, generator=g, dtype=torch.float64)
    if kind == "SiLU":
        z = torch.nn.functional.silu(z)
    elif kind == "strong mean":
        z = z + 3.0 * torch.randn(heads, 1, width, generator=g, dtype=torch.float64)
    unit: Tensor = z / z.norm(dim=-1, keepdim=True)
    return unit


def memory_of(kind: str, count: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """H (heads, D, D), U (heads, D, D) of `count` keys with normal values, and queries q (heads, D, QUERIES)."""
    drawn = keys_of(kind, QUERIES + count, width)
    q, k = drawn[:, :QUERIES], drawn[:, QUERIES:]
    values = torch.randn(k.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return k.mT @ k, k.mT @ values, q.mT


def norm_of(H: Tensor) -> Tensor:
    """‖H‖_F (heads, 1, 1)."""
    F: Tensor = H.norm(dim=(-2, -1), keepdim=True)
    return F


def error(found: Tensor, wanted: Tensor) -> float:
    """RMS(found − wanted)/RMS(wanted), infinite where a number is none."""
    value = float((found - wanted).norm() / wanted.norm())
    return value if np.isfinite(value) else np.inf


def by_length(lengths: tuple[int, ...], widths: tuple[int, ...]) -> dict[tuple[str, str, int, str, str], Array]:
    """Errors of x and of the recall, for all kinds of keys, solvers and ways."""
    found: dict[tuple[str, str, int, str, str], list[float]] = {}

    def note(kind: str, width: int, solver: str, way: str, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for quantity, pair in pairs.items():
            if quantity == "x" and width < max(widths):
                continue
            found.setdefault((quantity, kind, width, solver, way), []).append(error(*pair))

    for kind in KEYS:
        for width in widths:
            for count in lengths:
                H, U, q = memory_of(kind, count, width)
                B = H / norm_of(H)
                x = exact(B, q, RIDGE)
                for solver, solve in SOLVERS.items():
                    for way in LOW:
                        y = solve(B, q, RIDGE, ROUNDS, way)
                        note(kind, width, solver, way, {"x": (y, x), "recall": (U.mT @ y, U.mT @ x)})
                kept = carried(kind, count, width)
                y = exact(kept / norm_of(kept), q, RIDGE)
                note(kind, width, MEMORY, "bf16", {"x": (y, x), "recall": (U.mT @ y, U.mT @ x)})
    return {case: np.array(errors) for case, errors in found.items()}


def carried(kind: str, count: int, width: int) -> Tensor:
    """H of the same keys rounded to bfloat16 after every chunk of 64, as no kernel of ours carries it."""
    k, near = keys_of(kind, QUERIES + count, width)[:, QUERIES:], rounder(torch.bfloat16)
    H = torch.zeros(HEADS, width, width, dtype=torch.float64)
    for some in torch.split(k, CHUNK, 1):
        H = near(H + some.mT @ some)
    return H


def by_condition(rounds: tuple[int, ...], width: int) -> tuple[Array, dict[tuple[int, str, str], Array]]:
    """Condition numbers, and errors of x, for each of RIDGES; H's eigenvalues fall evenly over six decades."""
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(HEADS, width, width, generator=g, dtype=torch.float64))[0]
    H = (basis * 10.0 ** torch.linspace(0.0, -6.0, width, dtype=torch.float64)) @ basis.mT
    B, q = H / norm_of(H), torch.randn(HEADS, width, QUERIES, generator=g, dtype=torch.float64)
    found: dict[tuple[int, str, str], Array] = {}
    for count in rounds:
        for solver, solve in SOLVERS.items():
            for way in LOW:
                errors = [error(solve(B, q, a, count, way), exact(B, q, a)) for a in RIDGES]
                found[count, solver, way] = np.array(errors)
    return np.array([condition(B, a) for a in RIDGES]), found


def condition(B: Tensor, a: float) -> float:
    """The greatest condition number of B + a I among the heads."""
    values = torch.linalg.eigvalsh(B).clamp(min=0.0)
    return float(((values[:, -1] + a) / (values[:, 0] + a)).max())


def by_ridge(
    lengths: tuple[int, ...], width: int
) -> tuple[dict[tuple[str, str], Array], dict[tuple[str, str, str, str], Array]]:
    """Condition numbers, and errors of the recall, with λ = a ‖H‖_F and with each of CONSTANTS."""
    kappa: dict[tuple[str, str], list[float]] = {}
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for kind in KEYS[1:]:
        for count in lengths:
            H, U, q = memory_of(kind, count, width)
            F = norm_of(H)[:1]  # one λ for all heads: the first one's norm
            B = H / F
            for name, a in {f"{RIDGE} ‖H‖": RIDGE, **{f"{c}": c / float(F) for c in CONSTANTS}}.items():
                kappa.setdefault((kind, name), []).append(condition(B[:1], a))
                recall = U[:1].mT @ exact(B[:1], q[:1], a)
                for solver in ("Chebyshev", "conjugate gradient"):
                    for way in RIDGE_WAYS:
                        y = U[:1].mT @ SOLVERS[solver](B[:1], q[:1], a, ROUNDS, way)
                        found.setdefault((kind, name, solver, way), []).append(error(y, recall))
    return {k: np.array(v) for k, v in kappa.items()}, {k: np.array(v) for k, v in found.items()}


def by_depth(depths: tuple[int, ...], seeds: tuple[int, ...]) -> dict[tuple[str, str, str], Array]:
    """Medians over seeds of how far gradients are from the exact one, and implicit ones from unrolled ones."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for depth in depths:
        apiece: dict[tuple[str, str, str], list[float]] = {}
        for seed in seeds:
            wanted = gradient(depth, "direct", "float64", seed=seed)
            for solver in DEEP:
                for way in WAYS[1:]:
                    implicit = gradient(depth, solver, way, seed=seed)
                    apiece.setdefault(("implicit, from exact", solver, way), []).append(apart(implicit, wanted))
                    if way != "float32" or "rounded" in solver:
                        continue
                    unrolled = gradient(depth, solver, way, seed=seed, implicit=False)
                    apiece.setdefault(("unrolled, from exact", solver, way), []).append(apart(unrolled, wanted))
                    apiece.setdefault(("implicit, from unrolled", solver, way), []).append(apart(implicit, unrolled))
                    last = apart(implicit[:1], unrolled[:1])
                    apiece.setdefault(("implicit, from unrolled: W_q alone", solver, way), []).append(last)
        for case, values in apiece.items():
            found.setdefault(case, []).append(float(np.median(values)))
    return {case: np.array(values) for case, values in found.items()}


def gka_stability(
    lengths: tuple[int, ...] = LENGTHS, widths: tuple[int, ...] = WIDTHS, rounds: tuple[int, ...] = (ROUNDS, 300),
    depths: tuple[int, ...] = DEPTHS, seeds: tuple[int, ...] = SEEDS,
) -> Stability:  # fmt: skip
    """All of it; about a minute on one core."""
    conditions, condition_errors = by_condition(rounds, widths[-1])
    kappa, ridge = by_ridge(lengths, widths[-1])
    return Stability(
        lengths=np.array(lengths, float),
        length=by_length(lengths, widths),
        conditions=conditions,
        condition=condition_errors,
        kappa=kappa,
        ridge=ridge,
        depths=np.array(depths, float),
        depth=by_depth(depths, seeds),
        identity=identities(),
    )


def table(result: Stability) -> list[Row]:
    """One row a number, every third length: which test, of what, by which solver, in which arithmetic, where."""
    rows: list[Row] = [
        {"test": "identity", "of": what, "solver": how, "way": "float64", "at": "", "value": rounded(far, 3)}
        for what, how, far in result.identity
    ]

    def note(test: str, of: str, solver: str, way: str, axis: str, at: Array, values: Array) -> None:
        pairs = list(zip(at, values, strict=True))[:: 3 if axis == "keys" else 1]
        for place, value in pairs:
            where = f"{axis} {rounded(float(place), 4):g}"
            rows.append(
                {"test": test, "of": of, "solver": solver, "way": way, "at": where, "value": rounded(float(value), 3)}
            )

    for (quantity, kind, width, solver, way), values in result.length.items():
        note("length", f"error of {quantity}, {kind} keys, D {width}", solver, way, "keys", result.lengths, values)
    for (count, solver, way), values in result.condition.items():
        note("condition", f"error of x, {count} iterations", solver, way, "condition", result.conditions, values)
    for (kind, name), values in result.kappa.items():
        note("ridge", f"condition number, λ = {name}, {kind} keys", "", "", "keys", result.lengths, values)
    for (kind, name, solver, way), values in result.ridge.items():
        of = f"error of recall, λ = {name}, {kind} keys"
        note("ridge", of, solver, way, "keys", result.lengths, values)
    for (what, solver, way), values in result.depth.items():
        note("depth", f"gradient: {what}", solver, way, "layers", result.depths, values)
    return rows


def draw(result: Stability) -> Any:
    """The figure of `figures_gka.stability_figure`."""
    width = max(width for _, _, width, *_ in result.length)
    twin = "Chebyshev, x rounded"  # in float32, float16 and bf16 it is Chebyshev itself

    def recall(way: str) -> dict[str, Array]:
        cases = {s: v for (*at, s, w), v in result.length.items() if (*at, w) == ("recall", KEYS[1], width, way)}
        return {s: v for s, v in cases.items() if s != twin or "products" in way}

    rounds = min(count for count, *_ in result.condition)
    conditioned = {s: v for (n, s, w), v in result.condition.items() if (n, w) == (rounds, "bf16") and s != twin}
    kind = KEYS[2]
    kappa = {name: v for (of, name), v in result.kappa.items() if of == kind}
    ridge = {n: v for (of, n, s, w), v in result.ridge.items() if (of, s, w) == (kind, "Chebyshev", "bf16")}
    deep = {(s, w): v for (what, s, w), v in result.depth.items() if what == "implicit, from exact"}
    deep = {(s, w): v for (s, w), v in deep.items() if s != twin or "products" in w}
    return stability_figure(
        result.lengths, {way: recall(way) for way in ("bf16 products", "bf16")}, result.conditions, conditioned,
        kappa, ridge, result.depths, deep,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("gka_stability", __doc__ or "", gka_stability, table, draw))
