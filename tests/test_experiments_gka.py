"""Gated KalmaNet's evidence: emulated solvers, the stack's gradient, identities, and what is found with them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssrtrack.experiments import gka_depth, gka_identities, gka_solvers, gka_stability
from ssrtrack.experiments.gka_solvers import SOLVERS, WAYS, exact
from ssrtrack.kernels import gka_reference
from ssrtrack.kernels.gka import gka
from ssrtrack.report.figures_koss import save

Tensor = torch.Tensor


def system(kind: str = "SiLU", count: int = 40, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """B = H/‖H‖_F, U and q of keys of a kind."""
    H, U, q = gka_stability.memory_of(kind, count, width)
    return H / gka_stability.norm_of(H), U, q


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_solver_finds_the_solution_and_rounding_keeps_it_off(solver: str) -> None:
    B, _, q = system()
    found = {way: gka_stability.error(SOLVERS[solver](B, q, 0.02, 600, way), exact(B, q, 0.02)) for way in WAYS}
    assert found["float64"] < 1e-8 and found["float32"] < 1e-5
    assert 1e-5 < found["float16 products"] < 5e-3 < found["bf16"] < 0.3
    assert 1e-4 < found["bf16 products"] < 2e-2
    assert found["float16"] < found["bf16"]


def test_chebyshev_is_the_operators_own() -> None:
    B, _, q = system(width=8)
    found = gka_solvers.chebyshev(B, q, 0.1, 7, "float64")
    one, ridge = torch.ones((), dtype=torch.float64), torch.full((), 0.1, dtype=torch.float64)
    for head in range(2):
        wanted = gka_reference.chebyshev(B[head], one, ridge, q[head, :, 0], 7)
        torch.testing.assert_close(found[head, :, 0], wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("way", WAYS)
def test_cholesky_without_positive_pivots_breaks_down_and_conjugate_gradients_do_not(way: str) -> None:
    B, _, q = system("strong mean", count=1)
    kept = gka_solvers.conjugate_gradient(B, q, 0.02, 40, way)
    assert bool(torch.isfinite(kept).all()) and gka_stability.error(kept, exact(B, q, 0.02)) < 0.1
    below = torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))[None]
    found = gka_solvers.direct(below, torch.ones(1, 2, 1, dtype=torch.float64), 0.02, 0, way)
    assert bool(torch.isfinite(found).all()) == (way == "float64")


def test_an_implicit_gradient_is_that_of_the_solution() -> None:
    B, _, q = system(width=6)
    B, q = B[:1].requires_grad_(), q[:1, :, :2].requires_grad_()

    def implicit(B: Tensor, q: Tensor) -> Tensor:
        x: Tensor = gka_solvers.Implicit.apply(B, q, 0.1, 0, "float64", "direct")  # type: ignore[no-untyped-call]
        return x

    assert torch.autograd.gradcheck(implicit, (B, q))


def test_a_layer_of_the_stack_recalls_as_the_operator_does() -> None:
    x, (w, *_), _ = gka_depth.stack(1, seed=0)
    y = gka_depth.layer(x, w, "Chebyshev", "float64", 30, 0.02, True)
    h = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    q, k, v = (torch.nn.functional.silu(h @ m).view(1, -1, gka_depth.HEADS, gka_depth.HEAD) for m in w[:3])
    q, k = (part / part.norm(dim=-1, keepdim=True) for part in (q, k))
    gates = torch.full(q.shape[:3], float(np.log(gka_depth.GAMMA)), dtype=torch.float64)
    o, _ = gka(q, k, v, gates, backend="torch", scale=1.0)
    o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(y, x + o[0].flatten(1) @ w.o, rtol=1e-9, atol=1e-10)


def test_gradients_of_a_stack_implicit_and_unrolled_meet_where_all_is_solved() -> None:
    wanted = gka_depth.gradient(2, "direct", "float64")
    for solver, implicit in (("Chebyshev", True), ("Chebyshev", False), ("conjugate gradient", True)):
        found = gka_depth.gradient(2, solver, "float64", steps=150, implicit=implicit)
        assert gka_depth.apart(found, wanted) < 1e-7
    assert gka_depth.apart(gka_depth.gradient(2, "Chebyshev", "bf16"), wanted) > 1e-3


def test_special_cases_are_what_they_are_said_to_be() -> None:
    found = {(what, how): far for what, how, far in gka_identities.identities()}
    assert len(found) == 6
    short = {how: far for (_, how), far in found.items() if how == "chunks, 30 iterations"}
    assert 1e-5 < short.popitem()[1] < 1e-3
    assert all(far < 1e-12 for (_, how), far in found.items() if how != "chunks, 30 iterations")


def test_the_adaptive_ridge_bounds_the_condition_number_and_a_constant_one_does_not() -> None:
    kappa, errors = gka_stability.by_ridge((4, 64, 1024), 32)
    assert kappa["strong mean", "0.02 ‖H‖"].max() <= 51.0 + 1e-6
    assert kappa["strong mean", "0.25"][-1] > 250.0 and np.all(np.diff(kappa["strong mean", "0.25"]) > 0.0)
    bounded, grown = (errors["strong mean", name, "Chebyshev", "bf16"] for name in ("0.02 ‖H‖", "0.25"))
    assert bounded.max() < 0.05 < 0.1 < grown[-1]


def test_what_is_rounded_in_the_product_alone_is_amplified_along_the_keys() -> None:
    """Chebyshev's recall, with operands in bfloat16: x as it is elsewhere, or rounded everywhere alike.

    Conjugate gradients have no such trouble, but one with vectors in bfloat16.
    """
    B, U, q = system("strong mean", count=16, width=64)
    wanted = U.mT @ exact(B, q, 0.02)
    apart, alike, conjugate = (
        gka_stability.error(U.mT @ SOLVERS[name](B, q, 0.02, 30, "bf16 products"), wanted)
        for name in ("Chebyshev", "Chebyshev, x rounded", "conjugate gradient")
    )
    assert apart > 3.0 * alike and apart > 3.0 * conjugate
    B, U, q = system("SiLU", count=16, width=64)
    wanted = U.mT @ exact(B, q, 0.02)
    rough, smooth = (
        gka_stability.error(U.mT @ SOLVERS[name](B, q, 0.02, 30, "bf16"), wanted)
        for name in ("conjugate gradient", "Chebyshev")
    )
    assert rough > 2.0 * smooth


def test_table_and_figure(tmp_path: Path) -> None:
    small = gka_stability.gka_stability((1, 16), (16,), (30,), (1,), (0,))
    rows = gka_stability.table(small)
    assert {row["test"] for row in rows} == {"identity", "length", "condition", "ridge", "depth"}
    assert len({tuple(row) for row in rows}) == 1 and not any(np.isnan(float(row["value"])) for row in rows)
    broken = {(row["test"], row["solver"]) for row in rows if not np.isfinite(float(row["value"]))}
    assert broken <= {("condition", "direct"), ("condition", "conjugate gradient")}
    assert len({tuple(v for k, v in row.items() if k != "value") for row in rows}) == len(rows)
    svg, png = save(gka_stability.draw(small), tmp_path, "gka")
    assert svg.read_text().count("<path") > 50 and png.stat().st_size > 20_000
    assert svg.read_bytes() == save(gka_stability.draw(small), tmp_path / "again", "gka")[0].read_bytes()
