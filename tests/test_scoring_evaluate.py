"""The whole evaluation: its figures against a plain recomputation, streaming, tracks, examples."""

import tracemalloc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.data import Plots, Tracks
from ssrtrack.errors import EstimatorError
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.measurement import make_measurements, tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.filters.tuned_file import Tuned, format_tuned
from ssrtrack.io.hdf5 import LogReader, LogWriter
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.scoring.gather import SIGMA_HEIGHT_M
from ssrtrack.scoring.output import group_names
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.serialise import scores_json
from tests.scoring_fixture import (
    EPOCH,
    SIGMA_AZIMUTH_RAD,
    SIGMA_RANGE_M,
    paths,
    plots_table,
    radar,
    simple_log,
    truth_table,
    write_log,
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simple_log(tmp_path_factory.mktemp("logs") / "truth.h5")


@pytest.fixture(scope="module")
def bare_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simple_log(tmp_path_factory.mktemp("logs") / "bare.h5", truth=False, flights=14)


def scores_of(result: EvaluationResult) -> dict[str, Any]:
    plain = scores_json(result)["trackers"]
    for tracker in plain.values():
        del tracker["seconds"]
    return dict(plain)


def test_scores_are_those_of_a_plain_loop_over_flights(log: Path) -> None:
    """Flight by flight, update by update, with numpy's own solvers."""
    result = evaluate([log], ["kf"], warmup_plots=8, bootstrap=0)
    with LogReader(log) as reader:
        plots, truth, frame = reader.read_plots(), reader.read_truth(), tracking_frame(reader.radars)
    rng = np.random.default_rng(3)
    position, velocity = paths(12, 40, rng, turn=True)
    error, predicted, speed, nees, nis, nll, near = ([] for _ in range(7))
    for aircraft in range(12):
        rows = np.flatnonzero(plots.truth_id == aircraft)[None]
        z = make_measurements(plots, rows, frame, sigma_range_m=None, sigma_azimuth_rad=None,
                              sigma_height_m=SIGMA_HEIGHT_M)  # fmt: skip
        history = run(make_estimator("kf"), z)
        turn = truth.phase[truth.truth_id == aircraft][::2]
        for k in range(8, 40):
            state = np.concatenate([position[aircraft, 2 * k], velocity[aircraft, 2 * k]])
            e = history.mean[0, k] - state
            P = history.covariance[0, k]
            error.append((float(e[:2] @ e[:2]), bool(turn[k])))
            speed.append(float(e[2:] @ e[2:]))
            ahead = history.predicted_mean[0, k][:2]
            predicted.append(float(((ahead - state[:2]) ** 2).sum()))
            nees.append(float(e @ np.linalg.solve(P, e)))
            nll.append(0.5 * (nees[-1] + np.linalg.slogdet(2 * np.pi * P)[1]))
            nu = z.position_m[0, k] - ahead
            S = history.predicted_covariance[0, k][:2, :2] + z.covariance_m2[0, k]
            nis.append(float(nu @ np.linalg.solve(S, nu)))
            near.append(float(nu @ nu))
    found = result.trackers[0].scores
    squares, turning = np.array(error).T
    expected = {
        "position_rmse_m": np.sqrt(squares.mean()),
        "position_rmse_turn_m": np.sqrt(squares[turning == 1].mean()),
        "position_rmse_straight_m": np.sqrt(squares[turning == 0].mean()),
        "velocity_rmse_mps": np.sqrt(np.mean(speed)),
        "predicted_position_rmse_m": np.sqrt(np.mean(predicted)),
        "anees": np.mean(nees) / 4,
        "nll": np.mean(nll),
        "anis": np.mean(nis) / 2,
        "next_plot_rmse_m": np.sqrt(np.mean(near)),
        "updates": 12 * 32,
        "flights": 12,
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name
    root = np.sqrt(squares)
    assert found.position_p50_m == pytest.approx(np.median(root), rel=0.02)
    assert found.position_p95_m == pytest.approx(np.quantile(root, 0.95), rel=0.05)
    assert (result.plots, result.plots_used, result.identity, result.has_truth) == (480, 480, "truth", True)
    assert result.span_s == (0.0, 156.0)
    assert result.epoch == EPOCH.isoformat()


def test_chunks_do_not_change_a_figure(log: Path, bare_log: Path) -> None:
    for path in (log, bare_log):
        whole, parts = (evaluate([path], ["alpha-beta", "kf"], chunk_rows=rows, bootstrap=60) for rows in (500_000, 37))
        for name, tracker in scores_of(whole).items():
            other = scores_of(parts)[name]
            for key, value in tracker.items():
                if isinstance(value, dict):
                    assert value.keys() == other[key].keys()
                    for score, pair in value.items():
                        assert other[key][score] == pytest.approx(pair, rel=1e-9, abs=1e-12), (name, key, score)
                elif value is None:
                    assert other[key] is None
                else:
                    assert other[key] == pytest.approx(value, rel=1e-9, abs=1e-12), (name, key)
        assert [e.label for e in whole.examples] == [e.label for e in parts.examples]


def test_without_truth_the_plots_and_the_aircraft_judge(bare_log: Path) -> None:
    result = evaluate([bare_log], ["alpha-beta", "imm2"], bootstrap=50)
    assert (result.identity, result.has_truth) == ("address", False)
    scores = result.trackers[1].scores
    assert scores.position_rmse_m is None and scores.anees is None and scores.position_efficiency is None
    assert scores.nll == scores.nll_next_plot
    # A plot's own noise alone is 50 m along and some 65 m across; prediction in a turn adds its own.
    assert 100.0 < (scores.next_plot_rmse_m or 0) < 250.0
    assert 20.0 < (scores.smoothed_difference_rmse_m or 0) < 100.0
    assert result.trackers[0].nees is None and result.trackers[0].nis.mean.size > 0
    assert "next_plot_rmse_m" in result.trackers[1].ratio
    assert result.examples[0].smoothed_m is not None and result.examples[0].truth_m is None
    off = evaluate([bare_log], ["alpha-beta"], smoothed_reference=False, bootstrap=0)
    assert off.trackers[0].scores.smoothed_difference_rmse_m is None
    assert off.examples[0].smoothed_m is None


def test_bds_registers_are_compared_with_truth_as_well(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    position, velocity = paths(10, 40, rng)
    plots, truth = plots_table(position, rng), truth_table(position, velocity)
    at_plots = truth[truth.time_s % 4.0 == 0.0]
    order = np.lexsort((at_plots.truth_id, at_plots.time_s))
    rows = np.lexsort((plots.truth_id, plots.time_s))
    plots = plots[rows].replace(
        ground_speed_mps=np.hypot(at_plots.v_east_mps, at_plots.v_north_mps)[order] + 2.0,
        track_angle_rad=np.arctan2(at_plots.v_east_mps, at_plots.v_north_mps)[order] % (2 * np.pi),
    )
    result = evaluate([write_log(tmp_path / "a.h5", plots, truth)], [*["kf"]], bootstrap=0)
    scores = result.trackers[0].scores
    assert scores.bds50_ground_speed_median_mps == pytest.approx(-2.0, abs=0.5)
    assert (scores.bds50_ground_speed_rms_mps or 0) > (scores.speed_rmse_mps or 0)
    assert scores.bds50_track_angle_rms_deg == pytest.approx(scores.heading_rmse_deg, rel=0.02)


def test_two_logs_are_one_evaluation(tmp_path: Path, log: Path) -> None:
    other = simple_log(tmp_path / "b.h5", seed=9, epoch=EPOCH + timedelta(hours=1))
    both = evaluate([log, other], ["kf"], bootstrap=0)
    parts = [evaluate([path], ["kf"], bootstrap=0).trackers[0].scores for path in (log, other)]
    assert both.trackers[0].scores.flights == 24
    squares = [(s.position_rmse_m or 0) ** 2 for s in parts]
    assert both.trackers[0].scores.position_rmse_m == pytest.approx(np.sqrt(np.mean(squares)))
    assert both.span_s == (0.0, 3600.0 + 156.0)
    assert len(both.radars) == 2 and len(both.logs) == 2


def test_tracks_of_files_have_names_that_a_log_takes(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(format_tuned(Tuned("kf", {"q_m2s3": 3.0})))
    with LogReader(log) as reader:
        radars, provenance = reader.radars, reader.provenance
    trackers = [str(path), "kf"]
    with LogWriter(tmp_path / "tracks.h5", provenance, radars) as writer:
        evaluate([log], trackers, bootstrap=0, tracks_writer=writer.append_tracks)
    with LogReader(tmp_path / "tracks.h5") as reader:
        assert sorted(reader.track_names) == sorted(group_names(trackers).values())
    hard = group_names(["./imm", "imm", "/a/koss", "../a/koss/", "a_koss", "."])
    assert list(hard) == ["imm", "a_koss", "./imm", "/a/koss", "../a/koss/", "."]
    assert list(hard.values()) == ["imm", "a_koss", "imm-2", "a_koss-2", "a_koss-3", "tracker"]


def test_tracks_come_in_time_order_and_are_the_scored_ones(log: Path) -> None:
    written: dict[str, list[Tracks]] = {}
    result = evaluate([log], ["alpha-beta", "kf"], bootstrap=0, chunk_rows=50,
                      tracks_writer=lambda name, rows: written.setdefault(name, []).append(rows))  # fmt: skip
    for name, parts in written.items():
        tracks = Tracks.concat(parts).validate()
        assert (np.diff(tracks.time_s) >= 0).all(), name
        assert len(tracks) == result.plots_used
        assert parts[0].origin.latitude_deg == pytest.approx(47.0)
        position, _ = paths(12, 40, np.random.default_rng(3), turn=True)
        true = position[tracks.truth_id, (tracks.time_s / 2).astype(int)]
        late = tracks.time_s >= 32.0
        error = np.hypot(tracks.x_m - true[:, 0], tracks.y_m - true[:, 1])[late]
        scores = next(t.scores for t in result.trackers if t.name == name)
        assert np.sqrt(np.mean(error**2)) == pytest.approx(scores.position_rmse_m, rel=1e-6)
        assert np.unique(tracks.track_id).size == 12
        assert tracks.address.min() == 0x4B0000


def test_noise_that_no_plot_states_is_measured_or_taken_from_the_radar(tmp_path: Path) -> None:
    path = simple_log(tmp_path / "a.h5", stated=False, flights=40, turn=False)
    row = evaluate([path], ["kf"], bootstrap=0).radars[0]
    assert row.stated_range_m is None
    assert row.used_range_m == row.measured_range_m == pytest.approx(SIGMA_RANGE_M, rel=0.06)
    assert row.used_azimuth_deg == pytest.approx(np.degrees(SIGMA_AZIMUTH_RAD), rel=0.06)
    given = evaluate([path], ["kf"], bootstrap=0, sigma_range_m=77.0, sigma_azimuth_rad=0.002)
    assert (given.radars[0].used_range_m, given.radars[0].used_azimuth_deg) == pytest.approx((77.0, 0.114592), rel=1e-4)
    table = radar(sigma_range_m=[33.0], sigma_azimuth_rad=[0.001])
    stated = simple_log(tmp_path / "b.h5", stated=False, radars=table)
    noted = evaluate([stated], ["kf"], bootstrap=0)
    assert noted.radars[0].used_range_m == noted.radars[0].stated_range_m == 33.0
    assert any("radars table" in note for note in noted.notes)
    few = simple_log(tmp_path / "c.h5", stated=False, flights=1, plots=12)
    with pytest.raises(EstimatorError, match="sigma_range_m"):
        evaluate([few], ["kf"])


def test_heavy_tails_are_measured_and_allowed_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    plots = plots_table(paths(40, 60, rng)[0], rng, stated=False)
    wrong = rng.random(len(plots)) < 0.03
    azimuth = plots.azimuth_rad + wrong * 15 * SIGMA_AZIMUTH_RAD * rng.standard_normal(len(plots))
    plots = plots.replace(azimuth_rad=azimuth % (2 * np.pi), truth_id=np.full(len(plots), -2))
    path = write_log(tmp_path / "a.h5", plots)
    by_name = evaluate([path], ["kf"], bootstrap=0, smoothed_reference=False)
    plain = evaluate([path], {"kf": make_estimator("kf")}, bootstrap=0, smoothed_reference=False)
    assert any("heavy tails" in note for note in by_name.notes)
    assert (by_name.trackers[0].scores.next_plot_rmse_m or 0) < (plain.trackers[0].scores.next_plot_rmse_m or 0)
    assert (by_name.trackers[0].scores.nll or 0) < (plain.trackers[0].scores.nll or 0) - 0.3


def test_a_tracker_is_called_by_its_text_and_what_that_sets_wins(log: Path) -> None:
    text = "kf:q_m2s3=50,gate=0.9"
    by_text = evaluate([log], ["kf", text], gate=0.999, bootstrap=0)
    made = {"kf": make_estimator("kf", gate=0.999), text: make_estimator("kf", q_m2s3=50, gate=0.9)}
    assert [t.name for t in by_text.trackers] == ["kf", text]
    for a, b in zip(by_text.trackers, evaluate([log], made, bootstrap=0).trackers, strict=True):
        assert replace(a.scores, seconds=0.0) == replace(b.scores, seconds=0.0)


def test_extrapolations_of_the_radar_are_left_out_where_types_are_stated(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    plots = plots_table(paths(6, 40, rng)[0], rng).replace(truth_id=np.full(240, -2))
    kinds = np.where(np.arange(240) % 10 == 0, 0, 5)
    for name, types, used in (("a.h5", kinds, 216), ("b.h5", 0 * kinds, 240)):
        path = write_log(tmp_path / name, plots.replace(plot_type=types))
        result = evaluate([path], ["kf"], bootstrap=0, smoothed_reference=False)
        assert result.plots_used == used
        assert any("24 plots left out: no detection" in note for note in result.notes) == (used < 240)
        assert any("up to 2 NM from the radar are left out: where it stands at an airport" in n for n in result.notes)


def test_radars_without_sites_are_tracked_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    plots = plots_table(paths(10, 40, rng)[0], rng)
    second = plots.replace(radar_id=np.ones(len(plots), int), time_s=plots.time_s + 1.0)
    both = Plots.concat([plots, second])
    both = both[np.argsort(both.time_s, kind="stable")].replace(truth_id=np.full(2 * len(plots), -2))
    table = radar(name=[b"A", b"B"], latitude_deg=[47.0, np.nan], longitude_deg=[8.0, 8.0],
                  height_m=[400.0, 0.0], rotation_period_s=[4.0, 4.0])  # fmt: skip
    result = evaluate([write_log(tmp_path / "a.h5", both, radars=table)], ["kf"], bootstrap=0, smoothed_reference=False)
    assert result.trackers[0].scores.flights == 20
    assert any("for each radar by itself" in note for note in result.notes)
    assert [r.name for r in result.radars] == ["A", "B"]


def test_examples_are_those_that_turn_most_and_the_overview_is_thin(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    straight, turning = paths(200, 12, rng), paths(3, 12, rng, turn=True)
    position, velocity = (np.concatenate([a, b]) for a, b in zip(straight, turning, strict=True))
    truth = truth_table(position, velocity)
    phase = np.where(truth.truth_id >= 200, (truth.time_s > 16.0).astype(int), 0)
    path = write_log(tmp_path / "a.h5", plots_table(position, rng), truth.replace(phase=phase))
    result = evaluate([path], ["alpha-beta", "kf"], examples=3, bootstrap=0)
    assert {e.label for e in result.examples} == {f"{0x4B0000 + i:06X}" for i in (200, 201, 202)}
    for e in result.examples:
        assert e.truth_m is not None and e.turning is not None and set(e.tracks_m) == {"alpha-beta", "kf"}
        for name in e.tracks_m:
            np.testing.assert_allclose(e.error_m[name], np.hypot(*(e.tracks_m[name] - e.truth_m).T))
            assert e.sigma_m[name].shape == e.time_s.shape == (12,)
            assert (e.sigma_m[name] > 0).all()
    assert 75 <= len(result.overview_tracks_m) <= 150
    assert evaluate([path], ["alpha-beta"], examples=0, bootstrap=0).examples == ()


def test_long_silences_are_tracked_but_not_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    position, velocity = paths(6, 40, rng)
    plots, truth = plots_table(position, rng), truth_table(position, velocity)
    silent = (plots.time_s > 80.0) & (plots.time_s < 120.0)
    result = evaluate([write_log(tmp_path / "a.h5", plots[~silent], truth)], ["kf"], bootstrap=0)
    # 40 plots less 9 silent, 8 of warm-up, and the one that ends the silence.
    assert result.trackers[0].scores.updates == 6 * (40 - 9 - 8 - 1)
    assert result.trackers[0].scores.flights == 6


def test_identity_by_address_still_uses_the_truth(log: Path) -> None:
    a, b = (evaluate([log], ["kf"], identity=identity, bootstrap=0) for identity in ("truth", "address"))
    assert b.identity == "address" and b.has_truth
    assert b.trackers[0].scores.position_rmse_m == pytest.approx(a.trackers[0].scores.position_rmse_m)


def test_progress_reaches_the_end(log: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    evaluate([log], ["alpha-beta"], bootstrap=0, chunk_rows=100, progress=lambda *call: calls.append(call))
    known = [(done, total) for _, done, total in calls if done]
    assert known == sorted(known) and known[-1] == (2 * 480, 2 * 480)  # two stages: the truth, one tracker
    named = [what for what, _, _ in calls]
    for stage in ("measuring noise", "comparing with truth", "alpha-beta"):
        assert f"truth.h5: {stage}" in named
    assert calls[-1] == ("intervals", 0, 1)


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("ssrtrack.tracking.sigma.SAMPLE", 5000)
    rng = np.random.default_rng(1)
    position, velocity = paths(150, 60, rng)
    plots, truth = plots_table(position, rng), truth_table(position, velocity)

    def peak(repeats: int) -> int:
        moved = [(plots.replace(time_s=plots.time_s + 400.0 * i, truth_id=plots.truth_id + 150 * i),
                  truth.replace(time_s=truth.time_s + 400.0 * i, truth_id=truth.truth_id + 150 * i))
                 for i in range(repeats)]  # fmt: skip
        path = write_log(tmp_path / f"{repeats}.h5", *(type(t[0]).concat(t) for t in zip(*moved, strict=True)))
        tracemalloc.start()
        result = evaluate([path], ["alpha-beta"], bootstrap=0, examples=2, chunk_rows=9000)
        assert result.trackers[0].scores.flights == 150 * repeats
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)  # what is loaded or kept once for all is not the log's
    # The file itself is read in pieces of 64k rows, so both logs are longer than that.
    assert peak(24) < 1.25 * peak(8)
