"""Recordings in, one log out: several ASTERIX files or captures merged in time, radars told apart by SAC/SIC."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ssrtrack.data import Array, Plots, Radar
from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix_fast import WINDOW_BYTES
from ssrtrack.io.asterix_frame import Summary
from ssrtrack.io.asterix_stream import MAX_RADARS, TOO_MANY_RADARS, PlotStream
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.io.sites import with_radar_file, with_site

NO_DATE = datetime(1970, 1, 1, tzinfo=UTC)  # epoch of a log whose day nobody knows
MAX_LATE_S = 300.0  # a plot older than this against what is already written is dropped and counted
YEARS = (1950, 2199)  # of recordings; 64-bit nanoseconds, which xarray counts in, end in 2262
SHOWN_ERRORS = 10
SHOWN_RADARS = 10
MAIN_RADAR_SHARE = 0.99  # of all plots: the radar that --site is meant for, whatever a few corrupt records name
# Files people give by mistake, by their first octets; a stray CAT048 header can be found in any of them.
FOREIGN = {
    b"\x89HDF": "an HDF5 file; a log is evaluated as it is",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
}


@dataclass
class IngestReport:
    """What an ingest read and wrote."""

    plots: int = 0
    plots_of: Counter[int] = field(default_factory=Counter)  # by radar_id
    radars: Radar = field(default_factory=Radar.empty)
    epoch: datetime = NO_DATE
    span_s: tuple[float, float] = (np.inf, -np.inf)
    too_late: int = 0
    files: list[tuple[Path, Summary]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def ingest(
    files: Sequence[Path],
    output: Path,
    *,
    command: str,
    software_version: str,
    created: str,
    on_date: date | None = None,
    site: dict[str, float] | None = None,
    radar_blocks: Sequence[dict[str, Any]] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> IngestReport:
    """Read CAT048/034 recordings (raw blocks, pcap, pcapng) into one log.

    Args:
        files: read together and merged in time; each file in time order to within half a minute.
        output: the log; an earlier file there stays until the new one is whole.
        command, software_version, created: provenance.
        on_date: UTC day of each file's first report; captures bring their own, which it overrides with a warning.
        site: latitude_deg, longitude_deg, height_m of the only radar, or of the one with nearly all plots.
        radar_blocks: what `load_radar_file` read, by SAC/SIC; wins over sites found in CAT034.
        progress: called with (what, octets read, octets in all).

    Raises:
        AsterixError: the date is no recording's, a file cannot be read, is given twice or is the output too, no file
            holds a plot, or some files are dated and others not.
        ScenarioError: `site` with several radars.
        LogError: the log cannot be written.
    """
    if on_date and not YEARS[0] <= on_date.year <= YEARS[1]:
        raise AsterixError(f"--date is {on_date}, expected a day from {YEARS[0]} to {YEARS[1]}")
    _refuse_repeats([*files, output])
    for path in files:
        _refuse_foreign(path)
    streams = [_Stream(path, on_date, max(1 << 16, WINDOW_BYTES // len(files))) for path in files]
    for stream in streams:
        stream.advance()
    report = IngestReport(files=[(s.path, s.recording.summary) for s in streams])
    report.epoch = _common_epoch(streams, report.warnings)
    report.warnings += [text for s in streams if (text := _other_day(s.recording, on_date))]
    provenance = Provenance(
        command=command,
        epoch=report.epoch,
        software_version=software_version,
        created=created,
        sources=tuple(str(path) for path in files),
    )
    codes: dict[tuple[int, int], int] = {}
    with LogWriter(output, provenance) as log:
        for plots in _merged(streams, report.epoch, codes, progress):
            log.append_plots(_not_too_late(plots, report))
        if not report.plots:
            raise AsterixError(_nothing_found(report))
        report.radars = _radars(streams, codes)
        if site is not None:
            report.radars = _placed(report, site)
        report.radars = with_radar_file(report.radars, list(radar_blocks))
        log.set_radars(report.radars)
    _warn_of_noise(report)
    unknown = [name.decode("ascii", "replace") for name in report.radars.name[~report.radars.has_site()]]
    if unknown:
        report.warnings.append(
            f"no site for {_some(unknown)}: tracked in the radar's own frame; give --site or --radar to place it"
        )
    return report


def format_report(report: IngestReport, output: Path) -> str:
    """What a person wants to know after an ingest, as plain text."""
    start, end = (datetime.fromtimestamp(report.epoch.timestamp() + t, UTC) for t in report.span_s)
    radars = "1 radar" if len(report.radars) == 1 else f"{len(report.radars)} radars"
    lines = [f"{report.plots:,} plots of {radars} written to {output}"]
    lines.append(f"  {start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC")
    for path, summary in report.files:
        lines += _file_lines(path, summary)
    if report.too_late:
        lines.append(f"  {report.too_late:,} plots dropped: over {MAX_LATE_S:.0f} s older than those before them")
    return "\n".join(lines + [f"  warning: {text}" for text in report.warnings])


def _refuse_repeats(paths: Sequence[Path]) -> None:
    """The last path is the output."""
    places = [path.resolve() for path in paths]
    for i, place in enumerate(places):
        if place in places[i + 1 : -1]:
            raise AsterixError(f"{paths[i]} is given twice; its plots would count double")
        if place == places[-1] and i < len(paths) - 1:
            raise AsterixError(f"{paths[i]} is both input and output; give the log another name")


def _placed(report: IngestReport, site: dict[str, float]) -> Radar:
    """The radars with `site` at the only one; a few corrupt records that name others do not make it ambiguous."""
    radars = report.radars
    (main, plots), *others = report.plots_of.most_common()
    if len(radars) == 1 or plots < MAIN_RADAR_SHARE * report.plots:
        return with_site(radars, site)
    placed = with_site(radars[main : main + 1], site)
    report.warnings.append(
        f"--site taken for {placed.name[0].decode()} with {plots:,} plots; {len(radars) - 1} other radars with "
        f"{sum(n for _, n in others):,} plots have none"
    )
    return Radar.concat([radars[:main], placed, radars[main + 1 :]])


def _other_day(recording: PlotStream, on_date: date | None) -> str:
    """A warning when a capture is not of the day that was given for it."""
    captured = recording.captured_on
    if on_date is None or captured is None or captured == on_date:
        return ""
    return f"{recording.path.name} was captured on {captured}, but is dated {on_date} as --date says"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_RADARS} more" if len(names) > SHOWN_RADARS else ""
    return ", ".join(names[:SHOWN_RADARS]) + more


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_file():  # a folder, or a pipe that would be waited for without end
        raise AsterixError(f"cannot read {path}: it is no ordinary file; give a raw ASTERIX, pcap or pcapng file")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise AsterixError(f"cannot read {path}: {error.strerror}; give a raw ASTERIX, pcap or pcapng file") from error
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise AsterixError(f"{path} is {what}; ingest takes raw ASTERIX, pcap or pcapng")


def _warn_of_noise(report: IngestReport) -> None:
    for path, summary in report.files:
        if summary.error_count > sum(summary.records.values()):
            report.warnings.append(f"{path.name} has more corrupt places than records: is it an ASTERIX recording?")


def _file_lines(path: Path, summary: Summary) -> Iterator[str]:
    def counted(counts: Counter[Any], word: str = "") -> str:
        return ", ".join(f"{n:,} {word}{key}" for key, n in sorted(counts.items(), key=lambda kv: str(kv[0])))

    yield f"  {path.name}: {summary.blocks:,} blocks, records: {counted(summary.records, 'CAT') or 'none'}"
    if summary.skipped_blocks:
        yield f"    other categories skipped, blocks: {counted(summary.skipped_blocks, 'CAT')}"
    if summary.packets:
        yield f"    packets: {counted(summary.packets)}"
    if summary.dropped_plots:
        yield f"    records without a plot: {counted(summary.dropped_plots)}"
    if summary.late_plots:
        yield f"    out of time order: {summary.late_plots:,}"
    if summary.error_count:
        where = "; ".join(f"{cause} at byte {offset:,}" for offset, cause in summary.errors[:SHOWN_ERRORS])
        more = f"; and {summary.error_count - SHOWN_ERRORS:,} more" if summary.error_count > SHOWN_ERRORS else ""
        yield f"    corrupt places skipped: {summary.error_count:,} ({where}{more})"


class _Stream:
    """One recording, and how far it has been read."""

    def __init__(self, path: Path, on_date: date | None, window_bytes: int) -> None:
        self.path = path
        self.recording = PlotStream(path, on_date, window_bytes=window_bytes)
        self._chunks = iter(self.recording)
        self.held: list[Plots] = []
        self.frontier_s = -np.inf  # nothing older is to come, but for stragglers
        self.done = False

    def advance(self) -> None:
        """Read on until there are plots, or the file ends."""
        for chunk in self._chunks:
            if len(chunk.plots):
                self.held.append(chunk.plots)
                self.frontier_s = max(self.frontier_s, float(chunk.plots.time_s[-1]))
                return
        self.done, self.frontier_s = True, np.inf

    def take(self, until_s: float, shift_s: float, radar_ids: Array) -> list[Plots]:
        """What is held up to `until_s` of this recording's own time, moved to the log's time and radars (-1: none)."""
        ready = [plots[plots.time_s <= until_s] for plots in self.held]
        self.held = [rest for plots in self.held if len(rest := plots[plots.time_s > until_s])]
        known = [p[radar_ids[p.radar_id] >= 0] for p in ready]
        if crowded := sum(map(len, ready)) - sum(map(len, known)):
            self.recording.summary.dropped_plots[TOO_MANY_RADARS] += crowded
        return [
            p.replace(time_s=p.time_s + shift_s, radar_id=radar_ids[p.radar_id].astype(np.int16))
            for p in known
            if len(p)
        ]


def _merged(
    streams: list[_Stream],
    epoch: datetime,
    codes: dict[tuple[int, int], int],
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[Plots]:
    """Plots of all recordings in time order; always the one that lags is read on."""
    shifts = [(s.recording.epoch - epoch).total_seconds() if s.recording.epoch else 0.0 for s in streams]
    total = sum(s.path.stat().st_size for s in streams)
    plots_written = 0
    while any(not s.done or s.held for s in streams):
        limit_s = min(s.frontier_s + shift for s, shift in zip(streams, shifts, strict=True))
        parts = []
        for stream, shift in zip(streams, shifts, strict=True):
            table = stream.recording.radars()
            ids = [_code((int(a), int(b)), codes) for a, b in zip(table.sac, table.sic, strict=True)]
            parts += stream.take(limit_s - shift, shift, np.array(ids, np.int64))
        if parts:
            plots = Plots.concat(parts)
            plots_written += len(plots)
            yield plots[np.argsort(plots.time_s, kind="stable")]
        lagging = min(range(len(streams)), key=lambda i: streams[i].frontier_s + shifts[i])
        streams[lagging].advance()
        if progress:
            progress("ingesting", min(sum(s.recording.octets_read for s in streams), total), total)


def _code(key: tuple[int, int], codes: dict[tuple[int, int], int]) -> int:
    """The log's radar_id for a SAC/SIC: the next free one for a new radar, -1 when none is free."""
    if key not in codes and len(codes) < MAX_RADARS:
        codes[key] = len(codes)
    return codes.get(key, -1)


def _not_too_late(plots: Plots, report: IngestReport) -> Plots:
    """Plots that still fit the log's order; counts what is kept and what is not."""
    keep = plots.time_s >= report.span_s[1] - MAX_LATE_S
    report.too_late += int((~keep).sum())
    plots = plots[keep]
    if len(plots):
        report.plots += len(plots)
        report.plots_of.update(
            dict(zip(*(a.tolist() for a in np.unique(plots.radar_id, return_counts=True)), strict=True))
        )
        first, last = float(plots.time_s.min()), float(plots.time_s.max())
        report.span_s = (min(report.span_s[0], first), max(report.span_s[1], last))
    return plots


def _common_epoch(streams: list[_Stream], warnings: list[str]) -> datetime:
    """The day all times count from: the earliest of the recordings'."""
    dated = [s.recording.epoch for s in streams if s.recording.epoch]
    undated = [s.path.name for s in streams if s.recording.epoch is None and s.held]
    if undated and dated:
        raise AsterixError(f"{', '.join(undated)} have no date but other files do; give --date YYYY-MM-DD for them")
    if undated:
        warnings.append("ASTERIX times have no date: the log's day is put as 1970-01-01; give --date YYYY-MM-DD")
    return min(dated, default=NO_DATE)


def _radars(streams: list[_Stream], codes: dict[tuple[int, int], int]) -> Radar:
    """One row per SAC/SIC, in the order of `codes`; a site or period known from any file is kept."""
    rows: dict[int, Radar] = {}
    for stream in streams:
        table = stream.recording.radars()
        for i in range(len(table)):
            row, code = table[i : i + 1], codes.get((int(table.sac[i]), int(table.sic[i])), -1)
            if code < 0:
                continue
            known = rows.setdefault(code, row)
            rows[code] = row if row.has_site()[0] and not known.has_site()[0] else known
    return Radar.concat([rows[code] for code in sorted(rows)])


def _nothing_found(report: IngestReport) -> str:
    found = []
    for path, summary in report.files:
        categories = Counter({**summary.records}) + summary.skipped_blocks
        held = ", ".join(f"CAT{c:03}" for c in sorted(categories)) or "no ASTERIX blocks"
        dropped = f", {sum(summary.dropped_plots.values())} records without a plot" if summary.dropped_plots else ""
        found.append(f"{path.name} ({held}{dropped}, {summary.error_count} corrupt places)")
    return f"no CAT048 plots in {'; '.join(found)}; give recordings of monoradar target reports"
