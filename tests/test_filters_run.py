"""Running estimators: against the plain reference, split, reordered, ragged, missed, gated, with heavy tails."""

from typing import Any

import numpy as np
import pytest

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.alphabeta import AlphaBeta
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import ESTIMATORS, make_estimator, parameters_of, parse_estimator
from ssrtrack.filters.gaussian import gate_threshold
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import constant_velocity
from ssrtrack.filters.options import Options
from ssrtrack.filters.protocol import join, take
from ssrtrack.filters.run import run
from ssrtrack.kernels import reference
from tests.filters_fixture import cartesian, flights, noisy, times

R = np.array([[70.0**2, 2500.0], [2500.0, 150.0**2]])
ONE = Chain(np.ones(1), np.zeros((1, 1)))


def sample(count: int = 6, plots: int = 15, seed: int = 0, **columns: np.ndarray) -> tuple[Measurements, np.ndarray]:
    rng = np.random.default_rng(seed)
    time_s = times(rng, count, plots)
    start = rng.uniform(40e3, 90e3, (count, 2))
    truth, _ = flights(rng, (constant_velocity(1.0),), ONE, time_s, start)
    return changed(noisy(rng, time_s, truth, R), **columns), truth


def changed(z: Measurements, **columns: np.ndarray) -> Measurements:
    return Measurements(**({name: getattr(z, name) for name in z.__dataclass_fields__} | columns))


def same(a: TrackHistory, b: TrackHistory, rtol: float = 1e-10) -> None:
    for name in ("predicted_mean", "predicted_covariance", "mean", "covariance", "used"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-9, err_msg=name)


def test_kalman_filter_equals_the_plain_reference() -> None:
    missed = np.random.default_rng(1).uniform(size=(6, 15)) < 0.3
    missed[:, 0] = False
    z, _ = sample(valid=~missed)
    history = run(make_estimator("kf", q_m2s3=1.0, speed_sigma_mps=170.0), z)
    for n in range(6):
        F, Q = constant_velocity(1.0).matrices(np.diff(z.time_s[n]))
        x, P = np.r_[z.position_m[n, 0], 0.0, 0.0], np.diag([0.0, 0.0, 170.0**2, 170.0**2])
        P[:2, :2] = R
        ahead_x, ahead_P, mean, covariance, _ = reference.kalman_filter(
            x, P, F, Q, z.position_m[n, 1:], np.eye(2, 4), z.covariance_m2[n, 1:], z.valid[n, 1:]
        )
        for got, expected in (
            (history.predicted_mean, ahead_x),
            (history.predicted_covariance, ahead_P),
            (history.mean, mean),
            (history.covariance, covariance),
        ):
            np.testing.assert_allclose(got[n, 1:], expected, rtol=1e-9, atol=1e-9)
    assert (history.used == z.valid).all()


def test_imm_equals_the_plain_reference() -> None:
    missed = np.random.default_rng(2).uniform(size=(4, 15)) < 0.3
    missed[:, 0] = False
    z, _ = sample(4, valid=~missed)
    imm = make_estimator("imm2")
    assert isinstance(imm, Bank)
    history = run(imm, z)
    assert history.mode_probability is not None
    for n in range(4):
        log_mu, x = imm.chain.log_start(), np.tile(np.r_[z.position_m[n, 0], 0.0, 0.0], (2, 1))
        P = np.tile(np.diag([0.0, 0.0, 170.0**2, 170.0**2]), (2, 1, 1))
        P[:, :2, :2] = R
        for k in range(1, 15):
            dt = np.array([z.time_s[n, k] - z.time_s[n, k - 1]])
            F, Q = (np.concatenate(m) for m in zip(*(model.matrices(dt) for model in imm.motions), strict=True))
            log_mu, x, P = reference.imm_predict(log_mu, x, P, imm.chain.matrix(dt)[0], F, Q)
            if z.valid[n, k]:
                log_mu, x, P = reference.imm_update(log_mu, x, P, z.position_m[n, k], np.eye(2, 4), R)
            mean, covariance = reference.imm_estimate(log_mu, x, P)
            np.testing.assert_allclose(history.mean[n, k], mean, rtol=1e-9)
            np.testing.assert_allclose(history.covariance[n, k], covariance, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(history.mode_probability[n, k], np.exp(log_mu), rtol=1e-8)


@pytest.mark.parametrize("engine", ["extended", "unscented", "cubature"])
def test_nonlinear_engines_on_a_linear_model_are_the_kalman_filter(engine: str) -> None:
    """With h linear and its Jacobian given, extended, unscented and cubature updates are the Kalman update."""
    z, _ = sample()
    kf = run(Bank((constant_velocity(1.0),), ONE, "extended", "position", Options()), z)
    import ssrtrack.filters.bank as bank_module
    from ssrtrack.filters.observation import Observation

    def linear(plots: Measurements, mean: np.ndarray) -> Observation:
        def first(x: np.ndarray) -> np.ndarray:
            return x[..., :2]

        H = np.broadcast_to(np.eye(2, 4), (len(plots), 2, 4))
        return Observation(plots.position_m, plots.covariance_m2, first, first, lambda x: H, np.subtract)

    tables = bank_module.OBSERVATIONS
    tables["linear"] = linear
    try:
        same(run(Bank((constant_velocity(1.0),), ONE, engine, "linear", Options()), z), kf, rtol=1e-6)
    finally:
        del tables["linear"]


@pytest.mark.parametrize("tail", [0.0, 0.05])
def test_an_imm_of_one_model_or_of_equal_ones_is_that_model(tail: float) -> None:
    z, _ = sample()
    options = Options(tail_weight=tail)
    motion = constant_velocity(1.0)
    one = run(Bank((motion,), ONE, "extended", "position", options), z)
    chain = Chain(np.array([50.0, 20.0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    two = run(Bank((motion, motion), chain, "extended", "position", options), z)
    same(one, two, rtol=1e-9)
    assert one.mode_probability is None
    np.testing.assert_allclose(two.mode_probability, np.broadcast_to(np.exp(chain.log_start()), (6, 15, 2)))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_split_joined_and_reordered_flights_give_the_same(name: str) -> None:
    z, _ = sample()
    estimator = make_estimator(name, gate=0.999, tail_weight=0.02)
    whole = run(estimator, z)
    order = np.array([3, 0, 5, 1, 4, 2])
    again = run(estimator, z.select(order))
    np.testing.assert_allclose(again.mean, whole.mean[order], rtol=1e-12)
    halves = [z.select(slice(0, 2)), z.select(slice(2, 6))]
    states = [estimator.init(h.at(0)) for h in halves]
    for k in range(1, 8):
        steps = [h.time_s[:, k] - h.time_s[:, k - 1] for h in halves]
        states = [
            estimator.update(estimator.predict(s, dt), h.at(k), h.valid[:, k])
            for s, dt, h in zip(states, steps, halves, strict=True)
        ]
    state = join(states)
    for k in range(8, 15):
        state = estimator.update(estimator.predict(state, z.time_s[:, k] - z.time_s[:, k - 1]), z.at(k), z.valid[:, k])
        mean, covariance = estimator.estimate(state)
        np.testing.assert_allclose(mean, whole.mean[:, k], rtol=1e-9)
        np.testing.assert_allclose(covariance, whole.covariance[:, k], rtol=1e-6, atol=1e-9)
    assert take(state, slice(1, 3)).gated.shape == (2,)


@pytest.mark.parametrize("name", ["kf", "imm", "alpha-beta", "ukf"])
def test_flights_of_unequal_length_are_as_if_run_alone(name: str) -> None:
    z, _ = sample()
    lengths = np.array([15, 4, 9, 1, 15, 12])
    padded = np.arange(15) >= lengths[:, None]
    time_s = np.where(padded, np.nan, z.time_s)
    history = run(make_estimator(name), changed(z, time_s=time_s, valid=~padded))
    for n, length in enumerate(lengths):
        alone = run(make_estimator(name), z.select((slice(n, n + 1), slice(0, length))))
        np.testing.assert_allclose(history.mean[n, :length], alone.mean[0], rtol=1e-10)
        np.testing.assert_allclose(history.predicted_covariance[n, :length], alone.predicted_covariance[0], rtol=1e-9)
        assert np.isnan(history.mean[n, length:]).all()
        assert np.isnan(history.covariance[n, length:]).all()
        assert not history.used[n, length:].any()
    assert np.isnan(history.predicted_mean[:, 0]).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_miss_is_prediction_only(name: str) -> None:
    z, _ = sample()
    valid = np.ones((6, 15), bool)
    valid[::2, 7:10] = False
    nonsense = z.position_m.copy()
    nonsense[~valid] = np.nan
    history = run(make_estimator(name), changed(z, valid=valid, position_m=nonsense))
    np.testing.assert_array_equal(history.mean[::2, 7:10], history.predicted_mean[::2, 7:10])
    np.testing.assert_array_equal(history.covariance[::2, 7:10], history.predicted_covariance[::2, 7:10])
    assert (history.used == valid).all()
    area = np.linalg.det(history.covariance[:, :, :2, :2])
    assert (np.diff(area[::2, 6:10], axis=1) > 0).all()
    assert np.isfinite(history.mean).all()


HOLE = np.where(np.arange(15) == 3, np.nan, 1.0) * np.ones((6, 1))
OUTLIER_M = np.array([30e3, -20e3])


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("defence", [{"gate": 0.9999}, {"tail_weight": 0.02, "tail_scale": 30.0}])
def test_a_far_outlier_does_not_destroy_a_track(name: str, defence: dict[str, float]) -> None:
    z, truth = sample(plots=25, seed=3)
    position = z.position_m.copy()
    position[:, 12] += OUTLIER_M
    bad = cartesian(z.time_s, position, R)
    bare: dict[str, Any] = {"gate": None, "tail_weight": 0.0}  # also of estimators whose defaults defend them
    guarded, open_ = make_estimator(name, **(bare | defence)), make_estimator(name, **bare)
    clean = run(guarded, cartesian(z.time_s, z.position_m, R))
    safe, hit = run(guarded, bad), run(open_, bad)

    def worst(history: TrackHistory) -> float:
        return float(np.hypot(*(history.mean - truth)[:, 12:16, :2].T).max())

    assert worst(hit) > 5e3
    assert worst(safe) < worst(clean) + 600.0
    if "gate" in defence:
        assert not safe.used[:, 12].any()
        assert safe.used[:, 13:].mean() > 0.97


@pytest.mark.parametrize("name", ["kf", "imm", "ekf", "alpha-beta"])
def test_a_gate_reopens_after_the_documented_number_of_plots(name: str) -> None:
    """The target jumps by 25 km for good: three plots are turned down, the fourth begins the track anew there."""
    z, truth = sample(plots=30, seed=4)
    jumped = truth[..., :2] + np.where(np.arange(30)[:, None] >= 12, 25e3, 0.0)
    z = cartesian(z.time_s, jumped, R)
    history = run(make_estimator(name, gate=0.9999), z)
    assert not history.used[:, 12:15].any()
    assert history.used[:, 15].all()
    np.testing.assert_allclose(history.mean[:, 15, :2], jumped[:, 15], atol=1e-6)
    assert np.hypot(*(history.mean[:, -1, :2] - jumped[:, -1]).T).max() < 500.0
    patient = run(make_estimator(name, gate=0.9999, reopen_after=5), z)
    assert not patient.used[:, 12:17].any()
    assert patient.used[:, 17].all()


def test_heavy_tail_posterior_is_the_mixtures_exact_mean_and_covariance() -> None:
    """One update against numerical integration over the noise's two components."""
    z, _ = sample(1, 2)
    options = {"tail_weight": 0.1, "tail_scale": 4.0}
    tail = make_estimator("kf", **options)
    state = tail.predict(tail.init(z.at(0)), np.array([4.0]))
    mean, covariance = tail.estimate(state)
    after_mean, after_covariance = tail.estimate(tail.update(state, z.at(1), np.ones(1, bool)))
    parts = []
    for weight, scale in ((0.9, 1.0), (0.1, 16.0)):
        x, P, log_l = reference.kalman_update(mean[0], covariance[0], z.position_m[0, 1], np.eye(2, 4), scale * R)
        parts.append((weight * np.exp(log_l), x, P))
    total = sum(p[0] for p in parts)
    centre = sum(w / total * x for w, x, _ in parts)
    spread = sum(w / total * (P + np.outer(x - centre, x - centre)) for w, x, P in parts)
    np.testing.assert_allclose(after_mean[0], centre, rtol=1e-9)
    np.testing.assert_allclose(after_covariance[0], spread, rtol=1e-9, atol=1e-6)


def test_alpha_beta_settles_on_kalatas_gains_and_the_kalman_covariance() -> None:
    """With equal steps and isotropic noise its gains are nearly optimal, so its covariance is nearly the KF's."""
    time_s = np.broadcast_to(4.0 * np.arange(60.0), (1, 60))
    z = cartesian(time_s, np.zeros((1, 60, 2)), np.diag([100.0**2, 100.0**2]))
    tracker = make_estimator("alpha-beta", q_m2s3=1.0)
    assert isinstance(tracker, AlphaBeta)
    covariance = run(tracker, z).covariance[0, -1]
    best = run(make_estimator("kf", q_m2s3=1.0), z).covariance[0, -1]
    excess = np.linalg.eigvalsh(np.linalg.solve(best, covariance))
    assert excess.min() > 0.999
    assert excess.max() < 1.05
    state = tracker.predict(tracker.init(z.at(0)), np.array([4.0]))
    state = type(state)(**{n: getattr(state, n) for n in state.__dataclass_fields__} | {"count": np.array([10**6])})
    alpha, b = tracker.gains(state, z.at(1).covariance_m2)
    index = np.sqrt(1.0 * 4.0**3 / 100.0**2)
    beta = b * 4.0
    # Kalata's two relations between α, β and the tracking index.
    assert beta[0] == pytest.approx(2.0 * (2.0 - alpha[0]) - 4.0 * np.sqrt(1.0 - alpha[0]), rel=1e-9)
    assert beta[0] / np.sqrt(1.0 - alpha[0]) == pytest.approx(index, rel=1e-9)


def test_gate_thresholds_are_the_chi_square_quantiles() -> None:
    for probability, expected in ((0.95, 5.99), (0.99, 9.21), (0.997, 11.6), (0.9999, 18.4)):
        assert gate_threshold(probability) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_estimator("kalman"), "known: alpha-beta, kf"),
        (lambda: make_estimator("kf", q=1.0), "q_m2s3"),
        (lambda: make_estimator("kf", q_m2s3=-1.0), "positive"),
        (lambda: make_estimator("kf", q_m2s3="fast"), "number"),
        (lambda: make_estimator("imm", q_high_m2s3=0.0), "positive"),
        (lambda: make_estimator("alpha-beta", q_m2s3=-1.0), "positive"),
        (lambda: parse_estimator("kalman:gate=0.99"), "no estimator 'kalman'; known: alpha-beta, kf"),
        (lambda: parse_estimator("kf:q=1"), "no parameter 'q'; known: q_m2s3, speed_sigma_mps, gate"),
        (lambda: parse_estimator("kf:"), "found '', expected key=value; known keys: q_m2s3"),
        (lambda: parse_estimator("kf:gate"), "found 'gate', expected key=value"),
        (lambda: parse_estimator("kf:gate=0.9,,q_m2s3=1"), "found '', expected key=value"),
        (lambda: parse_estimator("kf:gate=0.9,gate=0.8"), "'gate' twice"),
        (lambda: parse_estimator("kf:q_m2s3=fast"), "q_m2s3 is 'fast', expected a number such as 15.0"),
        (lambda: parse_estimator("kf:q_m2s3=none"), "expected a number such as"),
        (lambda: parse_estimator("imm:turn_rate_dps=nan"), "turn_rate_dps is 'nan', expected a number"),
        (lambda: parse_estimator("imm:rate_sigma_dps=1e308"), "a value is too large to compute with.*rate_sigma_dps"),
        (lambda: parse_estimator("kf:reopen_after=1.5"), "expected a whole number"),
        (lambda: parse_estimator("kf:gate=99"), "probability"),
        (lambda: make_estimator("imm", sojourn_s=0.0), "sojourn"),
        (lambda: make_estimator("kf", gate=99.0), "probability"),
        (lambda: make_estimator("kf", tail_weight=1.5), "tail_weight"),
        (lambda: make_estimator("kf", speed_sigma_mps=0.0), "speed_sigma_mps"),
        (lambda: make_estimator("kf", reopen_after=-1), "reopen_after"),
        (lambda: join([]), "at least one"),
        (lambda: run(make_estimator("kf"), sample()[0].at(0)), r"\(N, T\)"),
        (lambda: run(make_estimator("kf"), sample(valid=np.zeros((6, 15), bool))[0]), "column 0"),
        (lambda: run(make_estimator("kf"), sample(time_s=-sample()[0].time_s)[0]), "time order"),
        (lambda: run(make_estimator("kf"), sample(time_s=HOLE)[0]), "padding"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_with_what_was_expected(make: object, message: str) -> None:
    with pytest.raises(EstimatorError, match=message):
        make()  # type: ignore[operator]


def test_an_estimator_is_written_as_text() -> None:
    z, _ = sample(3, 12)
    written = parse_estimator(" imm : gate = 0.9999 , q_m2s3=2e-1,reopen_after=1", tail_weight=0.05, gate=0.5)
    same(run(written, z), run(make_estimator("imm", gate=0.9999, q_m2s3=0.2, reopen_after=1, tail_weight=0.05), z))
    same(run(parse_estimator("kf:gate=none", gate=0.5), z), run(make_estimator("kf"), z))
    assert parse_estimator("kf", gate=0.5).options.gate == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_parameter_can_be_set_to_its_default(name: str) -> None:
    z, _ = sample(2, 5)
    same(run(make_estimator(name, **parameters_of(name)), z), run(make_estimator(name), z))
