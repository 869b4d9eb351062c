"""Each effect of the radar alone shows the parameter it was given, within the interval that chance allows."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.data import FALSE_PLOT, Plots
from ssrtrack.simulators.effects_detection import covered, horizon_m
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.registers import BDS_LSB, bds60, standard_atmosphere
from ssrtrack.simulators.resolution import TIME_LSB_S
from ssrtrack.simulators.scenario import parse_scenario, radars, simulate
from ssrtrack.simulators.schema_radar import Coverage
from ssrtrack.units import AZIMUTH_LSB_RAD, DEG_RAD, FT_M, KT_MPS, NM_M, RANGE_LSB_M

SURE = 1e-5  # chance that a right simulator fails a check; the seeds are fixed, so it does so always or never
EXACT = {
    "noise": "sigma_range_m = 0, sigma_azimuth_deg = 0",
    "detection": "probability = 1",
    "coverage": "max_range_nm = 250, max_elevation_deg = 90, horizon = false",
    "quantisation": "range = false, azimuth = false, time = false, altitude = false, bds = false",
}


def plots_with(seed=1, share=1.0, number=40, **blocks: str) -> Plots:
    """Plots of a scenario without any effect but those given."""
    text = "\n".join(f"{name} = {{ {body} }}" for name, body in (EXACT | blocks).items())
    scenario = parse_scenario(
        f"""
        epoch = 2025-01-01T23:00:30Z
        duration_s = 1200
        [[radar]]
        name = "R"
        latitude_deg = -33
        longitude_deg = 151
        height_m = 100
        rotation_period_s = 4
        {text}
        [[traffic]]
        number = {number}
        radius_nm = 60
        manoeuvres_per_hour = 30
        mode_s_share = {share}
        """,
        "x",
        "x",
    )
    return Plots.concat([p for p, _ in simulate(scenario, seed)]).validate()


def sigma_interval(n: int) -> tuple[float, float]:
    """Interval for sample sigma over true sigma of n normal deviates with known mean."""
    return tuple(np.sqrt(stats.chi2.ppf([SURE / 2, 1 - SURE / 2], n) / n))


def angle(x: Floats) -> Floats:
    return (x + np.pi) % (2 * np.pi) - np.pi


@pytest.mark.parametrize(("sigma_range", "sigma_azimuth"), [(70.0, 0.08), (5.0, 0.012), (0.0, 0.3)])
def test_noise_has_its_sigmas_is_white_and_is_what_plots_state(sigma_range, sigma_azimuth):
    clean = plots_with()
    noisy = plots_with(noise=f"sigma_range_m = {sigma_range}, sigma_azimuth_deg = {sigma_azimuth}")
    np.testing.assert_array_equal(noisy.time_s, clean.time_s)
    errors = noisy.range_m - clean.range_m, np.degrees(angle(noisy.azimuth_rad - clean.azimuth_rad))
    low, high = sigma_interval(len(clean))
    for error, sigma in zip(errors, (sigma_range, sigma_azimuth), strict=True):
        if sigma == 0:
            assert np.all(error == 0)
            continue
        assert low < np.sqrt(np.mean(error**2)) / sigma < high
        assert stats.kstest(error / sigma, "norm").pvalue > SURE
        order = np.argsort(clean.truth_id, kind="stable")
        lag = np.corrcoef(error[order][1:], error[order][:-1])[0, 1]
        assert abs(lag) * np.sqrt(len(error)) < stats.norm.isf(SURE / 2)
    if sigma_range and sigma_azimuth:
        assert abs(np.corrcoef(*errors)[0, 1]) * np.sqrt(len(clean)) < stats.norm.isf(SURE / 2)
    assert np.all(noisy.sigma_range_m == np.float32(sigma_range))
    assert np.all(noisy.sigma_azimuth_rad == np.float32(sigma_azimuth * DEG_RAD))


@pytest.mark.parametrize("probability", [0.5, 0.97, 0.999])
def test_detection_is_independent_with_its_probability(probability):
    everything = plots_with(number=120)
    some = plots_with(number=120, detection=f"probability = {probability}")
    assert stats.binomtest(len(some), len(everything), probability).pvalue > SURE
    keys = {(t, i) for t, i in zip(some.time_s, some.truth_id, strict=True)}
    assert keys < set(zip(everything.time_s, everything.truth_id, strict=True))
    seen = np.array([k in keys for k in zip(everything.time_s, everything.truth_id, strict=True)])
    seen = seen[np.argsort(everything.truth_id, kind="stable")]
    pairs = np.sum(~seen[1:] & ~seen[:-1])
    assert stats.binomtest(int(pairs), len(seen) - 1, (1 - probability) ** 2).pvalue > SURE / 10


@pytest.mark.parametrize(("fraction", "scale"), [(0.01, 10.0), (0.2, 5.0)])
def test_outliers_have_their_share_and_scale_and_do_not_state_it(fraction, scale):
    noise = "sigma_range_m = 50, sigma_azimuth_deg = 0.1"
    clean, usual = plots_with(), plots_with(noise=noise)
    wild = plots_with(noise=noise, outliers=f"fraction = {fraction}, scale = {scale}")
    ratio = (wild.range_m - clean.range_m) / (usual.range_m - clean.range_m)
    is_outlier = ratio > 1.01
    np.testing.assert_allclose(ratio[is_outlier], scale, rtol=1e-3)
    assert stats.binomtest(int(is_outlier.sum()), len(clean), fraction).pvalue > SURE
    cross = angle(wild.azimuth_rad - clean.azimuth_rad) / angle(usual.azimuth_rad - clean.azimuth_rad)
    np.testing.assert_allclose(cross[is_outlier], scale, rtol=1e-3)
    np.testing.assert_array_equal(wild.sigma_range_m, usual.sigma_range_m)


def test_false_plots_come_at_their_rate_uniform_over_the_area_and_move_nothing_else():
    rate, coverage = 8.0, "min_range_nm = 20, max_range_nm = 100, max_elevation_deg = 90, horizon = false"
    alone = plots_with(coverage=coverage, detection="probability = 0.9")
    plots = plots_with(coverage=coverage, detection="probability = 0.9", false_plots=f"per_scan = {rate}")
    false, true = plots[plots.truth_id == FALSE_PLOT], plots[plots.truth_id != FALSE_PLOT]
    for name, column in alone.columns().items():
        np.testing.assert_array_equal(getattr(true, name), column, err_msg=name)
    scans = 1200 / 4
    low, high = stats.poisson.ppf([SURE / 2, 1 - SURE / 2], rate * scans)
    assert low < len(false) < high
    per_scan = np.bincount((false.time_s // 4).astype(int), minlength=int(scans))
    dispersion = per_scan.var() / rate * scans
    assert stats.chi2.ppf(SURE, scans) < dispersion < stats.chi2.isf(SURE, scans)
    area = (false.range_m / NM_M) ** 2
    assert stats.kstest((area - 400) / (10_000 - 400), "uniform").pvalue > SURE
    assert stats.kstest(false.azimuth_rad / (2 * np.pi), "uniform").pvalue > SURE
    np.testing.assert_allclose(false.time_s % 4 / 4 * 2 * np.pi, false.azimuth_rad, atol=1e-9)
    assert np.all(false.address == -1)
    assert np.all(false.plot_type == 2)
    assert np.all((false.mode3a >= 0) & (false.mode3a <= 0o7777))


def test_quantised_values_are_exact_multiples_within_half_of_the_exact():
    exact = plots_with(
        share=0.5, noise="sigma_range_m = 70, sigma_azimuth_deg = 0.08", registers="bds50 = true, bds60 = true"
    )
    rounded = plots_with(
        share=0.5, noise="sigma_range_m = 70, sigma_azimuth_deg = 0.08", registers="bds50 = true, bds60 = true",
        quantisation="bds = true",
    )  # fmt: skip
    for name, lsb in {"range_m": RANGE_LSB_M, "azimuth_rad": AZIMUTH_LSB_RAD, "time_s": TIME_LSB_S}.items():
        value, before = getattr(rounded, name), getattr(exact, name)
        np.testing.assert_array_equal(value, np.round(value / lsb) * lsb, err_msg=name)
        off = value - before
        assert np.abs(angle(off) if name == "azimuth_rad" else off).max() <= lsb / 2 * (1 + 1e-6)
        assert np.abs(off).max() > 0
    assert rounded.azimuth_rad.max() < 2 * np.pi
    steps = np.where(rounded.plot_type == 5, 25 * FT_M, 100 * FT_M)
    number = rounded.pressure_altitude_m / steps
    assert np.abs(number - np.round(number)).max() < 1e-3
    assert np.all(np.abs(rounded.pressure_altitude_m - exact.pressure_altitude_m) <= steps / 2 * 1.0001)
    for name, lsb in BDS_LSB.items():
        value, before = getattr(rounded, name), getattr(exact, name)
        np.testing.assert_array_equal(np.isnan(value), rounded.plot_type != 5, err_msg=name)
        number = (value / lsb)[rounded.plot_type == 5]
        assert np.abs(number - np.round(number)).max() < 2e-3, name
        off = value - before
        off = angle(off) if name in ("track_angle_rad", "magnetic_heading_rad") else off
        assert np.nanmax(np.abs(off)) <= lsb * 0.501, name


def test_resolutions_are_those_of_the_standards():
    # EUROCONTROL-SPEC-0149-4 ed. 1.32, I048/040 and I048/140; ICAO Doc 9871, tables A-2-80 and A-2-96.
    assert (RANGE_LSB_M, TIME_LSB_S) == (7.234375, 0.0078125)
    assert np.degrees(AZIMUTH_LSB_RAD) == pytest.approx(0.0054931640625, rel=1e-12)
    expected = {
        "roll_rad": np.radians(0.17578125), "track_angle_rad": np.radians(0.17578125),
        "ground_speed_mps": 1.02888889, "track_angle_rate_radps": np.radians(0.03125),
        "true_airspeed_mps": 1.02888889, "magnetic_heading_rad": np.radians(0.17578125),
        "indicated_airspeed_mps": 0.51444444, "mach": 0.004, "baro_altitude_rate_mps": 0.16256,
        "inertial_vertical_velocity_mps": 0.16256,
    }  # fmt: skip
    assert pytest.approx(expected, rel=1e-6) == BDS_LSB


def test_only_mode_s_aircraft_have_an_address_and_identities_are_their_own():
    plots = plots_with(share=0.6, number=150)
    mode_s = plots.plot_type == 5
    assert set(np.unique(plots.plot_type)) == {2, 5}
    np.testing.assert_array_equal(plots.address >= 0xD00000, mode_s)
    np.testing.assert_array_equal(plots.callsign != b"", mode_s)
    per_flight = {(i, a, m, c) for i, a, m, c in zip(
        plots.truth_id.tolist(), plots.address.tolist(), plots.mode3a.tolist(), plots.callsign.tolist(), strict=True
    )}  # fmt: skip
    flights = len(set(plots.truth_id.tolist()))
    assert len(per_flight) == flights
    assert len({m for _, _, m, _ in per_flight}) == flights
    addresses = [a for _, a, _, _ in per_flight if a >= 0]
    assert len(set(addresses)) == len(addresses)
    share = len(addresses) / flights
    assert abs(share - 0.6) < 4 * np.sqrt(0.24 / flights)


@pytest.mark.parametrize(
    ("slant_nm", "elevation_deg", "height_m", "expected"),
    [
        (0.9, 10, 3000, False),
        (1.1, 10, 3000, True),
        (59.9, 2, 3000, True),
        (60.1, 2, 3000, False),
        (10, 44.9, 3000, True),
        (10, 45.1, 3000, False),
        (50, 0.1, 60, False),  # 60 m over a smooth earth is below the horizon at 50 NM
        (50, 0.1, 600, True),
        (10, 0.1, -20, True),  # the antenna itself sees 18 NM
    ],
)
def test_coverage(slant_nm, elevation_deg, height_m, expected):
    c = Coverage(min_range_nm=1.0, max_range_nm=60.0, max_elevation_deg=45.0)
    values = [np.array([x]) for x in (slant_nm * NM_M, elevation_deg * DEG_RAD, float(height_m))]
    assert covered(c, 66.0, *values)[0] == expected


def test_the_horizon_is_that_of_the_textbook():
    # d[NM] = 1.23 (√h₁ + √h₂) with heights in feet, the rule that radar engineers know.
    expected = 1.23 * (np.sqrt(50.0) + np.sqrt(30_000.0)) * NM_M
    assert horizon_m(50 * FT_M, np.array([30_000 * FT_M]))[0] == pytest.approx(expected, rel=5e-3)


def test_heading_and_speed_report_is_that_of_the_standard_atmosphere():
    temperature, ratio = standard_atmosphere(np.array([0.0, 11_000.0, 35_000 * FT_M, 45_000 * FT_M]))
    assert temperature.tolist() == pytest.approx([288.15, 216.65, 218.81, 216.65], abs=0.01)
    assert (ratio * 1013.25).tolist() == pytest.approx([1013.25, 226.32, 238.42, 147.48], abs=0.05)
    # FL350, Mach 0.80: 461.1 kt true, 271.5 kt calibrated airspeed.
    state = {
        "height_m": np.array([35_000 * FT_M]),
        "speed_mps": np.array([461.1 * KT_MPS]),
        "climb_mps": np.array([0.0]),
        "track_rad": np.array([np.radians(2.0)]),
    }
    report = bds60(state, np.radians(5.0))
    assert report["mach"][0] == pytest.approx(0.800, abs=5e-4)
    assert report["indicated_airspeed_mps"][0] / KT_MPS == pytest.approx(271.5, abs=1.0)
    assert np.degrees(report["magnetic_heading_rad"][0]) == pytest.approx(357.0)


def test_track_and_turn_report_follows_the_path():
    plots = plots_with(registers="bds50 = true")
    one = plots[plots.truth_id == 3]
    turn = np.gradient(np.unwrap(one.track_angle_rad.astype(float)), one.time_s)
    steady = np.abs(np.gradient(one.roll_rad.astype(float))) < 1e-4
    assert np.sum(steady & (np.abs(one.roll_rad) > 0.1)) > 0
    assert np.abs(turn - one.track_angle_rate_radps)[steady].max() < 2e-3
    expected = 9.80665 * np.tan(one.roll_rad) / one.ground_speed_mps
    # The rest is the convergence of meridians, and half the resolution of the register while rolling.
    assert np.abs(one.track_angle_rate_radps - expected).max() < 2.7e-4


def test_radars_table():
    scenario = parse_scenario(
        """
        epoch = 2025-01-01T00:00:00Z
        duration_s = 60
        [[radar]]
        name = "A"
        latitude_deg = 1
        longitude_deg = 2
        rotation_period_s = 4
        [[radar]]
        name = "B"
        latitude_deg = 3
        longitude_deg = 4
        height_m = 5
        sac = 6
        sic = 7
        rotation_period_s = 8
        noise = { sigma_range_m = 30, sigma_azimuth_deg = 0.05 }
        coverage = { max_range_nm = 100 }
        [[traffic]]
        number = 1
        radius_nm = 10
        """,
        "x",
        "x",
    )
    table = radars(scenario).validate()
    assert table.name.tolist() == [b"A", b"B"]
    second = {name: value[1].item() for name, value in table.columns().items()}
    assert second == pytest.approx(
        {
            "name": b"B", "sac": 6, "sic": 7, "latitude_deg": 3.0, "longitude_deg": 4.0, "height_m": 5.0,
            "rotation_period_s": 8.0, "max_range_m": 185_200.0, "sigma_range_m": 30.0,
            "sigma_azimuth_rad": np.radians(0.05),
        }
    )  # fmt: skip
