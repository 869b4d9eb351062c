"""Time stamps err as the clock's keys say, plots come in their order, and none is lost where blocks of work meet."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.data import Plots
from ssrtrack.simulators.effects_time import lead_s, stamped
from ssrtrack.simulators.scenario import parse_scenario, simulate
from ssrtrack.simulators.schema_effects import Clock

SURE = 1e-5


def run(clock: str, duration=1500) -> Plots:
    scenario = parse_scenario(
        f"""
        epoch = 2025-01-01T00:00:00Z
        duration_s = {duration}
        [[radar]]
        name = "R"
        latitude_deg = 50
        longitude_deg = 10
        rotation_period_s = 5
        clock = {{ {clock} }}
        quantisation = {{ time = false }}
        [[traffic]]
        number = 20
        radius_nm = 50
        """,
        "x",
        "x",
    )
    return Plots.concat([p for p, _ in simulate(scenario, 1)]).validate()


CLOCKS = {
    "late": ("latency_s = 0.7", 0.7, 0.0),
    "ahead": ("offset_s = 0.25", 0.25, 0.0),
    "behind": ("offset_s = -9.5", -9.5, 0.0),
    "late by a rotation and a half": ("latency_s = 7.5", 7.5, 0.0),
    "drifting": ("offset_s = -0.1, drift_ppm = 150", -0.1, 150e-6),
    "losing": ("drift_ppm = -200", 0.0, -200e-6),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_stamps_are_those_of_the_clock_and_no_plot_is_lost_or_found_twice(name):
    text, shift, drift = CLOCKS[name]
    exact, plots = run(""), run(text)
    expected = exact.time_s * (1 + drift) + shift
    inside = (expected >= 0) & (expected < 1500)
    assert np.all(np.diff(plots.time_s) >= 0)
    # Plots of detections before or after the scenario's time may come in at its ends.
    now = plots[(plots.time_s >= max(shift, 0.0)) & (plots.time_s < 1500 * (1 + drift) + min(shift, 0.0))]
    np.testing.assert_allclose(now.time_s, expected[inside], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(now.range_m, exact.range_m[inside])
    np.testing.assert_array_equal(now.truth_id, exact.truth_id[inside])


def test_jitter_has_its_sigma_and_keeps_plots_in_the_order_of_their_stamps():
    exact, plots = run(""), run("latency_s = 0.3, latency_jitter_s = 0.1")
    assert np.all(np.diff(plots.time_s) >= 0)
    keys = {(i, r): t for i, r, t in zip(exact.truth_id, exact.range_m, exact.time_s, strict=True)}
    late = np.array([t - keys[i, r] for i, r, t in zip(plots.truth_id, plots.range_m, plots.time_s, strict=True)])
    z = (late - 0.3) / 0.1
    assert len(z) > 0.99 * len(exact)
    assert stats.kstest(z, stats.truncnorm(-4, 4).cdf).pvalue > SURE
    assert np.any(np.argsort(late) != np.arange(len(late)))


def test_a_clock_without_error_is_not_touched_and_the_lead_is_what_it_may_be_early():
    times = np.arange(5.0)
    assert stamped(Clock(), 1, 0, times) is times
    assert lead_s(Clock(latency_s=1.0, offset_s=0.5, drift_ppm=100.0), 1e5) == 0.0
    assert lead_s(Clock(offset_s=-0.5, drift_ppm=-100.0), 1e5) == pytest.approx(10.5)
    assert lead_s(Clock(latency_s=0.1, latency_jitter_s=0.05), 1e5) == pytest.approx(0.1)
    early = stamped(Clock(latency_jitter_s=0.05), 1, 0, np.linspace(0, 1000, 100_000)) - np.linspace(0, 1000, 100_000)
    assert early.min() >= -lead_s(Clock(latency_jitter_s=0.05), 1000.0) - 1e-12
