"""Whether the radar sees an aircraft that its beam meets: coverage, signal, shielding, fading, sectors, outages."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.geodesy import A_M
from ssrtrack.simulators.draws import generator, uniforms
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.look import Look, Meetings
from ssrtrack.simulators.schema_effects import Blanking, Fading, Lobing
from ssrtrack.simulators.schema_radar import Coverage, RadarSpec
from ssrtrack.units import DEG_RAD, NM_M

Mask = NDArray[np.bool_]
EFFECTIVE_EARTH_M = A_M * 4.0 / 3.0  # ITU-R P.310
REPLY_WAVELENGTH_M = 299_792_458.0 / 1090e6  # ICAO Annex 10 IV
LONGEST_FAILURE_S = 12 * 3600.0
_HOUR_S = 3600.0


def covered(c: Coverage, site_height_m: float, slant_m: Floats, elevation_rad: Floats, height_m: Floats) -> Mask:
    """Which targets are within the range limits, in the antenna's elevations and above the radio horizon."""
    inside = (slant_m >= c.min_range_nm * NM_M) & (slant_m <= c.max_range_nm * NM_M)
    if c.max_elevation_deg < 90.0:
        inside &= elevation_rad <= c.max_elevation_deg * DEG_RAD
    if c.min_elevation_deg > -90.0:
        inside &= elevation_rad >= c.min_elevation_deg * DEG_RAD
    if c.horizon:
        inside &= slant_m <= horizon_m(site_height_m, height_m)
    return np.asarray(inside)


def horizon_m(site_height_m: float, height_m: Floats) -> Floats:
    """Greatest distance in sight over a smooth earth of 4/3 radius: √(2R' h₁) + √(2R' h₂)."""
    heights = [np.maximum(site_height_m, 0.0), np.maximum(height_m, 0.0)]
    return np.asarray(sum(np.sqrt(2.0 * EFFECTIVE_EARTH_M * h) for h in heights))


def detected(look: Look, met: Meetings) -> Ints:
    """The meetings that become plots (indices, ascending)."""
    probability = signal_probability(look.spec, met.range_m, met.elevation_rad)
    if look.spec.shielding.loss:
        probability = probability * np.where(shielded(look, met), 1.0 - look.spec.shielding.loss, 1.0)
    seen = look.uniforms("detection", met)[0] < probability
    if look.spec.fading.share:
        seen &= ~faded(look, met)
    if look.spec.blanking:
        seen &= ~blanked(look.spec.blanking, met.azimuth_rad, met.elevation_rad)
    return np.flatnonzero(seen)


def signal_probability(spec: RadarSpec, slant_m: Floats, elevation_rad: Floats) -> Any:
    """Probability of detection from the one-way signal: base · Φ(margin / fluctuation), (n,) or one for all.

    The margin over the receiver's threshold in dB is that of free space, zero at `half_range_nm`, plus that of the
    lobes; it fluctuates normally. Without a half range the margin is infinite.
    """
    d = spec.detection
    if np.isinf(d.half_range_nm):
        return d.probability
    from scipy.special import ndtr

    margin_db = 20.0 * np.log10(d.half_range_nm * NM_M / np.maximum(slant_m, 1.0))
    return d.probability * ndtr((margin_db + lobe_db(spec.lobing, elevation_rad)) / d.fluctuation_db)


def lobe_db(lobing: Lobing, elevation_rad: Floats) -> Any:
    """Gain over free space by a ray that flat ground reflects: 20 log |1 − ρ exp(j 4π h sin(el) / λ)| (Skolnik)."""
    if lobing.reflection == 0.0:
        return 0.0
    delay_rad = 4.0 * np.pi * lobing.antenna_height_m / REPLY_WAVELENGTH_M * np.sin(elevation_rad)
    power = 1.0 + lobing.reflection**2 - 2.0 * lobing.reflection * np.cos(delay_rad)
    return 10.0 * np.log10(power)


def shielded(look: Look, met: Meetings) -> Mask:
    """Where the radar stands above the plane of the wings by the angle given, so that the lower antenna is hidden.

    The plane is rolled about the track by the bank angle; pitch is left out.
    """
    s = look.spec.shielding
    state = look.paths.state(met.piece, met.time_s)
    bank, track = state["bank_rad"], state["track_rad"]
    # At the radar's axes: over 200 NM the vertical there leans by up to 3 degrees from that at the aircraft.
    east, north, up = -met.enu_m / met.range_m
    right = east * np.cos(track) - north * np.sin(track)
    above = up * np.cos(bank) + right * np.sin(bank)
    hidden = above > np.sin(s.angle_deg * DEG_RAD)
    if s.diversity_share:
        two = look.fleet.mode_s & (look.per_flight("antenna diversity")[0] < s.diversity_share)
        hidden &= ~two[met.flight]
    return np.asarray(hidden)


def faded(look: Look, met: Meetings) -> Mask:
    """State of each flight's fading chain in the rotations of its meetings.

    One uniform number per rotation drives the chain: below the smaller of the two probabilities of being faded next it
    fades, above the larger it does not, and in between it stays as it was. So the state now follows from the last
    number that was not in between, however the rotations are cut into blocks (Propp and Wilson 1996).
    """
    enter, stay = fading_probabilities(look.spec.fading)
    state = np.zeros(len(met), bool)
    flight, number = met.flight, met.turn // 2
    open_ = np.arange(len(met))
    while len(open_):
        who = look.fleet.who[flight[open_]]
        u = uniforms(look.seed, "fading", look.radar_id, who, number[open_])[0]
        state[open_] = u < enter
        open_ = open_[(u >= enter) & (u < stay)]
        number[open_] -= 1
    return state


def fading_probabilities(fading: Fading) -> tuple[float, float]:
    """Probability of being faded next scan, if not faded and if faded."""
    leave = 1.0 / fading.mean_scans
    return fading.share * leave / (1.0 - fading.share), 1.0 - leave


def blanked(sectors: tuple[Blanking, ...], azimuth_rad: Floats, elevation_rad: Floats) -> Mask:
    """Which directions are in a blanked sector and below its elevation; a sector may reach over north."""
    azimuth_deg, elevation_deg = azimuth_rad / DEG_RAD, elevation_rad / DEG_RAD
    hidden = np.zeros(azimuth_deg.shape, bool)
    for s in sectors:
        width = (s.to_deg - s.from_deg) % 360.0
        hidden |= ((azimuth_deg - s.from_deg) % 360.0 < width) & (elevation_deg < s.elevation_deg)
    return hidden


def working(spec: RadarSpec, seed: int, radar_id: int, time_s: Floats) -> Mask:
    """At which times of detection the radar is not out of service."""
    spans = [(o.from_s, o.to_s) for o in spec.outage]
    if spec.failures.per_hour and len(time_s):
        first = int((float(time_s.min()) - LONGEST_FAILURE_S) // _HOUR_S)
        for hour in range(max(first, -12), int(float(time_s.max()) // _HOUR_S) + 1):
            spans += _failures(seed, radar_id, spec.failures.per_hour, spec.failures.mean_duration_s, hour)
    works = np.ones(time_s.shape, bool)
    for begin_s, end_s in spans:
        works &= (time_s < begin_s) | (time_s >= end_s)
    return works


@lru_cache(maxsize=256)
def _failures(seed: int, radar_id: int, per_hour: float, mean_s: float, hour: int) -> list[tuple[float, float]]:
    """Begin and end of the failures that begin in an hour of the scenario, from −12 on, as they may last that long."""
    rng = generator(seed, "failures", radar_id, hour)
    begin = _HOUR_S * (hour + rng.random(rng.poisson(per_hour)))
    length = np.minimum(rng.exponential(mean_s, len(begin)), LONGEST_FAILURE_S)
    return list(zip(begin.tolist(), (begin + length).tolist(), strict=True))
