"""Laws that hold for every estimator on every backend, over random flights."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import Measurements
from tests import engine_cases as cases
from tests.engine_cases import BANKS, EVERY, OPTIONS
from tests.filters_fixture import cartesian

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=6)


def drawn(seed: int, count: int = 4, plots: int = 7, ragged: bool = True) -> Measurements:
    """Flights of unequal length with turns, misses, outliers of 30 σ and two plots at one time, about 80 km away."""
    rng = np.random.default_rng(seed)
    step = 4.0 * rng.uniform(0.3, 2.0, (count, plots)) * (rng.uniform(size=(count, plots)) > 0.1)
    time_s = np.cumsum(step, 1)
    heading = rng.uniform(0.0, 2.0 * np.pi, (count, 1)) + np.cumsum(rng.normal(0.0, 0.01, (count, 1)) * step, 1)
    velocity = rng.uniform(60.0, 280.0, (count, 1, 1)) * np.stack([np.sin(heading), np.cos(heading)], -1)
    bearing = rng.uniform(0.0, 2.0 * np.pi, (count, 1))
    start = rng.uniform(50e3, 110e3, (count, 1, 1)) * np.stack([np.sin(bearing), np.cos(bearing)], -1)
    root = np.array([[70.0, 0.0], [40.0, 110.0]]) * rng.uniform(0.5, 2.0, (count, plots, 1, 1))
    noise = np.einsum("ntij,ntj->nti", root, rng.standard_normal((count, plots, 2)))
    noise *= np.where(rng.uniform(size=(count, plots, 1)) < 0.1, 30.0, 1.0)
    position = start + np.cumsum(step[..., None] * velocity, 1) + noise
    over = np.arange(plots) >= rng.integers(1 if ragged else plots, plots + 1, (count, 1))
    valid = (rng.uniform(size=(count, plots)) < 0.85) & ~over
    valid[:, 0] = True
    return cartesian(np.where(over, np.nan, time_s), position, root @ np.swapaxes(root, -1, -2), valid)


def estimator(name: str, seed: int) -> Any:
    """With options that go with the seed, so that all are met."""
    return make_estimator(name, **list(OPTIONS.values())[seed % len(OPTIONS)])


def mapped(z: Measurements, matrix: np.ndarray, shift: np.ndarray) -> Measurements:
    """Positions p become matrix p + shift."""
    return cases.changed(
        z, position_m=z.position_m @ matrix.T + shift, covariance_m2=matrix @ z.covariance_m2 @ matrix.T
    )


def assert_mapped(history: Any, other: Any, matrix: np.ndarray, shift: np.ndarray, tolerance: float) -> None:
    """`other` is what the map of the positions makes of `history`; both in the tracking frame."""
    both, moved = np.kron(np.eye(2), matrix), np.r_[shift, 0.0, 0.0]
    assert (history.used == other.used).all()
    for mean, covariance in (("predicted_mean", "predicted_covariance"), ("mean", "covariance")):
        expected = getattr(history, mean) @ both.T + moved, both @ getattr(history, covariance) @ both.T
        cases.assert_same_moments((getattr(other, mean), getattr(other, covariance)), expected, tolerance, mean)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", BANKS)
@given(seed=SEEDS)
@FEW
def test_flights_do_not_depend_on_each_other_or_on_what_follows(backend: str, name: str, seed: int) -> None:
    """In another order, alone, or cut after k plots: the same numbers."""
    z, rng = drawn(seed), np.random.default_rng(seed)
    whole = cases.run_with(backend, estimator(name, seed), z)
    order = rng.permutation(4)
    cases.assert_same(cases.run_with(backend, estimator(name, seed), z.select(order)), cases.taken(whole, order), 1e-11)
    alone = slice(int(order[0]), int(order[0]) + 1), slice(0, int(rng.integers(1, 8)))
    cases.assert_same(cases.run_with(backend, estimator(name, seed), z.select(alone)), cases.taken(whole, alone), 1e-11)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", BANKS)
@given(seed=SEEDS)
@FEW
def test_covariances_are_symmetric_and_positive_definite(backend: str, name: str, seed: int) -> None:
    z = drawn(seed, plots=10)
    history = cases.run_with(backend, estimator(name, seed), z)
    alive = np.isfinite(z.time_s)
    for part in (history.covariance[alive], history.predicted_covariance[:, 1:][alive[:, 1:]]):
        np.testing.assert_array_equal(part, np.swapaxes(part, -1, -2))
        sigma = np.sqrt(np.diagonal(part, axis1=-2, axis2=-1))
        np.linalg.cholesky(part / (sigma[:, :, None] * sigma[:, None, :]))
    assert np.isfinite(history.mean[alive]).all()
    if history.mode_probability is not None:
        np.testing.assert_allclose(history.mode_probability[alive].sum(-1), 1.0, rtol=1e-12)
        assert (history.mode_probability[alive] >= 0.0).all()


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["kf", "ekf", "ukf", "ckf"])
@given(seed=SEEDS, models=st.integers(2, 3))
@FEW
def test_a_bank_of_equal_models_is_that_model(backend: str, name: str, seed: int, models: int) -> None:
    """For models without components of their own; those that have them draw them anew at each switch.

    Every number of models is another module to compile; banks of five are compared with filterpy.
    """
    one = estimator(name, seed)
    sojourn = np.random.default_rng(seed).uniform(5.0, 200.0, models)
    chain = Chain(sojourn, (np.ones((models, models)) - np.eye(models)) / (models - 1))
    many = Bank(one.motions * models, chain, one.engine, one.observation, one.options)
    z = drawn(seed)
    got, expected = cases.run_with(backend, many, z), cases.run_with(backend, one, z)
    # filterpy's cubature transform does not centre its points: see test_engine_filterpy.
    tolerance = 1e-7 if (backend, name) == ("filterpy", "ckf") else 1e-9
    cases.assert_same(cases.changed_modes(got, None), expected, tolerance)
    alive = np.isfinite(z.time_s)
    assert got.mode_probability is not None
    start = np.exp(chain.log_start())  # the stationary distribution: equal models teach nothing of the mode
    np.testing.assert_allclose(
        got.mode_probability[alive], np.broadcast_to(start, (alive.sum(), models)), rtol=100 * tolerance
    )


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["kf", "kf-ca", "singer", "ekf", "ukf", "imm", "imm2", "imm3"])
@given(seed=SEEDS, columns=st.sets(st.integers(1, 5), min_size=1, max_size=3))
@FEW
def test_a_miss_changes_nothing_at_the_next_plot(backend: str, name: str, seed: int, columns: set[int]) -> None:
    """Noise is continuous in time, so stopping at a miss is not seen later: all of it for one linear model.

    Of an IMM the probabilities of the models before the next plot; it merges at every step, so its moments do change.
    """
    z = drawn(seed, ragged=False)
    valid = z.valid.copy()
    if name.startswith("imm"):  # one plot to leave the stationary distribution, then none to weigh the models again
        columns = {k + 1 for k in columns}
        valid[:, 1:] = np.arange(1, 7) == 1
    valid[:, sorted(columns)] = False
    kept = [k for k in range(7) if k not in columns]
    missed = cases.changed(z, valid=valid)
    long = cases.run_with(backend, estimator(name, seed), missed)
    short = cases.run_with(backend, estimator(name, seed), missed.select((slice(None), kept)))
    if name.startswith("imm"):
        expected = cases.taken(long, (slice(None), kept)).mode_probability
        np.testing.assert_allclose(short.mode_probability, expected, rtol=1e-9)
    else:
        cases.assert_same(short, cases.taken(long, (slice(None), kept)), 1e-9)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["kf", "kf-ca", "singer", "imm", "imm2", "imm3"])
@given(seed=SEEDS, angle=st.floats(-np.pi, np.pi), x=st.floats(-2e5, 2e5), y=st.floats(-2e5, 2e5))
@FEW
def test_where_east_lies_and_where_the_origin_is_do_not_matter(
    backend: str, name: str, seed: int, angle: float, x: float, y: float
) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    z, shift = drawn(seed), np.array([x, y])
    here = cases.run_with(backend, estimator(name, seed), z)
    there = cases.run_with(backend, estimator(name, seed), mapped(z, turn, shift))
    assert_mapped(here, there, turn, shift, 1e-8)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["imm", "imm3"])
@given(seed=SEEDS)
@FEW
def test_left_is_to_right_as_a_flight_to_its_mirror_image(backend: str, name: str, seed: int) -> None:
    mirror, none = np.diag([-1.0, 1.0]), np.zeros(2)
    z = drawn(seed)
    here = cases.run_with(backend, estimator(name, seed), z)
    there = cases.run_with(backend, estimator(name, seed), mapped(z, mirror, none))
    assert_mapped(here, there, mirror, none, 1e-9)
    swapped = [*range(here.mode_probability.shape[-1] - 2), -1, -2]  # type: ignore[union-attr]
    np.testing.assert_allclose(there.mode_probability, here.mode_probability[..., swapped], rtol=1e-8, atol=1e-12)  # type: ignore[index]


# Each noise density, and the number of its length units.
LENGTHS = {
    "kf": {"q_m2s3": 15.0},
    "kf-ca": {"q_m2s5": 0.1, "entry_sigma_mps2": 2.0},
    "singer": {"sigma_mps2": 1.5},
    "ekf": {"q_m2s3": 15.0},
    "ekf-ct": {"q_m2s3": 2.0},
    "ukf": {"q_m2s3": 15.0},
    "ukf-ct": {"q_m2s3": 2.0},
    "imm2": {"q_m2s3": 0.1, "q_high_m2s3": 40.0},
    "imm3": {"q_m2s3": 0.1, "q_turn_m2s3": 1.0},
    "imm": {"q_m2s3": 0.1, "q_high_m2s3": 20.0, "q_turn_m2s3": 1.0},
}


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", LENGTHS)
@given(seed=SEEDS, unit=st.sampled_from([0.3048, 7.0, 100.0]))
@FEW
def test_the_unit_of_length_does_not_matter(backend: str, name: str, seed: int, unit: float) -> None:
    """A radar at the origin, so that nothing of the earth's size enters: every length and noise in another unit."""
    z = drawn(seed)
    lengths = {n: getattr(z, n) * unit for n in ("range_m", "sigma_range_m", "up_m", "sigma_height_m")}
    other = cases.changed(mapped(z, unit * np.eye(2), np.zeros(2)), **lengths)
    options = dict(list(OPTIONS.values())[seed % 4])
    speed = options.pop("speed_sigma_mps", 170.0)
    scaled = {n: v * unit ** (2 if n.startswith("q_") else 1) for n, v in LENGTHS[name].items()}
    here = cases.run_with(backend, make_estimator(name, **LENGTHS[name], **options, speed_sigma_mps=speed), z)
    there = cases.run_with(backend, make_estimator(name, **scaled, **options, speed_sigma_mps=speed * unit), other)
    assert_mapped(here, there, unit * np.eye(2), np.zeros(2), 1e-8)
    if here.mode_probability is not None:
        np.testing.assert_allclose(there.mode_probability, here.mode_probability, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", BANKS)
@given(seed=SEEDS)
@FEW
def test_the_epoch_does_not_matter(backend: str, name: str, seed: int) -> None:
    """Times a whole number of hours later, each a multiple of 1/128 s as a radar gives them: the very same steps."""
    z = drawn(seed)
    coarse = np.round(z.time_s * 128.0) / 128.0
    here = cases.run_with(backend, estimator(name, seed), cases.changed(z, time_s=coarse))
    there = cases.run_with(backend, estimator(name, seed), cases.changed(z, time_s=coarse + 86400.0))
    cases.assert_same(there, here, 1e-12)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", BANKS)
@given(seed=SEEDS, lag=st.integers(0, 8))
@FEW
def test_fixed_lag_is_the_smoother_of_the_flight_so_far(backend: str, name: str, seed: int, lag: int) -> None:
    """At column k it knows the plots up to k + lag: the whole smoother of the flight cut there."""
    z = drawn(seed)
    mean, covariance = cases.smooth_with(backend, estimator(name, seed), z, lag)
    for k in range(7):
        cut = cases.smooth_with(backend, estimator(name, seed), z.select((slice(None), slice(0, k + lag + 1))))
        got = mean[:, k], covariance[:, k]
        cases.assert_same_moments(got, (cut[0][:, k], cut[1][:, k]), 1e-9, f"column {k}")


def test_the_drawn_flights_meet_every_option() -> None:
    """Over a few seeds the gate turns plots down and begins tracks anew, or the laws would say little."""
    down = 0
    for seed in range(12):
        z = drawn(seed)
        history = cases.run_with("filterpy", make_estimator("kf", **OPTIONS["gate"]), z)
        down += int((z.valid & ~history.used).sum())
    assert down > 5
