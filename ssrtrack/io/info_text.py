"""A log's summary as text for people: ranges in NM, altitudes as flight levels, times in UTC."""

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ssrtrack.units import FL_M, NM_M

if TYPE_CHECKING:
    from ssrtrack.io.info import LogSummary, RadarSummary

GAPS_SHOWN = 5


def utc_text(epoch: datetime, time_s: float) -> str:
    """The UTC instant `time_s` seconds after the epoch, to milliseconds; empty if unknown or beyond the calendar."""
    if not math.isfinite(time_s):
        return ""
    try:
        return (epoch + timedelta(seconds=time_s)).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return ""


def format_summary(summary: "LogSummary") -> str:
    """The summary as plain text: ranges in NM, altitudes as flight levels, times in UTC."""
    parts = [_overview(summary), *(_radar(radar) for radar in summary.radars)]
    if summary.plots:
        shown_flags = {name.replace("_", " "): share for name, share in summary.flags.items() if share}
        if summary.false_plots:
            shown_flags["false (simulated)"] = summary.false_plots
        parts += [
            _shares("Plot types", summary.plot_types),
            _shares("Plots with", summary.with_field),
            _shares("Plots marked", shown_flags or {"(none)": 0.0}),
        ]
    return "\n\n".join(parts) + "\n"


def _overview(summary: "LogSummary") -> str:
    aircraft = f"{summary.aircraft:,} addresses"
    if summary.codes_without_address:
        aircraft += f", {summary.codes_without_address:,} Mode 3/A codes without address"
    rows = [
        ("Log", f"{summary.path} ({summary.file_bytes / 1e6:,.1f} MB)"),
        ("Written by", f"ssrtrack {summary.software_version}, {summary.created}: {summary.command}"),
        ("Sources", ", ".join(summary.sources)),
        ("Time", f"{summary.start_utc} to {summary.end_utc}" if summary.start_utc else ""),
        ("Duration", _duration(summary.end_s - summary.start_s)),
        ("Plots", f"{summary.plots:,}{_if_known(summary.plots_per_s, ' ({:,.1f} per s)')}"),
        ("Aircraft", aircraft),
        ("Altitude", _levels(summary.lowest_altitude_m, summary.highest_altitude_m)),
        ("Truth", f"{summary.truth_states:,} states of {summary.truth_aircraft:,} aircraft"),
    ]
    rows += [(f"Tracks {t.name}", f"{t.states:,} states of {t.tracks:,} tracks") for t in summary.tracks]
    return _aligned([(name, value) for name, value in rows if value])


def _radar(radar: "RadarSummary") -> str:
    site = "unknown"
    if math.isfinite(radar.latitude_deg) and math.isfinite(radar.longitude_deg):
        site = f"{radar.latitude_deg:.6f}°, {radar.longitude_deg:.6f}°{_if_known(radar.height_m, ', {:.1f} m')}"
    gaps = f"{radar.gap_count:,} longer than 3 rotations, {radar.gap_total_s:,.1f} s in all"
    if not math.isfinite(radar.rotation_period_s):
        gaps = "not looked for: rotation unknown"
    rotation = _if_known(radar.rotation_period_s, "{:.4f} s") or "unknown"
    stated = _if_known(radar.stated_rotation_period_s, " (stated {:.3f} s)")
    code = f"SAC {radar.sac} SIC {radar.sic}"  # also the name of a radar that nobody named
    rows = [
        ("Radar" if radar.name == code else f"Radar {radar.name}", code),
        ("  site", site),
        ("  plots", f"{radar.plots:,}{_if_known(radar.plots_per_scan, ' ({:,.1f} per scan)')}"),
        ("  rotation", rotation + stated),
        ("  farthest plot", _if_known(radar.largest_range_m / NM_M, "{:.1f} NM")),
        ("  gaps", gaps),
    ]
    rows += [("", f"{gap.start_utc} for {gap.length_s:,.1f} s") for gap in radar.gaps[:GAPS_SHOWN]]
    if radar.gap_count > GAPS_SHOWN:
        rows.append(("", f"and {radar.gap_count - GAPS_SHOWN:,} more"))
    return _aligned([(name, value) for name, value in rows if value])


def _shares(title: str, shares: dict[str, float]) -> str:
    return "\n".join([title, *(f"  {name:<24}{share:8.2%}" for name, share in shares.items())])


def _aligned(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


def _if_known(value: float, text: str) -> str:
    return text.format(value) if math.isfinite(value) else ""


def _levels(low_m: float, high_m: float) -> str:
    return f"FL {low_m / FL_M:.0f} to FL {high_m / FL_M:.0f}" if math.isfinite(low_m) else ""


def _duration(length_s: float) -> str:
    if not math.isfinite(length_s):
        return ""
    minutes, seconds = divmod(length_s, 60.0)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes:02d} min {seconds:04.1f} s"
