"""Corners of the engine: nothing to do, plots that are none, gaps of months, models that die out, long lags."""

import multiprocessing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import constant_acceleration, constant_velocity, coordinated_turn, singer
from ssrtrack.filters.options import Options
from ssrtrack.filters.packing import form_of, packed_measurements, parameters_of
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth
from ssrtrack.kernels.kalman import scan
from ssrtrack.kernels.kalman import smooth as smooth_packed
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_smooth import information_gained
from tests.filters_fixture import cartesian
from tests.kernels_fixture import flights

Array = NDArray[Any]


def one_flight(steps_s: list[float], seed: int = 0) -> Measurements:
    """A straight flight with 50 m of noise on each axis."""
    time_s = np.concatenate([[0.0], np.cumsum(steps_s)])
    rng = np.random.default_rng(seed)
    position = np.stack([20e3 + 0.0 * time_s, 200.0 * np.minimum(time_s, 500.0)], -1)
    position = position + rng.normal(0.0, 50.0, position.shape)
    return cartesian(time_s[None], position[None], np.diag([2500.0, 2500.0]))


def bank(name: str) -> Bank:
    estimator = make_estimator(name)
    assert isinstance(estimator, Bank)
    return estimator


def five_models() -> Bank:
    """One of every kind and turns both ways, whose chain has one rate four times over."""
    motions = (
        constant_velocity(1.0),
        constant_acceleration(0.1, 3.0),
        singer(3.0, 20.0),
        coordinated_turn(0.026, 0.01, 30.0, 0.5),
        coordinated_turn(-0.026, 0.01, 30.0, 0.5),
    )
    chain = Chain(np.full(5, 40.0), (np.ones((5, 5)) - np.eye(5)) / 4.0)
    return Bank(motions, chain, "extended", "position", Options(gate=0.9999, reopen_after=0))


def never_entered() -> Bank:
    """A turn that flights leave for good."""
    motions = constant_velocity(1.0), constant_velocity(50.0), coordinated_turn(0.026, 0.01, 30.0, 0.5)
    chain = Chain(np.array([64.0, 32.0, 20.0]), np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    return Bank(motions, chain, "extended", "position", Options())


def assert_close(got: tuple[Array, Array], expected: tuple[Array, Array], mean: float, covariance: float) -> None:
    """Means to so many σ, covariances to so many σᵢσⱼ, NaN in the same places."""
    assert (np.isnan(got[0]) == np.isnan(expected[0])).all()
    deviation = np.sqrt(np.einsum("ntii->nti", expected[1]))
    assert np.nanmax(np.abs(got[0] - expected[0]) / deviation) < mean
    apart = np.abs(got[1] - expected[1]) / (deviation[..., None] * deviation[..., None, :])
    assert np.nanmax(apart) < covariance


@pytest.mark.parametrize("backend", ["filterpy", "numba", "torch"])
@pytest.mark.parametrize("name", ["kf", "ekf", "imm2"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_nothing_to_do(backend: str, name: str, shape: tuple[int, int]) -> None:
    """No flights, no columns, or flights of no plots at all."""
    z = cartesian(np.full(shape, np.nan), np.full((*shape, 2), np.nan), np.eye(2), np.zeros(shape, bool))
    found = run(bank(name), z, backend=backend)
    mean, covariance = smooth(bank(name), z, backend=backend)
    assert found.mean.shape == mean.shape == (*shape, 4)
    assert found.predicted_covariance.shape == covariance.shape == (*shape, 4, 4)
    assert np.isnan(found.mean).all() and np.isnan(mean).all() and not found.used.any()


@pytest.mark.parametrize("make", [five_models, never_entered])
@pytest.mark.parametrize("steps_s", [[4.0, 0.0, 0.0, 4.0, 0.0, 4.0], [4.0, 4.0, 300.0, 4.0, 4.0]])
def test_unusual_banks_are_filterpys(make: Any, steps_s: list[float]) -> None:
    for z in (flights(3, (30, 20, 7, 1)), one_flight(steps_s)):
        got, expected = run(make(), z, backend="numba"), run(make(), z, backend="filterpy")
        assert_close((got.mean, got.covariance), (expected.mean, expected.covariance), 1e-9, 1e-9)
        np.testing.assert_array_equal(got.used, expected.used)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("gap_s", [1e4, 1e6])
def test_a_model_that_is_never_entered_dies_out(backend: str, gap_s: float) -> None:
    """Nobody is in it after the gap."""
    z = one_flight([4.0, 4.0, gap_s, 4.0, 4.0])
    got, expected = run(never_entered(), z, backend=backend), run(never_entered(), z, backend="filterpy")
    assert got.mode_probability is not None
    assert (got.mode_probability[0, 3:, 2] < 1e-9).all()
    # After 11 days the predicted variance is 10¹⁵ times the plot's: of float64's digits this many are left.
    assert_close((got.mean, got.covariance), (expected.mean, expected.covariance), 1e-7, 1e-7)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_that_all_flights_left(backend: str, dtype: str) -> None:
    """Π(T) = [[1, 0], [1 − e^(−T/30), e^(−T/30)]]: in a long gap its second column is 0, and the weights in it 0/0."""
    form = Form(("cv", "cv"), "extended", "position", False, False)
    chain_numbers = [np.log(0.5), np.log(0.5), -1.0 / 30.0, 0.0, 0.0, -1.0, 1.0]
    vector = np.array([1.0, 50.0, *chain_numbers, 170.0**2, np.inf, 3.0, 0.0, 0.0, 1.0])
    z = one_flight([4.0, 4.0, 1e4, 4.0, 4.0])
    columns, layout = packed_measurements(z, False)
    found, _ = scan(form, vector, columns.astype(dtype), layout, ("filtered", "modes"), backend=backend)
    assert np.isfinite(found["filtered"]).all()
    np.testing.assert_allclose(found["modes"].sum(0), 1.0, rtol=1e-5)
    assert (found["modes"][1, 3:] < 1e-9).all() and found["modes"][1, 1] > 0.01


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("gap_s", [1e4, 1e6, 1e7])
def test_float32_finds_a_flight_again_after_months(backend: str, gap_s: float) -> None:
    """The determinant of the innovation's covariance would be 10⁴² m⁴: more than float32 holds, and the gain 0."""
    z = one_flight([4.0, 4.0, gap_s, 4.0, 4.0])
    short, full = (run(bank("kf"), z, backend=backend, dtype=dtype) for dtype in ("float32", "float64"))
    assert_close((short.mean, short.covariance), (full.mean, full.covariance), 2.0, 0.05)


def test_what_rounding_made_negative_is_information() -> None:
    """A smoothed variance that is 0 or less beside the predicted one: the later plots say all, not nothing."""
    for share in (0.0, -1e-9):
        A = [[torch.tensor(v, dtype=torch.float64) for v in row] for row in ((share, 0.0), (0.0, 1.5))]
        found = information_gained(A)
        assert float(found[0][0]) == pytest.approx(1e12) and float(found[1][1]) == 0.0


def spoiled(**columns: Any) -> Measurements:
    """Three flights, of which plot 1 of the first has these values."""
    z = flights(3, (5, 4, 2))
    changed: dict[str, Any] = {name: np.array(getattr(z, name)) for name in columns}
    for name, value in columns.items():
        changed[name][0, 1] = value
    valid = z.valid.copy()
    valid[0, 1] = True
    return replace(z, **changed, valid=valid)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("kf", {"covariance_m2": 0.0}, r"1 plots have no position covariance \(the first: xx 0.0, xy 0.0, yy 0.0"),
        ("kf", {"covariance_m2": [[-4.0, 0.0], [0.0, 4.0]]}, "no position covariance"),
        ("kf", {"covariance_m2": [[4.0, 5.0], [5.0, 4.0]]}, "no position covariance"),
        ("kf", {"covariance_m2": np.nan}, "1 plots have no finite xx_m2, xy_m2, yy_m2; mark them valid=False"),
        ("kf", {"position_m": [np.nan, 0.0]}, "no finite x_m; mark"),
        ("kf", {"position_m": [0.0, np.inf]}, "no finite y_m; mark"),
        ("ekf", {"azimuth_rad": np.nan}, "no finite sin_azimuth, cos_azimuth"),
        ("ukf", {"sigma_height_m": np.nan}, "no finite height_m2"),
    ],
)
def test_plots_that_are_none(name: str, columns: dict[str, Any], message: str) -> None:
    """Not a miss, not NaN for the rest of the flight: an error that says which numbers."""
    for call in (run, smooth):
        with pytest.raises(EstimatorError, match=message):
            call(bank(name), spoiled(**columns), backend="numba")


def test_a_miss_may_hold_anything() -> None:
    z = spoiled(position_m=np.nan, covariance_m2=np.nan, range_m=np.nan, azimuth_rad=np.nan)
    valid = z.valid.copy()
    valid[0, 1] = False
    for name in ("kf", "ekf"):
        found = run(bank(name), replace(z, valid=valid), backend="numba")
        assert np.isfinite(found.mean[np.isfinite(z.time_s)]).all() and not found.used[0, 1]


@pytest.mark.parametrize("backend", ["filterpy", "numba", "torch"])
@pytest.mark.parametrize("lag", [4, 5, 100, 10**30])
def test_a_lag_beyond_the_flight_is_the_whole_flight(backend: str, lag: int) -> None:
    z = flights(3, (5, 4, 2))
    for got, expected in zip(smooth("kf", z, lag=lag, backend=backend), smooth("kf", z, backend=backend), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", ["cuda", "auto", "filterpy", ""])
def test_kernels_know_their_backends(backend: str) -> None:
    kf = bank("kf")
    form, vector, layout = form_of(kf), parameters_of(kf), Layout.of(np.array([1]))
    columns = np.array([[0.0], [1e3], [2e3], [900.0], [0.0], [900.0]])
    with pytest.raises(ValueError, match="expected one of numba, torch, triton"):
        scan(form, vector, columns, layout, ("filtered",), backend=backend)
    with pytest.raises(ValueError, match="expected one of numba, torch, triton"):
        smooth_packed(form, vector, columns, layout, backend=backend)


def estimated(queue: Any) -> None:
    queue.put(run(bank("kf"), flights(4, (6,) * 300), backend="numba").mean)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_daemon_gives_the_same(method: str) -> None:
    """In a child that was forked after the threads ran here, and in a new one."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    expected = run(bank("kf"), flights(4, (6,) * 300), backend="numba").mean
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=estimated, args=(queue,), daemon=True)  # type: ignore[attr-defined]
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), expected)
    child.join(10)
    assert child.exitcode == 0
