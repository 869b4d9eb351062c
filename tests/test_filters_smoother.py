"""Smoothers against dense Gaussian conditioning, against every sequence of modes, and against their filters."""

from itertools import product

import numpy as np
import pytest

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.motion import Motion, constant_velocity, coordinated_turn
from ssrtrack.filters.options import Options
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth
from ssrtrack.kernels import reference
from ssrtrack.units import DEG_RAD
from tests.filters_fixture import PRIOR_SPEED_MPS, bank_flights, cartesian, nees, noisy, polar, times

R = np.array([[70.0**2, 2500.0], [2500.0, 150.0**2]])


def bank(name: str, **parameters: float) -> Bank:
    estimator = make_estimator(name, **parameters)
    assert isinstance(estimator, Bank)
    return estimator


def dense(motion: Motion, time_s: np.ndarray, z: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares over one whole flight at once: means (T, 4) and covariances (T, 4, 4) given all its plots."""
    n, plots = motion.size, time_s.size
    F, Q = motion.matrices(np.diff(time_s))
    assert F is not None
    m = np.zeros(n)
    C = np.zeros((n, n))
    m[:2], C[:2, :2] = z[0], R
    C[[2, 3], [2, 3]] = 170.0**2
    C[range(4, n), range(4, n)] = motion.entry_variance
    mean, joint = [m], np.zeros((plots, plots, n, n))
    joint[0, 0] = C
    for k in range(1, plots):
        mean.append(F[k - 1] @ mean[-1])
        joint[k, k] = F[k - 1] @ joint[k - 1, k - 1] @ F[k - 1].T + Q[k - 1]
        for i in range(k):
            joint[k, i] = F[k - 1] @ joint[k - 1, i]
            joint[i, k] = joint[k, i].T
    full, prior = joint.transpose(0, 2, 1, 3).reshape(n * plots, n * plots), np.concatenate(mean)
    used = np.flatnonzero(valid[1:]) + 1
    rows = (n * used[:, None] + np.arange(2)).ravel()
    S = full[np.ix_(rows, rows)] + np.kron(np.eye(used.size), R)
    gain = np.linalg.solve(S, full[rows]).T
    posterior = prior + gain @ (z[used].ravel() - prior[rows])
    covariance = (full - gain @ full[rows]).reshape(plots, n, plots, n)[range(plots), :, range(plots)]
    return posterior.reshape(plots, n)[:, :4], covariance[:, :4, :4]


@pytest.mark.parametrize("name", ["kf", "singer", "kf-ca"])
def test_rts_smoother_equals_dense_least_squares(name: str) -> None:
    rng = np.random.default_rng(0)
    estimator = bank(name)
    time_s = times(rng, 4, 12)
    truth, _ = bank_flights(rng, estimator, time_s, rng.uniform(-2e3, 2e3, (4, 2)))
    z = noisy(rng, time_s, truth, R)
    valid = rng.uniform(size=(4, 12)) < 0.8
    valid[:, 0] = True
    mean, covariance = smooth(name, cartesian(time_s, z.position_m, R, valid))
    for n in range(4):
        expected_mean, expected_covariance = dense(estimator.motions[0], time_s[n], z.position_m[n], valid[n])
        np.testing.assert_allclose(mean[n], expected_mean, rtol=1e-9, atol=1e-7)
        np.testing.assert_allclose(covariance[n], expected_covariance, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("engine", ["unscented", "cubature"])
def test_sigma_point_smoothers_equal_rts_on_a_linear_model(engine: str) -> None:
    """A turn whose rate is known to be zero is straight flight, but goes through the sigma-point step."""
    rng = np.random.default_rng(1)
    turn = coordinated_turn(0.0, 1e-9, 60.0, 2.0)
    one = Chain(np.ones(1), np.zeros((1, 1)))
    time_s = times(rng, 3, 10)
    straight = Bank((constant_velocity(2.0),), one, "extended", "position", Options())
    truth, _ = bank_flights(rng, straight, time_s, np.zeros((3, 2)))
    z = noisy(rng, time_s, truth, R)
    expected_mean, expected_covariance = smooth(straight, z)
    mean, covariance = smooth(Bank((turn,), one, engine, "position", Options()), z)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["kf", "ekf", "ukf", "ckf", "ukf-ct", "imm", "imm2", "imm3"])
def test_smoothing_beats_filtering_and_knows_how_well(name: str) -> None:
    rng = np.random.default_rng(11)
    # The noise drawn is Gaussian, so the filter's is.
    estimator = bank(name, speed_sigma_mps=PRIOR_SPEED_MPS, tail_weight=0.0)
    time_s = times(rng, 120, 20)
    bearing = rng.uniform(0, 2 * np.pi, 120)
    truth, _ = bank_flights(rng, estimator, time_s, 111e3 * np.stack([np.sin(bearing), np.cos(bearing)], -1))
    if estimator.observation == "polar":
        z = polar(time_s, truth[..., :2], 70.0, 0.08 * DEG_RAD, rng)
    else:
        z = noisy(rng, time_s, truth, R)
    history, (mean, covariance) = run(estimator, z), smooth(estimator, z)
    for part in (slice(0, 2), slice(2, 4)):
        filtered = ((history.mean - truth)[:, 1:-1, part] ** 2).sum(-1).mean()
        smoothed = ((mean - truth)[:, 1:-1, part] ** 2).sum(-1).mean()
        assert smoothed < 0.75 * filtered
    np.testing.assert_allclose(mean[:, -1], history.mean[:, -1], rtol=1e-9)
    assert 3.5 < nees(truth[:, 10] - mean[:, 10], covariance[:, 10]).mean() < 5.2
    assert (np.linalg.eigvalsh(covariance) > 0.0).all()


def exact(imm: Bank, time_s: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (T, 4), covariance (T, 4, 4), mode probabilities (T, M) given all plots: a sum over all mode sequences."""
    plots, models = time_s.size, len(imm.motions)
    dt = np.diff(time_s)
    log_start, log_pi = imm.chain.log_start(), np.log(imm.chain.matrix(dt))
    steps = [motion.matrices(dt) for motion in imm.motions]
    x0, P0 = np.r_[z[0], 0.0, 0.0], np.diag([0.0, 0.0, 170.0**2, 170.0**2])
    P0[:2, :2] = R
    logs, means, covariances, modes = [], [], [], []
    for sequence in product(range(models), repeat=plots):
        F = np.stack([np.eye(4)] + [steps[m][0][k] for k, m in enumerate(sequence[1:])])  # type: ignore[index]
        Q = np.stack([np.zeros((4, 4))] + [steps[m][1][k] for k, m in enumerate(sequence[1:])])
        Rs, seen = np.broadcast_to(R, (plots, 2, 2)), np.arange(plots) > 0
        _, _, fx, fP, log_l = reference.kalman_filter(x0, P0, F, Q, z, np.eye(2, 4), Rs, seen)
        x, P = reference.rts_smoother(fx, fP, F, Q)
        jumps = sum(log_pi[k, sequence[k], sequence[k + 1]] for k in range(plots - 1))
        logs.append(log_start[sequence[0]] + jumps + log_l)
        means.append(x)
        covariances.append(P)
        modes.append(np.eye(models)[list(sequence)])
    weight = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    mean = np.einsum("s,sti->ti", weight, means)
    offset = np.array(means) - mean
    spread = np.array(covariances) + offset[..., :, None] * offset[..., None, :]
    return mean, np.einsum("s,stij->tij", weight, spread), np.einsum("s,stm->tm", weight, modes)


def test_imm_smoother_is_near_the_sum_over_all_mode_sequences() -> None:
    """Five plots, 2⁵ sequences: the merged posterior stays within a fraction of a standard deviation of the exact."""
    rng = np.random.default_rng(6)
    imm = bank("imm2", sojourn_s=20.0, sojourn_high_s=10.0, q_high_m2s3=200.0)
    time_s = times(rng, 60, 5)
    truth, _ = bank_flights(rng, imm, time_s, np.zeros((60, 2)))
    z = noisy(rng, time_s, truth, R)
    filtered = run(imm, z)
    mean, covariance = smooth(imm, z)
    distance, naive, ratio = [], [], []
    for n in range(60):
        best, spread, _ = exact(imm, time_s[n], z.position_m[n])
        distance.append(nees(mean[n] - best, spread))
        naive.append(nees(filtered.mean[n] - best, spread))
        ratio.append(np.trace(covariance[n], axis1=1, axis2=2) / np.trace(spread, axis1=1, axis2=2))
    distance, naive = np.sqrt(distance), np.sqrt(naive)
    # At the last plot it is the IMM filter, whose own merging is the larger of the two approximations.
    assert np.median(distance) < 0.02
    assert np.quantile(distance, 0.95) < 0.15
    assert (distance[:, :-1] ** 2).mean() < 1e-3 * (naive[:, :-1] ** 2).mean()
    np.testing.assert_allclose(np.mean(ratio, 0), 1.0, atol=0.02)


def test_imm_smoother_of_equal_models_is_the_rts_smoother() -> None:
    rng = np.random.default_rng(2)
    time_s = times(rng, 3, 10)
    kf = bank("kf")
    truth, _ = bank_flights(rng, kf, time_s, np.zeros((3, 2)))
    z = noisy(rng, time_s, truth, R)
    chain = Chain(np.array([50.0, 20.0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    expected, two = smooth(kf, z), smooth(Bank(kf.motions * 2, chain, "extended", "position", Options()), z)
    np.testing.assert_allclose(two[0], expected[0], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(two[1], expected[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["kf", "imm"])
def test_flights_of_unequal_length_are_smoothed_as_if_alone(name: str) -> None:
    rng = np.random.default_rng(3)
    time_s = times(rng, 4, 12)
    truth, _ = bank_flights(rng, bank(name), time_s, np.zeros((4, 2)))
    position = noisy(rng, time_s, truth, R).position_m
    padded = np.arange(12) >= np.array([5, 12, 1, 9])[:, None]
    mean, covariance = smooth(name, cartesian(np.where(padded, np.nan, time_s), position, R, ~padded))
    for n, length in enumerate((5, 12, 1, 9)):
        rows = slice(n, n + 1), slice(0, length)
        alone = smooth(name, cartesian(time_s[rows], position[rows], R))
        np.testing.assert_allclose(mean[n, :length], alone[0][0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(covariance[n, :length], alone[1][0], rtol=1e-9, atol=1e-7)
        assert np.isnan(mean[n, length:]).all()


def test_a_track_begun_anew_is_smoothed_in_pieces() -> None:
    rng = np.random.default_rng(4)
    time_s = 4.0 * np.arange(30.0)[None]
    kf = bank("kf", gate=0.9999)
    truth, _ = bank_flights(rng, kf, time_s, np.zeros((1, 2)))
    position = noisy(rng, time_s, truth, R).position_m + np.where(np.arange(30) >= 12, 25e3, 0.0)[:, None]
    z = cartesian(time_s, position, R)
    assert not run(kf, z).used[0, 12:15].any()
    mean, _ = smooth(kf, z)
    assert np.hypot(*(mean[0, :12, :2] - truth[0, :12, :2]).T).max() < 400.0
    assert np.hypot(*(mean[0, 15:, :2] - truth[0, 15:, :2] - 25e3).T).max() < 400.0


def test_alpha_beta_has_no_smoother() -> None:
    z = cartesian(np.zeros((1, 1)), np.zeros((1, 1, 2)), R)
    with pytest.raises(EstimatorError, match="no smoother"):
        smooth("alpha-beta", z)
