"""What may make a learned tracker diverge, and what it costs: the rows "hard" and "cost" of `learned_trackers.py`.

Measurements are those of flights of the suite, changed: ten scans without a plot, nothing but the first plot, no
altitude, several plots at one time, a silence of 300 s; and flights of 10,000 updates. A tracker diverges if it says
NaN or a covariance that is not positive definite anywhere, or if it is lost in more flights than the better IMM from
eight plots after the difficulty on: three errors in a row beyond 926 m and beyond five standard deviations of the plot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from learned_trackers_score import IMMS, file_octets
from learned_trackers_wanted import ANY, FILE_OCTETS, NO_NAN, SAME, STATE_OCTETS, STEP_MS, at_most, row
from numpy.typing import NDArray

from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import SIGMA_HEIGHT_M, Measurements, make_measurements, tracking_frame
from ssrtrack.filters.protocol import Estimator
from ssrtrack.filters.run import run
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.learned import octets_per_track
from ssrtrack.models.load import load_tracker
from ssrtrack.scoring.accuracy import squared_distance
from ssrtrack.scoring.consistency import cholesky
from ssrtrack.scoring.sweep import lost_flights
from ssrtrack.tracking.flights import COLUMNS, Cutting, flights
from ssrtrack.tracking.truth import TruthWindow

Array = NDArray[Any]
HOLE, HOLE_SCANS = 30, 10  # first column without a plot, and how many
SILENCE_S, AFTER = 300.0, 24  # and columns after it
SETTLED, FAR = 8, 5.0  # plots until a tracker must be back; standard deviations of a plot
LONG_UPDATES, LONG_END = 10_000, 1_000  # a long flight has so many; its last ones are compared
LONG_GAP_S = 1e5  # so that a long flight stays one flight over the cone of silence
STEPS, TRACKS = 60, 1000  # of the timing
SAME_FLIGHTS, SAME_PLOTS, CUT = 8, 60, 40


@dataclass(frozen=True, eq=False)
class Case:
    """Measurements (N, T) and where the aircraft were (N, T, 2), NaN where that is not known or does not count."""

    z: Measurements
    true_m: Array

    def columns(self, keep: Array) -> "Case":
        """Some of the columns: `keep` are their numbers."""
        return Case(self.z.select((slice(None), keep)), self.true_m[:, keep])


def case_of(log: Path, *, plots: int, altitude: str = "told", gap_s: float = 60.0) -> Case:
    """The log's flights of at least `plots` plots, all cut to that many.

    Args:
        altitude: "told", "none" (no plot has one) or "some" (every second has none).

    Raises:
        ValueError: no flight is that long.
    """
    zs, truths = [], []
    with LogReader(log) as reader:
        frame = tracking_frame(reader.radars)
        window = TruthWindow(reader.truth(), frame.site_rad[0])
        cutting = Cutting(gap_s=gap_s, min_plots=plots)
        for batch in flights(reader.plots(columns=COLUMNS), identity="truth", cutting=cutting):
            if not len(batch):
                continue
            index = batch.index()
            index = index[(index >= 0).sum(1) >= plots][:, :plots]
            told = batch.plots.pressure_altitude_m
            silent = np.arange(told.size) % 2 == 1 if altitude == "some" else np.full(told.size, altitude == "none")
            z = make_measurements(
                batch.plots.replace(pressure_altitude_m=np.where(silent, np.nan, told).astype(np.float32)),
                index, frame, sigma_range_m=reader.radars.sigma_range_m,
                sigma_azimuth_rad=reader.radars.sigma_azimuth_rad, sigma_height_m=SIGMA_HEIGHT_M,
            )  # fmt: skip
            zs.append(z)
            truths.append(window.at(batch.plots.truth_id, batch.plots.time_s).grid(index).position_m)
            if batch.waiting is not None:
                window.forget(batch)
    if not zs:
        raise ValueError(f"{log} has no flight of {plots} plots; give more --flights")
    arrays = {
        name: np.concatenate([getattr(z, name) for z in zs]) for name in zs[0].__dataclass_fields__ if name != "frame"
    }
    return Case(Measurements(**arrays, frame=zs[0].frame), np.concatenate(truths))


def without(case: Case, begin: int, end: int) -> Case:
    """The same without the plots of columns begin … end - 1: those are misses; what counts is what comes after."""
    valid = case.z.valid.copy()
    valid[:, begin:end] = False
    return counted_from(replace(case, z=replace(case.z, valid=valid)), end + SETTLED)


def counted_from(case: Case, column: int) -> Case:
    """The same of which only the errors from a column on count."""
    true_m = case.true_m.copy()
    true_m[:, :column] = np.nan
    return replace(case, true_m=true_m)


def hard_cases(log: Path) -> dict[str, Case]:
    """Cases by name, of flights of one log that are long enough for all of them."""
    with LogReader(log) as reader:
        silent = round(SILENCE_S / float(reader.radars.rotation_period_s[0]))
    plots = HOLE + silent + AFTER
    plain = case_of(log, plots=plots)
    twice = np.sort(np.append(np.arange(plots), [HOLE, HOLE, HOLE + 1]))
    return {
        "10 scans without a plot": without(plain, HOLE, HOLE + HOLE_SCANS),
        "one plot, then 10 scans without": without(plain, 1, 1 + HOLE_SCANS),
        "no altitude": case_of(log, plots=plots, altitude="none"),
        "altitude of every second plot": case_of(log, plots=plots, altitude="some"),
        "three plots at one time": plain.columns(twice),
        "silence of 300 s": counted_from(
            plain.columns(np.append(np.arange(HOLE), np.arange(HOLE + silent, plots))), HOLE + SETTLED
        ),
    }


def diverged(case: Case, history: TrackHistory) -> tuple[int, float, float]:
    """Cells with NaN or no positive definite covariance; share of flights lost; RMS error (m) where it counts."""
    alive = np.isfinite(case.z.time_s)
    factor = cholesky(history.covariance)
    sound = np.isfinite(history.mean).all(-1) & np.isfinite(factor[3][3])
    error_m = np.where(case.z.valid, np.sqrt(squared_distance(history.mean, case.true_m)), np.nan)
    sigma_m = np.sqrt(np.trace(case.z.covariance_m2, axis1=-2, axis2=-1))
    with np.errstate(invalid="ignore"):
        far_m = np.where(error_m > FAR * sigma_m, error_m, 0.0)
    return int((alive & ~sound).sum()), float(lost_flights(far_m).mean()), float(np.sqrt(np.nanmean(error_m**2)))


@dataclass(frozen=True)
class Survived:
    """How a tracker took a case: what `diverged` says, and on how much."""

    unsound: int
    lost: float
    off_m: float
    flights: int
    updates: int


def survived(cases: Mapping[str, Case], text: str) -> dict[str, Survived]:
    """A tracker in all cases."""
    tracker = load_tracker(text)
    return {
        what: Survived(*diverged(case, run(tracker, case.z)), len(case.z), int(case.z.valid.sum()))
        for what, case in cases.items()
    }


def hard_rows(
    where: str, imms: Mapping[str, Mapping[str, Survived]], own: Mapping[str, Survived], model: tuple[str, str]
) -> list[dict[str, Any]]:
    """Three rows for each case: unsound cells, flights lost, and the error beside the better IMM's."""
    rows = []
    for what, one in own.items():
        theirs = {name: cases[what] for name, cases in imms.items()}
        least = min(theirs, key=lambda name: theirs[name].lost)
        nearest = min(theirs, key=lambda name: theirs[name].off_m)
        count = {"flights": one.flights, "updates": one.updates}
        rows.append(row("hard", where, model, f"{what}: NaN", float(one.unsound), wanted=NO_NAN, **count))
        rows.append(
            row(
                "hard", where, model, f"{what}: lost flights", one.lost, wanted=at_most(theirs[least].lost),
                reference=IMMS[least], reference_value=theirs[least].lost, **count,
            )
        )  # fmt: skip
        rows.append(
            row(
                "hard", where, model, f"{what}: position", one.off_m / theirs[nearest].off_m, wanted=ANY,
                reference=IMMS[nearest], reference_value=theirs[nearest].off_m, **count,
            )
        )  # fmt: skip
    return rows


def same_rows(where: str, case: Case, text: str, model: tuple[str, str]) -> list[dict[str, Any]]:
    """Whole flights beside step by step, and beside flights that end earlier: in standard deviations, the largest."""
    z = case.z.select((slice(SAME_FLIGHTS), slice(SAME_PLOTS)))
    tracker = load_tracker(text)
    whole, steps = run(tracker, z), run(tracker, z, backend="filterpy")
    early = run(tracker, z.select((slice(None), slice(CUT))))
    return [
        row("hard", where, model, f"{what}: off by sigmas", apart(*two), wanted=SAME, flights=len(z))
        for what, two in {"step by step": (whole, steps), "future cut off": (whole, early)}.items()
    ]


def apart(one: TrackHistory, other: TrackHistory) -> float:
    """Largest difference of two histories' means over the columns that both have, in standard deviations."""
    columns = min(one.mean.shape[1], other.mean.shape[1])
    a, b = one.mean[:, :columns], other.mean[:, :columns]
    sigma = np.sqrt(np.diagonal(one.covariance[:, :columns], axis1=-2, axis2=-1))
    return float(np.nanmax(np.abs(a - b) / sigma))


def cost_rows(case: Case, models: Mapping[str, tuple[str, str]], threads: int) -> list[dict[str, Any]]:
    """Milliseconds of one step (prediction, update and estimate) of 1,000 tracks, octets of a track and of a file.

    Timed with one thread and with `threads`, which on a busy machine is the slower one: the faster is what is asked.
    """
    import torch

    rows = []
    for folder, model in models.items():
        tracker, found = load_tracker(folder), {}
        for count in {1, threads}:
            torch.set_num_threads(count)
            found[count] = stepped(tracker, case.z)
        fastest = min(found, key=lambda count: found[count][1])
        name = f"{TRACKS} tracks"
        for count, (p20, p50, p80, _) in sorted(found.items()):
            wanted, what = (STEP_MS if count == fastest else ANY), f"step, {count} thread{'s' * (count > 1)}"
            rows.append(row("cost", name, model, what, p50, wanted=wanted, interval=(p20, p80), unit="ms"))
        octets = found[fastest][3]
        rows.append(row("cost", name, model, "state of a track", octets, wanted=STATE_OCTETS, unit="octet"))
        rows.append(
            row("cost", name, model, "file of weights", float(file_octets(folder)), wanted=FILE_OCTETS, unit="octet")
        )
    return rows


def stepped(tracker: Estimator, z: Measurements) -> tuple[float, float, float, float]:
    """p20, p50 and p80 of a step's milliseconds, by the wall clock, and octets of a track; a tenth is warm-up."""
    rows = np.arange(TRACKS) % len(z)
    wide = z.select(rows)
    state = tracker.init(wide.at(0))
    seconds = []
    for k in range(1, min(STEPS, z.time_s.shape[1])):
        now = wide.at(k)
        dt = now.time_s - wide.time_s[:, k - 1]
        start = perf_counter()
        state = tracker.update(tracker.predict(state, dt), now, now.valid)
        tracker.estimate(state)
        seconds.append(perf_counter() - start)
    p20, p50, p80 = 1000.0 * np.percentile(seconds[len(seconds) // 10 :], [20, 50, 80])
    return float(p20), float(p50), float(p80), float(octets_per_track(state))


def long_case(log: Path) -> Case:
    """The flights of over LONG_UPDATES updates; the last LONG_END of them count."""
    return counted_from(case_of(log, plots=LONG_UPDATES, gap_s=LONG_GAP_S), LONG_UPDATES - LONG_END)
