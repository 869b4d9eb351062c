"""The elementwise pieces of the KOSS kernels at the ends of their ranges, and the step kernels' layouts and tunings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssrtrack.kernels.koss_form import CLOSED, OPERATORS, LoopForm, LoopInputs
from ssrtrack.kernels.reference import koss_update
from tests.koss_pieces import gate, step, step_gradients

Tensor = torch.Tensor
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The rows of `gate` before the sweep: what an ordinary e or z never is.
EXTREMES = (CLOSED, -1e30, -100.0, -1e-8, 0.0, 1e-20, 60.0, 1e9, 3e38)


def test_the_gate_is_finite_everywhere_and_exactly_shut_where_it_is_closed() -> None:
    e = torch.cat([torch.tensor(EXTREMES), torch.linspace(-12.0, 12.0, 119)]).to(DEVICE)
    for operator in ("discrete", "bucy"):
        s, slope, K, K_slope = gate(operator, e).cpu().double()
        x = e.cpu().double().requires_grad_()
        want_K = torch.nn.functional.softplus(x, threshold=1e4) if operator == "bucy" else torch.sigmoid(x)
        square = x * x
        want_s = 1.0 - 1.0 / (1.0 + square)
        assert _close(s, torch.where(square < 1e-6, square, want_s), 1e-6)
        assert _close(slope, 2.0 * x / (1.0 + square) ** 2, 1e-6)
        assert _close(K, want_K, 1e-6)
        assert _close(K_slope, torch.autograd.grad(want_K.sum(), x)[0], 1e-6)
        assert K[0] == 0.0
        assert K_slope[0] == 0.0


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_step_and_its_gradients_hold_for_no_gain_no_time_and_all_time(operator: str) -> None:
    given = _state(256)
    ordinary = slice(24, None)
    got = torch.cat([step(operator, given.to(DEVICE))[None], step_gradients(operator, given.to(DEVICE))]).cpu().double()
    assert got.isfinite().all()
    want = _by_autograd(operator, given.double())
    for row, expected in zip(got, want, strict=True):
        assert _rms((row - expected)[ordinary]) <= 3e-6 * _rms(expected[ordinary])
    # Δ = ∞ in effect: nothing is left of the state, and nothing flows back to it.
    assert (got[1, 16:24] == 0.0).all()


@pytest.mark.parametrize("tuning", [(4, 4, 3, 2), (16, 4, 1, 1)])
def test_how_a_batch_is_cut_into_programs_changes_no_result(tuning: tuple[int, int, int, int]) -> None:
    from ssrtrack.kernels.koss_step_backward import backward
    from ssrtrack.kernels.koss_step_forward import Tuning, forward

    inputs, gy = _loop(5, 4), torch.randn(5, 4, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    base = forward(inputs, LoopForm(), True)
    cut = forward(inputs, LoopForm(), True, Tuning(*tuning))
    whole = backward(inputs, LoopForm(), base[2], gy, None)
    parts = backward(inputs, LoopForm(), cut[2], gy, None, Tuning(*tuning))
    for a, b in zip([*base[:2], *whole[:9]], [*cut[:2], *parts[:9]], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "time first": lambda part: part.transpose(0, 1).contiguous().transpose(0, 1),
    "a slice of wider rows": lambda part: torch.cat([part, part, part], -1)[..., part.shape[-1] : 2 * part.shape[-1]],
    "every other step": lambda part: part.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_strides_of_sequence_and_time_give_the_same(name: str) -> None:
    from ssrtrack.kernels.koss_step_backward import backward
    from ssrtrack.kernels.koss_step_forward import forward

    inputs, gy = _loop(5, 4), torch.ones(5, 4, 16, device=DEVICE)
    laid = inputs._replace(**{part: LAYOUTS[name](getattr(inputs, part)) for part in ("x", "delta", "read", "bias")})
    base, other = forward(inputs, LoopForm(), True), forward(laid, LoopForm(), True)
    whole = backward(inputs, LoopForm(), base[2], gy, None)
    # What `sum()` sends back: one number with all strides 0.
    again = backward(laid, LoopForm(), other[2], torch.ones((), device=DEVICE).expand(gy.shape), None)
    for a, b in zip([*base[:2], *whole[:9]], [*other[:2], *again[:9]], strict=True):
        assert torch.equal(a, b)


def test_no_steps_leave_the_state_and_pass_its_gradient_through() -> None:
    from ssrtrack.kernels.koss_step_backward import backward
    from ssrtrack.kernels.koss_step_forward import forward

    inputs = _loop(3, 0)
    y, final, saved = forward(inputs, LoopForm(), True)
    gradients = backward(inputs, LoopForm(), saved, y, torch.full_like(final, 2.0))
    assert y.shape == (3, 0, 16)
    assert torch.equal(final, inputs.start)
    assert torch.equal(gradients.start, torch.full_like(final, 2.0))
    assert all(float(part.abs().sum()) == 0.0 for part in (gradients.rate, gradients.w1, gradients.b1, gradients.w2))


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Within the tolerance of the larger of |b| and float32's own smallest steps around 1."""
    return bool(((a - b).abs() <= tolerance * b.abs() + 1e-7).all())


def _rms(part: Tensor) -> float:
    return float(part.pow(2).mean().sqrt())


def _state(count: int) -> Tensor:
    """Rows h, A, Δ, K, c, x, ẋ, τ, G of so many states; the first 24 at the ends of a range."""
    generator = torch.Generator().manual_seed(3)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    rows = [normal(), -4.0 * uniform() - 0.1, 10.0 ** (4.0 * uniform() - 3.0), uniform(), torch.tanh(normal())]
    rows += [normal(), normal(), uniform(), normal()]
    rows[3][:8] = 0.0
    rows[2][8:16] = 0.0
    # So large that e^{ΔA} is 0, with A (1 − κ²) and A − κ far enough below 0 that they leave nothing either.
    rows[2][16:24] = 1e9
    rows[3][16:24] = 0.5
    rows[4][16:24] = rows[4][16:24].abs()
    return torch.stack(rows)


def _by_autograd(operator: str, given: Tensor) -> list[Tensor]:
    leaves = [row.clone().requires_grad_() for row in given[:8]]
    h, A, delta, K, c, x, slope, lead = leaves
    v = x + lead * slope
    out = torch.cat(
        [
            koss_update(
                operator, h[i, None, None], x[i, None], slope[i, None], v[i, None], K[i, None], c[i, None],
                delta[i, None], A[i, None, None],
            ).reshape(1)
            for i in range(h.shape[0])
        ]
    )  # fmt: skip
    gradients = torch.autograd.grad(out, leaves, given[8], allow_unused=True)
    return [out.detach(), *(torch.zeros_like(out) if g is None else g for g in gradients)]


def _loop(B: int, T: int, C: int = 16, N: int = 2) -> LoopInputs:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    parts: list[Any] = [
        normal(B, T, C), normal(B, T, C).abs() * 0.3, normal(B, T, N).sigmoid(), normal(B, T, C), -normal(N, C).abs(),
        normal(1, C, C) * 0.3, normal(1, C) * 0.1, normal(1, C, C) * 0.3, normal(B, N, C),
    ]  # fmt: skip
    return LoopInputs(*(part.to(DEVICE) for part in parts))
