"""What one rotating radar measures of flights on a device: meetings with the beam, detection, errors, resolution.

The formulas are those of the simulator's effects (simulators/effects_*.py), where they are explained; `left_out` names
the effects of a radar that are not here. A spec's numbers may be tensors (N, 1), a radar for each flight
(`ssrtrack.training.device_spread`), all but how large jumps are, the transponders' limits and the effects not here.
"""

from dataclasses import dataclass, fields
from math import inf, isfinite

import torch

from ssrtrack.simulators.effects_detection import EFFECTIVE_EARTH_M, fading_probabilities
from ssrtrack.simulators.schema_effects import Jumps, Tails
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.training.device_motion import Paths, Site, up_m
from ssrtrack.units import AZIMUTH_LSB_RAD, DEG_RAD, FT_M, NM_M, RANGE_LSB_M

Tensor = torch.Tensor
TWO_PI = 2.0 * torch.pi
TIME_LSB_S = 1.0 / 128.0
NEWTON = 8  # an aircraft's azimuth changes little in a rotation, so each step of the fixed point gains a digit or more
CONVERGED_S = 1e-6
JITTER_CLIP = 4.0
NOT_HERE = (
    "wobble", "cartesian", "lobing", "shielding", "blanking", "outage", "failures", "north_stamp", "replies", "garble",
    "false_plots", "fruit", "split", "ring_around", "reflector",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plots:
    """M meetings of N flights with the beam, (N, M) each, and which of them became plots."""

    time_s: Tensor
    range_m: Tensor
    azimuth_rad: Tensor
    altitude_m: Tensor
    truth: Tensor  # (4, N, M) east, north and their rates at the time that the plot states, as in scoring
    detected: Tensor


def left_out(spec: RadarSpec) -> list[str]:
    """The radar's effects that a device-made batch goes without, by the names of their blocks."""
    defaults = {f.name: f.default for f in fields(RadarSpec)}
    found = [name for name in NOT_HERE if getattr(spec, name) != defaults[name]]
    # A window has no time of day, from which a drift could be told.
    return [*found, "clock.drift_ppm"] if spec.clock.drift_ppm else found


def observed(
    spec: RadarSpec, site: Site, paths: Paths, mode_s: Tensor, age_s: Tensor, meetings: int, rng: torch.Generator
) -> Plots:
    """The first `meetings` passes of the beam over each flight from its age `age_s` (N,) on; `mode_s` (N,) bool."""
    draw = _Draws(rng, (age_s.shape[0], meetings))
    mode_s = mode_s & spec.mode_s
    time_s, met = _meetings(spec, paths, age_s, draw)
    place, height = paths.at(time_s)
    up = up_m(place[:2], height, site)
    ground = torch.hypot(place[0], place[1])
    slant, azimuth, elevation = torch.hypot(ground, up), torch.atan2(place[0], place[1]), torch.atan2(up, ground)
    seen = met & _covered(spec, slant, elevation, height) & _detected(spec, slant, draw)
    measured_m, measured_rad = _measured(spec, slant, azimuth, mode_s, draw)
    clock, q = spec.clock, spec.quantisation
    stamp = time_s + clock.latency_s + clock.offset_s
    if _given(clock.latency_jitter_s):
        stamp = stamp + clock.latency_jitter_s * draw.normal().clamp(-JITTER_CLIP, JITTER_CLIP)
    if q.time:
        stamp = torch.round(stamp / TIME_LSB_S) * TIME_LSB_S
    seen &= (stamp >= 0.0) & (stamp < paths.last_s)
    if q.range:
        measured_m = torch.round(measured_m / RANGE_LSB_M) * RANGE_LSB_M
    if q.azimuth:
        measured_rad = torch.round(measured_rad / AZIMUTH_LSB_RAD) * AZIMUTH_LSB_RAD
    if q.altitude:
        lsb = torch.where(mode_s, 25.0 * FT_M, 100.0 * FT_M)[:, None]
        height = torch.round(height / lsb) * lsb
    # A late stamp is an error of position: the aircraft has flown on since it was seen.
    return Plots(stamp, measured_m, measured_rad % TWO_PI, height, paths.at(stamp)[0], seen)


class _Draws:
    """Random numbers of one shape from one generator."""

    def __init__(self, rng: torch.Generator, shape: tuple[int, int]) -> None:
        self.rng, self.shape = rng, shape

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape or self.shape, generator=self.rng, device=self.rng.device, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape or self.shape, generator=self.rng, device=self.rng.device, dtype=torch.float64)


def _meetings(spec: RadarSpec, paths: Paths, age_s: Tensor, draw: _Draws) -> tuple[Tensor, Tensor]:
    """Times (N, M) at which the beam's azimuth is the target's own, and whether each was found inside the path.

    With both angles unwrapped, meeting j is t = north(j + A(t) / 2π): a fixed point, since the target turns about the
    radar slowly. A pass over north is one like any other.
    """
    n, m = draw.shape
    spare = 8  # rotations more, for targets that turn about the radar
    norths = age_s[:, None] + spec.rotation_period_s * (
        draw.uniform(n, 1) + torch.arange(-2, m + spare, device=age_s.device, dtype=torch.float64)
    )
    if _given(spec.rotation_jitter):
        off = draw.normal(*norths.shape).clamp(-JITTER_CLIP, JITTER_CLIP)
        norths = norths + spec.rotation_jitter * spec.rotation_period_s * off
    begin = paths.coarse_azimuth(age_s[:, None])
    turns = torch.arange(m, device=age_s.device) + 1.0 - torch.floor(begin / TWO_PI)

    def beam_time(azimuth: Tensor) -> Tensor:
        u = (turns + azimuth / TWO_PI + 1.0).clamp(0.0, norths.shape[1] - 1.001)
        left = u.floor().long()
        t0, t1 = norths.gather(1, left), norths.gather(1, left + 1)
        return t0 + (u - left) * (t1 - t0)

    time_s = before = beam_time(begin)
    for _ in range(NEWTON):
        azimuth = paths.coarse_azimuth(time_s)
        place = paths.at(time_s)[0]
        exact = torch.atan2(place[0], place[1])
        exact = exact + TWO_PI * torch.round((azimuth - exact) / TWO_PI)
        before, time_s = time_s, beam_time(exact)
    last_s = paths.last_s
    return time_s, ((time_s - before).abs() < CONVERGED_S) & (time_s < last_s) & (time_s >= age_s[:, None])


def _covered(spec: RadarSpec, slant: Tensor, elevation: Tensor, height: Tensor) -> Tensor:
    c = spec.coverage
    inside = (slant >= c.min_range_nm * NM_M) & (slant <= c.max_range_nm * NM_M)
    inside &= (elevation <= c.max_elevation_deg * DEG_RAD) & (elevation >= c.min_elevation_deg * DEG_RAD)
    if c.horizon:
        own = (2.0 * EFFECTIVE_EARTH_M * max(spec.height_m, 0.0)) ** 0.5
        inside &= slant <= own + torch.sqrt(2.0 * EFFECTIVE_EARTH_M * height.clamp(min=0.0))
    return inside


def _detected(spec: RadarSpec, slant: Tensor, draw: _Draws) -> Tensor:
    d = spec.detection
    probability = torch.zeros_like(slant) + d.probability
    if not isinstance(d.half_range_nm, float) or isfinite(d.half_range_nm):
        margin_db = 20.0 * torch.log10(d.half_range_nm * NM_M / slant.clamp(min=1.0))
        probability = probability * torch.special.ndtr(margin_db / d.fluctuation_db)
    seen = draw.uniform() < probability
    return seen & ~_faded(spec, draw) if _given(spec.fading.share) else seen


def _given(value: object) -> bool:
    """Whether an effect is there at all; one for each flight always is."""
    return isinstance(value, torch.Tensor) or bool(value)


def _faded(spec: RadarSpec, draw: _Draws) -> Tensor:
    """Runs of misses: the state of a two-state chain in every rotation, without a loop over them.

    A number below `enter` fades, one above `stay` does not, and one between leaves all as it was, so the state is that
    of the last number that was not between (as in the simulator).
    """
    enter, stay = fading_probabilities(spec.fading)
    u = draw.uniform()
    column = torch.arange(u.shape[1], device=u.device).expand_as(u)
    told = torch.where((u < enter) | (u >= stay), column, -1).cummax(1).values
    first = draw.uniform(u.shape[0], 1) < spec.fading.share
    return torch.where(told >= 0, (u < enter).gather(1, told.clamp(min=0)), first)


def site_of(spec: RadarSpec, device: torch.device | str) -> Site:
    """Where the radar stands."""
    place = spec.latitude_deg * DEG_RAD, spec.longitude_deg * DEG_RAD, spec.height_m
    latitude, longitude, height = (torch.tensor(x, dtype=torch.float64, device=device) for x in place)
    return latitude, longitude, height


def _measured(spec: RadarSpec, slant: Tensor, azimuth: Tensor, mode_s: Tensor, draw: _Draws) -> tuple[Tensor, Tensor]:
    b = spec.bias
    first = b.eccentricity_deg * torch.sin(azimuth + b.eccentricity_phase_deg * DEG_RAD)
    second = b.second_harmonic_deg * torch.sin(2.0 * azimuth + b.second_harmonic_phase_deg * DEG_RAD)
    in_range = b.range_m + b.gain_m_per_nm / NM_M * slant + _replied_late(spec, mode_s, draw)
    in_azimuth = (b.azimuth_deg + first + second) * DEG_RAD
    scale = torch.where(draw.uniform() < spec.outliers.fraction, spec.outliers.scale, 1.0)
    in_range = in_range + spec.noise.sigma_range_m * scale * _noise(spec.tails, spec.tails.range_dof, draw)
    sigma_rad = spec.noise.sigma_azimuth_deg * DEG_RAD
    in_azimuth = in_azimuth + sigma_rad * scale * _noise(spec.tails, spec.tails.azimuth_dof, draw)
    jump_m, jump_rad = _jumps(spec.jumps, draw)
    return (slant + in_range + jump_m).clamp(min=0.0), azimuth + in_azimuth + jump_rad


def _noise(tails: Tails, dof: float, draw: _Draws) -> Tensor:
    normal = draw.normal()
    if not isinstance(dof, torch.Tensor) and dof == inf:
        return normal
    # Student's t is a normal over the root of a chi-square per degree of freedom.
    shape = torch.zeros(draw.shape, device=draw.rng.device, dtype=torch.float64) + 0.5 * dof
    chi2 = 2.0 * torch._standard_gamma(shape, generator=draw.rng)
    t = normal / torch.sqrt(chi2 / dof)
    return t * ((dof - 2.0) / dof) ** 0.5 if tails.unit_variance else t


def _replied_late(spec: RadarSpec, mode_s: Tensor, draw: _Draws) -> Tensor:
    t = spec.transponder
    late = torch.zeros((draw.shape[0], 1), device=mode_s.device, dtype=torch.float64)
    mode_s = mode_s[:, None]
    if _given(t.sigma_m):
        limit = torch.where(mode_s, t.mode_s_limit_m, t.mode_ac_limit_m).to(torch.float64)
        cut = torch.special.ndtr(-limit / t.sigma_m)
        late = t.sigma_m * torch.special.ndtri(cut + (1.0 - 2.0 * cut) * draw.uniform(draw.shape[0], 1))
    if _given(t.mode_s_jitter_m) or _given(t.mode_ac_jitter_m):
        late = late + torch.where(mode_s, t.mode_s_jitter_m, t.mode_ac_jitter_m) * draw.normal()
    return late


def _jumps(jumps: Jumps, draw: _Draws) -> tuple[Tensor | float, Tensor | float]:
    if not _given(jumps.fraction):
        return 0.0, 0.0
    now, which, size = draw.uniform() < jumps.fraction, draw.uniform(), draw.uniform()
    share = jumps.range_share
    in_range = which < share
    side = torch.where(in_range, which < 0.5 * share, which - share < 0.5 * (1.0 - share))
    sign = torch.where(side, 1.0, -1.0) * now
    metres = jumps.range_m[0] + size * (jumps.range_m[1] - jumps.range_m[0])
    degrees = jumps.azimuth_deg[0] + size * (jumps.azimuth_deg[1] - jumps.azimuth_deg[0])
    return sign * metres * in_range, sign * degrees * DEG_RAD * ~in_range
