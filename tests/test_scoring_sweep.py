"""Sweeps: the undegraded level is the plain evaluation, misses are misses, curves, break points and areas are right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.data import Phase, Plots
from ssrtrack.errors import EstimatorError, ScoringError
from ssrtrack.filters.estimators import ESTIMATORS, make_estimator
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import Measurements, make_measurements, tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.scoring.degrade import AXES, detection
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.scoring.gather import SIGMA_HEIGHT_M
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.scene import Scene, Setting, make_scene
from ssrtrack.scoring.serialise import scores_json
from ssrtrack.scoring.sweep import (
    LOST_M,
    Sweeper,
    asked_levels,
    degraded_measurements,
    errors,
    flight_sums,
    flown_of,
    lost_flights,
)
from ssrtrack.scoring.sweep_curves import (
    BREAK_FACTOR,
    LOST,
    WITH_TRUTH,
    WITHOUT_TRUTH,
    Sweep,
    SweepSums,
    area,
    crossing,
    curves,
    keys_of,
)
from ssrtrack.tracking.flights import COLUMNS, Cutting, flights
from ssrtrack.tracking.truth import TruthWindow
from tests.scoring_fixture import paths, plots_table, radar, simple_log, write_log

TRACKERS = ["kf", "imm2", "alpha-beta"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simple_log(tmp_path_factory.mktemp("logs") / "truth.h5", flights=24, plots=60)


@pytest.fixture(scope="module")
def bare_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simple_log(tmp_path_factory.mktemp("logs") / "bare.h5", truth=False, flights=14, plots=60)


@pytest.fixture(scope="module")
def swept(log: Path) -> EvaluationResult:
    return evaluate([log], TRACKERS, sweep=list(AXES), bootstrap=200)


@pytest.fixture(scope="module")
def scene(log: Path) -> tuple[Scene, Setting]:
    with LogReader(log) as reader:
        frame = tracking_frame(reader.radars)
        setting = Setting({-1: frame}, np.array([np.nan]), np.array([np.nan]), SIGMA_HEIGHT_M, 8, 13.2, None, "auto", 0)
        (batch,) = (b for b in flights(reader.plots(10**6, COLUMNS), identity="truth", cutting=Cutting()) if len(b))
        return make_scene(batch, setting, TruthWindow(reader.truth(10**6), frame.site_rad[0])), setting


def plain(result: EvaluationResult) -> dict[str, Any]:
    found = scores_json(result)
    del found["sweeps"]
    for tracker in found["trackers"].values():
        del tracker["seconds"]
    return found


def test_a_sweep_changes_nothing_of_the_evaluation(log: Path, bare_log: Path, swept: EvaluationResult) -> None:
    assert plain(swept) == plain(evaluate([log], TRACKERS, bootstrap=200))
    assert plain(evaluate([bare_log], ["kf"], sweep=["pd", "gap"])) == plain(evaluate([bare_log], ["kf"]))


def test_the_undegraded_level_is_the_evaluation_to_the_last_bit(swept: EvaluationResult, bare_log: Path) -> None:
    assert [sweep.axis for sweep in swept.sweeps] == list(AXES)
    same = [key for key in WITH_TRUTH if key not in (LOST, "scan_position_rmse_m")]
    for sweep in swept.sweeps:
        for curve, tracker in zip(sweep.curves, swept.trackers, strict=True):
            assert curve.tracker == tracker.name
            for key in same if sweep.axis != "gap" else []:  # only the scans after a gap are counted there
                assert curve.scores[key][0] == getattr(tracker.scores, key), (sweep.axis, key)
                np.testing.assert_allclose(curve.intervals[key][0], tracker.intervals[key], rtol=1e-12)
            assert curve.scores["scan_position_rmse_m"][0] == curve.scores["position_rmse_m"][0]
    result = evaluate([bare_log], ["kf", "imm2"], sweep=["sigma"], smoothed_reference=False)
    for curve, tracker in zip(result.sweeps[0].curves, result.trackers, strict=True):
        assert curve.scores["next_plot_rmse_m"][0] == tracker.scores.next_plot_rmse_m


def test_errors_grow_along_every_axis(swept: EvaluationResult) -> None:
    for sweep in swept.sweeps:
        for curve in sweep.curves:
            main = curve.scores[sweep.key]
            assert np.isfinite(main).all() and main.shape == sweep.levels.shape
            # After a gap the first plot of five is far from its prediction; the plain error there is a turn's already.
            assert main[-1] > (1.1 if sweep.axis == "gap" else 1.2) * main[0], sweep.axis
            if sweep.axis != "gap":
                assert (np.diff(main) > -0.01 * main[:-1]).all(), (sweep.axis, main)


def test_told_noise_hurts_less_than_noise_that_is_not_told(swept: EvaluationResult) -> None:
    by_axis = {sweep.axis: sweep.curves[1].scores for sweep in swept.sweeps}
    told, untold = by_axis["sigma-told"], by_axis["sigma"]
    assert told["scan_position_rmse_m"][-1] < untold["scan_position_rmse_m"][-1]
    assert (untold["coverage_95"][-1] < 0.5) and (told["coverage_95"][-1] > 0.85)


def test_chunks_and_order_do_not_change_a_curve(log: Path, swept: EvaluationResult) -> None:
    asked = ["pd", "jitter", "gap", "period"]
    parts = evaluate([log], TRACKERS, sweep=asked, bootstrap=200, chunk_rows=97)
    whole = [sweep for sweep in swept.sweeps if sweep.axis in asked]
    for one, other in zip(sorted(whole, key=lambda s: asked.index(s.axis)), parts.sweeps, strict=True):
        for a, b in zip(one.curves, other.curves, strict=True):
            for key, values in a.scores.items():
                np.testing.assert_allclose(b.scores[key], values, rtol=1e-9)
                np.testing.assert_allclose(b.intervals[key], a.intervals[key], rtol=1e-9)
            assert a.area_ratio == pytest.approx(b.area_ratio)


def test_a_taken_plot_is_gone_and_leaves_its_time(scene: tuple[Scene, Setting]) -> None:
    """Tracking without the plots, from a log that never held them, gives the same states at the scans that are left."""
    whole, setting = scene
    made = detection(flown_of(whole, setting), 0.7, 1)
    z = degraded_measurements(whole, setting, made)
    gone = whole.z.valid & ~z.valid
    assert gone.any() and np.isnan(z.position_m[gone]).all() and np.isnan(z.range_m[gone]).all()
    np.testing.assert_array_equal(z.time_s, whole.z.time_s)
    history = run(make_estimator("kf"), z)
    squares: list[float] = []
    for row in range(len(whole.batch)):
        rows = whole.index[row][z.valid[row]][None]
        alone = make_measurements(
            whole.batch.plots, rows, z.frame, sigma_range_m=None, sigma_azimuth_rad=None, sigma_height_m=SIGMA_HEIGHT_M
        )
        expected = run(make_estimator("kf"), alone)
        np.testing.assert_allclose(history.mean[row][z.valid[row]], expected.mean[0], rtol=1e-7, atol=1e-5)
        left = np.flatnonzero(z.valid[row])
        assert whole.truth is not None
        error = expected.mean[0][:, :2] - whole.truth.position_m[row, left]
        squares += (error**2).sum(1)[left >= 8].tolist()
    found = errors(whole, z, history)
    sums = flight_sums(found, whole.scored, whole.scored & z.valid).sum(0)
    k = keys_of(True).index("position_rmse_m")
    assert sums[len(keys_of(True)) + k] == len(squares)
    assert sums[k] == pytest.approx(sum(squares), rel=1e-6)


@pytest.mark.parametrize("name", [*ESTIMATORS, "alpha-beta:tail_weight=0.05,gate=0.999", "ukf-ct:tail_weight=0.05"])
def test_every_estimator_tracks_over_misses(log: Path, name: str) -> None:
    """A warning of NaN is an error in these tests, and a NaN estimate is one of the sweep's."""
    (sweep,) = evaluate([log], [name], sweep={"pd-runs": [0.6]}, bootstrap=0).sweeps
    before, after = sweep.curves[0].scores["velocity_rmse_mps"]
    assert before < after < 120.0


def test_a_wrong_stamp_is_charged_to_the_plot_not_to_the_scoring(scene: tuple[Scene, Setting]) -> None:
    """A state that lies on the true line at its own, wrong time has no error: it is carried to the true time."""
    whole, _ = scene
    assert whole.truth is not None
    late = np.random.default_rng(1).normal(0.0, 0.5, whole.z.time_s.shape)
    z = replace(whole.z, time_s=whole.z.time_s + late)
    ahead = whole.truth.position_m + whole.truth.velocity_mps * late[..., None]
    mean = np.concatenate([ahead, whole.truth.velocity_mps], -1)
    P = np.broadcast_to(np.eye(4), (*late.shape, 4, 4))
    found = errors(whole, z, TrackHistory(mean, P, mean, P, whole.z.valid, None, 0.0))
    assert np.nanmax(found["scan_position_rmse_m"]) < 1e-12
    charged = errors(whole, whole.z, TrackHistory(mean, P, mean, P, whole.z.valid, None, 0.0))
    speed = np.hypot(whole.truth.velocity_mps[..., 0], whole.truth.velocity_mps[..., 1])
    np.testing.assert_allclose(charged["scan_position_rmse_m"], (speed * late) ** 2, rtol=1e-6, atol=1e-9)


def test_only_scans_after_the_gap_are_counted(log: Path, swept: EvaluationResult) -> None:
    gap = next(sweep for sweep in swept.sweeps if sweep.axis == "gap")
    assert gap.key == "predicted_position_rmse_m" and gap.flights == 24
    # Turns begin in mid-flight: with 12 scans of gap and 8 of warm-up before, and 5 after, each flight has room.
    assert gap.curves[0].scores["predicted_position_rmse_m"][-1] > 3 * gap.curves[0].scores["position_rmse_m"][-1]
    with pytest.raises(ScoringError, match="no flight is long enough"):
        evaluate([log], ["kf"], sweep={"gap": [60]})


def test_lost_flights_have_three_errors_in_a_row() -> None:
    far, near = LOST_M + 1.0, LOST_M
    cases = [
        ([far, far, far, near], True), ([near, far, far, far], True), ([far, far, near, far], False),
        ([far, far, np.nan, far], False), ([near, near, near, near], False), ([far, far, far, far], True),
    ]  # fmt: skip
    assert lost_flights(np.array([case for case, _ in cases])).tolist() == [lost for _, lost in cases]
    assert lost_flights(np.full((2, 2), far)).tolist() == [False, False]
    assert LOST_M == 926.0


def test_crossing_and_area_of_a_known_curve() -> None:
    severity = np.array([0.0, 1.0, 2.0, 4.0])
    error = np.array(
        [[10.0, 15.0, 25.0, 65.0], [10.0, 10.0, 10.0, 10.0], [30.0, 40.0, 50.0, 60.0], [5.0, 30.0, 10, 99]]
    )
    assert crossing(severity, error, np.full(4, 20.0)).tolist() == [1.5, np.inf, 0.0, 0.6]
    assert area(severity, error).tolist() == [12.5 + 20.0 + 90.0, 40.0, 35.0 + 45.0 + 110.0, 17.5 + 20.0 + 109.0]


def made_sums(levels: list[float], rmse_m: dict[str, list[float]], flights: int = 40) -> SweepSums:
    """Every flight has 10 scans with the same error at a level, some per cent apart from flight to flight."""
    sums, rng = SweepSums(levels), np.random.default_rng(2)
    spread = rng.uniform(0.9, 1.1, flights)
    keys = keys_of(True)
    for name, values in rmse_m.items():
        for i, value in enumerate(values):
            table = np.zeros((flights, 2 * len(keys)))
            table[:, : len(keys)] = 10.0 * (value * spread[:, None]) ** 2
            table[:, len(keys) :] = 10.0
            sums.add(name, i, table[: flights // 2])
            sums.add(name, i, table[flights // 2 :])
    return sums


def curve_of(sweep: Sweep, tracker: str) -> Any:
    return next(curve for curve in sweep.curves if curve.tracker == tracker)


def test_break_points_areas_and_intervals_of_known_curves() -> None:
    """Errors of all trackers are the reference's times a factor on each flight, so ratios have no spread at all."""
    levels = [1.0, 0.9, 0.8, 0.6]
    imm = [50.0, 75.0, 125.0, 150.0]
    sums = made_sums(levels, {"kf": [1.5 * v for v in imm], "imm": imm, "still": [50.0] * 4})
    sweep = curves("pd", sums, np.arange(40), has_truth=True, bootstrap=300, seed=1)
    assert (sweep.reference, sweep.flights, sweep.key) == ("imm", 40, "scan_position_rmse_m")
    base = curve_of(sweep, "imm").scores["scan_position_rmse_m"]
    assert sweep.limit == pytest.approx(BREAK_FACTOR * base[0])
    broken = curve_of(sweep, "imm")
    assert broken.break_level == pytest.approx(0.85) and broken.break_interval == pytest.approx((0.85, 0.85))
    assert (broken.area_ratio, broken.area_interval) == (1.0, (1.0, 1.0))
    worse, still = curve_of(sweep, "kf"), curve_of(sweep, "still")
    assert worse.area_ratio == pytest.approx(1.5) and worse.area_interval == pytest.approx((1.5, 1.5))
    assert worse.break_level == pytest.approx(1.0 - 0.1 * 25.0 / 37.5)  # 75 m to 112.5 m, the limit is 100 m
    assert still.break_level is None and still.break_interval == (None, None)
    low, high = broken.intervals["scan_position_rmse_m"][0]
    assert low < base[0] < high
    first = curves("pd", sums, np.arange(40), has_truth=True, bootstrap=0, seed=1, reference="kf")
    assert first.reference == "kf" and curve_of(first, "imm").area_ratio == pytest.approx(1 / 1.5)
    assert curve_of(first, "imm").break_interval is None and curve_of(first, "imm").intervals == {}


def test_a_tracker_against_itself_has_area_one(log: Path) -> None:
    """Also under another name: every tracker meets the same degraded plots and the same resamples."""
    (sweep,) = evaluate([log], ["kf", "kf:q_m2s3=15.0", "imm2"], sweep={"outliers": [0.1, 0.3]}, bootstrap=100).sweeps
    assert sweep.reference == "kf"
    for curve in sweep.curves[:2]:
        assert curve.area_ratio == 1.0 and curve.area_interval == (1.0, 1.0)
    low, high = sweep.curves[2].area_interval or (1.0, 1.0)
    assert low < high


@pytest.mark.parametrize("second_site_deg", [8.0, np.nan])
def test_two_radars_together_and_apart(tmp_path: Path, second_site_deg: float) -> None:
    """With both sites known flights join the radars; without one they do not, and each radar has its own frame."""
    rng = np.random.default_rng(2)
    plots = plots_table(paths(10, 60, rng)[0], rng)
    second = plots.replace(radar_id=np.ones(len(plots), int), time_s=plots.time_s + 1.0)
    both = Plots.concat([plots, second])
    both = both[np.argsort(both.time_s, kind="stable")].replace(truth_id=np.full(2 * len(plots), -2))
    table = radar(name=[b"A", b"B"], latitude_deg=[47.0, 47.0], longitude_deg=[8.0, second_site_deg],
                  height_m=[400.0, 400.0], rotation_period_s=[4.0, 4.0])  # fmt: skip
    path = write_log(tmp_path / "a.h5", both, radars=table)
    result = evaluate([path], ["kf"], sweep=["pd", "period", "bias-range"], bootstrap=0, smoothed_reference=False)
    for sweep in result.sweeps:
        assert sweep.flights == (10 if np.isfinite(second_site_deg) else 20)
        assert sweep.curves[0].scores["next_plot_rmse_m"][0] == result.trackers[0].scores.next_plot_rmse_m
        # Two radars a second apart: half the plots hurt little.
        assert sweep.curves[0].scores[sweep.key][-1] > 1.05 * sweep.curves[0].scores[sweep.key][0]


def test_few_flights_give_no_intervals(tmp_path: Path) -> None:
    small = simple_log(tmp_path / "small.h5", flights=3)
    (sweep,) = evaluate([small], ["kf"], sweep=["pd"]).sweeps
    assert sweep.curves[0].intervals == {} and sweep.curves[0].break_interval is None
    assert sweep.curves[0].area_ratio == 1.0


def test_several_logs_are_one_set_of_flights(log: Path, tmp_path: Path) -> None:
    other = simple_log(tmp_path / "other.h5", flights=6, seed=9, plots=60)
    both, one, two = (evaluate(logs, ["kf"], sweep=["sigma"]).sweeps[0] for logs in ([log, other], [log], [other]))
    assert both.flights == one.flights + two.flights
    key, share = both.key, one.flights / both.flights  # flights are equally long
    expected = share * one.curves[0].scores[key] ** 2 + (1 - share) * two.curves[0].scores[key] ** 2
    np.testing.assert_allclose(both.curves[0].scores[key] ** 2, expected, rtol=1e-9)


def test_numbers_in_scores_json(swept: EvaluationResult, bare_log: Path) -> None:
    found = scores_json(swept)["sweeps"]
    assert list(found) == list(AXES)
    assert set(found["bias"]) == {"unit", "levels", "score", "reference", "limit", "flights", "trackers"}
    assert found["bias"]["unit"] == "deg" and found["bias"]["levels"][0] == 0.0
    tracker = found["bias"]["trackers"]["imm2"]
    assert set(tracker["scores"]) == set(tracker["intervals"]) == set(WITH_TRUTH)
    assert all(len(values) == len(found["bias"]["levels"]) for values in tracker["scores"].values())
    bare = scores_json(evaluate([bare_log], ["kf"], sweep={"pd": [0.7]}, bootstrap=0))["sweeps"]["pd"]
    assert set(bare["trackers"]["kf"]["scores"]) == set(WITHOUT_TRUTH) and bare["score"] == "next_plot_mean_m"
    page = (Path(__file__).parent.parent / "docs" / "robustness.md").read_text("utf-8")
    for name in (*found["bias"], *tracker, *WITH_TRUTH, *WITHOUT_TRUTH):
        assert f"| `{name}` |" in page, name
    assert scores_json(replace(swept, sweeps=()))["sweeps"] == {}


class Fragile:
    """A Kalman filter that gives NaN after a miss."""

    def __init__(self) -> None:
        self.inner: Any = make_estimator("kf")

    def init(self, first: Measurements) -> Any:
        return self.inner.init(first)

    def predict(self, state: Any, dt_s: Any) -> Any:
        return self.inner.predict(state, dt_s)

    def update(self, state: Any, z: Measurements, valid: Any) -> Any:
        updated = self.inner.update(state, z, valid)
        return replace(updated, mean=np.where(valid[:, None, None], updated.mean, np.nan))

    def estimate(self, state: Any) -> Any:
        return self.inner.estimate(state)

    def mode_probability(self, state: Any) -> Any:
        return self.inner.mode_probability(state)


def test_a_tracker_that_fails_on_degraded_plots_is_named(log: Path) -> None:
    with pytest.raises(EstimatorError, match=r"'fragile' gave NaN .* degraded by pd 0.5, at plot \d+ of flight"):
        evaluate([log], {"fragile": Fragile()}, sweep={"pd": [0.5]})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["speed"], r"no axis \['speed'\].*known: pd, "),
        ("pd", "is the text 'pd'"),
        (["pd", "pd"], "twice"),
        ({"pd": []}, "no level but the undegraded 1"),
        ({"pd": [1.0]}, "no level but the undegraded 1"),
        ({"pd": [0.9, 0.9]}, "hold one twice"),
        ({"pd": [0.0]}, "not numbers from 0.01 to 1"),
        ({"pd": [1.2]}, "not numbers from 0.01 to 1"),
        ({"sigma": [0.5]}, "not numbers from 1"),
        ({"jitter": [float("nan")]}, "not numbers"),
        ({"gap": [2.5]}, "not whole numbers"),
        ({"period": [0]}, "not whole numbers from 1"),
        ({"bias": [-0.1, 0.1]}, "both sides of 0"),
    ],
)
def test_wrong_axes_and_levels_are_refused_before_the_work(asked: Any, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        asked_levels(asked)
    with pytest.raises(ScoringError, match=message):
        evaluate(["nowhere.h5"], ["kf"], sweep=asked)


def test_levels_are_sorted_from_mild_to_bad() -> None:
    assert asked_levels({"pd": [0.5, 0.9, 1.0], "gap": None, "bias": [-0.3, -0.1]}) == {
        "pd": (1.0, 0.9, 0.5), "gap": (0.0, *AXES["gap"].levels), "bias": (0.0, -0.1, -0.3),
    }  # fmt: skip
    assert Sweeper(["pd", "period"], seed=1).stages == 11


def test_turning_rows_are_the_truths(scene: tuple[Scene, Setting]) -> None:
    whole, setting = scene
    assert whole.truth is not None
    flown = flown_of(whole, setting, (0.0, 3.0))
    turning = flown.grid(flown.turning.astype(float)) == 1.0
    np.testing.assert_array_equal(turning, (whole.truth.phase & int(Phase.TURN)) != 0)
    assert (flown.spared, flown.largest_gap) == (8, 3) and turning.any()
