"""One log, or a piece of one, through the trackers into sums: what `evaluate` and `ssrtrack batch` both do."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots
from ssrtrack.errors import ScoringError
from ssrtrack.filters.batched import batched_backend
from ssrtrack.filters.estimators import Estimator, make_estimator
from ssrtrack.filters.measurement import SIGMA_HEIGHT_M, tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.load import digest_of_tracker, load_tracker, sources_of_tracker
from ssrtrack.models.provenance import Sources, clash
from ssrtrack.scoring.bands import Bands
from ssrtrack.scoring.examples import kept
from ssrtrack.scoring.gathered import Gathered
from ssrtrack.scoring.output import TracksInOrder, TracksWriter, tracks_of
from ssrtrack.scoring.radars import radar_rows
from ssrtrack.scoring.scene import Setting, add_scores, make_scene
from ssrtrack.scoring.sweep import Sweeper
from ssrtrack.scoring.tally import Tally
from ssrtrack.tracking.flights import COLUMNS, IDENTITIES, MIN_RANGE_M, Cutting, FlightBatch, flights
from ssrtrack.tracking.pieces import Piece, plots_of_piece
from ssrtrack.tracking.sigma import Sigmas, choose_sigmas, tells_types_apart
from ssrtrack.tracking.truth import MAX_SPACING_S, TruthWindow
from ssrtrack.units import NM_M

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
Trackers = Sequence[str] | Mapping[str, Estimator]

MIN_SCORED = 2  # a flight needs this many plots after the warm-up
SMOOTHER = "imm"  # the reference trajectory without truth
LONG_GAP = 3.3  # rotations; EUROCONTROL-SPEC-147 calls more than 3 intervals plus 10 % a long gap


@dataclass(frozen=True)
class Asked:
    """What is asked of every log: arguments of `evaluate`, where they are explained."""

    trackers: Trackers
    identity: str = "auto"
    warmup_plots: int = 8
    sigma_range_m: float | None = None
    sigma_azimuth_rad: float | None = None
    sigma_height_m: float = SIGMA_HEIGHT_M
    gap_s: float = 60.0
    min_range_m: float | None = None
    gate: float | None = None
    smoothed_reference: bool | None = None
    chunk_rows: int = 200_000
    backend: str = "auto"
    allow_training_data: bool = False
    folder: str = "."  # where relative paths of trackers begin
    digests: tuple[tuple[str, str], ...] = ()  # trackers that are files, and what those were when this was asked

    def here(self) -> "Asked":
        """The same, with what another process needs: this folder, and digests of the trackers' files.

        Raises:
            EstimatorError: a tracker's file is gone.
        """
        digests = {text: digest_of_tracker(text, folder=self.folder) for text in self.trackers}
        files = tuple((text, digest) for text, digest in digests.items() if digest)
        return replace(self, folder=str(Path(self.folder).absolute()), digests=files)

    def estimators(self, parameters: Mapping[str, Any]) -> dict[str, Estimator]:
        """The trackers by name; `parameters` hold for those given as text that leave them open.

        Raises:
            ScoringError: none, one twice, a text in place of a list, or a tracker's file was replaced meanwhile.
            EstimatorError, CheckpointError: one that cannot be made.
        """
        if isinstance(self.trackers, str):
            raise ScoringError(
                f"trackers is the text {self.trackers!r}, expected a list of names such as ['kf', 'imm']"
            )
        if not self.trackers:
            raise ScoringError("no tracker to evaluate; name at least one, for example 'kf'")
        if isinstance(self.trackers, Mapping):
            return dict(self.trackers)
        repeated = [name for name, n in Counter(self.trackers).items() if n > 1]
        if repeated:
            raise ScoringError(f"trackers {repeated} are named twice; name each once")
        for text, digest in self.digests:
            if digest_of_tracker(text, folder=self.folder) != digest:
                raise ScoringError(f"tracker {text!r}: its file is another one than at the start; start again")
        return {text: load_tracker(text, folder=self.folder, **parameters) for text in self.trackers}

    def check_training(self, reader: LogReader) -> None:
        """Refuse a log that a tracker was trained on: its scores would say nothing about any other log.

        Raises:
            ScoringError: it was, and training data is not allowed; says which tracker, and how to go on.
        """
        if self.allow_training_data:
            return
        for text in self.trackers:
            if isinstance(self.trackers, Mapping):
                sources = Sources.from_list(getattr(self.trackers[text], "sources", ()), f"tracker {text!r}")
            else:
                sources = sources_of_tracker(text, folder=self.folder)
            if found := clash(sources, reader):
                raise ScoringError(
                    f"{reader.path}: tracker {text!r} was trained on it ({found}); score it on other data, or force it "
                    "with --force-training-data (allow_training_data=True)"
                )

    def check(self) -> None:
        """Raises ScoringError or EstimatorError for what no log could satisfy."""
        if self.warmup_plots < 1:
            raise ScoringError(
                f"warmup_plots is {self.warmup_plots}; at least the first plot, which starts a track, is not scored"
            )
        for estimator in self.estimators({}).values():
            batched_backend(estimator, self.backend, "float64")
        if self.identity not in ("auto", *IDENTITIES):
            raise ScoringError(f"identity is {self.identity!r}, expected auto, {' or '.join(IDENTITIES)}")

    def cutting(self, has_truth: bool) -> Cutting:
        """How the plots of a log with or without truth become flights."""
        return Cutting(
            gap_s=self.gap_s,
            min_plots=self.warmup_plots + MIN_SCORED,
            min_range_m=self.min_range_m if self.min_range_m is not None else 0.0 if has_truth else MIN_RANGE_M,
            implausible=not has_truth,
        )


def nothing_yet(asked: Asked, reader: LogReader) -> Gathered:
    """Empty sums for a log and those like it."""
    return Gathered(
        epoch=reader.provenance.epoch,
        has_truth=reader.has_truth,
        identity=_identity(asked.identity, reader.has_truth),
        tallies={name: Tally() for name in asked.estimators({})},
    )


def gather(
    reader: LogReader,
    asked: Asked,
    into: Gathered,
    *,
    number: int = 0,
    piece: Piece | None = None,
    progress: Progress | None = None,
    tracks_writer: TracksWriter | None = None,
    sweeper: Sweeper | None = None,
    bands: Bands | None = None,
) -> int:
    """Track and score the flights of a log, or those that begin in a piece of it; returns how many there were.

    A sweeper also scores them on degraded plots, bands also by what the aircraft does and where. That no tracker was
    trained on the log is for the caller to check.

    Raises:
        ScoringError, EstimatorError, LogError: see `evaluate`. A log without flights is left to the caller.
    """
    log, show = reader.path.name, progress or (lambda what, done, total: None)
    show(f"{log}: measuring noise", 0, 1)
    per_radar = len(reader.radars) > 1 and not bool(reader.radars.has_site().all())
    cutting = replace(asked.cutting(into.has_truth), per_radar=per_radar, detected=tells_types_apart(reader))
    sigmas = choose_sigmas(reader, into.identity, cutting, asked.sigma_range_m, asked.sigma_azimuth_rad)
    setting = _setting(reader, asked, into.has_truth, sigmas, per_radar)
    estimators = asked.estimators(sigmas.tail | ({} if asked.gate is None else {"gate": asked.gate}))
    window = _truth_window(reader, setting, asked.chunk_rows, piece) if into.has_truth else None
    counted = _Counted(np.zeros(len(reader.radars), np.int64), into, reader)
    chunks = counted.whole(reader, asked.chunk_rows) if piece is None else counted.piece(reader, asked, cutting, piece)
    writer = TracksInOrder(tracks_writer, estimators) if tracks_writer is not None else None
    before, done, steps = into.flights, 0, len(estimators) + 1 + (sweeper.stages if sweeper is not None else 0)
    for batch in flights(chunks, identity=into.identity, cutting=cutting):
        into.excluded.update(batch.excluded)
        if len(batch):
            stages = _one_batch(batch, number, estimators, setting, window, into, writer, asked.backend, sweeper, bands)
            for i, stage in enumerate(stages):
                read = steps * done + i * batch.read
                # All is read while the last flights are still tracked: 0 says that nobody knows for how long.
                show(f"{log}: {stage}", read if done < reader.plot_count else 0, steps * reader.plot_count)
        done += batch.read
        if batch.waiting is not None:
            if window is not None:
                window.forget(batch)
            if writer is not None:
                writer.flush(float(batch.waiting[1].min(initial=batch.now_s)))
        show(log, steps * done, steps * reader.plot_count)
    if writer is not None:
        writer.flush(np.inf)
    into.radars += radar_rows(sigmas, reader.radars, counted.seen)
    notes = _notes(reader, cutting, into, sigmas)
    into.notes += [note for note in notes if note not in into.notes]
    return into.flights - before


def require_flights(log: object, found: int, gathered: Gathered) -> None:
    """Raises ScoringError, with the reasons, when a log has no flight that can be scored."""
    if not found:
        why = "; ".join(f"{n} plots: {reason}" for reason, n in gathered.excluded.most_common()) or "it has no plots"
        raise ScoringError(
            f"{log}: no flight is long enough to score ({why}). Try another identity, fewer warm-up plots, or "
            "a longer recording"
        )


def _identity(identity: str, has_truth: bool) -> str:
    if identity == "auto":
        return "truth" if has_truth else "address"
    if identity not in IDENTITIES:
        raise ScoringError(f"identity is {identity!r}, expected auto, {' or '.join(IDENTITIES)}")
    if identity == "truth" and not has_truth:
        raise ScoringError("identity is 'truth' but the logs have none; use 'address'")
    return identity


def _setting(reader: LogReader, asked: Asked, has_truth: bool, sigmas: Sigmas, per_radar: bool) -> Setting:
    radars = reader.radars
    frames = {k: tracking_frame(radars, [k]) for k in range(len(radars))} if per_radar else {-1: tracking_frame(radars)}
    turbulence = (reader.provenance.extra or {}).get("turbulence_m2ps3", 0.0)
    smoothed = not has_truth if asked.smoothed_reference is None else asked.smoothed_reference
    return Setting(
        frames=frames,
        sigma_range_m=sigmas.range_m,
        sigma_azimuth_rad=sigmas.azimuth_rad,
        sigma_height_m=asked.sigma_height_m,
        warmup_plots=asked.warmup_plots,
        max_silence_s=LONG_GAP * sigmas.longest_period_s(reader.radars),
        smoother=make_estimator(SMOOTHER, **sigmas.tail) if smoothed else None,
        # Triton has no smoother for several models.
        smoother_backend="auto" if asked.backend == "triton" else asked.backend,
        turbulence_psd_m2ps3=float(turbulence),
    )


def _truth_window(reader: LogReader, setting: Setting, rows: int, piece: Piece | None) -> TruthWindow:
    frame = setting.frames.get(-1)
    if frame is None or not np.isfinite(frame.origin.latitude_deg):
        raise ScoringError(
            f"{reader.path} has truth but a radar without a site, so the two cannot be compared; "
            "give every radar its latitude, longitude and height"
        )
    # A plot's true state lies between two rows at most MAX_SPACING_S apart.
    start_s = -np.inf if piece is None else piece.start_s - MAX_SPACING_S - 1.0
    return TruthWindow(reader.truth(rows, start_s), frame.site_rad[0])


@dataclass(frozen=True)
class _Counted:
    """Chunks as they pass, with plots per radar and the time span noted: each plot of a log in one piece alone."""

    seen: Array  # (radars,)
    into: Gathered
    reader: LogReader

    def whole(self, reader: LogReader, rows: int) -> Iterator[Plots]:
        for chunk in reader.plots(rows, COLUMNS):
            self._count(chunk)
            yield chunk

    def piece(self, reader: LogReader, asked: Asked, cutting: Cutting, piece: Piece) -> Iterator[Plots]:
        chunks = reader.plots(asked.chunk_rows, COLUMNS, piece.read_from_s(cutting.gap_s))
        for inside, chunk in plots_of_piece(chunks, piece, identity=self.into.identity, cutting=cutting):
            self._count(inside)
            yield chunk

    def _count(self, chunk: Plots) -> None:
        if len(chunk):
            offset_s = (self.reader.provenance.epoch - self.into.epoch).total_seconds()
            self.seen[:] += np.bincount(chunk.radar_id, minlength=self.seen.size)
            self.into.plots += len(chunk)
            self.into.first_s = min(self.into.first_s, float(chunk.time_s[0]) + offset_s)
            self.into.last_s = max(self.into.last_s, float(chunk.time_s[-1]) + offset_s)


def _one_batch(
    batch: FlightBatch,
    number: int,
    estimators: Mapping[str, Estimator],
    setting: Setting,
    window: TruthWindow | None,
    gathered: Gathered,
    writer: TracksInOrder | None,
    backend: str,
    sweeper: Sweeper | None,
    bands: Bands | None,
) -> Iterator[str]:
    """Track and score one batch; yields what comes next before each stage: trackers + 1, and those of a sweep."""
    yield "comparing with truth" if window is not None else "smoothing"
    scene = make_scene(batch, setting, window)
    chosen = gathered.gallery.choose(scene)
    histories: dict[str, tuple[Array, Array]] = {}
    for i, (name, estimator) in enumerate(estimators.items()):
        yield name
        history = run(estimator, scene.z, backend=backend)
        values = add_scores(gathered.tallies[name], name, scene, history)
        if bands is not None:
            bands.add(name, scene, values)
        if sweeper is not None:
            sweeper.undegraded(name, scene, history)
        histories[name] = kept(history, chosen)
        if i == 0:
            gathered.gallery.add_overview(scene, history.mean)
        if writer is not None:
            writer.add(name, tracks_of(scene, history))
    gathered.gallery.add(scene, chosen, histories)
    if sweeper is not None:
        yield from sweeper.degraded(scene, setting, estimators, backend)
    gathered.plots_used += len(batch.plots)
    first = batch.plots.time_s[batch.starts[:-1]]
    gathered.order.append(np.stack([np.full(len(batch), number), first, batch.keys]))


def _notes(reader: LogReader, cutting: Cutting, gathered: Gathered, sigmas: Sigmas) -> list[str]:
    notes = list(sigmas.notes)
    known = reader.radars.has_site()
    if cutting.per_radar:
        notes.append("Some radars have no known site, so flights are tracked for each radar by itself.")
    if not known.all():
        notes.append(
            "Without the radar's site positions are in the radar's own frame, with an assumed earth curvature (45 deg "
            "north), and BDS 5,0 track angles are not compared: true north at the aircraft is not known."
        )
    if gathered.identity == "address":
        notes.append("Plots are grouped by 24-bit address; plots without one are left out.")
    if cutting.min_range_m > 0.0 and not gathered.has_truth:
        notes.append(
            f"Plots up to {cutting.min_range_m / NM_M:g} NM from the radar are left out: where it stands at an "
            "airport they are mostly traffic on the ground."
        )
    if not gathered.has_truth:
        notes.append(
            "There is no truth: errors are distances to the next plot, which holds that plot's own noise, and to an "
            "IMM-smoothed trajectory, which favours trackers like it. Pressure altitude stands for height above the "
            "ellipsoid; what the two differ by shifts positions near the radar and is not scored."
        )
    return notes
