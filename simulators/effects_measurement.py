"""What error a plot's range and azimuth carry: noise, tails, outliers, jumps, bias, the transponder's delay."""

import numpy as np

from ssrtrack.simulators.draws import students
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.look import Look, Meetings
from ssrtrack.simulators.schema_effects import Bias, Tails
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.timing import to_enu, turned
from ssrtrack.simulators.trajectory import Paths, horner
from ssrtrack.units import DEG_RAD, NM_M

_SHARES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_GAUSS = list(zip((0.5 + 0.5 * _SHARES).tolist(), (0.5 * _WEIGHTS).tolist(), strict=True))
Pair = tuple[Floats, Floats]


def measured(look: Look, met: Meetings) -> dict[str, Floats]:
    """Range, azimuth and the sigmas that plots state (n,): the nominal random ones, as a radar knows no others."""
    spec, n = look.spec, len(met)
    sigma_range = np.full(n, spec.noise.sigma_range_m)
    sigma_azimuth = np.full(n, spec.noise.sigma_azimuth_deg * DEG_RAD)
    slant, azimuth = met.range_m, met.azimuth_rad
    if look.coordinate_rms_m is not None:
        slant, azimuth, sigma_range, sigma_azimuth = cartesian(look, met, look.coordinate_rms_m)
    for effect in (biased, replied_late, noisy, jumped):
        slant, azimuth = effect(look, met, slant, azimuth)
    return {
        "range_m": np.maximum(slant, 0.0), "azimuth_rad": turned(azimuth),
        "sigma_range_m": sigma_range, "sigma_azimuth_rad": sigma_azimuth,
    }  # fmt: skip


def noisy(look: Look, met: Meetings, slant_m: Floats, azimuth_rad: Floats) -> Pair:
    """White noise, normal or Student's t, larger by a factor for a share of outliers."""
    spec = look.spec
    if spec.noise.sigma_range_m == 0.0 and spec.noise.sigma_azimuth_deg == 0.0:
        return slant_m, azimuth_rad
    in_range, in_azimuth = look.normals("noise", met)
    if np.isfinite(spec.tails.range_dof):
        in_range = heavy(spec.tails, spec.tails.range_dof, look, met, 0)
    if np.isfinite(spec.tails.azimuth_dof):
        in_azimuth = heavy(spec.tails, spec.tails.azimuth_dof, look, met, 1)
    in_range = in_range * spec.noise.sigma_range_m
    in_azimuth = in_azimuth * (spec.noise.sigma_azimuth_deg * DEG_RAD)
    if spec.outliers.fraction:
        scale = np.where(look.uniforms("outliers", met)[0] < spec.outliers.fraction, spec.outliers.scale, 1.0)
        in_range, in_azimuth = in_range * scale, in_azimuth * scale
    return slant_m + in_range, azimuth_rad + in_azimuth


def heavy(tails: Tails, dof: float, look: Look, met: Meetings, lane: int) -> Floats:
    """Student's t (n,) with scale one, or with standard deviation one: √(ν / (ν − 2)) narrower."""
    t = students(dof, look.seed, "tails", look.radar_id, look.fleet.who[met.flight], met.turn, lane)
    return t * np.sqrt((dof - 2.0) / dof) if tails.unit_variance else t


def jumped(look: Look, met: Meetings, slant_m: Floats, azimuth_rad: Floats) -> Pair:
    """A share of plots is far off, in range or in azimuth, to either side."""
    jumps = look.spec.jumps
    if jumps.fraction == 0.0:
        return slant_m, azimuth_rad
    jumps_now, kind = look.uniforms("jumps", met)
    in_range = kind < jumps.range_share
    begin = np.where(in_range, 0.0, jumps.range_share)
    width = np.where(in_range, jumps.range_share, 1.0 - jumps.range_share)
    # What the axis leaves of the number tells the side, and what that leaves is the size.
    rest = 2.0 * ((kind - begin) / width)
    other_side = rest >= 1.0
    size = rest - other_side
    hit = np.where(jumps_now < jumps.fraction, np.where(other_side, -1.0, 1.0), 0.0)
    metres = jumps.range_m[0] + size * (jumps.range_m[1] - jumps.range_m[0])
    degrees = jumps.azimuth_deg[0] + size * (jumps.azimuth_deg[1] - jumps.azimuth_deg[0])
    return slant_m + hit * metres * in_range, azimuth_rad + hit * degrees * DEG_RAD * ~in_range


def biased(look: Look, met: Meetings, slant_m: Floats, azimuth_rad: Floats) -> Pair:
    """Range bias and gain, azimuth bias and the encoder's harmonics a sin(k az + φ)."""
    b = look.spec.bias
    if b == Bias():
        return slant_m, azimuth_rad
    az = met.azimuth_rad
    first = b.eccentricity_deg * np.sin(az + b.eccentricity_phase_deg * DEG_RAD)
    second = b.second_harmonic_deg * np.sin(2.0 * az + b.second_harmonic_phase_deg * DEG_RAD)
    in_range = b.range_m + b.gain_m_per_nm / NM_M * met.range_m
    return slant_m + in_range, azimuth_rad + (b.azimuth_deg + first + second) * DEG_RAD


def replied_late(look: Look, met: Meetings, slant_m: Floats, azimuth_rad: Floats) -> Pair:
    """The transponder's own delay: the same in all of a flight's replies of one mode, and jitter in each."""
    t = look.spec.transponder
    mode_s = look.mode_s
    if t.sigma_m:
        slant_m = slant_m + delays(look)[met.flight]
    if t.mode_s_jitter_m or t.mode_ac_jitter_m:
        sigma = np.where(mode_s, t.mode_s_jitter_m, t.mode_ac_jitter_m)
        slant_m = slant_m + sigma[met.flight] * look.normals("reply jitter", met)[0]
    return slant_m, azimuth_rad


def delays(look: Look) -> Floats:
    """Each flight's constant range offset (F,): normal, truncated at the tolerance of its transponder."""
    from scipy.special import ndtr, ndtri

    t = look.spec.transponder
    cut = ndtr(-np.where(look.mode_s, t.mode_s_limit_m, t.mode_ac_limit_m) / t.sigma_m)
    return np.asarray(t.sigma_m * ndtri(cut + (1.0 - 2.0 * cut) * look.per_flight("transponder delay")[0]))


def cartesian(look: Look, met: Meetings, rms_m: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Range and azimuth with white noise on x and y at a signal-to-noise ratio, and the sigmas that state it.

    The signal's power is the mean square of the coordinate over the flight, so the noise of a flight is as large as its
    way is far from the radar. The slant plane (r sin az, r cos az) is used, as with recordings that have no height.
    """
    sigma_x, sigma_y = (rms_m * 10.0 ** (-look.spec.cartesian.snr_db / 20.0))[:, met.flight]
    noise = look.normals("cartesian", met)
    x = met.range_m * np.sin(met.azimuth_rad) + sigma_x * noise[0]
    y = met.range_m * np.cos(met.azimuth_rad) + sigma_y * noise[1]
    mean = np.sqrt(0.5 * (sigma_x**2 + sigma_y**2))
    return np.hypot(x, y), np.arctan2(x, y), mean, mean / np.maximum(met.range_m, mean)


def coordinate_rms(spec: RadarSpec, paths: Paths) -> Floats:
    """Root mean square over time of x and y in the radar's slant plane, over each flight's whole way (2, F)."""
    site = (spec.latitude_deg * DEG_RAD, spec.longitude_deg * DEG_RAD, spec.height_m)
    enu, owner = to_enu(paths.ecef, site), paths.pieces_of()
    total = np.zeros((2, len(paths.start_s)))
    for share, weight in _GAUSS:
        place = horner(enu, share * paths.length_s)
        square = place**2
        # (r sin az)² = e² r² / (e² + n²): the ground coordinate stretched to slant range.
        stretch = square.sum(0) / np.maximum(square[0] + square[1], 1.0)
        for axis in range(2):
            total[axis] += np.bincount(owner, weight * paths.length_s * square[axis] * stretch, total.shape[1])
    return np.asarray(np.sqrt(total / np.bincount(owner, paths.length_s, total.shape[1])))
