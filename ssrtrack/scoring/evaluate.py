"""Trackers over logs, scored: the one function behind `ssrtrack evaluate`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots
from ssrtrack.errors import ScoringError
from ssrtrack.filters.estimators import Estimator, make_estimator, parse_estimator
from ssrtrack.filters.measurement import tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.scoring.examples import Gallery, kept
from ssrtrack.scoring.output import TracksInOrder, TracksWriter, tracks_of
from ssrtrack.scoring.result import EvaluationResult, RadarNoise
from ssrtrack.scoring.scene import Setting, add_scores, make_scene
from ssrtrack.scoring.sigma import Sigmas, choose_sigmas, tells_types_apart
from ssrtrack.scoring.summary import tracker_results
from ssrtrack.scoring.tally import Tally
from ssrtrack.tracking.flights import COLUMNS, IDENTITIES, Cutting, FlightBatch, flights
from ssrtrack.tracking.truth import TruthWindow
from ssrtrack.units import FT_M, NM_M

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
Trackers = Sequence[str] | Mapping[str, Estimator]

# What is random in a reported altitude from plot to plot is its rounding: 100 ft / sqrt(12).
SIGMA_HEIGHT_M = 100.0 * FT_M / 12.0**0.5
MIN_SCORED = 2  # a flight needs this many plots after the warm-up
# Nearer than this a recording shows the ground of the radar's own airport: on the real Barcelona hour 99.8 %
# of plots up to 2 NM have no altitude or one under 500 ft, from 2 to 3 NM 5 %.
MIN_RANGE_M = 2.0 * NM_M
SMOOTHER = "imm"  # the reference trajectory without truth
LONG_GAP = 3.3  # rotations; EUROCONTROL-SPEC-147 calls more than 3 intervals plus 10 % a long gap


@dataclass
class _Gathered:
    """What comes together over all logs."""

    tallies: dict[str, Tally]
    gallery: Gallery
    excluded: Counter[str] = field(default_factory=Counter)
    radars: list[RadarNoise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    order: list[Array] = field(default_factory=list)  # per batch (3, n): log, first time, key
    plots: int = 0
    plots_used: int = 0
    first_s: float = np.inf
    last_s: float = -np.inf


@dataclass(frozen=True)
class _Options:
    """The arguments of `evaluate` that hold for every log."""

    trackers: Trackers
    gate: float | None
    identity: str
    has_truth: bool
    cutting: Cutting
    warmup_plots: int
    sigma_range_m: float | None
    sigma_azimuth_rad: float | None
    sigma_height_m: float
    smoothed_reference: bool
    progress: Progress


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
    progress: Progress | None = None,
    tracks_writer: TracksWriter | None = None,
) -> EvaluationResult:
    """Run trackers over logs and score them, all on the same updates; memory does not grow with the logs.

    Args:
        logs: HDF5 logs; all with truth, or all without.
        trackers: names of `ESTIMATORS`, with parameters if wanted ("imm:gate=0.9999", see `parse_estimator`), or
            estimators by name. Ratios refer to the first. Trackers given as text get the heavy tail that was measured,
            where the measured noise is used, unless their text sets it.
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
        progress: called as (what, done, total).
        tracks_writer: called as (tracker, tracks) in time order, e.g. `LogWriter.append_tracks`; one log only.

    Raises:
        ScoringError: nothing to score, logs that do not go together, or an unknown identity.
        EstimatorError: unknown tracker, plots without standard deviation, or a tracker that yields NaN or a covariance
            that is not positive definite.
        LogError: a log cannot be read.
    """
    names = list(_estimators(trackers, {}))
    if not logs:
        raise ScoringError("no log to evaluate; give at least one")
    if tracks_writer is not None and len(logs) > 1:
        raise ScoringError(f"tracks of {len(logs)} logs cannot go into one file; save tracks of one log at a time")
    if warmup_plots < 1:
        raise ScoringError(
            f"warmup_plots is {warmup_plots}; at least the first plot, which starts a track, is not scored"
        )
    has_truth, epoch = _common_ground([Path(log) for log in logs])
    cutting = Cutting(
        gap_s=gap_s,
        min_plots=warmup_plots + MIN_SCORED,
        min_range_m=min_range_m if min_range_m is not None else 0.0 if has_truth else MIN_RANGE_M,
        implausible=not has_truth,
    )
    options = _Options(
        trackers=trackers,
        gate=gate,
        identity=_identity(identity, has_truth),
        has_truth=has_truth,
        cutting=cutting,
        warmup_plots=warmup_plots,
        sigma_range_m=sigma_range_m,
        sigma_azimuth_rad=sigma_azimuth_rad,
        sigma_height_m=sigma_height_m,
        smoothed_reference=not has_truth if smoothed_reference is None else smoothed_reference,
        progress=progress or (lambda what, done, total: None),
    )
    gathered = _Gathered({name: Tally() for name in names}, Gallery(examples))
    for number, log in enumerate(logs):
        with LogReader(log) as reader:
            offset_s = (reader.provenance.epoch - epoch).total_seconds()
            _one_log(reader, number, offset_s, options, gathered, chunk_rows, tracks_writer)
    return _result(logs, options, gathered, epoch.isoformat(), bootstrap, seed)


def _estimators(
    trackers: Sequence[str] | Mapping[str, Estimator], parameters: Mapping[str, Any]
) -> dict[str, Estimator]:
    if isinstance(trackers, str):
        raise ScoringError(f"trackers is the text {trackers!r}, expected a list of names such as ['kf', 'imm']")
    if not trackers:
        raise ScoringError("no tracker to evaluate; name at least one, for example 'kf'")
    if isinstance(trackers, Mapping):
        return dict(trackers)
    repeated = [name for name, n in Counter(trackers).items() if n > 1]
    if repeated:
        raise ScoringError(f"trackers {repeated} are named twice; name each once")
    return {text: parse_estimator(text, **parameters) for text in trackers}


def _common_ground(logs: Sequence[Path]) -> tuple[bool, Any]:
    """Whether the logs have truth, and the first log's epoch."""
    truth, epochs = [], []
    for log in logs:
        with LogReader(log) as reader:
            truth.append(reader.has_truth)
            epochs.append(reader.provenance.epoch)
    if len(set(truth)) > 1:
        bare = [str(log) for log, known in zip(logs, truth, strict=True) if not known]
        raise ScoringError(f"{bare} have no truth and the others do; evaluate logs with and without truth apart")
    return truth[0], epochs[0]


def _identity(identity: str, has_truth: bool) -> str:
    if identity == "auto":
        return "truth" if has_truth else "address"
    if identity not in IDENTITIES:
        raise ScoringError(f"identity is {identity!r}, expected auto, {' or '.join(IDENTITIES)}")
    if identity == "truth" and not has_truth:
        raise ScoringError("identity is 'truth' but the logs have none; use 'address'")
    return identity


def _one_log(
    reader: LogReader,
    number: int,
    offset_s: float,
    options: _Options,
    gathered: _Gathered,
    chunk_rows: int,
    tracks_writer: TracksWriter | None,
) -> None:
    log = reader.path.name
    options.progress(f"{log}: measuring noise", 0, 1)
    per_radar = len(reader.radars) > 1 and not bool(reader.radars.has_site().all())
    cutting = replace(options.cutting, per_radar=per_radar, detected=tells_types_apart(reader))
    sigmas = choose_sigmas(reader, options.identity, cutting, options.sigma_range_m, options.sigma_azimuth_rad)
    setting = _setting(reader, options, sigmas, per_radar)
    estimators = _estimators(options.trackers, sigmas.tail | {"gate": options.gate})
    window = _truth_window(reader, setting, chunk_rows) if options.has_truth else None
    seen = np.zeros(len(reader.radars), np.int64)
    chunks = _counted(reader.plots(chunk_rows, COLUMNS), seen, offset_s, gathered)
    writer = TracksInOrder(tracks_writer) if tracks_writer is not None else None
    first_flight, done = int(sum(o.shape[1] for o in gathered.order)), 0
    steps = len(estimators) + 1
    for batch in flights(chunks, identity=options.identity, cutting=cutting):
        gathered.excluded.update(batch.excluded)
        if len(batch):
            stages = _one_batch(batch, number, estimators, setting, window, gathered, writer)
            for i, stage in enumerate(stages):
                read = steps * done + i * batch.read
                # All is read while the last flights are still tracked: 0 says that nobody knows for how long.
                options.progress(f"{log}: {stage}", read if done < reader.plot_count else 0, steps * reader.plot_count)
        done += batch.read
        if batch.waiting is not None:
            if window is not None:
                window.forget(batch)
            if writer is not None:
                writer.flush(float(batch.waiting[1].min(initial=batch.now_s)))
        options.progress(log, steps * done, steps * reader.plot_count)
    if writer is not None:
        writer.flush(np.inf)
    gathered.radars += sigmas.radars(reader.radars, seen)
    gathered.notes += [note for note in _notes(reader, options, sigmas, per_radar) if note not in gathered.notes]
    _require_flights(reader, int(sum(o.shape[1] for o in gathered.order)) - first_flight, gathered)


def _setting(reader: LogReader, options: _Options, sigmas: Sigmas, per_radar: bool) -> Setting:
    radars = reader.radars
    frames = {k: tracking_frame(radars, [k]) for k in range(len(radars))} if per_radar else {-1: tracking_frame(radars)}
    turbulence = (reader.provenance.extra or {}).get("turbulence_m2ps3", 0.0)
    return Setting(
        frames=frames,
        sigma_range_m=sigmas.range_m,
        sigma_azimuth_rad=sigmas.azimuth_rad,
        sigma_height_m=options.sigma_height_m,
        warmup_plots=options.warmup_plots,
        max_silence_s=LONG_GAP * sigmas.longest_period_s(reader.radars),
        smoother=make_estimator(SMOOTHER, **sigmas.tail) if options.smoothed_reference else None,
        turbulence_psd_m2ps3=float(turbulence),
    )


def _truth_window(reader: LogReader, setting: Setting, rows: int) -> TruthWindow:
    frame = setting.frames.get(-1)
    if frame is None or not np.isfinite(frame.origin.latitude_deg):
        raise ScoringError(
            f"{reader.path} has truth but a radar without a site, so the two cannot be compared; "
            "give every radar its latitude, longitude and height"
        )
    return TruthWindow(reader.truth(rows), frame.site_rad[0])


def _counted(chunks: Iterable[Plots], seen: Array, offset_s: float, gathered: _Gathered) -> Iterator[Plots]:
    """The chunks as they pass, with plots per radar and the time span noted."""
    for chunk in chunks:
        if len(chunk):
            seen += np.bincount(chunk.radar_id, minlength=seen.size)
            gathered.plots += len(chunk)
            gathered.first_s = min(gathered.first_s, float(chunk.time_s[0]) + offset_s)
            gathered.last_s = max(gathered.last_s, float(chunk.time_s[-1]) + offset_s)
        yield chunk


def _one_batch(
    batch: FlightBatch,
    number: int,
    estimators: Mapping[str, Estimator],
    setting: Setting,
    window: TruthWindow | None,
    gathered: _Gathered,
    writer: TracksInOrder | None,
) -> Iterator[str]:
    """Track and score one batch; yields what comes next before each stage, of which there are trackers + 1."""
    yield "comparing with truth" if window is not None else "smoothing"
    scene = make_scene(batch, setting, window)
    chosen = gathered.gallery.choose(scene)
    histories: dict[str, tuple[Array, Array]] = {}
    for i, (name, estimator) in enumerate(estimators.items()):
        yield name
        history = run(estimator, scene.z)
        add_scores(gathered.tallies[name], name, scene, history)
        histories[name] = kept(history, chosen)
        if i == 0:
            gathered.gallery.add_overview(scene, history.mean)
        if writer is not None:
            writer.add(name, tracks_of(scene, history))
    gathered.gallery.add(scene, chosen, histories)
    gathered.plots_used += len(batch.plots)
    first = batch.plots.time_s[batch.starts[:-1]]
    gathered.order.append(np.stack([np.full(len(batch), number), first, batch.keys]))


def _require_flights(reader: LogReader, found: int, gathered: _Gathered) -> None:
    if not found:
        why = "; ".join(f"{n} plots: {reason}" for reason, n in gathered.excluded.most_common()) or "it has no plots"
        raise ScoringError(
            f"{reader.path}: no flight is long enough to score ({why}). Try another identity, fewer warm-up plots, or "
            "a longer recording"
        )


def _notes(reader: LogReader, options: _Options, sigmas: Sigmas, per_radar: bool) -> list[str]:
    notes = list(sigmas.notes)
    known = reader.radars.has_site()
    if per_radar:
        notes.append("Some radars have no known site, so flights are tracked for each radar by itself.")
    if not known.all():
        notes.append(
            "Without the radar's site positions are in the radar's own frame, with an assumed earth curvature (45 deg "
            "north), and BDS 5,0 track angles are not compared: true north at the aircraft is not known."
        )
    if options.identity == "address":
        notes.append("Plots are grouped by 24-bit address; plots without one are left out.")
    if options.cutting.min_range_m > 0.0 and not options.has_truth:
        notes.append(
            f"Plots up to {options.cutting.min_range_m / NM_M:g} NM from the radar are left out: where it stands at an "
            "airport they are mostly traffic on the ground."
        )
    if not options.has_truth:
        notes.append(
            "There is no truth: errors are distances to the next plot, which holds that plot's own noise, and to an "
            "IMM-smoothed trajectory, which favours trackers like it. Pressure altitude stands for height above the "
            "ellipsoid; what the two differ by shifts positions near the radar and is not scored."
        )
    return notes


def _result(
    logs: Sequence[str | Path],
    options: _Options,
    gathered: _Gathered,
    epoch: str,
    bootstrap: int,
    seed: int,
) -> EvaluationResult:
    options.progress("intervals", 0, 1)
    order = np.concatenate(gathered.order, axis=1)
    left_out = [f"{n:,} plot{'s' * (n != 1)} left out: {reason}." for reason, n in gathered.excluded.most_common()]
    results = tracker_results(
        gathered.tallies,
        np.lexsort((order[2], order[1], order[0])),
        has_truth=options.has_truth,
        bootstrap=bootstrap,
        seed=seed,
    )
    if not results[0].scores.updates:
        raise ScoringError(
            "no update could be scored: the truth does not cover the plots' times, or flights are too short"
        )
    return EvaluationResult(
        logs=tuple(str(log) for log in logs),
        has_truth=options.has_truth,
        identity=options.identity,
        warmup_plots=options.warmup_plots,
        plots=gathered.plots,
        plots_used=gathered.plots_used,
        span_s=(gathered.first_s, gathered.last_s),
        epoch=epoch,
        trackers=results,
        radars=tuple(gathered.radars),
        examples=gathered.gallery.examples(),
        overview_tracks_m=gathered.gallery.overview(),
        notes=(*gathered.notes, *left_out),
    )
