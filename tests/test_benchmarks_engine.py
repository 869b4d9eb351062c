"""The engine's benchmarks: their peers are right, what is wrong is not timed, and both scripts run through."""

import csv
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.filters.estimators import make_estimator, untuned_parameters
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import engine_cpu  # noqa: E402
import engine_filterpy  # noqa: E402
import engine_gpu  # noqa: E402
import engine_gpu_cases  # noqa: E402
import engine_numpy  # noqa: E402
import engine_ours  # noqa: E402
from engine_cases import simulated, wall_rates  # noqa: E402

Q = engine_cpu.Q_M2S3
Z = simulated(4, 20)
CASES = {case.name: case for case in engine_cpu.cases()}


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.exact_peer])
def test_filterpy_gives_the_estimators_means(name: str) -> None:
    case = CASES[name]
    expected = smooth(case.estimator, Z)[0] if case.smooth else run(case.estimator, Z).mean[:, 1:]
    np.testing.assert_allclose(case.peer(Z), expected, rtol=0, atol=1e-6)


def test_filterpy_with_turns_comes_near_the_imm() -> None:
    case = CASES["IMM, CV CV-high CT CT"]
    z = simulated(6, 60)
    off = (case.peer(z) - run(case.estimator, z).mean[:, 1:])[..., :2]
    rms = float(np.sqrt((off**2).sum(-1).mean()))
    assert 0.0 < rms < engine_cpu.IMM_RMS_M


@pytest.mark.parametrize("rate", [0.0, 1e-5, 0.03, -0.05])
def test_the_turn_agrees_with_the_motion_model(rate: float) -> None:
    turn = make_estimator("imm", **untuned_parameters("imm")).motions[2]
    x, h = np.array([[1e4, -2e4, 150.0, 90.0, rate]]), 4.7
    moved, F = engine_filterpy.turned(x[0], h, engine_filterpy.TURN_RADPS)
    np.testing.assert_allclose(moved, turn.move(x, np.array([h]))[0], rtol=1e-12)
    np.testing.assert_allclose(F, turn.jacobian(x, np.array([h]))[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("threads", "block"), [(1, 100), (1, 3), (2, 1)])
def test_numpy_gives_filterpys_means_and_covariances(threads: int, block: int) -> None:
    p = engine_numpy.problem_of(Z, Q, engine_filterpy.SPEED_SIGMA_MPS)
    history, smoothed = run(make_estimator("kf", q_m2s3=Q), Z), smooth(make_estimator("kf", q_m2s3=Q), Z)
    both = {
        engine_numpy.component_filter: (history.mean, history.covariance),
        engine_numpy.component_smoother: smoothed,
    }
    for scan, (mean, covariance) in both.items():
        found = scan(p, threads, block)
        np.testing.assert_allclose(np.moveaxis(found[0], -1, 0), mean, rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.swapaxes(engine_numpy.unpacked(found[1]), 0, 1), covariance, rtol=1e-9, atol=1e-6)
    found = engine_numpy.matrix_filter(p)
    np.testing.assert_allclose(np.swapaxes(found[0], 0, 1), history.mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.swapaxes(found[1], 0, 1), history.covariance, rtol=1e-9, atol=1e-6)


def test_a_side_that_is_wrong_is_not_timed() -> None:
    case, sample = CASES["KF CV"], np.arange(len(Z))
    right = case.peer(Z)
    side = engine_cpu.Side("numpy", "float64", 1, len(Z), lambda: right)
    assert engine_cpu.compared(case, [side], sample, right)[0].difference == 0.0
    for fault in (1e-5, np.nan):
        wrong = replace(side, work=partial(np.add, right, fault))
        with pytest.raises(SystemExit, match="nothing timed"):
            engine_cpu.compared(case, [wrong], sample, right)


def test_rates_are_steps_over_seconds_with_one_round_unmeasured() -> None:
    calls: list[int] = []
    rates = wall_rates([(lambda: calls.append(1), 10), (lambda: calls.append(2), 20)], 3)
    assert calls == [1, 2] * 4
    assert all(0.0 < p20 <= p50 <= p80 for p20, p50, p80 in rates)


def test_the_processor_script_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cpu, "STEPS", 8)
    output = tmp_path / "cpu.csv"
    options = ["--peers-only", "--tracks", "12", "--sample", "3", "--repeats", "1", "--output", str(output)]
    assert engine_cpu.main(options) == 0
    rows = rows_in(output)
    assert {row["case"] for row in rows} == set(CASES)
    filterpy = [row for row in rows if row["implementation"] == "filterpy loop"]
    assert [row["ratio_to_filterpy"] for row in filterpy] == ["1"] * len(CASES)
    assert all(row["commit"] and "numba" in row["versions"] for row in rows)
    with pytest.raises(SystemExit, match="no case has"):
        engine_cpu.main([*options, "--case", "no such case"])


def test_errors_see_what_is_wrong_or_unwritten() -> None:
    on_host = engine_gpu_cases.sampled(engine_gpu_cases.drawn(5, 6, "cpu", 1))[1]
    mean, covariance = engine_gpu_cases.reference(on_host, smooth=False)
    assert engine_gpu_cases.errors(mean, covariance, (mean, covariance)) == (0.0, 0.0, 0.0)
    assert engine_gpu_cases.errors(mean + 2.0, covariance, (mean, covariance)) == pytest.approx((2.0, 2.0, 0.0))
    unwritten = covariance.copy()
    unwritten[-1, 2, 3, 3] = np.nan
    with pytest.raises(SystemExit, match="nothing timed"):
        engine_gpu_cases.refuse_if_wrong("x", engine_gpu_cases.errors(mean, unwritten, (mean, covariance)))


def test_percent_of_copy_and_ratios_are_of_the_right_rows() -> None:
    common: dict[str, Any] = {"case": "KF CV", "tracks": 10, "mode": ""}
    times = [engine_gpu.time_columns([s], 10, b, "cpu") for s, b in ((4.0, 800), (2.0, 800), (0.5, 80))]
    rows = [
        common | {"implementation": "torch-kf"} | times[0],
        common | {"implementation": "torch-kf", "note": "fastest"} | times[1],
        common | {"implementation": "ssrtrack triton"} | times[2],
        common | {"implementation": "torch-kf", "note": "does not run: why"},
    ]
    table = engine_gpu.finished(rows, copy=400.0)
    assert [row["percent_of_copy"] for row in table] == ["50", "100", "40", ""]
    assert [row["ratio_to_torch_kf"] for row in table] == ["0.5", "1", "4", ""]
    assert table[2]["target"] and {tuple(row) for row in table} == {engine_gpu.COLUMNS}


def test_ours_reads_and_fills_what_the_kernel_needs() -> None:
    p = engine_gpu_cases.drawn(7, 9, "cpu", 3)
    work = engine_ours.device_work("kf", p, "torch")
    work.run()
    key, on_host = engine_gpu_cases.sampled(p)
    found = engine_gpu_cases.of_packed(*work.moments(key), engine_gpu_cases.reference(on_host, smooth=False))
    engine_gpu_cases.refuse_if_wrong("ours", found)
    # 6 numbers of each plot in, 4 means and 10 different covariances out, 4 bytes each.
    assert sum(a.nbytes for a in (*work.read, *work.written)) == 7 * 10 * (6 + 14) * 4


def test_the_device_script_runs_through_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_kf", reason="torch-kf is not installed")
    import engine_torch_kf

    monkeypatch.setattr(engine_gpu, "STEPS", 6)
    for table in (engine_torch_kf.MODES, engine_torch_kf.SMOOTHER_MODES):
        for name in [name for name in table if "compiled" in name]:
            monkeypatch.delitem(table, name)
    output = tmp_path / "gpu.csv"
    options = ["--device", "cpu", "--tracks", "40", "--blocks", "20", "--repeats", "2"]
    assert engine_gpu.main([*options, "--peers-only", "--output", str(output)]) == 0
    rows = rows_in(output)
    assert not [row for row in rows if row["note"] not in ("", "fastest")]
    fastest = [row for row in rows if row["note"] == "fastest"]
    assert len(fastest) == len({row["case"] for row in rows}) == 4
    assert all(float(row["error_position_m"]) < 0.1 and float(row["steps_per_s"]) > 0 for row in rows)
