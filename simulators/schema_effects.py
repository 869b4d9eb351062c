"""What a scenario file may say of a radar's single effects; every one is off, or neutral, by default."""

from dataclasses import dataclass
from math import inf

from ssrtrack.simulators.blocks import REQUIRED, key

_ET1 = "SUR.ET1.ST01 (limit)"
_ANNEX10 = "ICAO Annex 10 IV, 3.1"
_SHARE = "share of scans in which a flight is faded"


@dataclass(frozen=True, kw_only=True)
class Wobble:
    """The wind on the antenna: the rate of turn varies with azimuth, the period does not."""

    amplitude: float = key("float", 0.0, "1", "variation of the rate, as a share of it; wind loads give 0.003", 0, 0.1)
    azimuth_deg: float = key("float", 0.0, "deg", "where the beam turns fastest", 0, 360)


@dataclass(frozen=True, kw_only=True)
class Tails:
    """Student's t in place of the normal distribution."""

    range_dof: float = key("float", inf, "1", "degrees of freedom in range; normal if absent", 0.5, 1e6)
    azimuth_dof: float = key("float", inf, "1", "degrees of freedom in azimuth; normal if absent", 0.5, 1e6)
    unit_variance: bool = key("bool", False, "", "true: sigma is the standard deviation; false: the scale of t")


@dataclass(frozen=True, kw_only=True)
class Jumps:
    """Gross errors in range or in azimuth of single plots."""

    fraction: float = key("float", 0.0, "1", "share of plots that jump; the limit is 0.0005", 0, 1, source=_ET1)
    range_share: float = key("float", 0.5, "1", "share of jumps that are in range; the others are in azimuth", 0, 1)
    range_m: tuple[float, float] = key("pair", (700.0, 2000.0), "m", "size in range", 0, 1e5, source=_ET1)
    azimuth_deg: tuple[float, float] = key("pair", (1.0, 3.0), "deg", "size in azimuth", 0, 180, source=_ET1)


@dataclass(frozen=True, kw_only=True)
class Bias:
    """Errors that stay the same from scan to scan."""

    range_m: float = key("float", 0.0, "m", "added to slant range; the limit is 100", -5000, 5000, source=_ET1)
    gain_m_per_nm: float = key("float", 0.0, "m/NM", "added per NM of range; the limit is 1", -50, 50, source=_ET1)
    azimuth_deg: float = key("float", 0.0, "deg", "added to azimuth; the limit is 0.1", -10, 10, source=_ET1)
    eccentricity_deg: float = key("float", 0.0, "deg", "amplitude of the encoder's eccentricity", 0, 5)
    eccentricity_phase_deg: float = key("float", 0.0, "deg", "its phase", -360, 360)
    second_harmonic_deg: float = key("float", 0.0, "deg", "amplitude of the error at twice the azimuth", 0, 5)
    second_harmonic_phase_deg: float = key("float", 0.0, "deg", "its phase", -360, 360)


@dataclass(frozen=True, kw_only=True)
class Transponder:
    """The time that a transponder takes to reply, beyond the nominal one, as slant range."""

    sigma_m: float = key("float", 0.0, "m", "sigma of a flight's constant offset, before it is cut", 0, 1000)
    mode_ac_limit_m: float = key("float", 75.0, "m", "limit of the offset: 0.5 us", 0.1, 1000, source=_ANNEX10)
    mode_s_limit_m: float = key("float", 37.5, "m", "limit of the offset: 0.25 us", 0.1, 1000, source=_ANNEX10)
    mode_ac_jitter_m: float = key("float", 0.0, "m", "sigma from reply to reply; 0.1 us are 15 m", 0, 1000)
    mode_s_jitter_m: float = key("float", 0.0, "m", "sigma from reply to reply; 0.08 us are 12 m", 0, 1000)


@dataclass(frozen=True, kw_only=True)
class Cartesian:
    """White noise on x and y instead of range and azimuth."""

    snr_db: float = key("float", inf, "dB", "mean square of a coordinate over the noise's variance", -20, 200)


@dataclass(frozen=True, kw_only=True)
class Lobing:
    """Interference of the direct ray with that from flat ground."""

    reflection: float = key("float", 0.0, "1", "amplitude of the reflected ray over the direct one", 0, 0.99)
    antenna_height_m: float = key("float", 10.0, "m", "phase centre above the reflecting ground", 0.5, 200)


@dataclass(frozen=True, kw_only=True)
class Shielding:
    """The aircraft's own body between its lower antenna and the radar, in a turn towards the radar."""

    loss: float = key("float", 0.0, "1", "share of the probability that is lost when shielded", 0, 1)
    angle_deg: float = key("float", 5.0, "deg", "shielded when the radar is this far above the wings' plane", -90, 90)
    diversity_share: float = key("float", 0.0, "1", "share of Mode S flights with a second antenna on top", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Fading:
    """Misses that come in runs: a two-state Markov chain for each flight, from rotation to rotation."""

    share: float = key("float", 0.0, "1", _SHARE, 0, 0.9)
    mean_scans: float = key("float", 3.0, "1", "mean length of a run of faded scans", 1, 100)


@dataclass(frozen=True, kw_only=True)
class Blanking:
    """A sector without plots, such as behind an obstacle."""

    from_deg: float = key("float", REQUIRED, "deg", "azimuth at which it begins", 0, 360)
    to_deg: float = key("float", REQUIRED, "deg", "azimuth at which it ends, clockwise", 0, 360)
    elevation_deg: float = key("float", 90.0, "deg", "targets below this elevation are hidden", -90, 90)


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A time without plots."""

    from_s: float = key("float", REQUIRED, "s", "when it begins", 0, 1e7)
    to_s: float = key("float", REQUIRED, "s", "when it ends", 0, 1e7)


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Outages that come at random and may overlap; their lengths are exponential, cut at 12 hours."""

    per_hour: float = key("float", 0.0, "1/h", "mean number that begin in an hour (Poisson)", 0, 100)
    mean_duration_s: float = key("float", 60.0, "s", "mean length", 0.1, 3600)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What the time stamp says beyond the time of detection."""

    latency_s: float = key("float", 0.0, "s", "constant delay of the stamp", 0, 10)
    latency_jitter_s: float = key("float", 0.0, "s", "sigma of its variation, cut at 4 sigma", 0, 2)
    offset_s: float = key("float", 0.0, "s", "error of the clock at the start; the limit is 0.1", -10, 10, source=_ET1)
    drift_ppm: float = key("float", 0.0, "ppm", "rate at which that error grows", -200, 200)


@dataclass(frozen=True, kw_only=True)
class NorthStamp:
    """The time of north is taken late, and with it the stamps of the whole rotation."""

    spread_s: float = key("float", 0.0, "s", "the delay is uniform up to this", 0, 1)
    late_share: float = key("float", 0.0, "1", "share of rotations that are later still", 0, 1)
    late_s: float = key("float", 0.02, "s", "by how much these are later", 0, 1)
