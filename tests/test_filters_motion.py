"""Laws of the motion models and of the chain between them: steps add up, Jacobians are derivatives."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.motion import Motion, constant_acceleration, constant_velocity, coordinated_turn, singer
from ssrtrack.geodesy import wrapped_angle

STEPS = st.floats(0.0, 40.0)
LINEAR = {
    "CV": constant_velocity(2.0),
    "CA": constant_acceleration(0.1, 1.0),
    "Singer": singer(1.5, 15.0),
    "slow Singer": singer(1.5, 600.0),
}


def matrices(motion: Motion, dt: float) -> tuple[np.ndarray, np.ndarray]:
    F, Q = motion.matrices(np.array([dt]))
    assert F is not None
    return F[0], Q[0]


@pytest.mark.parametrize("motion", LINEAR.values(), ids=LINEAR)
@given(a=STEPS, b=STEPS)
@settings(max_examples=40)
def test_two_steps_are_one_long_step(motion: Motion, a: float, b: float) -> None:
    (Fa, Qa), (Fb, Qb), (F, Q) = (matrices(motion, t) for t in (a, b, a + b))
    np.testing.assert_allclose(Fb @ Fa, F, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(Fb @ Qa @ Fb.T + Qb, Q, rtol=1e-7, atol=1e-9 * (1.0 + np.abs(Q).max()))


@pytest.mark.parametrize("motion", LINEAR.values(), ids=LINEAR)
@given(dt=st.floats(1e-6, 100.0))
@settings(max_examples=40)
def test_process_noise_is_a_covariance_and_move_is_f(motion: Motion, dt: float) -> None:
    F, Q = matrices(motion, dt)
    scale = np.sqrt(np.diag(Q))
    assert np.linalg.eigvalsh(Q / np.outer(scale, scale)).min() > -1e-12
    x = np.arange(1.0, 1.0 + motion.size)
    np.testing.assert_allclose(motion.move(x[None], np.array([dt]))[0], F @ x, rtol=1e-12)


def test_singers_noise_equals_the_van_loan_matrix_exponential() -> None:
    sigma, tau, dt = 1.5, 15.0, 8.0
    A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0 / tau]])
    G = np.diag([0.0, 0.0, 2.0 * sigma**2 / tau])
    big = expm(np.block([[-A, G], [np.zeros((3, 3)), A.T]]) * dt)
    F, Q = matrices(singer(sigma, tau), dt)
    np.testing.assert_allclose(F[::2, ::2], big[3:, 3:].T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(Q[::2, ::2], big[3:, 3:].T @ big[:3, 3:], rtol=1e-10)
    assert not Q[::2, 1::2].any()


@given(st.floats(-0.08, 0.08), st.floats(0.0, 30.0), st.floats(-300, 300), st.floats(-300, 300))
@settings(max_examples=80)
def test_turn_keeps_speed_and_has_the_right_jacobian(omega: float, dt: float, vx: float, vy: float) -> None:
    motion = coordinated_turn(0.03, 0.015, 60.0, 0.5)
    x, step = np.array([[1e3, -2e3, vx, vy, omega]]), np.array([dt])
    after = motion.move(x, step)[0]
    assert np.hypot(*after[2:4]) == pytest.approx(np.hypot(vx, vy), abs=1e-9)
    turned = complex(vx, vy) * np.exp(1j * omega * dt)  # positive rates turn left
    np.testing.assert_allclose(after[2:4], [turned.real, turned.imag], atol=1e-9)
    # The chord of the arc: position moves by 2 sin(ωT/2)/ω times the speed.
    chord = dt * np.sinc(omega * dt / 2.0 / np.pi) * np.hypot(vx, vy)
    assert np.hypot(*(after[:2] - x[0, :2])) == pytest.approx(chord, abs=1e-6)
    for i, h in enumerate((1.0, 1.0, 1.0, 1.0, 1e-5)):
        up, down = x.copy(), x.copy()
        up[0, i] += h
        down[0, i] -= h
        slope = (motion.move(up, step) - motion.move(down, step))[0] / (2.0 * h)
        np.testing.assert_allclose(motion.jacobian(x, step)[0, :, i], slope, rtol=1e-4, atol=2e-2)


def test_turn_rate_returns_to_its_mean_with_its_stationary_spread() -> None:
    motion = coordinated_turn(0.03, 0.015, 60.0, 0.5)
    long = np.array([1e4])
    assert motion.move(np.array([[0.0, 0.0, 0.0, 0.0, -0.05]]), long)[0, 4] == pytest.approx(0.03)
    assert motion.matrices(long)[1][0, 4, 4] == pytest.approx(0.015**2)


@given(STEPS, STEPS, st.lists(st.floats(0.5, 600.0), min_size=2, max_size=4), st.integers(0, 1000))
@settings(max_examples=60)
@example(0.0, 5e-324, [1.0, 1.0], 0)  # the shortest step there is
def test_chain_is_a_semigroup_of_stochastic_matrices(a: float, b: float, sojourn: list[float], seed: int) -> None:
    size = len(sojourn)
    jump = np.random.default_rng(seed).uniform(0.05, 1.0, (size, size)) * (1.0 - np.eye(size))
    jump /= jump.sum(1, keepdims=True)
    chain = Chain(np.array(sojourn), jump)
    one, two, both = chain.matrix(np.array([a, b, a + b]))
    np.testing.assert_allclose(one @ two, both, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(both, expm((jump - np.eye(size)) / np.array(sojourn)[:, None] * (a + b)), atol=1e-10)
    np.testing.assert_allclose(both.sum(1), 1.0, rtol=1e-12)
    start = np.exp(chain.log_start())
    np.testing.assert_allclose(start @ both, start, rtol=1e-8)


def test_a_mean_sojourn_is_as_long_as_stated() -> None:
    chain = Chain(np.array([120.0, 30.0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    small = chain.matrix(np.array([1e-3]))[0]
    assert small[0, 1] / 1e-3 == pytest.approx(1 / 120.0, rel=1e-4)
    assert small[1, 0] / 1e-3 == pytest.approx(1 / 30.0, rel=1e-4)
    np.testing.assert_allclose(chain.matrix(np.zeros(1))[0], np.eye(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant_velocity(0.0),
        lambda: singer(1.0, float("nan")),
        lambda: constant_acceleration(-1.0, 1.0),
        lambda: coordinated_turn(0.0, 0.0, 1.0, 1.0),
        lambda: Chain(np.array([1.0, -1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])),
        lambda: Chain(np.array([1.0, 1.0]), np.array([[0.5, 0.5], [1.0, 0.0]])),
    ],
)
def test_impossible_models_are_refused(make: object) -> None:
    with pytest.raises(EstimatorError):
        make()  # type: ignore[operator]


@given(st.floats(-1e3, 1e3))
def test_wrapped_angles_are_in_the_half_open_circle(angle: float) -> None:
    out = float(wrapped_angle(np.array(angle)))
    assert -np.pi <= out < np.pi
    assert np.cos(out) == pytest.approx(np.cos(angle), abs=1e-9)
    assert np.sin(out) == pytest.approx(np.sin(angle), abs=1e-9)
