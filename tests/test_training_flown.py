"""Endless windows of simulated flights: the same flights as in `evaluate`, and each batch always the same."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from ssrtrack.errors import ScenarioError, TrainingError
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.scoring.gather import SIGMA_HEIGHT_M as SCORING_SIGMA_HEIGHT_M
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.training.flown_simulated import (
    TRAINING,
    VALIDATION,
    Endless,
    SimulatedFlights,
    block_seed,
    held_out_flights,
    simulated_flights,
)
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.flown_windows import SIGMA_HEIGHT_M, Windows, windows_of
from ssrtrack.training.loop_validation import Errors, held_out, ratio_interval
from tests.training_fixture import imm, plan, scenario


def same(a: Windows, b: Windows) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(Windows))


def test_the_imm_scores_on_windows_as_in_evaluate(tmp_path: Path) -> None:
    """All the way from plots to squared errors: equal to rounding, not in distribution alone."""
    assert SIGMA_HEIGHT_M == SCORING_SIGMA_HEIGHT_M
    # Every plot comes: `evaluate` leaves out those after a long silence.
    radar = scenario().radar[0]
    area = scenario(radar=(replace(radar, detection=replace(radar.detection, probability=1.0)),))
    chunks = list(simulate(area, 5))
    provenance = Provenance(command="test", epoch=area.epoch, software_version="0", created="2025-06-01T00:00:00Z")
    with LogWriter(tmp_path / "a.h5", provenance, radars(area)) as writer:
        for plots, truth in chunks:
            writer.append_plots(plots)
            writer.append_truth(truth)
    scores = evaluate([tmp_path / "a.h5"], ["imm3"], bootstrap=10).trackers[0].scores
    windows = windows_of([p for p, _ in chunks], [t for _, t in chunks], radars(area), 400)
    assert windows is not None
    found = held_out(to_flown(windows), windows.flight, imm(), imm()).base
    assert found.plots.sum() == scores.updates
    assert found.position_rmse_m == pytest.approx(scores.position_rmse_m, rel=1e-9)
    assert found.velocity_rmse_mps == pytest.approx(scores.velocity_rmse_mps, rel=1e-9)


def test_a_window_is_padded_and_its_truth_is_where_the_plots_are() -> None:
    exact = replace(scenario().radar[0].noise, sigma_range_m=1.0, sigma_azimuth_deg=1e-3)
    radar = replace(scenario().radar[0], noise=exact, outliers=type(scenario().radar[0].outliers)())
    area = scenario(radar=(radar,))
    plots, truth = zip(*simulate(area, 2), strict=True)
    w = windows_of(plots, truth, radars(area), 60)
    assert w is not None
    assert w.time_s.shape == (len(w), 60) and (np.isfinite(w.time_s) == w.valid).all()
    lengths = w.valid.sum(1)
    assert lengths.min() >= 12 and lengths.min() < 60 and lengths.max() == 60
    assert (w.valid == (np.arange(60) < lengths[:, None])).all()
    off = np.linalg.norm((w.position_m - w.truth[..., :2])[w.valid], axis=-1)
    assert np.percentile(off, 99) < 30.0  # 1e-3 deg is 1.3 m at 40 NM, altitude to 25 ft
    assert w.plots == w.valid.sum()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_depends_on_seed_and_number_alone(workers: int) -> None:
    with simulated_flights(plan(), workers=workers) as flights:
        seen = {k: flights.windows(k) for k in (0, 1, 7, 60)}
    with simulated_flights(plan(), workers=0) as flights:
        again = {k: flights.windows(k) for k in (60, 0)}
        assert all(same(seen[k], w) for k, w in again.items())
        halves = [SimulatedFlights(plan(), rank, 2, None).windows(7) for rank in (0, 1)]
    assert same(seen[7], Windows.concat(halves))
    assert not any(same(seen[0], seen[k]) for k in (1, 7, 60))
    with simulated_flights(plan(seed=4), workers=0) as flights:
        assert not same(seen[0], flights.windows(0))


def test_a_batch_has_flights_of_several_simulations() -> None:
    with simulated_flights(plan(batch=64), workers=0) as flights:
        w = flights.windows(0)
    assert len(w) == 64 and plan(batch=64).slots == 2
    assert len({tuple(row) for row in w.truth[:, 0]}) == 64


def test_held_out_flights_are_no_training_flights() -> None:
    p = plan(batch=64)
    held = held_out_flights(p, 60)
    assert len(held) == 60 and len(np.unique(held.flight)) > 12  # of several simulations
    with simulated_flights(p, workers=0) as flights:
        trained = Windows.concat([flights.windows(k) for k in range(3)])
    places = [set(map(tuple, np.round(w.truth[w.valid][:, :2], 3).tolist())) for w in (held, trained)]
    assert not places[0] & places[1]
    seeds = {block_seed(3, purpose, s, b) for purpose in (TRAINING, VALIDATION) for s in range(8) for b in range(100)}
    assert len(seeds) == 1600


@pytest.mark.parametrize(
    ("batch", "slots"), [(1, 1), (7, 1), (8, 2), (32, 2), (64, 2), (96, 3), (128, 4), (256, 8), (4096, 8)]
)
def test_parts_of_a_batch(batch: int, slots: int) -> None:
    assert plan(batch=batch).slots == slots


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(ScenarioError, match="3 processes cannot share"):
        SimulatedFlights(plan(), 0, 3, None)
    blind = replace(scenario().radar[0], coverage=replace(scenario().radar[0].coverage, max_range_nm=1.0))
    with pytest.raises(ScenarioError, match="no flight has 12 plots"):
        held_out_flights(Endless(scenario(radar=(blind,)), 1, 8, 40), 8)


ORPHAN = """
from multiprocessing import active_children
from ssrtrack.training.flown_simulated import simulated_flights
from tests.training_fixture import plan
if __name__ == "__main__":
    with simulated_flights(plan(), workers=1) as flights:
        flights.windows(0)
        print(*(child.pid for child in active_children()), flush=True)
        input()
"""


def test_a_simulating_process_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ORPHAN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=environment, text=True, **pipes) as parent:  # type: ignore[call-overload]
        worker = int(parent.stdout.readline())
        assert _runs(worker)
        parent.kill()
    for _ in range(1000):
        if not _runs(worker):
            return
        time.sleep(0.02)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("it goes on without its parent")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_simulating_process_that_is_killed_is_named() -> None:
    with simulated_flights(plan(), workers=1) as flights:
        for process in active_children():
            process.kill()
        with pytest.raises(TrainingError, match=r"was killed.*--resume"):
            for k in range(0, 4000, 50):
                flights.windows(k)


def test_interval_of_a_ratio_is_that_of_flights() -> None:
    """Errors of a constant ratio have no spread; independent ones that of the delta method, within a fifth."""
    rng = np.random.default_rng(1)
    n = 400
    a, b = rng.exponential(1.0, (2, n))
    flight, plots = np.arange(n), np.ones(n)
    first, second = Errors(a, a, plots), Errors(b, b, plots)
    assert ratio_interval(Errors(0.64 * a, a, plots), first, flight, 1) == pytest.approx((0.8, 0.8, 0.8))
    ratio, low, high = ratio_interval(first, second, flight, 1)
    # log ratio = (log mean a - log mean b) / 2, each mean of exponentials with relative sigma 1/sqrt(n)
    width = 2.0 * 1.96 * ratio * 0.5 * np.sqrt(2.0 / n)
    assert high - low == pytest.approx(width, rel=0.2)
    # Two windows of each flight are no more independent flights than one.
    pairs = [Errors(np.repeat(e.position, 2), np.repeat(e.velocity, 2), np.repeat(plots, 2)) for e in (first, second)]
    _, low2, high2 = ratio_interval(*pairs, np.repeat(flight, 2), 1)
    assert high2 - low2 == pytest.approx(high - low, rel=1e-9)
