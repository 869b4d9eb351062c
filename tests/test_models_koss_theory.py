"""The Riccati equation and the frozen loop against closed forms and against the operators run step by step."""

import numpy as np
import pytest
import torch
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


def test_the_exact_operator_passes_its_input_and_remembers_nothing_of_it() -> None:
    """Above the rate that its steps resolve; and `discrete` does remember: its response rises towards f = 0."""
    high = np.array([0.05, 0.2, 0.5])
    exact = frozen_transfer("exact", high, gain=0.3, read=0.6, delta=1e-3, rate=-1.0)
    assert exact == pytest.approx(np.full(3, 0.3), rel=5e-3)
    discrete = np.abs(frozen_transfer("discrete", np.array([0.0, 0.5]), gain=0.3, read=0.6, delta=1e-3, rate=-1.0))
    assert discrete[0] > 5 * discrete[1]


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
    with pytest.raises(EstimatorError, match="no steady state"):
        steady_gain([[1.0, 0.0], [0.0, -1.0]], [0.0, 1.0], Q, R)
    with pytest.raises(EstimatorError, match="rises from 0"):
        riccati_flow(A, C, Q, R, np.eye(2), [2.0, 1.0])
    with pytest.raises(EstimatorError, match="operator 'nothing'"):
        frozen_transfer("nothing", 0.1, gain=1, read=1, delta=1, rate=-1)
