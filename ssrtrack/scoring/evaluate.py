"""Trackers over logs, scored: the one function behind `ssrtrack evaluate`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssrtrack.errors import ScoringError
from ssrtrack.filters.measurement import SIGMA_HEIGHT_M
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.scoring.examples import Gallery
from ssrtrack.scoring.gather import Asked, Progress, Trackers, gather, nothing_yet, require_flights
from ssrtrack.scoring.gathered import Gathered
from ssrtrack.scoring.output import TracksWriter
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.summary import tracker_results
from ssrtrack.scoring.sweep import Asked as Axes
from ssrtrack.scoring.sweep import Sweeper


def evaluate(
    logs: Sequence[str | Path],
    trackers: Trackers,
    *,
    identity: str = "auto",
    warmup_plots: int = 8,
    examples: int = 6,
    bootstrap: int = 1000,
    seed: int = 1,
    sigma_range_m: float | None = None,
    sigma_azimuth_rad: float | None = None,
    sigma_height_m: float = SIGMA_HEIGHT_M,
    gap_s: float = 60.0,
    min_range_m: float | None = None,
    gate: float | None = None,
    smoothed_reference: bool | None = None,
    chunk_rows: int = 200_000,
    backend: str = "auto",
    allow_training_data: bool = False,
    progress: Progress | None = None,
    tracks_writer: TracksWriter | None = None,
    sweep: Axes = (),
) -> EvaluationResult:
    """Run trackers over logs and score them, all on the same updates; memory does not grow with the logs.

    Args:
        logs: HDF5 logs; all with truth, or all without.
        trackers: names of `ESTIMATORS`, with parameters if wanted ("imm:gate=0.9999"), or of learned trackers that come
            with the package ("koss"), files of tuned parameters, folders of learned trackers (see
            `ssrtrack.models.load.load_tracker`), or estimators by name. Ratios refer to the first. Classical names get
            the heavy tail that was measured, where the measured noise is used, unless their text sets it; learned
            trackers get it where it is heavier than their base filter's own.
        identity: what makes plots one flight: "truth", "address", or "auto" (truth if the logs have it).
        warmup_plots: plots at the start of each flight that are tracked but not scored.
        examples: flights drawn in the report.
        bootstrap: resamples of the paired bootstrap over flights; 0 gives no intervals.
        seed: of the bootstrap.
        sigma_range_m, sigma_azimuth_rad: for plots that state none; otherwise the radar's stated, else its measured
            noise is used.
        sigma_height_m: random error of the altitude in the slant-range correction.
        gap_s: a longer silence starts a new flight.
        min_range_m: nearer plots are left out; None is 2 NM without truth, 0 with it.
        gate: chi-square probability of the gate of trackers given as text that set none; None is no gate.
        smoothed_reference: compare with an IMM-smoothed trajectory; None does so only without truth.
        chunk_rows: plots read at a time.
        backend: what computes the trackers, see `ssrtrack.filters.run.run`.
        allow_training_data: score also trackers on logs that they were trained on.
        progress: called as (what, done, total).
        tracks_writer: called as (name, tracks) in time order, e.g. `LogWriter.append_tracks`; one log only. Names are
            the trackers' own, those of files and folders with "_" for "/".
        sweep: axes along which plots are also degraded, names of `ssrtrack.scoring.degrade.AXES` or levels by name
            (None: the default ones); adds `sweeps` to the result and changes nothing else (docs/robustness.md).

    Raises:
        ScoringError: nothing to score, logs that do not go together or that a tracker was trained on, or an unknown
            identity, axis or level.
        EstimatorError: unknown tracker, plots without standard deviation, or a tracker that yields NaN or a covariance
            that is not positive definite.
        LogError: a log cannot be read.
    """
    asked = Asked(
        trackers=trackers,
        identity=identity,
        warmup_plots=warmup_plots,
        sigma_range_m=sigma_range_m,
        sigma_azimuth_rad=sigma_azimuth_rad,
        sigma_height_m=sigma_height_m,
        gap_s=gap_s,
        min_range_m=min_range_m,
        gate=gate,
        smoothed_reference=smoothed_reference,
        chunk_rows=chunk_rows,
        backend=backend,
        allow_training_data=allow_training_data,
    )
    asked.check()
    sweeper = Sweeper(sweep, seed=seed) if sweep else None
    if not logs:
        raise ScoringError("no log to evaluate; give at least one")
    if tracks_writer is not None and len(logs) > 1:
        raise ScoringError(f"tracks of {len(logs)} logs cannot go into one file; save tracks of one log at a time")
    _check_common_ground([Path(log) for log in logs])
    # Of all logs before the first is tracked, which may take hours.
    for log in logs:
        with LogReader(log) as reader:
            if progress is not None:
                progress(f"{reader.path.name}: comparing with training data", 0, 1)
            asked.check_training(reader)
    with LogReader(logs[0]) as reader:
        gathered = replace(nothing_yet(asked, reader), gallery=Gallery(examples))
    for number, log in enumerate(logs):
        with LogReader(log) as reader:
            found = gather(
                reader, asked, gathered, number=number, progress=progress, tracks_writer=tracks_writer, sweeper=sweeper
            )
            require_flights(reader.path, found, gathered)
    if progress is not None:
        progress("intervals", 0, 1)
    result = evaluation_result(logs, gathered, warmup_plots=warmup_plots, bootstrap=bootstrap, seed=seed)
    if sweeper is None:
        return result
    order, has_truth = gathered.flight_order(), gathered.has_truth
    return replace(result, sweeps=sweeper.results(order, has_truth=has_truth, bootstrap=bootstrap, seed=seed))


def _check_common_ground(logs: Sequence[Path]) -> None:
    truth = []
    for log in logs:
        with LogReader(log) as reader:
            truth.append(reader.has_truth)
    if len(set(truth)) > 1:
        bare = [str(log) for log, known in zip(logs, truth, strict=True) if not known]
        raise ScoringError(f"{bare} have no truth and the others do; evaluate logs with and without truth apart")


def evaluation_result(
    logs: Sequence[str | Path], gathered: Gathered, *, warmup_plots: int, bootstrap: int, seed: int
) -> EvaluationResult:
    """Scores from sums.

    Raises:
        ScoringError: no update was scored.
    """
    left_out = [f"{n:,} plot{'s' * (n != 1)} left out: {reason}." for reason, n in gathered.excluded.most_common()]
    results = tracker_results(
        gathered.tallies, gathered.flight_order(), has_truth=gathered.has_truth, bootstrap=bootstrap, seed=seed
    )
    if not results[0].scores.updates:
        raise ScoringError(
            "no update could be scored: the truth does not cover the plots' times, or flights are too short"
        )
    return EvaluationResult(
        logs=tuple(str(log) for log in logs),
        has_truth=gathered.has_truth,
        identity=gathered.identity,
        warmup_plots=warmup_plots,
        plots=gathered.plots,
        plots_used=gathered.plots_used,
        span_s=(gathered.first_s, gathered.last_s),
        epoch=gathered.epoch.isoformat(),
        trackers=results,
        radars=tuple(gathered.radars),
        examples=gathered.gallery.examples(),
        overview_tracks_m=gathered.gallery.overview(),
        notes=(*gathered.notes, *left_out),
    )
