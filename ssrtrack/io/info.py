"""What is in a log: counts, rates, gaps and shares, read in one streaming pass and a light second one for the gaps."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssrtrack.data import PLOT_TYPES, Plots
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.io.info_tally import CODE_OFFSET, RADAR_STEP, Gaps, Tally, rotation_period_s
from ssrtrack.io.info_text import format_summary, utc_text

__all__ = ["Gap", "LogSummary", "RadarSummary", "TrackSummary", "format_summary", "summarise"]


@dataclass(frozen=True)
class Gap:
    """A time without any plot of one radar."""

    start_s: float
    start_utc: str
    length_s: float


@dataclass(frozen=True)
class RadarSummary:
    """One radar and its plots; NaN where something is not known. `gaps` are the first 20 of `gap_count`."""

    name: str
    sac: int
    sic: int
    latitude_deg: float
    longitude_deg: float
    height_m: float
    plots: int
    start_s: float
    end_s: float
    rotation_period_s: float
    stated_rotation_period_s: float
    plots_per_scan: float
    largest_range_m: float
    gap_count: int
    gap_total_s: float
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class TrackSummary:
    """The stored result of one tracker."""

    name: str
    states: int
    tracks: int


@dataclass(frozen=True)
class LogSummary:
    """What `ssrtrack info` shows. Shares are fractions of all plots, NaN without plots; keys are stable.

    `aircraft` counts distinct 24-bit addresses, `codes_without_address` the distinct Mode 3/A codes of plots that
    carry no address, `truth_aircraft` the aircraft of the truth table.
    """

    path: str
    file_bytes: int
    epoch: str
    command: str
    software_version: str
    created: str
    sources: tuple[str, ...]
    seed: int | None
    start_s: float
    end_s: float
    start_utc: str
    end_utc: str
    plots: int
    plots_per_s: float
    aircraft: int
    codes_without_address: int
    truth_states: int
    truth_aircraft: int
    tracks: tuple[TrackSummary, ...]
    radars: tuple[RadarSummary, ...]
    plot_types: dict[str, float]
    with_field: dict[str, float]
    flags: dict[str, float]
    false_plots: float
    lowest_altitude_m: float
    highest_altitude_m: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def summarise(path: str | Path, progress: Callable[[float], None] | None = None) -> LogSummary:
    """Summary of the log at `path`, in memory that does not grow with its length.

    `progress` is called with the fraction done.

    Raises:
        LogError: the file is no whole log.
    """
    with LogReader(path) as log:
        tally = Tally(len(log.radars))
        # The second pass reads a few columns only: about a tenth of the work.
        _follow(log.plots(), log.plot_count, tally.add, lambda done: progress(0.9 * done) if progress else None)
        periods = [rotation_period_s(tally, i, float(log.radars.rotation_period_s[i])) for i in range(len(log.radars))]
        gaps = Gaps(periods)
        seen = log.plots(columns=())
        _follow(seen, log.plot_count, gaps.add, lambda done: progress(0.9 + 0.1 * done) if progress else None)
        return _summary(Path(path), log, tally, gaps)


def _follow(tables: Any, total: int, add: Callable[[Plots], None], progress: Callable[[float], None]) -> None:
    done = 0
    for plots in tables:
        add(plots)
        done += len(plots)
        progress(done / total)


def _summary(path: Path, log: LogReader, tally: Tally, gaps: Gaps) -> LogSummary:
    epoch, (start_s, end_s) = log.provenance.epoch, log.time_span_s
    total, identities = log.plot_count, np.unique(tally.keys % RADAR_STEP)

    def share(count: int) -> float:
        return count / total if total else math.nan

    return LogSummary(
        path=str(path),
        file_bytes=path.stat().st_size,
        epoch=epoch.isoformat(),
        command=log.provenance.command,
        software_version=log.provenance.software_version,
        created=log.provenance.created,
        sources=log.provenance.sources,
        seed=log.provenance.seed,
        start_s=start_s,
        end_s=end_s,
        start_utc=utc_text(epoch, start_s),
        end_utc=utc_text(epoch, end_s),
        plots=total,
        plots_per_s=total / (end_s - start_s) if end_s > start_s else math.nan,
        aircraft=int(np.count_nonzero(identities < CODE_OFFSET)),
        codes_without_address=int(np.count_nonzero(identities >= CODE_OFFSET)),
        truth_states=log.truth_count,
        truth_aircraft=_distinct(t.truth_id for t in log.truth()),
        tracks=tuple(_track_summary(log, name) for name in log.track_names),
        radars=tuple(_radar_summary(log, tally, gaps, i) for i in range(len(log.radars))),
        plot_types={name: share(int(n)) for name, n in zip(PLOT_TYPES, tally.types, strict=True) if n},
        with_field={name: share(n) for name, n in tally.fields.items()},
        flags={str(flag.name).lower(): share(n) for flag, n in tally.flags.items()},
        false_plots=share(tally.false_plots),
        lowest_altitude_m=tally.lowest_m,
        highest_altitude_m=tally.highest_m,
    )


def _radar_summary(log: LogReader, tally: Tally, gaps: Gaps, i: int) -> RadarSummary:
    radars, period_s, span_s = log.radars, gaps.periods_s[i], float(tally.last_s[i] - tally.first_s[i])
    return RadarSummary(
        name=radars.name[i].decode("utf-8", "replace"),
        sac=int(radars.sac[i]),
        sic=int(radars.sic[i]),
        latitude_deg=float(radars.latitude_deg[i]),
        longitude_deg=float(radars.longitude_deg[i]),
        height_m=float(radars.height_m[i]),
        plots=int(tally.plots[i]),
        start_s=float(tally.first_s[i]),
        end_s=float(tally.last_s[i]),
        rotation_period_s=period_s,
        stated_rotation_period_s=float(radars.rotation_period_s[i]),
        plots_per_scan=float(tally.plots[i]) * period_s / span_s if span_s > 0.0 else math.nan,
        largest_range_m=float(tally.largest_range_m[i]),
        gap_count=gaps.counts[i],
        gap_total_s=gaps.totals_s[i],
        gaps=tuple(Gap(start_s, utc_text(log.provenance.epoch, start_s), s) for start_s, s in gaps.listed[i]),
    )


def _track_summary(log: LogReader, name: str) -> TrackSummary:
    states, ids = 0, np.zeros(0, np.int32)
    for table in log.tracks(name):
        states, ids = states + len(table), np.union1d(ids, table.track_id)
    return TrackSummary(name, states, len(ids))


def _distinct(chunks: Any) -> int:
    found = np.zeros(0, np.int32)
    for ids in chunks:
        found = np.union1d(found, ids)
    return len(found)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
