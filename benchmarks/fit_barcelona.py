"""The numbers of the radar profile `barcelona`: what an hour of a real Mode S radar says of its errors.

    SSRTRACK_DATA=... python benchmarks/fit_barcelona.py

Reads recordings/barcelona_cat048_1h.ast below SSRTRACK_DATA, prints the profile's keys, and writes the aggregated
statistics of the hour to simulators/profiles/barcelona_hour.json, with which notebooks/02_simulate.ipynb compares a
simulated hour. Only airborne plots beyond 5 NM count. How each number is found:

- Errors: residuals of cubic fits to nine successive plots of an aircraft, range and azimuth apart, of straight flight
  only (a cubic leaves some of every manoeuvre). Scale and degrees of freedom of Student's t are those whose own errors,
  on straight lines, rounded and fitted in the same way, have the same quantiles of the residual. Whatever is the same
  for nine plots (bias, transponder delay) does not show: it is not fitted.
- Rotation: the mean period is the slope of time over the angle turned. What this leaves of the times is common to a
  rotation: some are late by 18 ms as a whole, the others by a few ms. The medians of rotations tell the share of late
  ones and their delay; the spread of the others is that which, with rounded stamps, gives medians of their variance.
- Gross errors of azimuth: residuals over 0.15 degrees that are greater than those of the plots around. They come at low
  and at high elevation; the profile has them anywhere.
- Misses: gaps in flights of up to ten scans give the share of scans missed and the mean length of a run.
- Replies: shares of the flags and types of plots.
"""

import json
import os
import re
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, median_filter
from scipy.optimize import minimize

from ssrtrack.data import PlotFlag, Plots
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.io.ingest import ingest
from ssrtrack.simulators.likeness import (
    WINDOW,
    Likeness,
    airborne,
    cubic_middle,
    distributions,
    likeness,
    quantiles,
)
from ssrtrack.units import AZIMUTH_LSB_RAD, DEG_RAD, NM_M, RANGE_LSB_M

Floats = NDArray[np.float64]

RECORDING = "recordings/barcelona_cat048_1h.ast"
SITE = {"latitude_deg": 41.300702, "longitude_deg": 2.102058, "height_m": 27.257}
OUT = Path(__file__).parent.parent / "simulators" / "profiles" / "barcelona_hour.json"
MATCHED = np.array([0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995])  # of the absolute residual
LATE_S = 0.01  # a rotation stamped later than this over its neighbours is a late one
AROUND = 41  # rotations with which one is compared
GROSS_DEG = 0.15  # a gross error of azimuth
TAIL = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)  # quantiles of the size of residuals
_TRIES, _TRIED_S = 30_000, 0.006


def read_hour(recording: Path) -> Plots:
    """All plots of the recording."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "hour.h5"
        ingest(
            [recording], log, command="fit_barcelona.py", software_version="-", created="2023-05-02T09:00:00Z",
            on_date=date(2023, 5, 2), site=SITE,
        )  # fmt: skip
        with LogReader(log) as reader:
            return reader.read_plots()


def fitted_tail(residual: Floats, lsb: float, rng: np.random.Generator) -> tuple[float, float]:
    """Scale and degrees of freedom of the errors whose residuals, on rounded straight lines, are like those given."""
    wanted = np.quantile(np.abs(residual), MATCHED)
    time_s = np.broadcast_to(4.0 * (np.arange(WINDOW) - WINDOW // 2), (_TRIES, WINDOW)).astype(float)
    line = lsb * (rng.uniform(0, 1, (_TRIES, 1)) + rng.uniform(-60, 60, (_TRIES, 1)) * time_s / 4.0)
    u, v = rng.random((2, _TRIES, WINDOW))

    def misfit(log_scale_dof: Floats) -> float:
        scale, dof = np.exp(log_scale_dof)
        error = scale * np.sqrt(dof * np.expm1(-2.0 / dof * np.log(u))) * np.cos(2 * np.pi * v)  # Bailey 1994
        rounded = np.round((line + error) / lsb) * lsb
        found = np.quantile(np.abs(cubic_middle(time_s, rounded)[0]), MATCHED)
        return float(np.sum(np.log(found / wanted) ** 2))

    best = minimize(misfit, np.log([wanted[1], 6.0]), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6})
    scale, dof = np.exp(best.x)
    return float(scale), float(dof)


def rotation(plots: Plots, rng: np.random.Generator) -> dict[str, float]:
    """Mean period, and how late the stamps of whole rotations are: spread, share of late rotations, lateness."""
    time_s, part = plots.time_s - plots.time_s[0], plots.azimuth_rad / (2 * np.pi)
    # Turns of the beam, unwrapped with a first guess of the period, then with the period found.
    period, begin = 4.0, -4.0 * float(part[0])
    for _ in range(5):
        number = np.round((time_s - begin) / period - part).astype(int)
        period, begin = np.polyfit(number + part, time_s, 1)
    number -= number.min()

    def late(times: Floats) -> Floats:
        """Median lateness of each rotation's stamps, over that of the rotations around it."""
        over, order = times - period * (number + part), np.argsort(number, kind="stable")
        groups = np.split(over[order], np.flatnonzero(np.diff(number[order])) + 1)
        middle = np.array([np.median(g) for g in groups])
        return np.asarray(middle - median_filter(middle, AROUND))

    def simulated(spread_s: float) -> float:
        """Variance of the lateness with a spread and rounded stamps."""
        delay = spread_s * rng.random(number.max() + 1)
        return float(np.var(late(np.round((period * (number + part) + delay[number]) * 128.0) / 128.0)))

    found = late(time_s)
    usual = found < LATE_S
    without, tried = simulated(0.0), simulated(_TRIED_S)
    spread = _TRIED_S * np.sqrt(max(float(np.var(found[usual])) - without, 0.0) / (tried - without))
    return {
        "rotation_period_s": float(period),
        "north_stamp.spread_s": float(spread),
        "north_stamp.late_share": float(np.mean(~usual)),
        "north_stamp.late_s": float(np.median(found[~usual]) - np.median(found[usual])),
    }


def jumps(residual_deg: Floats) -> dict[str, float]:
    """Share of plots with a gross error of azimuth, and the greatest size, the rarest twentieth left out.

    A gross error shows in all nine fits that hold its plot, most in its own.
    """
    size = np.abs(residual_deg)
    alone = size[(size > GROSS_DEG) & (size == maximum_filter(size, WINDOW))]
    return {"jumps.fraction": len(alone) / len(size), "jumps.azimuth_deg, up to": float(np.quantile(alone, 0.95))}


def shares(plots: Plots) -> dict[str, float]:
    """Shares of types and flags of airborne plots, with or without address."""
    air = plots[(plots.range_m > 5 * NM_M) & (plots.pressure_altitude_m >= 500.0) & (plots.plot_type != 0)]
    mode_ac = np.isin(air.plot_type, (2, 3))
    return {
        "primary": float(np.mean(np.isin(air.plot_type, (3, 6, 7)))),
        "Mode A/C": float(np.mean(mode_ac)),
        "Mode 3/A absent": float(np.mean(air.mode3a < 0)),
        "Mode 3/A not validated": float(np.mean((air.flags & PlotFlag.MODE3A_NOT_VALIDATED) > 0)),
        "Mode 3/A garbled": float(np.mean((air.flags & PlotFlag.MODE3A_GARBLED) > 0)),
        "altitude garbled": float(np.mean((air.flags & PlotFlag.ALTITUDE_GARBLED) > 0)),
        "Mode 3/A garbled, Mode A/C": float(np.mean((air.flags[mode_ac] & PlotFlag.MODE3A_GARBLED) > 0)),
    }


def profile(plots: Plots, found: Likeness) -> dict[str, float]:
    """The numbers that go into the profile, by key."""
    rng = np.random.default_rng(1)
    straight = found.straight
    range_scale, range_dof = fitted_tail(found.range_residual_m[straight], RANGE_LSB_M, rng)
    lsb_deg = AZIMUTH_LSB_RAD / DEG_RAD
    azimuth_scale, azimuth_dof = fitted_tail(found.azimuth_residual_deg[straight], lsb_deg, rng)
    gross, kinds = jumps(found.azimuth_residual_deg), shares(plots)
    return {
        # With tails.unit_variance the sigmas are standard deviations.
        "noise.sigma_range_m": range_scale * np.sqrt(range_dof / (range_dof - 2.0)),
        "noise.sigma_azimuth_deg": azimuth_scale * np.sqrt(azimuth_dof / (azimuth_dof - 2.0)),
        "tails.range_dof": range_dof,
        "tails.azimuth_dof": azimuth_dof,
        **gross,
        "fading.share": found.miss_rate,
        "fading.mean_scans": float(found.runs @ np.arange(1, len(found.runs) + 1) / found.runs.sum()),
        "replies.primary_share": kinds["primary"],
        "replies.mode3a_absent_share": kinds["Mode 3/A absent"],
        "replies.mode3a_not_validated_share": kinds["Mode 3/A not validated"],
    }


def correlation(residuals_of: Plots, period: float) -> dict[str, float]:
    """Rank correlation of successive fourth differences; of white errors it is near -0.8."""
    from scipy.stats import spearmanr

    plots = residuals_of[np.lexsort((residuals_of.time_s, residuals_of.address))]
    step = np.round(np.diff(plots.time_s) / period) == 1
    joined = (np.diff(plots.address) == 0) & step
    rows = np.flatnonzero(np.convolve(joined, np.ones(5), "valid") == 5)[:, None] + np.arange(6)
    out = {}
    for name, value in (("range", plots.range_m[rows]), ("azimuth", np.unwrap(plots.azimuth_rad[rows], axis=1))):
        fourth = np.diff(value, 4, axis=1)
        out[name] = float(spearmanr(fourth[:, 0], fourth[:, 1]).statistic)
    return out


def summary(plots: Plots, found: Likeness, period: float) -> dict[str, object]:
    """Aggregated statistics of the hour: nothing of a single aircraft."""
    return {
        "about": "an hour of a Mode S radar at Barcelona, 2023-05-02 08:00 UTC: airborne plots beyond 5 NM",
        "made by": "benchmarks/fit_barcelona.py",
        "period_s": period,
        "quantiles": {name: [float(f"{q:.9g}") for q in quantiles(v)] for name, v in distributions(found).items()},
        "tails": {
            name: [[p, float(f"{np.quantile(np.abs(v), p):.4g}")] for p in TAIL]
            for name, v in distributions(found).items()
            if "residual" in name
        },
        "samples": {name: len(v) for name, v in distributions(found).items()},
        "miss rate": found.miss_rate,
        "miss runs": found.runs.tolist(),
        "opportunities": found.opportunities,
        "plots per minute": found.per_minute.tolist(),
        "shares": shares(plots),
        "fourth differences": correlation(airborne(plots), period),
    }


def main() -> None:
    data = os.environ.get("SSRTRACK_DATA")
    if not data or not (Path(data) / RECORDING).exists():
        sys.exit(f"set SSRTRACK_DATA to the folder that holds {RECORDING}")
    plots = read_hour(Path(data) / RECORDING)
    turning = rotation(airborne(plots), np.random.default_rng(2))
    period = turning["rotation_period_s"]
    found = likeness(airborne(plots), period)
    for key, value in (turning | profile(plots, found)).items():
        print(f"{key:38} {value:.5g}")
    facts = summary(plots, found, period)
    # One line for each list: the numbers of a distribution are read together.
    text = re.sub(r"\[[^\[\]]*\]", lambda m: " ".join(m[0].split()), json.dumps(facts, indent=1))
    OUT.write_text(text + "\n", "utf-8")
    print(f"{len(plots):,} plots, {found.range_residual_m.size:,} fits, {np.mean(found.straight):.0%} of them straight")
    print(f"fourth differences {facts['fourth differences']}, misses {facts['miss runs']}, {facts['shares']}")
    print(f"statistics in {OUT}")


if __name__ == "__main__":
    main()
