"""Each known fault or trap of filterpy, and that the estimators do not have it."""

import sys

import filterpy
import filterpy.stats
import numpy as np
import pytest
from filterpy.common import kinematic_kf
from filterpy.kalman import IMMEstimator, KalmanFilter, MerweScaledSigmaPoints, UnscentedKalmanFilter

from ssrtrack.filters import classical
from ssrtrack.filters.bank import Bank, BankState
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.gaussian import innovation_likelihood
from ssrtrack.filters.motion import constant_velocity, coordinated_turn, singer
from ssrtrack.filters.observation import OBSERVATIONS, position_observation
from ssrtrack.filters.options import Options
from ssrtrack.filters.protocol import take
from ssrtrack.filters.run import run
from tests.filters_fixture import UP_M, cartesian, nees, polar

VERSION_2 = int(filterpy.__version__.split(".")[0]) >= 2
R = np.diag([70.0**2, 150.0**2])


def bank(name: str, **parameters: float) -> Bank:
    estimator = make_estimator(name, **parameters)
    assert isinstance(estimator, Bank)
    return estimator


def straight(plots: int, dt: float = 4.0, noise: float = 1.0, start: tuple[float, float] = (50e3, 60e3)) -> tuple:
    rng = np.random.default_rng(1)
    time_s = dt * np.arange(float(plots))[None]
    truth = np.array(start) + np.array([-120.0, 160.0]) * time_s[..., None]
    return time_s, truth, truth + noise * rng.standard_normal(truth.shape) @ np.sqrt(R)


def their_imm(ours: Bank, dt: float, state: BankState) -> IMMEstimator:
    """filterpy's IMM with the models, probabilities and states of ours."""
    filters = []
    for j, motion in enumerate(ours.motions):
        kf = KalmanFilter(4, 2)
        F, Q = motion.matrices(np.array([dt]))
        assert F is not None
        kf.F, kf.Q, kf.R, kf.H = F[0], Q[0], R.copy(), np.eye(2, 4)
        kf.x, kf.P = state.mean[0, j].copy(), state.covariance[0, j].copy()
        filters.append(kf)
    return IMMEstimator(filters, np.exp(state.log_probability[0]), ours.chain.matrix(np.array([dt]))[0])


def test_imm_equals_filterpys_while_no_plot_is_missed() -> None:
    ours = bank("imm2")
    time_s, _, position = straight(15)
    z = cartesian(time_s, position, R)
    state = ours.init(z.at(0))
    theirs = their_imm(ours, 4.0, state)
    for k in range(1, 15):
        theirs.predict()
        theirs.update(position[0, k])
        state = ours.update(ours.predict(state, np.array([4.0])), z.at(k), np.ones(1, bool))
        mean, covariance = ours.estimate(state)
        np.testing.assert_allclose(mean[0], theirs.x, rtol=1e-9)
        np.testing.assert_allclose(covariance[0], theirs.P, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.exp(state.log_probability[0]), theirs.mu, rtol=1e-9)


def test_imm_miss_advances_probabilities_by_the_chain_alone() -> None:
    ours = bank("imm2")
    time_s, _, position = straight(10)
    z = cartesian(time_s, position, R)
    state = ours.init(z.at(0))
    for k in range(1, 10):
        state = ours.update(ours.predict(state, np.array([4.0])), z.at(k), np.ones(1, bool))
    theirs = their_imm(ours, 4.0, state)
    theirs.predict()
    theirs.update(position[0, 9])
    state = ours.update(ours.predict(state, np.array([4.0])), z.at(9), np.ones(1, bool))
    before = np.exp(state.log_probability[0])
    state = ours.update(ours.predict(state, np.array([4.0])), z.at(9), np.zeros(1, bool))
    expected = before @ ours.chain.matrix(np.array([4.0]))[0]
    np.testing.assert_allclose(np.exp(state.log_probability[0]), expected, rtol=1e-12)
    theirs.predict()
    theirs.update(None)  # weighs the models by their stale innovation covariances
    assert abs(theirs.mu - expected).max() > 0.01


def test_imm_likelihoods_of_a_far_outlier_are_not_floored() -> None:
    ours = bank("imm2")
    time_s, _, position = straight(12)
    position[0, 11] += 40e3
    z = cartesian(time_s, position, R)
    state = ours.init(z.at(0))
    for k in range(1, 11):
        state = ours.update(ours.predict(state, np.array([4.0])), z.at(k), np.ones(1, bool))
    theirs = their_imm(ours, 4.0, state)
    theirs.predict()
    theirs.update(position[0, 11])
    state = ours.predict(state, np.array([4.0]))
    prior = np.exp(state.log_probability[0])
    state = ours.update(state, z.at(11), np.ones(1, bool))
    # Both of filterpy's likelihoods are the smallest double, so its probabilities learn nothing from the plot.
    np.testing.assert_allclose(theirs.mu, prior, rtol=1e-9)
    # The agile model explains the jump better by thousands of nats: it must get all the weight.
    assert np.isfinite(state.log_probability).all()
    assert state.log_probability[0, 0] < -1000.0
    assert np.exp(state.log_probability[0, 1]) == pytest.approx(1.0)


def test_imm_mixes_models_of_unequal_dimension() -> None:
    kfs = [KalmanFilter(4, 2), KalmanFilter(6, 2)]
    with pytest.raises(ValueError, match="same state dimension"):
        IMMEstimator(kfs, [0.5, 0.5], np.eye(2))
    motions = constant_velocity(0.1), coordinated_turn(0.03, 0.01, 60.0, 0.5), singer(1.5, 15.0)
    chain = Chain(np.full(3, 60.0), np.full((3, 3), 0.5) - 0.5 * np.eye(3))
    mixed = Bank(motions, chain, "extended", "position", Options())
    time_s, truth, position = straight(40)
    history = run(mixed, cartesian(time_s, position, R))
    assert np.hypot(*(history.mean - np.concatenate([truth, truth * 0], -1))[0, -1, :2]) < 150.0
    np.testing.assert_allclose(history.mode_probability[..., :].sum(-1), 1.0)  # type: ignore[index]
    # A padded component stays exactly zero: it never leaks into a model that has none.
    state = mixed.predict(mixed.init(cartesian(time_s, position, R).at(0)), np.array([4.0]))
    assert not state.mean[:, 0, 4:].any()
    assert not state.covariance[:, 0, 4:].any()
    assert not state.covariance[:, 1, 5].any()


@pytest.mark.parametrize("name", ["kf", "ekf", "ukf", "ckf", "imm2", "imm"])
def test_every_step_has_its_own_dt(name: str) -> None:
    """Irregular times follow a straight flight exactly; one dt for all steps would be off by kilometres."""
    time_s = np.cumsum(np.array([[0.0, 4.0, 1.0, 12.0, 3.7, 4.3, 24.0, 0.5, 4.0, 4.0, 8.0]]), 1)
    truth = np.array([50e3, 60e3]) + np.array([-120.0, 160.0]) * time_s[..., None]
    history = run(make_estimator(name), cartesian(time_s, truth, np.diag([1.0, 1.0])))
    assert np.hypot(*(history.mean[0, 3:, :2] - truth[0, 3:]).T).max() < 5.0
    assert np.hypot(*(history.predicted_mean[0, 6:, :2] - truth[0, 6:]).T).max() < 60.0


def test_imm_transition_fits_the_step_and_not_the_call() -> None:
    chain = bank("imm").chain
    three = chain.matrix(np.array([4.0]))[0]
    np.testing.assert_allclose(chain.matrix(np.array([12.0]))[0], three @ three @ three, rtol=1e-10)


@pytest.mark.parametrize("name", ["ekf", "ukf", "ckf", "ekf-ct", "ukf-ct"])
def test_azimuth_wraps_at_north(name: str) -> None:
    """A flight through north gives what the same flight gives in the east, turned by 90°."""
    rng = np.random.default_rng(3)
    time_s = 4.0 * np.arange(40.0)[None]
    across = np.stack([-8e3 + 100.0 * time_s, 60e3 + 0.0 * time_s], -1)
    z = polar(time_s, across, 70.0, 0.08 * np.pi / 180, rng)
    azimuth = z.azimuth_rad % (2 * np.pi)
    assert azimuth.min() < 0.1
    assert azimuth.max() > 6.2
    columns = {n: getattr(z, n) for n in z.__dataclass_fields__}
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])  # clockwise: north becomes east
    turned = columns | {
        "azimuth_rad": (z.azimuth_rad + np.pi / 2) % (2 * np.pi),
        "position_m": z.position_m @ quarter.T,
        "covariance_m2": quarter @ z.covariance_m2 @ quarter.T,
    }
    here = run(make_estimator(name), type(z)(**columns))
    there = run(make_estimator(name), type(z)(**turned))
    both = np.kron(np.eye(2), quarter)
    # Sigma points depend on how the axes lie, so those filters agree to metres; a wrap error is hundreds of kilometres.
    np.testing.assert_allclose(here.mean @ both.T, there.mean, atol=1e-3 if name.startswith("ekf") else 5.0)
    assert np.hypot(*(here.mean[0, 5:, :2] - across[0, 5:]).T).max() < 400.0


@pytest.mark.parametrize("name", ["ukf", "ckf", "ekf"])
def test_azimuth_of_sigma_points_on_both_sides_of_north_is_averaged_as_an_angle(name: str) -> None:
    """A state due north whose spread straddles north, updated with a plot due north: nothing may move sideways."""
    z = cartesian(np.zeros((1, 1)), np.array([[[0.0, 60e3]]]), np.diag([100.0**2, 100.0**2])).at(0)
    mean, covariance = np.array([[0.0, 60e3, 10.0, 0.0]]), np.diag([800.0**2, 800.0**2, 1.0, 1.0])[None]
    seen = OBSERVATIONS["polar"](z, mean)
    after = classical.ENGINES[bank(name).engine][1](mean, covariance, seen)
    assert abs(after.innovation[0, 1]) < 1e-9
    assert abs(after.mean[0, 0]) < 1e-6
    S_azimuth = (800.0 / 60e3) ** 2 + (100.0 / np.hypot(60e3, UP_M)) ** 2
    assert after.innovation_covariance[0, 1, 1] == pytest.approx(S_azimuth, rel=0.01)


def test_ckf_keeps_vectors_flat_and_equals_the_kalman_filter_on_a_linear_model() -> None:
    time_s, _, position = straight(12)
    z = cartesian(time_s, position, R)
    motion, chain = constant_velocity(0.1), bank("kf").chain
    cubature = Bank((motion,), chain, "cubature", "position", Options())
    kf = run(bank("kf", q_m2s3=0.1), z)
    ckf = run(cubature, z)
    assert ckf.mean.shape == (1, 12, 4)
    np.testing.assert_allclose(ckf.mean, kf.mean, rtol=1e-9)
    np.testing.assert_allclose(ckf.covariance, kf.covariance, rtol=1e-6, atol=1e-4)


def test_likelihoods_never_go_through_filterpys_slow_logpdf(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("filterpy.stats.logpdf was called")

    for module in ("kalman_filter", "EKF", "UKF", "CubatureKalmanFilter"):
        monkeypatch.setattr(sys.modules[f"filterpy.kalman.{module}"], "logpdf", refuse)
    time_s, _, position = straight(6)
    for name in ("imm", "ukf", "ckf", "ekf"):
        run(make_estimator(name, tail_weight=0.01), cartesian(time_s, position, R))
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    root = rng.standard_normal((50, 2, 2))
    S, y = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(2), 3.0 * rng.standard_normal((50, 2))
    got, distance = innovation_likelihood(y, S)
    expected = [filterpy.stats.logpdf(a, cov=b) for a, b in zip(y, S, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    np.testing.assert_allclose(distance, nees(y, S), rtol=1e-9)


@pytest.mark.parametrize("name", ["kf", "ekf", "ukf", "ckf", "imm", "alpha-beta"])
def test_nothing_is_shared_between_tracks_or_written_to_arguments(name: str) -> None:
    time_s, _, position = straight(6)
    both = np.concatenate([position, position[:, ::-1]])
    z = cartesian(np.repeat(time_s, 2, 0), both, R)
    for column in (z.position_m, z.time_s, z.valid):
        column.flags.writeable = False
    estimator = make_estimator(name)
    state = estimator.predict(estimator.init(z.at(0)), np.full(2, 4.0))
    for field in state.__dataclass_fields__:
        getattr(state, field).flags.writeable = False
    kept = {field: getattr(state, field).copy() for field in state.__dataclass_fields__}
    after = estimator.update(estimator.predict(state, np.full(2, 4.0)), z.at(1), np.ones(2, bool))
    for field, value in kept.items():
        np.testing.assert_array_equal(getattr(state, field), value)
    alone = estimator.update(
        estimator.predict(take(state, [0]), np.array([4.0])), z.select([0]).at(1), np.ones(1, bool)
    )
    np.testing.assert_allclose(estimator.estimate(after)[0][0], estimator.estimate(alone)[0][0], rtol=1e-12)


def test_position_is_observed_in_both_axes() -> None:
    """filterpy 2's kinematic_kf has H of rank 1; ours comes from no helper and sees x and y."""
    if VERSION_2:
        assert np.linalg.matrix_rank(kinematic_kf(2, 1, dim_z=2).H) == 1
    z = cartesian(np.zeros((1, 1)), np.array([[[300.0, -700.0]]]), R).at(0)
    seen = position_observation(z, np.zeros((1, 4)))
    after = classical.update_extended(np.zeros((1, 4)), 1e12 * np.eye(4)[None], seen)
    np.testing.assert_allclose(after.mean[0, :2], [300.0, -700.0], rtol=1e-6)
    np.testing.assert_allclose(after.innovation[0], [300.0, -700.0])


def test_a_batch_of_flat_measurements_is_taken_as_it_is() -> None:
    """filterpy 2's batch_filter refuses (N, dim_z) measurements for a column state; `run` takes (N, T, 2)."""
    time_s, _, position = straight(8)
    if VERSION_2:
        kf = KalmanFilter(4, 2)
        kf.H = np.eye(2, 4)
        with pytest.raises(ValueError):
            kf.batch_filter(position[0])
    assert run(make_estimator("kf"), cartesian(time_s, position, R)).mean.shape == (1, 8, 4)


def test_ukf_update_draws_its_points_from_the_predicted_state_in_any_version() -> None:
    """filterpy 2.x redraws sigma points after Q was added, 1.4.5 does not; ours always does, checked by hand."""
    z = polar(np.zeros((1, 1)), np.array([[[20e3, 15e3]]]), 70.0, 0.01, np.random.default_rng(0)).at(0)
    motion, dt = constant_velocity(20.0), np.array([10.0])
    mean = np.array([[19e3, 15e3, 100.0, -50.0]])
    covariance = np.diag([400.0**2, 300.0**2, 20.0**2, 20.0**2])[None]
    ahead, ahead_covariance = classical.predict_unscented(motion, mean, covariance, dt)
    seen = OBSERVATIONS["polar"](z, ahead)
    got = classical.update_unscented(ahead, ahead_covariance, seen)
    root = np.linalg.cholesky(5.0 * ahead_covariance[0]).T
    points = ahead + np.concatenate([np.zeros((1, 4)), root, -root])
    weight = np.r_[0.2, np.full(8, 0.1)]
    moved = seen.expect_points(points[None])[0]
    centre = weight @ moved
    S = (weight[:, None] * (moved - centre)).T @ (moved - centre) + seen.R[0]
    cross = (weight[:, None] * (points - ahead)).T @ (moved - centre)
    K = np.linalg.solve(S, cross.T).T
    np.testing.assert_allclose(got.mean[0], ahead[0] + K @ (seen.z[0] - centre), rtol=1e-9)
    np.testing.assert_allclose(got.covariance[0], ahead_covariance[0] - K @ S @ K.T, rtol=1e-7, atol=1e-6)
    F, Q = motion.matrices(dt)
    assert F is not None
    ukf = UnscentedKalmanFilter(
        4, 2, 10.0, lambda x: seen.expect(x[None])[0], lambda x, dt: F[0] @ x, MerweScaledSigmaPoints(4, 1.0, 0.0, 1.0)
    )
    ukf.x, ukf.P, ukf.Q = mean[0].copy(), covariance[0].copy(), Q[0]
    ukf.predict()
    ukf.update(seen.z[0], R=seen.R[0])
    same = np.allclose(ukf.x, got.mean[0], rtol=1e-9)
    assert same == VERSION_2
