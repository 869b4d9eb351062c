"""What a secondary radar reports of the targets its beam meets: one small function for each effect."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssrtrack.data import FALSE_PLOT, Plots
from ssrtrack.geodesy import A_M, enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.schema_radar import Coverage, Quantisation, RadarSpec
from ssrtrack.simulators.timing import TWO_PI, Crossings, beam_time
from ssrtrack.simulators.traffic import Fleet
from ssrtrack.simulators.trajectory import Paths
from ssrtrack.units import AZIMUTH_LSB_RAD, DAY_S, DEG_RAD, FPM_MPS, FT_M, KT_MPS, NM_M, RANGE_LSB_M

TIME_LSB_S = 1.0 / 128.0  # I048/140
MODE_S_LSB_M, MODE_C_LSB_M = 25.0 * FT_M, 100.0 * FT_M  # Annex 10 IV
EFFECTIVE_EARTH_M = A_M * 4.0 / 3.0  # ITU-R P.310
SSR, ROLL_CALL = 2, 5  # I048/020 TYP
# Resolution of the fields of BDS 5,0 and 6,0 (ICAO Doc 9871, tables A-2-80 and A-2-96).
BDS_LSB = {
    "roll_rad": 45.0 / 256.0 * DEG_RAD,
    "track_angle_rad": 90.0 / 512.0 * DEG_RAD,
    "ground_speed_mps": 2.0 * KT_MPS,
    "track_angle_rate_radps": 8.0 / 256.0 * DEG_RAD,
    "true_airspeed_mps": 2.0 * KT_MPS,
    "magnetic_heading_rad": 90.0 / 512.0 * DEG_RAD,
    "indicated_airspeed_mps": 1.0 * KT_MPS,
    "mach": 2.048 / 512.0,
    "baro_altitude_rate_mps": 32.0 * FPM_MPS,
    "inertial_vertical_velocity_mps": 32.0 * FPM_MPS,
}


@dataclass(frozen=True)
class Draws:
    """Random numbers of n meetings: all are drawn even if an effect is off, so that none moves another."""

    normal: Floats  # (n, 2): range, azimuth
    uniform: Floats  # (n, 2): detection, outlier


def draws(rngs: list[np.random.Generator], counts: Ints) -> Draws:
    """Draws for the meetings of F flights, `counts` (F,) each, from each flight's own stream."""
    pairs = [(rng.standard_normal((n, 2)), rng.random((n, 2))) for rng, n in zip(rngs, counts.tolist(), strict=True)]
    if not pairs:
        return Draws(np.empty((0, 2)), np.empty((0, 2)))
    return Draws(np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))


def to_enu(ecef: Floats, site: tuple[float, float, float]) -> Floats:
    """Position polynomials (6, 3, I) in a site's east-north-up axes from those in ECEF."""
    shifted = ecef.copy()
    shifted[0] -= geodetic_to_ecef(*site)[:, None]
    return np.asarray(np.einsum("ij,kjn->kin", enu_rotation(site[0], site[1]), shifted))


def polar(enu_m: Floats) -> tuple[Floats, Floats, Floats]:
    """Slant range, azimuth in [0, 2π) and elevation (n,) of positions (3, n)."""
    east, north, up = enu_m
    ground2 = east**2 + north**2
    return np.sqrt(ground2 + up**2), np.arctan2(east, north) % TWO_PI, np.arctan2(up, np.sqrt(ground2))


def covered(c: Coverage, site_height_m: float, slant_m: Floats, elevation_rad: Floats, height_m: Floats) -> Any:
    """Which targets are within the range limits, below the cone of silence and above the radio horizon."""
    inside = (slant_m >= c.min_range_nm * NM_M) & (slant_m <= c.max_range_nm * NM_M)
    inside &= elevation_rad <= c.max_elevation_deg * DEG_RAD
    if c.horizon:
        inside &= slant_m <= horizon_m(site_height_m, height_m)
    return inside


def horizon_m(site_height_m: float, height_m: Floats) -> Floats:
    """Greatest distance in sight over a smooth earth of 4/3 radius: √(2R' h₁) + √(2R' h₂)."""
    heights = [np.maximum(site_height_m, 0.0), np.maximum(height_m, 0.0)]
    return np.asarray(sum(np.sqrt(2.0 * EFFECTIVE_EARTH_M * h) for h in heights))


def noisy(spec: RadarSpec, slant_m: Floats, azimuth_rad: Floats, d: Draws) -> tuple[Floats, Floats]:
    """Range and azimuth with their error: Gaussian, larger by a factor for a share of outliers."""
    scale = np.where(d.uniform[:, 1] < spec.outliers.fraction, spec.outliers.scale, 1.0)
    slant_m = slant_m + spec.noise.sigma_range_m * scale * d.normal[:, 0]
    azimuth_rad = azimuth_rad + spec.noise.sigma_azimuth_deg * DEG_RAD * scale * d.normal[:, 1]
    return np.maximum(slant_m, 0.0), azimuth_rad % TWO_PI


def rounded(value: Any, lsb: Any) -> Any:
    """The nearest multiple of a resolution."""
    return np.round(value / lsb) * lsb + 0.0  # no minus zero


def rounded_angle(angle_rad: Any, lsb: float) -> Any:
    """The nearest multiple of a resolution that divides the circle, in [0, 2π)."""
    return np.round(angle_rad / lsb) % round(TWO_PI / lsb) * lsb


def quantised(q: Quantisation, midnight_s: float, columns: dict[str, Any]) -> dict[str, Any]:
    """Plot columns at the resolution of ASTERIX; `midnight_s` is the epoch's time of day."""
    out = dict(columns)
    if q.range:
        out["range_m"] = rounded(columns["range_m"], RANGE_LSB_M)
    if q.azimuth:
        out["azimuth_rad"] = rounded_angle(columns["azimuth_rad"], AZIMUTH_LSB_RAD)
    if q.time:
        # Time of day is what is rounded; a whole-second epoch keeps time_s a multiple as well.
        out["time_s"] = rounded(columns["time_s"] + midnight_s % DAY_S, TIME_LSB_S) - midnight_s % DAY_S
    if q.altitude:
        lsb = np.where(columns["plot_type"] == ROLL_CALL, MODE_S_LSB_M, MODE_C_LSB_M)
        out["pressure_altitude_m"] = rounded(columns["pressure_altitude_m"], lsb)
    if q.bds:
        for name in BDS_LSB.keys() & columns.keys():
            step = rounded_angle if name in ("track_angle_rad", "magnetic_heading_rad") else rounded
            out[name] = step(columns[name], BDS_LSB[name])
    return out


def bds50(state: dict[str, Floats]) -> dict[str, Floats]:
    """Track and turn report in still air: true airspeed is the speed along the path."""
    return {
        "roll_rad": state["bank_rad"],
        "track_angle_rad": state["track_rad"] % TWO_PI,
        "ground_speed_mps": state["speed_mps"],
        "track_angle_rate_radps": state["track_rate_radps"],
        "true_airspeed_mps": np.hypot(state["speed_mps"], state["climb_mps"]),
    }


def bds60(state: dict[str, Floats], variation_rad: float) -> dict[str, Floats]:
    """Heading and speed report in still air of the standard atmosphere (ICAO Doc 7488)."""
    temperature, pressure_ratio = standard_atmosphere(state["height_m"])
    mach = np.hypot(state["speed_mps"], state["climb_mps"]) / np.sqrt(1.4 * 287.05287 * temperature)
    impact = pressure_ratio * ((1.0 + 0.2 * mach**2) ** 3.5 - 1.0)
    return {
        "magnetic_heading_rad": (state["track_rad"] - variation_rad) % TWO_PI,
        "indicated_airspeed_mps": np.sqrt(1.4 * 287.05287 * 288.15 * 5.0 * ((impact + 1.0) ** (2.0 / 7.0) - 1.0)),
        "mach": mach,
        "baro_altitude_rate_mps": state["climb_mps"],
        "inertial_vertical_velocity_mps": state["climb_mps"],
    }


def standard_atmosphere(height_m: Floats) -> tuple[Floats, Floats]:
    """Temperature in K and pressure over that at sea level, up to 20 km (ICAO Doc 7488)."""
    low = np.minimum(height_m, 11000.0)
    temperature = 288.15 - 0.0065 * low
    above = np.maximum(height_m - 11000.0, 0.0)
    return temperature, (temperature / 288.15) ** 5.255880 * np.exp(-above / 6341.62)


def observe(
    spec: RadarSpec, radar_id: int, paths: Paths, fleet: Fleet, met: Crossings, d: Draws, variation_rad: float
) -> dict[str, Any]:
    """Exact columns of the plots that a radar makes of the targets its beam meets, before quantisation."""
    slant, azimuth, elevation = polar(met.enu_m)
    height = paths.state(met.piece, met.time_s)["height_m"]
    airborne = (met.time_s >= paths.start_s[met.flight]) & (met.time_s < paths.end_s[met.flight])
    seen = airborne & covered(spec.coverage, spec.height_m, slant, elevation, height)
    rows = np.flatnonzero(seen & (d.uniform[:, 0] < spec.detection.probability))
    slant, azimuth = noisy(spec, slant[rows], azimuth[rows], Draws(d.normal[rows], d.uniform[rows]))
    flight, time_s = met.flight[rows], met.time_s[rows]
    state = paths.state(met.piece[rows], time_s)
    mode_s = fleet.mode_s[flight]
    columns = _plot_columns(spec, radar_id, time_s, slant, azimuth) | {
        "mode3a": fleet.mode3a[flight],
        "pressure_altitude_m": height[rows],
        "address": fleet.address[flight],
        "callsign": fleet.callsign[flight],
        "plot_type": np.where(mode_s, ROLL_CALL, SSR),
        "truth_id": fleet.truth_id[flight],
    }
    reports = (bds50(state) if spec.registers.bds50 else {}) | (
        bds60(state, variation_rad) if spec.registers.bds60 else {}
    )
    return columns | {name: np.where(mode_s, value, np.nan) for name, value in reports.items()}


def false_plots(spec: RadarSpec, radar_id: int, north_s: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """Plots that no aircraft caused, in rotations bounded by `north_s`: Mode A/C, uniform over the covered ring."""
    counts = rng.poisson(spec.false_plots.per_scan, len(north_s) - 1)
    scan = np.repeat(np.arange(len(counts)), counts)
    u = rng.random((len(scan), 4))
    low, high = (spec.coverage.min_range_nm * NM_M) ** 2, (spec.coverage.max_range_nm * NM_M) ** 2
    azimuth = TWO_PI * u[:, 0]
    time_s, slant = beam_time(azimuth, scan, north_s), np.sqrt(low + (high - low) * u[:, 1])
    return _plot_columns(spec, radar_id, time_s, slant, azimuth) | {
        "mode3a": np.floor(4096 * u[:, 2]).astype(int),
        "pressure_altitude_m": 45_000 * FT_M * u[:, 3],
        "address": np.full(len(scan), -1),
        "callsign": np.zeros(len(scan), "S8"),
        "plot_type": np.full(len(scan), SSR),
        "truth_id": np.full(len(scan), FALSE_PLOT),
    }


def _plot_columns(spec: RadarSpec, radar_id: int, time_s: Floats, slant: Floats, azimuth: Floats) -> dict[str, Any]:
    return {
        "time_s": time_s,
        "radar_id": np.full(len(time_s), radar_id),
        "range_m": slant,
        "azimuth_rad": azimuth,
        "sigma_range_m": np.full(len(time_s), spec.noise.sigma_range_m),
        "sigma_azimuth_rad": np.full(len(time_s), spec.noise.sigma_azimuth_deg * DEG_RAD),
    }


def plots_table(q: Quantisation, midnight_s: float, parts: list[dict[str, Any]]) -> Plots:
    """One time-ordered, quantised table of the columns in `parts`."""
    names = set().union(*parts)
    columns = {}
    for name in names:
        spec = Plots.specs()[name]
        pieces = [p[name] if name in p else np.full(len(p["time_s"]), spec.fill) for p in parts]
        columns[name] = np.concatenate(pieces)
    order = np.argsort(columns["time_s"], kind="stable")
    columns = quantised(q, midnight_s, {name: value[order] for name, value in columns.items()})
    # Cast here, knowingly: some columns are float32, and a table refuses what it would have to change.
    return Plots(**{n: np.asarray(v, Plots.specs()[n].dtype) for n, v in columns.items()})
