"""What the figures show: where they look closer, curves out of histograms, axes, looks and the inline SVG."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssrtrack.report import figures, prepare, svg
from ssrtrack.report.looks import COLOURS, VARIABLES, looks, plain_label
from ssrtrack.report.style import CSS
from ssrtrack.scoring.result import FlightExample, Histogram
from tests.report_fixture import EDGES, make_result


def _example(turning: np.ndarray | None, error: np.ndarray, smoothed: np.ndarray | None = None) -> FlightExample:
    scans = len(error)
    path = np.stack((np.arange(scans) * 800.0, np.zeros(scans)), axis=1)
    return FlightExample(
        "X", 4.0 * np.arange(scans), path, None if turning is None else path, turning, {"kf": path}, {"kf": error},
        {"kf": np.full(scans, 50.0)}, smoothed, np.zeros(scans),
    )  # fmt: skip


def test_focus_finds_the_turn_with_the_largest_errors() -> None:
    turning, error = np.zeros(200, dtype=bool), np.full(200, 10.0)
    turning[40:60] = turning[120:140] = True
    error[121:139] = 90.0
    error[180:199] = 5000.0  # a larger error, but in straight flight
    part = prepare.focus(_example(turning, error), warmup=8)
    assert part.start >= 120 and part.stop <= 140


def test_focus_without_turns_is_where_errors_are_largest_after_the_warm_up() -> None:
    error = np.full(200, 10.0)
    error[:8], error[100:108] = 9000.0, 80.0
    part = prepare.focus(_example(np.zeros(200, dtype=bool), error), warmup=8)
    assert part.start <= 100 and part.stop >= 108


def test_focus_without_truth_finds_the_bend_of_the_smoothed_path() -> None:
    course = np.concatenate((np.zeros(80), np.linspace(0, np.pi, 15), np.full(105, np.pi)))
    smoothed = np.cumsum(800.0 * np.stack((np.sin(course), np.cos(course)), axis=1), axis=0)
    part = prepare.focus(_example(None, np.full(200, 10.0), smoothed), warmup=8)
    assert part.start >= 78 and part.stop <= 97


def test_turns_without_truth_are_lasting_changes_of_the_smoothed_course() -> None:
    course = np.concatenate((np.zeros(80), np.linspace(0, np.pi, 15), np.full(105, np.pi)))
    smoothed = np.cumsum(800.0 * np.stack((np.sin(course), np.cos(course)), axis=1), axis=0)
    smoothed[150, 0] += 5.0  # less than a turn, and of one scan
    flags = prepare.turning(_example(None, np.full(200, 10.0), smoothed))
    assert flags is not None and flags[81:93].all() and not flags[:78].any() and not flags[97:].any()
    phase = np.arange(200) % 3 == 0
    assert np.array_equal(prepare.turning(_example(phase, np.full(200, 10.0), smoothed)), phase)
    assert prepare.turning(_example(None, np.full(200, 10.0))) is None


@pytest.mark.parametrize("scans", [1, 2, 5, 12, 13])
def test_focus_of_a_short_flight_stays_inside(scans: int) -> None:
    part = prepare.focus(_example(np.ones(scans, dtype=bool), np.full(scans, np.nan)), warmup=8)
    assert part.start >= 0 and part.stop <= scans and part.stop > part.start


def test_error_axis_ignores_a_spike_and_one_lost_tracker() -> None:
    example = _example(None, np.full(300, 40.0))
    spiked = example.error_m["kf"].copy()
    spiked[100] = 1e6
    lost = {"kf": spiked, "ekf": np.full(300, 1e6), "imm": np.full(300, 30.0)}
    example = replace(example, error_m=lost, sigma_m={name: np.full(300, 50.0) for name in lost})
    assert 100 < prepare.error_limit(example, list(lost), warmup=8) < 400


def test_inside_share_counts_after_the_warm_up_and_skips_unknown() -> None:
    error = np.array([1e9, 1.0, 3.0, np.nan, 1.0])
    assert prepare.inside_share(error, np.ones(5), warmup=1) == pytest.approx(2 / 3)
    assert prepare.inside_share(error[:1], np.ones(1), warmup=1) is None


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
@example(8388607, 0.98)
def test_quantiles_of_a_histogram_are_those_of_its_values(seed: int, share: float) -> None:
    """Within a bin of the neighbouring values; in a sparse tail those may be further apart than a bin."""
    values = np.sort(np.random.default_rng(seed).lognormal(4, 1, 5000))
    histogram = Histogram(EDGES, np.histogram(values, EDGES)[0])
    found = prepare.quantile(histogram, share)
    rank, bin_width = share * values.size, EDGES[-2] / EDGES[-3]
    assert found is not None
    assert values[max(int(rank) - 1, 0)] / bin_width <= found <= values[min(int(rank) + 1, 4999)] * bin_width


def test_cumulative_share_ends_below_one_when_values_exceed_the_last_edge() -> None:
    _, below = prepare.cumulative(Histogram(np.array([0.0, 1.0, 2.0, np.inf]), np.array([1, 1, 2])))
    assert below[-1] == 0.5
    assert prepare.quantile(Histogram(np.array([0.0, 1.0, 2.0, np.inf]), np.array([1, 1, 2])), 0.9) is None
    assert len(prepare.cumulative(Histogram(np.array([0.0, 1.0, np.inf]), np.zeros(2)))[0]) == 0


def test_a_covariance_too_small_by_a_factor_is_a_straight_line() -> None:
    nominal = np.array([0.5, 0.9, 0.95, 0.99])
    kept = 1 - (1 - nominal) ** 0.25  # the ellipse of a covariance four times too small
    slope = prepare.ellipse_scale(kept) / prepare.ellipse_scale(nominal)
    np.testing.assert_allclose(slope, 0.25, rtol=1e-12)
    assert np.isfinite(prepare.ellipse_scale(np.array([0.0, 1.0]))).all()


@given(st.floats(1e-4, 1e5), st.floats(1.2, 1e7))
def test_log_ticks_lie_inside_and_are_few(low: float, factor: float) -> None:
    ticks = prepare.log_ticks(low, low * factor)
    assert len(ticks) <= 13 and ticks == sorted(ticks)
    assert all(low <= tick <= low * factor for tick in ticks)


@pytest.mark.parametrize(("reach", "step"), [(1.0, 1.0), (12.0, 5.0), (60.0, 20.0), (250.0, 50.0), (900.0, 100.0)])
def test_range_rings_are_few_and_round(reach: float, step: float) -> None:
    assert prepare.ring_step_nm(reach) == step


def test_square_box_holds_the_points_and_survives_none() -> None:
    low_x, high_x, low_y, high_y = prepare.square_box(np.array([[0.0, 0.0], [4000.0, 1000.0], [np.nan, 1e9]]))
    assert low_x < 0 and high_x > 4000 and high_x - low_x == pytest.approx(high_y - low_y)
    assert prepare.square_box(np.empty((0, 2))) == (-200.0, 200.0, -200.0, 200.0)


def test_looks_differ_for_two_dozen_trackers_and_keep_their_order() -> None:
    names = [f"t{i}" for i in range(24)]
    found = looks(names)
    assert len({(look.colour, look.marker, look.dash) for look in found.values()}) == 24
    assert found["t0"] == looks(["t0", "other"])["t0"]


def test_labels_lose_what_the_font_lacks() -> None:
    assert plain_label("DLH\x00 4Å航") == "DLH  4Å?"
    assert len(plain_label("x" * 99)) == 28
    # Two runs in one long folder keep apart.
    runs = [plain_label(f"/data/experiments/2026-11-22/{name}", 18) for name in ("koss-a", "koss-b")]
    assert runs == ["/data…11-22/koss-a", "/data…11-22/koss-b"]


def test_every_colour_variable_has_a_light_and_a_dark_value() -> None:
    light, dark = CSS.split("@media (prefers-color-scheme:dark)")[:2]
    for variable in VARIABLES.values():
        assert f"{variable}:" in light and f"{variable}:" in dark


def test_svg_takes_the_page_s_colours_and_ids_of_its_own() -> None:
    result = make_result(flights=4, scans=60, examples=1)
    one, two = figures.distribution(result, "one"), figures.distribution(result, "two")
    assert one is not None and two is not None
    assert f"var(--tracker-0, {COLOURS[0]})" in one and "<?xml" not in one and "<!DOCTYPE" not in one
    assert not set(re.findall(r'id="([^"]+)"', one)) & set(re.findall(r'id="([^"]+)"', two))
    assert one.replace("one-", "two-") == two


def test_svg_without_a_viewbox_is_refused() -> None:
    with pytest.raises(ValueError, match="viewBox"):
        svg.inline("<svg></svg>", prefix="a", alt="b", variables={})


def test_figures_that_do_not_apply_are_absent() -> None:
    bare = make_result(flights=1, scans=40, examples=0, truth=False)
    assert figures.reliability(bare, "a") is None
    assert figures.per_flight(bare, "a") is None
    assert figures.closeups(bare, "a") is None
    empty = Histogram(EDGES, np.zeros(len(EDGES) - 1))
    trackers = tuple(replace(tracker, position_error=empty) for tracker in bare.trackers)
    assert figures.distribution(replace(bare, trackers=trackers), "a") is None


@pytest.mark.parametrize("filled", [0, 100, -1])
def test_distribution_of_one_bin_is_drawn_or_left_out(filled: int) -> None:
    counts = np.zeros(len(EDGES) - 1)
    counts[filled] = 7
    base = make_result(flights=2, scans=30, examples=0, trackers={"kf": (5.0, 1.0)})
    tracker = replace(base.trackers[0], position_error=Histogram(EDGES, counts))
    picture = figures.distribution(replace(base, trackers=(tracker,)), "a")
    assert picture is None or "<path" in picture


def test_flights_are_paired_where_both_are_known() -> None:
    base = make_result(flights=3, scans=30, examples=0)
    first = replace(base.trackers[0], per_flight_rmse_m=np.array([1.0, np.nan, 3.0, 4.0]))
    second = replace(base.trackers[1], per_flight_rmse_m=np.array([2.0, 2.0, 1.0, np.inf]))
    other = replace(base.trackers[2], per_flight_rmse_m=np.array([2.0]))
    pairs = prepare.paired_flights(replace(base, trackers=(first, second, other)))
    assert list(pairs) == [second.name]
    np.testing.assert_array_equal(pairs[second.name], [[1.0, 3.0], [2.0, 1.0]])
