"""Running counts over a log's plots, for its summary: shares, rotation periods and gaps in bounded memory."""

import math

import numpy as np

from ssrtrack.data import FALSE_PLOT, PLOT_TYPES, Array, PlotFlag, Plots

GAP_ROTATIONS = 3.0  # a radar silent for longer than this many rotations has a gap
GAPS_LISTED = 20

BDS_COLUMNS = {
    "BDS 4,0": ("mcp_altitude_m", "fms_altitude_m", "baro_setting_pa"),
    "BDS 5,0": ("roll_rad", "track_angle_rad", "ground_speed_mps", "track_angle_rate_radps", "true_airspeed_mps"),
    "BDS 6,0": (
        "magnetic_heading_rad",
        "indicated_airspeed_mps",
        "mach",
        "baro_altitude_rate_mps",
        "inertial_vertical_velocity_mps",
    ),
}

# Two detections of one aircraft, this far apart in time, are counted by 20 ms bins to find the rotation period.
SHORTEST_ROTATION_S, LONGEST_ROTATION_S, ROTATION_BIN_S = 0.5, 60.0, 0.02
ROTATION_BINS = round(LONGEST_ROTATION_S / ROTATION_BIN_S) + 1
FEWEST_REVISITS = 5

# Identity of a plot as one integer: radar, then the 24-bit address, or above all addresses the Mode 3/A code.
CODE_OFFSET, RADAR_STEP = 1 << 24, 1 << 25


class Tally:
    """Counts over all plots."""

    def __init__(self, radars: int) -> None:
        self.plots = np.zeros(radars, np.int64)
        self.first_s, self.last_s = np.full(radars, np.nan), np.full(radars, np.nan)
        self.largest_range_m = np.full(radars, np.nan)
        self.types = np.zeros(len(PLOT_TYPES), np.int64)
        self.fields = dict.fromkeys(("Mode 3/A", "altitude", "address", "callsign", "BDS", *BDS_COLUMNS), 0)
        self.flags = dict.fromkeys(PlotFlag, 0)
        self.false_plots = 0
        self.lowest_m, self.highest_m = math.nan, math.nan
        self.revisits = np.zeros((radars, ROTATION_BINS))
        self.revisit_sums_s = np.zeros((radars, ROTATION_BINS))
        # Last detection of every identity: key, time and azimuth.
        self.keys, self.times_s, self.azimuths_rad = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)

    def add(self, plots: Plots) -> None:
        self._count_radars(plots)
        self._count_fields(plots)
        self._count_revisits(plots)

    def _count_radars(self, plots: Plots) -> None:
        for i in np.unique(plots.radar_id):
            mine = plots.radar_id == i
            time_s = plots.time_s[mine]
            self.plots[i] += len(time_s)
            self.first_s[i], self.last_s[i] = np.fmin(self.first_s[i], time_s[0]), time_s[-1]
            self.largest_range_m[i] = np.fmax(self.largest_range_m[i], plots.range_m[mine].max())

    def _count_fields(self, plots: Plots) -> None:
        self.types += np.bincount(plots.plot_type, minlength=len(PLOT_TYPES))
        bds = {name: _any_known([getattr(plots, c) for c in columns]) for name, columns in BDS_COLUMNS.items()}
        known = {
            "Mode 3/A": plots.mode3a >= 0,
            "altitude": ~np.isnan(plots.pressure_altitude_m),
            "address": plots.address >= 0,
            "callsign": plots.callsign != b"",
            "BDS": np.logical_or.reduce(list(bds.values())),
        }
        for name, mask in (known | bds).items():
            self.fields[name] += int(np.count_nonzero(mask))
        if plots.flags.any():
            for flag in PlotFlag:
                self.flags[flag] += int(np.count_nonzero(plots.flags & flag.value))
        self.false_plots += int(np.count_nonzero(plots.truth_id == FALSE_PLOT))
        if known["altitude"].any():
            self.lowest_m = float(np.fmin(self.lowest_m, np.nanmin(plots.pressure_altitude_m)))
            self.highest_m = float(np.fmax(self.highest_m, np.nanmax(plots.pressure_altitude_m)))

    def _count_revisits(self, plots: Plots) -> None:
        """Time from one detection of an aircraft to the next, per turn of the antenna."""
        code = np.where(plots.mode3a >= 0, plots.mode3a.astype(np.int64) + CODE_OFFSET, -1)
        identity = np.where(plots.address >= 0, plots.address, code)
        named = identity >= 0
        key = plots.radar_id[named] * np.int64(RADAR_STEP) + identity[named]
        key = np.concatenate([self.keys, key])
        order = np.argsort(key, kind="stable")  # earlier detections come first and stay first
        key = key[order]
        time_s = np.concatenate([self.times_s, plots.time_s[named]])[order]
        azimuth_rad = np.concatenate([self.azimuths_rad, plots.azimuth_rad[named]])[order]
        same = key[1:] == key[:-1]
        last = np.append(~same, True)[: len(key)]
        self.keys, self.times_s, self.azimuths_rad = key[last], time_s[last], azimuth_rad[last]
        # An aircraft that moved by Δ in azimuth is met again after 2π + Δ of rotation.
        moved = np.remainder(np.diff(azimuth_rad)[same] + np.pi, 2.0 * np.pi) - np.pi
        turn_s = np.diff(time_s)[same] / (1.0 + moved / (2.0 * np.pi))
        self._add_turns((key[1:][same] // RADAR_STEP), turn_s)

    def _add_turns(self, radar: Array, turn_s: Array) -> None:
        fits = (turn_s >= SHORTEST_ROTATION_S) & (turn_s < LONGEST_ROTATION_S)
        cell = radar[fits], (turn_s[fits] / ROTATION_BIN_S).astype(np.int64)
        # Only these cells are touched: the pages of the thousands of radars that noise can name stay unallocated.
        np.add.at(self.revisits, cell, 1.0)
        np.add.at(self.revisit_sums_s, cell, turn_s[fits])


def _any_known(columns: list[Array]) -> Array:
    """Where any of the columns holds a value; a column that is absent throughout is looked at once."""
    found = np.zeros(columns[0].shape, bool)
    for values in columns:
        if len(values) and (values.strides[0] or not np.isnan(values[0])):
            found |= ~np.isnan(values)
    return found


def rotation_period_s(tally: Tally, radar: int, stated_s: float) -> float:
    """The rotation period: mean of the revisit times around the commonest one; as stated if there are too few."""
    counts = tally.revisits[radar]
    smooth = np.convolve(counts, np.ones(5), "same")
    middle_s = (int(smooth.argmax()) + 0.5) * ROTATION_BIN_S
    centre_s = (np.arange(ROTATION_BINS) + 0.5) * ROTATION_BIN_S
    near = np.abs(centre_s - middle_s) <= max(0.05 * middle_s, 2.0 * ROTATION_BIN_S)
    found = counts[near].sum()
    return float(tally.revisit_sums_s[radar, near].sum() / found) if found >= FEWEST_REVISITS else stated_s


class Gaps:
    """Silences of each radar longer than three rotations; a radar of unknown period is not judged."""

    def __init__(self, periods_s: list[float]) -> None:
        self.periods_s = periods_s
        self.last_s = [math.nan] * len(periods_s)
        self.counts = [0] * len(periods_s)
        self.totals_s = [0.0] * len(periods_s)
        self.listed: list[list[tuple[float, float]]] = [[] for _ in periods_s]

    def add(self, plots: Plots) -> None:
        for i in np.unique(plots.radar_id):
            time_s = plots.time_s[plots.radar_id == i]
            silence_s = np.diff(time_s, prepend=self.last_s[i])
            long = np.flatnonzero(silence_s > GAP_ROTATIONS * self.periods_s[i])
            self.counts[i] += len(long)
            self.totals_s[i] += float(silence_s[long].sum())
            room = GAPS_LISTED - len(self.listed[i])
            self.listed[i] += [(float(time_s[k] - silence_s[k]), float(silence_s[k])) for k in long[:room]]
            self.last_s[i] = float(time_s[-1])
