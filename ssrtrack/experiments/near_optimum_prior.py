"""What the near-optimal reference knows beforehand: a scenario's own habits of flying and its radar's own errors.

The numbers are those of the scenario file, in SI, as tensors on a device: an entry for each flow of traffic, and the
radar's errors as a mixture of normal distributions. A Student's t is a normal one whose variance is itself drawn
(inverse chi-square), so that few strata of that variance, each with its mean, make a mixture with the right variance.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import chi2

from ssrtrack.errors import EstimatorError
from ssrtrack.simulators.flows import MIN_STRAIGHT_S
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.units import AZIMUTH_LSB_RAD, DEG_RAD, FL_M, FPM_MPS, KT_MPS, NM_M, RANGE_LSB_M

Tensor = torch.Tensor
STRATA = (0.55, 0.33, 0.1, 0.02)  # shares of a Student's t, from the narrowest; the last one is its tail
SURPRISE, SURPRISE_SHARE = 3e-3, 0.25  # share of particles that doubt their velocity, by so much of the speed, a plot
EDGE_SIGMA_M = 1000.0  # what the scenario's own planning on a plane leaves unsaid of where its circle ends


@dataclass(frozen=True, eq=False)
class Habits:
    """How aircraft fly. Columns (K,) of K flows, or (2, K) for the two ends of a uniform distribution; SI units.

    weight: share of a flow among aircraft. gap_s: mean of the exponential part of the straight time between
    manoeuvres, after least_straight_s. Shares: of manoeuvres with a turn, climb, speed change. edge: whether aircraft
    turn back at radius_m from the radar, as the simulator's do. turbulence_m2ps3: PSD of white acceleration.
    """

    weight: Tensor
    speed_mps: Tensor
    gap_s: Tensor
    turn_share: Tensor
    climb_share: Tensor
    speed_share: Tensor
    bank_rad: Tensor
    turn_rad: Tensor
    turn_rate_radps: Tensor
    level_m: Tensor
    climb_mps: Tensor
    acceleration_mps2: Tensor
    radius_m: Tensor
    roll_rate_radps: float
    turbulence_m2ps3: float
    least_straight_s: float = MIN_STRAIGHT_S
    edge: bool = True
    surprise: float = SURPRISE

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.weight.device


@dataclass(frozen=True, eq=False)
class Errors:
    """A radar's errors: a mixture of K independent pairs of normal ones in range and azimuth.

    log_weight (K,); range_scale2, azimuth_scale2 (K,) multiply the stated variances, range_m2 and azimuth_rad2 (K,)
    are added. jitter_m2: variance of range from reply to reply. bias_m: of a flight's constant range error.
    """

    log_weight: Tensor
    range_scale2: Tensor
    azimuth_scale2: Tensor
    range_m2: Tensor
    azimuth_rad2: Tensor
    jitter_m2: float
    bias_m: float


def habits_of(scenario: Scenario, device: torch.device | str = "cpu", *, edge: bool = True) -> Habits:
    """The habits of a scenario's random traffic.

    Raises:
        EstimatorError: traffic that does not fly at random, gusts, or a circle that is not about the radar.
    """
    others = [n for n in ("aircraft", "approach", "departure", "crossing", "low_level") if getattr(scenario, n)]
    if others or not scenario.traffic:
        raise EstimatorError(
            f"{scenario.name}: the reference knows random traffic alone, found {', '.join(others) or 'none of it'}; "
            "give a scenario with [[traffic]] only"
        )
    if scenario.gusts != "none":
        raise EstimatorError(f"{scenario.name}: found gusts {scenario.gusts!r}, expected white turbulence")
    flows = scenario.traffic
    if edge and any(isfinite(f.latitude_deg) or isfinite(f.longitude_deg) for f in flows):
        raise EstimatorError(f"{scenario.name}: a flow's circle is not about the radar; ask for edge=False")

    def column(name: str, unit: float = 1.0) -> Tensor:
        return torch.tensor(np.array([getattr(f, name) for f in flows], float).T * unit, device=device)

    return Habits(
        weight=column("number") / column("number").sum(),
        speed_mps=column("speed_kt", KT_MPS),
        gap_s=3600.0 / column("manoeuvres_per_hour").clamp(min=1e-9),
        turn_share=column("turn_share"),
        climb_share=column("climb_share"),
        speed_share=column("speed_share"),
        bank_rad=column("bank_deg", DEG_RAD),
        turn_rad=column("turn_deg", DEG_RAD),
        turn_rate_radps=column("max_turn_rate_dps", DEG_RAD),
        level_m=column("flight_level", FL_M),
        climb_mps=column("climb_fpm", FPM_MPS),
        acceleration_mps2=column("acceleration_mps2"),
        radius_m=column("radius_nm", NM_M),
        roll_rate_radps=scenario.roll_rate_dps * DEG_RAD,
        turbulence_m2ps3=scenario.turbulence_m2ps3,
        edge=edge,
    )


def errors_of(scenario: Scenario, device: torch.device | str = "cpu") -> Errors:
    """The errors of a scenario's one radar.

    Raises:
        EstimatorError: several radars, or one with constant errors or noise on x and y.
    """
    if len(scenario.radar) != 1:
        raise EstimatorError(f"{scenario.name}: found {len(scenario.radar)} radars, expected one")
    spec = scenario.radar[0]
    if isfinite(spec.cartesian.snr_db):
        raise EstimatorError(f"{scenario.name}: its noise is on x and y, expected range and azimuth")
    rows = _mixture(spec)
    weight = torch.tensor([row[0] for row in rows], dtype=torch.float64, device=device)
    scale_r, scale_a, added_r, added_a = (
        torch.tensor([row[k] for row in rows], dtype=torch.float64, device=device) for k in range(1, 5)
    )
    share = _mode_s_share(scenario)
    reply = spec.transponder
    jitter = share * reply.mode_s_jitter_m**2 + (1.0 - share) * reply.mode_ac_jitter_m**2
    limits = (share, reply.mode_s_limit_m), (1.0 - share, reply.mode_ac_limit_m)
    bias = sum(part * _cut_variance(reply.sigma_m, limit) for part, limit in limits)
    rounding = RANGE_LSB_M**2 / 12.0 * spec.quantisation.range
    shares = (weight / weight.sum()).log()
    return Errors(shares, scale_r, scale_a, added_r, added_a, jitter_m2=jitter + rounding, bias_m=bias**0.5)


def strata(dof: float, unit_variance: bool) -> list[tuple[float, float]]:
    """A Student's t as a mixture of normal distributions: (share, variance) of each.

    Raises:
        EstimatorError: it has no variance.
    """
    if not isfinite(dof):
        return [(1.0, 1.0)]
    if dof <= 2.0:
        raise EstimatorError(f"a Student's t of {dof} degrees of freedom has no variance; expected more than 2")
    ends = np.cumsum((0.0, *STRATA))
    found = []
    for low, high in pairwise(ends):
        # The variance falls with the chi-square: the lowest stratum of variance has the greatest quantiles of it.
        inside = 1.0 - (low + (high - low) * (np.arange(2000) + 0.5) / 2000)
        found.append((float(high - low), float(np.mean(dof / chi2.ppf(inside, dof)))))
    # Means over midpoints miss a little of the last stratum's end; the whole must have the variance of t.
    scale = (1.0 if unit_variance else dof / (dof - 2.0)) / sum(share * value for share, value in found)
    return [(share, value * scale) for share, value in found]


def _mixture(spec: RadarSpec) -> list[tuple[float, float, float, float, float]]:
    """Rows weight, range and azimuth scale², range and azimuth variance added."""
    tails, lsb = spec.tails, AZIMUTH_LSB_RAD**2 / 12.0 * spec.quantisation.azimuth
    ranges, azimuths = (strata(dof, tails.unit_variance) for dof in (tails.range_dof, tails.azimuth_dof))
    rows = []
    both = [(pr * pa, r, a) for pr, r in ranges for pa, a in azimuths]
    far, scale2 = spec.outliers.fraction, spec.outliers.scale**2
    jumps = spec.jumps
    near = (1.0 - far) * (1.0 - jumps.fraction)
    rows += [(near * p, r, a, 0.0, lsb) for p, r, a in both]
    if far:
        # Of outliers, few and wide, the core and the tail of each axis are enough.
        wide = [(pr * pa, r, a) for pr, r in _halved(ranges) for pa, a in _halved(azimuths)]
        rows += [(far * (1.0 - jumps.fraction) * p, scale2 * r, scale2 * a, 0.0, lsb) for p, r, a in wide]
    if jumps.fraction:
        share, metres = jumps.range_share, np.mean(np.square(jumps.range_m))
        degrees = np.mean(np.square(jumps.azimuth_deg)) * DEG_RAD**2
        rows.append((jumps.fraction * share, 1.0, 1.0, float(metres), lsb))
        rows.append((jumps.fraction * (1.0 - share), 1.0, 1.0, 0.0, float(degrees)))
    return [row for row in rows if row[0] > 1e-5]


def _halved(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(found) == 1:
        return found
    parts = found[:1], found[1:]
    shares = [sum(share for share, _ in part) for part in parts]
    return [(s, sum(p * v for p, v in part) / s) for s, part in zip(shares, parts, strict=True)]


def _mode_s_share(scenario: Scenario) -> float:
    if not scenario.radar[0].mode_s:
        return 0.0
    numbers = np.array([f.number for f in scenario.traffic], float)
    return float(np.sum(numbers * [f.mode_s_share for f in scenario.traffic]) / numbers.sum())


def _cut_variance(sigma: float, limit: float) -> float:
    """Variance of a normal distribution cut at ± limit."""
    if sigma == 0.0:
        return 0.0
    z = limit / sigma
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return float(sigma**2 * (1.0 - 2.0 * z * density / (2.0 * ndtr(z) - 1.0)))
