"""Plots as measurements: frames, slant-range correction, covariance, debiasing, missing altitudes, typed errors."""

import numpy as np
import pytest

from ssrtrack.data import PlotFlag, Plots, Radar
from ssrtrack.errors import EstimatorError
from ssrtrack.filters.measurement import CLIMB_SIGMA_MPS, Measurements, make_measurements, tracking_frame
from ssrtrack.filters.observation import polar_observation
from ssrtrack.geodesy import enu_to_polar, geodetic_to_enu
from ssrtrack.units import DEG_RAD, NM_M

SITES = {"latitude_deg": np.array([41.3, 42.1, np.nan]), "longitude_deg": np.array([2.1, 3.4, 0.0])}
RADARS = Radar(name=np.array([b"A", b"B", b"C"]), height_m=np.array([30.0, 700.0, 0.0]), **SITES)


def seen_from(radar: int, latitude_deg: float, longitude_deg: float, height_m: float) -> tuple[float, float]:
    site = (*np.radians([RADARS.latitude_deg[radar], RADARS.longitude_deg[radar]]), RADARS.height_m[radar])
    enu = geodetic_to_enu(np.radians(latitude_deg), np.radians(longitude_deg), height_m, site)
    slant, azimuth, _ = enu_to_polar(enu)
    return float(slant), float(azimuth)


def plots_of(range_m: list[float], azimuth_rad: list[float], **columns: object) -> Plots:
    count = len(range_m)
    given = {"time_s": 4.0 * np.arange(count), "radar_id": np.zeros(count, int)}
    return Plots(range_m=np.array(range_m), azimuth_rad=np.array(azimuth_rad), **(given | columns))  # type: ignore[arg-type]


def measured(plots: Plots, index: object = None, **changes: object) -> Measurements:
    rows = np.arange(len(plots))[None] if index is None else np.asarray(index)
    options = {"sigma_range_m": 70.0, "sigma_azimuth_rad": 0.08 * DEG_RAD, "sigma_height_m": 50.0} | changes
    return make_measurements(plots, rows, tracking_frame(RADARS, [0, 1]), **options)  # type: ignore[arg-type]


def test_a_stated_sigma_of_zero_gives_way_to_the_one_given() -> None:
    own = {"sigma_range_m": np.array([0.0, 30.0], "f4"), "sigma_azimuth_rad": np.zeros(2, "f4")}
    z = measured(plots_of([6e4, 6e4], [0.5, 0.5], **own))
    np.testing.assert_allclose(z.sigma_range_m, [[70.0, 30.0]])
    np.testing.assert_allclose(z.sigma_azimuth_rad, 0.08 * DEG_RAD)


def test_two_radars_put_one_aircraft_in_one_place() -> None:
    where = (41.9, 2.6, 10500.0)
    both = [seen_from(k, *where) for k in (0, 1)]
    plots = plots_of(
        [b[0] for b in both],
        [b[1] for b in both],
        radar_id=np.array([0, 1]),
        pressure_altitude_m=np.full(2, where[2], "f4"),
    )
    z = measured(plots)
    np.testing.assert_allclose(z.position_m[0, 0], z.position_m[0, 1], atol=1e-3)
    np.testing.assert_allclose(z.up_m[0, 0], z.up_m[0, 1], atol=1e-3)
    site = (np.radians(41.3), np.radians(2.1), 30.0)
    expected = geodetic_to_enu(np.radians(where[0]), np.radians(where[1]), where[2], site)
    np.testing.assert_allclose([*z.position_m[0, 1], z.up_m[0, 1]], expected, atol=1e-3)
    # A polar filter at that position expects exactly what each radar saw.
    state = np.zeros((2, 4))
    state[:, :2] = expected[:2]
    seen = polar_observation(z.select(0), state)
    np.testing.assert_allclose(seen.expect(state)[:, 0], plots.range_m, atol=1e-3)
    np.testing.assert_allclose(seen.expect(state)[:, 1], seen.z[:, 1], atol=1e-8)
    step = 1.0
    for axis in (0, 1):
        moved = state.copy()
        moved[:, axis] += step
        slope = (seen.expect(moved) - seen.expect(state)) / step
        assert seen.jacobian is not None
        np.testing.assert_allclose(seen.jacobian(state)[:, :, axis], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("range_nm", "azimuth_deg", "height_m"), [(60, 10, 11000), (20, 200, 9000), (8, 300, 11000), (200, 90, 12000)]
)
@pytest.mark.parametrize("radar", [0, 1])
def test_covariance_is_that_of_monte_carlo_conversions(
    range_nm: float, azimuth_deg: float, height_m: float, radar: int
) -> None:
    rng = np.random.default_rng(4)
    count, sigma_r, sigma_a, sigma_h = 4000, 70.0, 0.08 * DEG_RAD, 60.0
    range_m, azimuth = range_nm * NM_M, azimuth_deg * DEG_RAD
    noise = rng.standard_normal((3, count))
    plots = plots_of(
        list(range_m + sigma_r * noise[0]),
        list(azimuth + sigma_a * noise[1]),
        pressure_altitude_m=height_m + sigma_h * noise[2],
        radar_id=np.full(count, radar),
    )
    z = measured(plots, np.arange(count)[:, None], sigma_height_m=sigma_h)
    sample = np.cov(z.position_m[:, 0].T)
    whiten = np.linalg.cholesky(z.covariance_m2[:, 0].mean(0))
    ratio = np.linalg.solve(whiten, np.linalg.solve(whiten, sample).T)
    np.testing.assert_allclose(ratio, np.eye(2), atol=0.09)


def test_debiasing_starts_where_its_criterion_says() -> None:
    """r·σ_az²/σ_r: 0.01 for 200 NM and 0.08° (left alone), above 0.4 made unbiased."""
    assert pytest.approx(0.01, abs=5e-4) == 200 * NM_M * (0.08 * DEG_RAD) ** 2 / 70.0
    rng = np.random.default_rng(2)
    count, range_m, sigma_r, sigma_a = 40000, 200e3, 50.0, 1.0 * DEG_RAD
    assert range_m * sigma_a**2 / sigma_r > 0.4
    plots = plots_of(
        list(range_m + sigma_r * rng.standard_normal(count)),
        list(1.0 + sigma_a * rng.standard_normal(count)),
        pressure_altitude_m=np.full(count, 3000.0),
    )
    z = measured(plots, np.arange(count)[:, None], sigma_range_m=sigma_r, sigma_azimuth_rad=sigma_a, sigma_height_m=1.0)
    truth = measured(plots_of([range_m], [1.0], pressure_altitude_m=np.array([3000.0])))
    true_xy = truth.position_m[0, 0]
    radial = true_xy / np.hypot(*true_xy)
    biased = range_m * (1.0 - np.exp(-(sigma_a**2) / 2.0))
    error = (z.position_m[:, 0] - true_xy) @ radial
    assert biased > 30.0
    assert abs(error.mean()) < 2.0
    # With the second-order term the radial variance is right too, though the spread is a banana.
    own = z.position_m[:, 0] / np.linalg.norm(z.position_m[:, 0], axis=1, keepdims=True)
    claimed = np.einsum("ni,nij,nj->n", own, z.covariance_m2[:, 0], own).mean()
    assert error.var() == pytest.approx(claimed, rel=0.03)
    assert claimed > 1.5 * sigma_r**2
    fine = measured(plots_of([range_m], [1.0], pressure_altitude_m=np.array([3000.0])), sigma_azimuth_rad=1e-9)
    np.testing.assert_allclose(truth.position_m, fine.position_m, rtol=1e-14)


def test_missing_altitudes_come_from_neighbours_and_grow_uncertain() -> None:
    bad = int(PlotFlag.ALTITUDE_GARBLED)
    altitude = np.array([np.nan, 9000.0, np.nan, 5.0, 9300.0, np.nan, np.nan], "f4")
    flags = np.array([0, 0, 0, bad, 0, 0, 0], "u4")
    plots = plots_of([60e3] * 7, [0.5] * 7, pressure_altitude_m=altitude, flags=flags)
    z = measured(plots, [[0, 1, 2, 3, 4], [5, 6, -1, -1, -1]])
    known = measured(plots_of([60e3] * 5, [0.5] * 5, pressure_altitude_m=np.array([9000.0] * 4 + [9300.0])))
    np.testing.assert_allclose(z.up_m[0], known.up_m[0], atol=1e-2)
    expected = np.hypot(50.0, CLIMB_SIGMA_MPS * np.array([4.0, 0.0, 4.0, 8.0, 0.0]))
    np.testing.assert_allclose(z.sigma_height_m[0], expected)
    at_radar = measured(plots_of([60e3], [0.5], pressure_altitude_m=np.array([30.0])))
    np.testing.assert_allclose(z.up_m[1, :2], at_radar.up_m[0, 0], atol=1e-3)
    assert not z.valid[1, 2:].any()
    assert np.isnan(z.time_s[1, 2:]).all()
    assert (z.radar_id[1, 2:] == -1).all()


def test_own_sigmas_win_over_the_radars() -> None:
    own = np.array([10.0, np.nan, np.nan], "f4")
    radar = np.array([0, 0, 1])
    z = measured(
        plots_of([60e3] * 3, [0.5] * 3, sigma_range_m=own, radar_id=radar), sigma_range_m=np.array([70.0, 30.0])
    )
    np.testing.assert_allclose(z.sigma_range_m[0], [10.0, 70.0, 30.0])


def test_columns_of_measurements() -> None:
    z = measured(plots_of([60e3, 61e3], [0.5, 0.6]))
    assert z.at(1).range_m.shape == (1,)
    assert z.at(1).range_m[0] == 61e3
    assert z.at(1).frame is z.frame
    assert len(z) == 1


def test_one_radar_without_a_site_is_tracked_in_its_own_frame() -> None:
    frame = tracking_frame(RADARS, [2])
    assert np.isnan([frame.origin.latitude_deg, frame.origin.height_m]).all()
    np.testing.assert_allclose(frame.rotation[2], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(frame.position_m[2], 0.0, atol=1e-6)
    plots = plots_of([60e3], [np.pi / 2], radar_id=np.array([2]), pressure_altitude_m=np.array([9000.0]))
    z = make_measurements(
        plots, np.array([[0]]), frame, sigma_range_m=70.0, sigma_azimuth_rad=0.001, sigma_height_m=50.0
    )
    ground = np.hypot(*z.position_m[0, 0])
    assert z.position_m[0, 0, 0] == pytest.approx(ground)
    assert ground == pytest.approx(np.sqrt(60e3**2 - (9000.0 - 60e3**2 / 2 / 6.37e6) ** 2), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tracking_frame(RADARS), "without a site: .*'C'"),
        (lambda: tracking_frame(RADARS, [0, 7]), "outside the log's 3 radars"),
        (lambda: tracking_frame(Radar.empty()), "no radar"),
        (lambda: measured(plots_of([6e4], [0.5]), sigma_range_m=None), "sigma_range_m"),
        (lambda: measured(plots_of([6e4], [0.5]), sigma_azimuth_rad=float("nan")), "sigma_azimuth_rad"),
        (lambda: measured(plots_of([6e4], [0.5]), [[1]]), "below 1 plots"),
        (lambda: measured(plots_of([6e4], [0.5]), [0]), r"\(N, T\)"),
        (lambda: measured(plots_of([6e4], [0.5], radar_id=np.array([2]))), "no site"),
        (lambda: measured(plots_of([6e4], [0.5], radar_id=np.array([9]))), "radar 9"),
    ],
)
def test_unusable_input_is_refused_with_the_reason(make: object, message: str) -> None:
    with pytest.raises(EstimatorError, match=message):
        make()  # type: ignore[operator]


def test_a_plot_overhead_has_a_covariance() -> None:
    """A target higher than its slant range is long is put overhead, where azimuth says nothing of where it is."""
    rng = np.random.default_rng(1)
    height = np.full(2000, 1030.0, "f4")  # 1 km above the radar
    plots = plots_of(
        rng.uniform(600.0, 1000.01, 2000).tolist(), rng.uniform(0.0, 6.28, 2000).tolist(), pressure_altitude_m=height
    )
    cov = measured(plots, sigma_range_m=30.0, sigma_azimuth_rad=1e-3).covariance_m2[0]
    assert (cov[:, 0, 0] * cov[:, 1, 1] > cov[:, 0, 1] ** 2).all() and (np.linalg.eigvalsh(cov) > 0.0).all()
