"""The Riccati equation and the frozen loop against closed forms and against the operators run step by step."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import solve_discrete_are

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.koss_form import OPERATORS
from ssrtrack.kernels.reference import koss_given_gains
from ssrtrack.models.koss_theory import (
    discrete_steady_gain,
    filter_gain,
    frozen_transfer,
    riccati_flow,
    scalar_steady_gain,
    steady_gain,
)

Array = NDArray[Any]
A, C, Q, R = [[0.0, 1.0], [-1.0, -1.0]], [0.0, 1.0], np.eye(2), 1.0
STARTS = [np.eye(2), 2 * np.eye(2), 0.5 * np.eye(2), [[2, 0.5], [0.5, 1]], [[1.5, -0.2], [-0.2, 0.8]]]


def test_steady_gain_of_the_published_system() -> None:
    K, P = steady_gain(A, C, Q, R)
    assert K[:, 0] == pytest.approx([1 - np.sqrt(2), 0.68179283], abs=1e-8)
    a, c = np.array(A), np.array([C])
    assert a @ P + P @ a.T + Q - P @ c.T @ c @ P == pytest.approx(np.zeros((2, 2)), abs=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_every_start_flows_to_the_steady_gain(start: object) -> None:
    flow = riccati_flow(A, C, Q, R, np.asarray(start), [0.0, 1.0, 20.0])
    assert flow[0] == pytest.approx(np.asarray(start))
    assert filter_gain(flow, C, R)[-1] == pytest.approx(steady_gain(A, C, Q, R)[0], abs=1e-8)
    a, c = np.array(A), np.array([C])

    def rate(_: float, flat: np.ndarray) -> np.ndarray:
        P = flat.reshape(2, 2)
        return np.asarray(a @ P + P @ a.T + Q - P @ c.T @ c @ P).ravel()

    ode = solve_ivp(rate, (0, 1), np.asarray(start, float).ravel(), rtol=1e-10, atol=1e-12).y[:, -1]
    assert flow[1].ravel() == pytest.approx(ode, abs=1e-8)


def test_the_flow_of_a_stiff_system_over_a_long_time_is_its_steady_state() -> None:
    """One mode is a hundred times the other: in one step e^{100 t} would leave no digit of the slow one."""
    stiff, read = [[-1.0, 0.0], [0.0, -100.0]], [1.0, 1.0]
    wanted = steady_gain(stiff, read, Q, R)[1]
    for times in ([10.0], [1.0, 3.0, 10.0]):
        assert riccati_flow(stiff, read, Q, R, np.eye(2), times)[-1] == pytest.approx(wanted, rel=1e-9)


def test_one_state_has_a_closed_form() -> None:
    one = np.ones((1, 1))
    for a, c, q, r in ((-0.5, 2.0, 1.5, 0.7), (0.3, 1.0, 0.2, 1.0), (0.0, 0.5, 1.0, 2.0)):
        K = scalar_steady_gain(a, c, q, r)
        assert steady_gain(a, c, q, r)[0].item() == pytest.approx(K)
        assert a - K * c == pytest.approx(-np.sqrt(a * a + c * c * q / r))
        P = float(solve_discrete_are(0.9 * one, c * one, q * one, r * one)[0, 0])
        assert discrete_steady_gain(0.9, c, q, r) == pytest.approx(P * c / (c * c * P + r))
    assert discrete_steady_gain(0.9, 0.0, 1.0, 1.0) == 0.0 and discrete_steady_gain(0.9, 2.0, 1.0, 0.0) == 0.5


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("gain", "delta"), [(0.3, 0.05), (0.7, 1.0)])
def test_frozen_gain_has_the_transfer_function_of_its_closed_form(operator: str, gain: float, delta: float) -> None:
    read, rate, steps = 1.0 if operator == "kalman" else 0.6, -1.5, 1024
    x = torch.zeros(steps, 1, dtype=torch.float64)
    x[0] = 1.0
    slope = torch.diff(x, dim=0, prepend=x[:1] * 0)
    full = torch.full((steps, 1), 1.0, dtype=torch.float64)
    y, _ = koss_given_gains(
        x, delta * full, gain * full, read * full, rate * full[:1], torch.zeros(1, 1, dtype=torch.float64),
        None if operator == "bucy" else slope, torch.zeros(1, dtype=torch.float64), operator,
    )  # fmt: skip
    response = np.fft.rfft(y[:, 0].numpy() / read)
    wanted = frozen_transfer(operator, np.fft.rfftfreq(steps), gain=gain, read=read, delta=delta, rate=rate)
    assert response == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("operator", "least", "most"), [("discrete", 3.5, 4.0), ("kalman", 0.8, 1.0)])
def test_states_of_the_default_operator_each_take_the_input_for_their_own(
    operator: str, least: float, most: float
) -> None:
    """N = 4, a constant x = 1, a resting gain: Σ c_n h_n is that of four filters, not of one with four states."""
    steps, N, gain, delta = 4000, 4, 0.6, 1e-2
    read = torch.full((steps, N), 0.5, dtype=torch.float64)
    rate = -torch.arange(1.0, N + 1.0, dtype=torch.float64)[:, None]
    full = torch.ones(steps, 1, dtype=torch.float64)
    y, _ = koss_given_gains(full, delta * full, gain * full, read, rate, 0.0 * rate, None, None, operator)
    assert least < float(y[-1]) < most
    if operator == "discrete":
        alone = [frozen_transfer(operator, 0.0, gain=gain, read=0.5, delta=delta, rate=-n - 1.0) for n in range(N)]
        assert float(y[-1]) == pytest.approx(0.5 * sum(v.real.item() for v in alone), rel=1e-9)


def test_a_resting_gain_passes_its_input_in_the_exact_operator_and_filters_it_in_the_default_one() -> None:
    at = np.array([0.0, 0.05, 0.2, 0.5])
    assert np.array_equal(frozen_transfer("exact", at, gain=0.3, read=0.6, delta=1.0, rate=-1.0), np.full(4, 0.3))
    discrete = np.abs(frozen_transfer("discrete", at, gain=0.3, read=0.6, delta=1e-3, rate=-1.0))
    assert discrete[0] > 5 * discrete[-1]


def test_the_exact_operator_with_a_resting_gain_is_the_input_and_its_decayed_start() -> None:
    """h_t = K x_t + e^{(Δ_1 + … + Δ_t) A} h_0, whatever the steps' lengths: also where they are long."""
    g = torch.Generator().manual_seed(0)
    x, delta = torch.randn(40, 3, dtype=torch.float64, generator=g), torch.rand(40, 3, dtype=torch.float64, generator=g)
    K, rate = torch.tensor([0.0, 0.4, 0.9], dtype=torch.float64), -torch.tensor([[0.5], [3.0]]).double().expand(2, 3)
    start = torch.randn(2, 3, dtype=torch.float64, generator=g)
    for t in (1, 2, 40):
        _, h = koss_given_gains(
            x[:t], delta[:t], K.expand(t, 3), torch.ones(t, 2).double(), rate, start,
            torch.diff(x[:t], dim=0, prepend=0.0 * x[:1]), None, "exact",
        )  # fmt: skip
        wanted = K * x[t - 1] + torch.exp(delta[:t].sum(0) * rate) * start
        torch.testing.assert_close(h, wanted, rtol=1e-12, atol=1e-13)


def moving(t: Array) -> tuple[Array, Array, Array, Array]:
    """A gain K(t) and an input x(t), each with its slope."""
    K, K_slope = 0.5 + 0.4 * np.sin(2.0 * t), 0.8 * np.cos(2.0 * t)
    x, x_slope = np.cos(3.0 * t) + 0.5 * t, 0.5 - 3.0 * np.sin(3.0 * t)
    return K, K_slope, x, x_slope


def test_the_exact_operator_tends_to_its_differential_equation_while_the_gain_moves() -> None:
    """h' = A h − A K x + K x' and, the same by h = g + K x, g' = A g − K' x: the error halves with the step."""
    rate, start, end = np.array([-0.7, -2.5]), np.array([0.6, -0.3]), 3.0

    def paper(t: float, h: Array) -> Array:
        K, _, x, x_slope = moving(np.asarray(t))
        return np.asarray(rate * h - rate * K * x + K * x_slope)

    def g_form(t: float, g: Array) -> Array:
        _, K_slope, x, _ = moving(np.asarray(t))
        return np.asarray(rate * g - K_slope * x)

    K, _, x, _ = moving(np.array([0.0, end]))
    wanted = solve_ivp(paper, (0.0, end), start, rtol=1e-11, atol=1e-12).y[:, -1]
    other = solve_ivp(g_form, (0.0, end), start - K[0] * x[0], rtol=1e-11, atol=1e-12).y[:, -1]
    assert other + K[1] * x[1] == pytest.approx(wanted, abs=1e-9)
    off = []
    for steps in (100, 200, 400, 800):
        K, _, x, _ = moving(np.linspace(0.0, end, steps + 1))
        slope, gain, seen = (torch.from_numpy(v)[:, None] for v in (np.diff(x), K[1:], x[1:]))
        _, h = koss_given_gains(
            seen, torch.full_like(seen, end / steps), gain, torch.ones(steps, 2).double(),
            torch.from_numpy(rate)[:, None], torch.from_numpy(start)[:, None], slope, None, "exact",
        )  # fmt: skip
        off.append(np.abs(h[:, 0].numpy() - wanted).max())
    assert off[0] < 0.05
    assert all(later < 0.55 * before for before, later in pairwise(off))


def test_the_truncated_operator_tends_to_its_pole_and_zero() -> None:
    gain, read, rate, step = 0.5, 0.8, -1.0, 1e-4
    s = 2j * np.pi * np.array([0.01, 0.1, 1.0])
    kappa = gain * read
    closed = gain * (s - (1 - kappa) * rate) / (s - (1 - kappa**2) * rate)
    found = frozen_transfer("neumann", step * s.imag / (2 * np.pi), gain=gain, read=read, delta=step, rate=rate)
    assert found == pytest.approx(closed, rel=1e-3)


def test_systems_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EstimatorError, match=r"C is \(1, 3\), expected \(1, 2\)"):
        steady_gain(A, [0, 1, 0], Q, R)
    with pytest.raises(EstimatorError, match="R is singular"):
        steady_gain(A, C, Q, 0.0)
    for q, r in ((-np.eye(2), R), ([[1.0, 0.5], [0.0, 1.0]], R), (Q, -1.0)):
        with pytest.raises(EstimatorError, match="is no covariance"):
            steady_gain(A, C, q, r)
    for c, r in ((0.0, 1.0), (1.0, 0.0)):
        with pytest.raises(EstimatorError, match="a steady gain takes a C that is not 0 and an R above 0"):
            scalar_steady_gain(-1.0, c, 1.0, r)
    with pytest.raises(EstimatorError, match=r"start is \(3, 3\), expected \(2, 2\), as A"):
        riccati_flow(A, C, Q, R, np.eye(3), [1.0])
    with pytest.raises(EstimatorError, match="no steady state"):
        steady_gain([[1.0, 0.0], [0.0, -1.0]], [0.0, 1.0], Q, R)
    with pytest.raises(EstimatorError, match="rises from 0"):
        riccati_flow(A, C, Q, R, np.eye(2), [2.0, 1.0])
    with pytest.raises(EstimatorError, match="operator 'nothing'"):
        frozen_transfer("nothing", 0.1, gain=1, read=1, delta=1, rate=-1)
