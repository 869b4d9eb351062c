"""Endless flights of all kinds under radars of all kinds: what a tracker for every radar is trained on.

A batch has a radar of its own for every flight, drawn from a `Spread`, and traffic of random habits. Flights are
planned by the thousand on the CPU and flown and observed on the training device (`ssrtrack.training.device_sampler`);
each plan is used several times, turned about the radar, mirrored and seen by another radar. A share of the flights is
seen by the benchmark suite's own radars, and most of those fly as its traffic does (`ssrtrack.training.device_suite`).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ssrtrack.errors import ScenarioError
from ssrtrack.filters.measurement import DEBIAS_LIMIT
from ssrtrack.models.residual_inputs import Flown
from ssrtrack.simulators.legs import Limits
from ssrtrack.simulators.schema_effects import Tails
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.schema_traffic import Flow
from ssrtrack.simulators.suite import list_suite
from ssrtrack.training.device_motion import flown_paths
from ssrtrack.training.device_plan import AGE_S, Plans, planned_flights
from ssrtrack.training.device_radar import observed, site_of
from ssrtrack.training.device_sampler import windows_of_plots
from ssrtrack.training.device_suite import ELSEWHERE, radar_of, suite_flows, suite_turbulence, with_suite
from ssrtrack.units import DEG_RAD, NM_M

Tensor = torch.Tensor
Range = tuple[float, float]
PLANS, NOISE = 113, 114  # first words of the spawn keys of random streams
PLANNED = 4096  # flights planned at a time
USES = 4  # of every plan
HABITS = 256  # different flows among them
TOGETHER = 2048  # windows made at a time on a GPU, which takes as long for a tenth of them
SPARE = 1.4  # flights made for one wanted: some are never long enough in sight
LEAST_SEEN = 0.75  # share of meetings that become plots, from which windows are full
PLACE_DEG, HEIGHT_M = (45.0, 5.0), 200.0  # of the radar: only the earth's curvature matters


@dataclass(frozen=True)
class Kind:
    """A kind of traffic. weight: its share; ranges from which the two ends of a flow's own ranges are drawn."""

    weight: float
    speed_kt: Range
    flight_level: Range
    radius_nm: Range
    manoeuvres_per_hour: Range
    least_turn_deg: Range
    most_turn_deg: Range


KINDS = (
    Kind(0.38, (150.0, 330.0), (30.0, 200.0), (25.0, 70.0), (20.0, 80.0), (10.0, 30.0), (90.0, 220.0)),  # terminal
    Kind(0.10, (50.0, 150.0), (15.0, 70.0), (15.0, 45.0), (20.0, 70.0), (10.0, 30.0), (120.0, 300.0)),  # light
    Kind(0.22, (220.0, 430.0), (70.0, 330.0), (50.0, 160.0), (8.0, 40.0), (5.0, 15.0), (60.0, 180.0)),  # in between
    Kind(0.30, (340.0, 530.0), (200.0, 410.0), (60.0, 190.0), (5.0, 28.0), (3.0, 10.0), (40.0, 120.0)),  # en route
)


@dataclass(frozen=True)
class Spread:
    """From what radars are drawn; where two numbers stand, they are the ends.

    period_s: pieces from which a rotation is drawn in proportion to their length; what lies between them is never
    seen, so that it can be tested on. Standard deviations are drawn evenly in their logarithm; that of azimuth is cut
    where converted positions would be biased at the radar's reach (`not_on_device`). probability: of detection, the
    higher ones likelier, as small shares of outliers and jumps are. gaussian: share of radars whose noise has no tails;
    the others' degrees of freedom are least_dof or more. biased: share of radars with constant errors, of the
    deviations given. suite_share: of the flights, under the radars of the benchmark suite, its scenarios alike, of
    which the other fields do not say; suite_traffic: of those, the suite's own traffic too. The others fly anyhow, so
    that a radar's numbers do not stand for its traffic.
    """

    period_s: tuple[Range, ...] = ((3.8, 5.6), (6.6, 9.4), (10.6, 12.6))
    sigma_range_m: Range = (2.5, 160.0)
    sigma_azimuth_deg: Range = (0.005, 0.18)
    probability: Range = (0.7, 0.995)
    fading_share: Range = (0.0, 0.05)
    fading_scans: Range = (1.2, 4.0)
    outlier_fraction: Range = (0.0, 0.08)
    outlier_scale: Range = (4.0, 15.0)
    gaussian: float = 0.25
    least_dof: float = 3.5
    biased: float = 0.1
    bias_range_m: float = 40.0
    bias_gain_m_per_nm: float = 0.4
    bias_azimuth_deg: float = 0.04
    clock_jitter_s: Range = (0.0, 0.02)
    rotation_jitter: Range = (0.0, 0.005)
    jump_fraction: Range = (0.0, 0.004)
    range_margin: Range = (1.05, 1.8)  # of the radar's range over the traffic's circle
    turbulence_m2ps3: Range = (0.0, 0.12)
    suite_share: float = 0.6
    suite_traffic: float = 0.6


ALL_RADARS = Spread()


@dataclass(frozen=True)
class Fleet:
    """Planned flights; of each the circle's radius (N,) in NM, and the suite's scenario (N,) it is of, or ELSEWHERE."""

    plans: Plans
    radius_nm: Any
    scene: Any

    def rows(self, part: Any) -> "Fleet":
        """Some of the flights."""
        return Fleet(self.plans.rows(part), self.radius_nm[part], self.scene[part])


def drawn_flow(rng: np.random.Generator) -> Flow:
    """Traffic of random habits."""
    kind = KINDS[rng.choice(len(KINDS), p=[k.weight for k in KINDS])]
    level = np.sort(rng.uniform(*kind.flight_level, 2))
    speed = np.sort(rng.uniform(*kind.speed_kt, 2))
    least_bank = rng.uniform(8.0, 20.0)
    climb = np.sort(rng.uniform(400.0, 3500.0, 2))
    gain = np.sort(rng.uniform(0.1, 1.2, 2))
    return Flow(
        number=1,
        radius_nm=float(rng.uniform(*kind.radius_nm)),
        speed_kt=(float(speed[0]), float(speed[1])),
        flight_level=(float(level[0]), float(level[1])),
        manoeuvres_per_hour=float(_evenly(rng.random(), kind.manoeuvres_per_hour)),
        turn_share=float(rng.uniform(0.3, 0.9)),
        climb_share=float(rng.uniform(0.2, 0.6)),
        speed_share=float(rng.uniform(0.1, 0.5)),
        bank_deg=(float(least_bank), float(least_bank + rng.uniform(3.0, 20.0))),
        turn_deg=(float(rng.uniform(*kind.least_turn_deg)), float(rng.uniform(*kind.most_turn_deg))),
        climb_fpm=(float(climb[0]), float(climb[1])),
        acceleration_mps2=(float(gain[0]), float(gain[1])),
        mode_s_share=float(rng.choice((0.0, 0.5, 1.0))),
    )


def drawn_fleet(spread: Spread, seed: int, key: tuple[int, ...], count: int, life_s: float) -> Fleet:
    """`count` flights of HABITS flows, a share of them the suite's, each of life_s; a function of the arguments."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
    many = min(HABITS, count)
    of_suite = round(spread.suite_share * many)
    scene = np.where(np.arange(many) < of_suite, np.arange(many) % len(list_suite()), ELSEWHERE)
    known = suite_flows(rng, scene[: round(spread.suite_traffic * of_suite)])
    drawn = [drawn_flow(rng) for _ in range(many - len(known))]
    habits = [replace(flow, flight_time_s=(life_s, life_s)) for flow in (*known, *drawn)]
    which = rng.permutation(count) % many
    flows = [habits[n] for n in which]
    limits = Limits(float(rng.uniform(3.0, 8.0)) * DEG_RAD, float(rng.uniform(0.3, 1.0)))
    plans = planned_flights(flows, PLACE_DEG, life_s, limits, rng)
    return Fleet(plans, np.array([flow.radius_nm for flow in flows]), scene[which])


def drawn_radars(spread: Spread, radius_nm: Tensor, rng: torch.Generator, scene: Tensor | None = None) -> RadarSpec:
    """A radar for each of N flights in circles of radius_nm (N,): a spec whose numbers are tensors (N, 1).

    scene (N,): of the suite's scenario whose radar it is instead, or ELSEWHERE.
    """
    count = radius_nm.shape[0]

    def even() -> Tensor:
        return torch.rand((count, 1), generator=rng, device=rng.device, dtype=torch.float64)

    def normal() -> Tensor:
        return torch.randn((count, 1), generator=rng, device=rng.device, dtype=torch.float64)

    def between(ends: Range, share: Tensor) -> Any:
        return ends[0] + (ends[1] - ends[0]) * share

    # Most radars are good ones, and the bad ones reach far: squares of even numbers.
    def rarely(ends: Range) -> Any:
        return between(ends, even() ** 2)

    def unknown(deviation: float) -> Any:
        return torch.where(biased, deviation * normal(), 0.0)

    def same(value: float) -> Tensor:
        return torch.full((count, 1), value, device=rng.device, dtype=torch.float64)

    biased = even() < spread.biased
    dof: Any = torch.where(even() < spread.gaussian, 1e6, 1.0 / between((0.0, 1.0 / spread.least_dof), even()))
    reach = radius_nm[:, None] * between(spread.range_margin, even()) + 5.0
    best, worst = spread.probability[1], spread.probability[0]
    sigma_m = _evenly(even(), spread.sigma_range_m)
    steady = even()  # transponders at their limits would hide a radar finer than 12 m
    coarsest_deg = torch.sqrt(DEBIAS_LIMIT * sigma_m / (reach * NM_M)) / DEG_RAD
    drawn = {
        "noise.sigma_range_m": sigma_m,
        "noise.sigma_azimuth_deg": torch.minimum(_evenly(even(), spread.sigma_azimuth_deg), coarsest_deg),
        "tails.range_dof": dof,
        "tails.azimuth_dof": dof,
        "outliers.fraction": rarely(spread.outlier_fraction),
        "outliers.scale": between(spread.outlier_scale, even()),
        "detection.probability": rarely((best, worst)),
        "detection.half_range_nm": reach * between((1.15, 2.0), even()),
        "detection.fluctuation_db": same(2.0),
        "fading.share": rarely(spread.fading_share),
        "fading.mean_scans": between(spread.fading_scans, even()),
        "bias.range_m": unknown(spread.bias_range_m),
        "bias.gain_m_per_nm": unknown(spread.bias_gain_m_per_nm),
        "bias.azimuth_deg": unknown(spread.bias_azimuth_deg),
        "coverage.max_range_nm": reach,
        "clock.latency_jitter_s": rarely(spread.clock_jitter_s),
        "rotation_jitter": rarely(spread.rotation_jitter),
        "rotation_period_s": _period_s(spread.period_s, even()),
        "jumps.fraction": rarely(spread.jump_fraction),
        "transponder.sigma_m": same(25.0),
        "transponder.mode_ac_jitter_m": 15.0 * steady,
        "transponder.mode_s_jitter_m": 12.0 * steady,
    }
    usual = RadarSpec(
        name="any", latitude_deg=PLACE_DEG[0], longitude_deg=PLACE_DEG[1], height_m=HEIGHT_M, rotation_period_s=1.0,
        tails=Tails(unit_variance=True),
    )  # fmt: skip
    return radar_of(usual, drawn if scene is None else with_suite(drawn, scene))


class SpreadFlights:
    """Part `rank` of `world` of endless batches of `batch` windows of `length` plots, made on `device`.

    `together` batches are made at a time, and are what `windows` gives. Batch k is a function of spread, seed, k, how
    many are made together, and how many processes share them.
    """

    def __init__(
        self, spread: Spread, seed: int, batch: int, length: int, device: torch.device | str, rank: int = 0,
        world: int = 1, pool: ThreadPoolExecutor | None = None, together: int = 1,
    ) -> None:  # fmt: skip
        if batch % world:
            raise ScenarioError(f"a batch of {batch} windows cannot be shared by {world} processes; give a multiple")
        self._spread, self._seed, self._length, self.together = spread, seed, length, together
        self._rows = together * batch // world
        self._made = int(np.ceil(SPARE * self._rows))
        self._rank, self._world, self._device, self._pool = rank, world, torch.device(device), pool
        self._meetings = int(np.ceil(length / LEAST_SEEN)) + 4
        self._span_s = (self._meetings + 2) * max(high for _, high in spread.period_s)
        self._per_plan = max(1, PLANNED // self._made)
        self._fleets: dict[int, Future[Fleet]] = {}

    def windows(self, k: int) -> Flown:
        """This process's windows of batch k, or of the k-th `together` batches.

        Raises:
            ScenarioError: hardly a flight is long enough in sight.
        """
        number, turn = divmod(k, self._per_plan * USES)
        begin = turn % self._per_plan * self._made
        fleet = self._fleet(number).rows(slice(begin, begin + self._made))
        words = np.random.SeedSequence(self._seed, spawn_key=(NOISE, k, self._rank)).generate_state(1, np.uint64)
        rng = torch.Generator(self._device).manual_seed(int(words[0] >> 1))
        with torch.no_grad():
            return self._seen(fleet, rng)

    def _fleet(self, number: int) -> Fleet:
        self._fleets = {n: fleet for n, fleet in self._fleets.items() if n >= number}
        found = self._submit(number)
        if self._pool is not None:
            self._submit(number + 1)
        return found.result()

    def _submit(self, number: int) -> "Future[Fleet]":
        if number not in self._fleets:
            key = PLANS, number, self._rank, self._world
            asked = self._spread, self._seed, key, self._per_plan * self._made, AGE_S + self._span_s
            if self._pool is not None:
                self._fleets[number] = self._pool.submit(drawn_fleet, *asked)
            else:
                self._fleets[number] = Future()
                self._fleets[number].set_result(drawn_fleet(*asked))
        return self._fleets[number]

    def _seen(self, fleet: Fleet, rng: torch.Generator) -> Flown:
        plans, device = fleet.plans, self._device
        scene = torch.as_tensor(fleet.scene, device=device)
        spec = drawn_radars(self._spread, torch.as_tensor(fleet.radius_nm, device=device), rng, scene)
        site = site_of(spec, device)
        angle, side, air = torch.rand((3, len(fleet.radius_nm), 1), generator=rng, device=device, dtype=torch.float64)
        low, high = self._spread.turbulence_m2ps3
        turbulence = suite_turbulence(low + (high - low) * air, scene)
        paths = flown_paths(plans, site, AGE_S + self._span_s, turbulence, rng)
        paths = paths.turned(2.0 * torch.pi * angle, side < 0.5)
        mode_s = torch.as_tensor(plans.mode_s, device=device) > 0.5
        age_s = torch.as_tensor(plans.age_s, device=device)
        plots = observed(spec, site, paths, mode_s, age_s, self._meetings, rng)
        return windows_of_plots(spec, site, plots, self._length, self._rows)


def _evenly(share: Any, ends: Range) -> Any:
    """Between two ends, evenly in the logarithm."""
    return ends[0] * (ends[1] / ends[0]) ** share


def _period_s(pieces: Sequence[Range], share: Tensor) -> Tensor:
    """A point of the pieces, laid end to end, at a share (N, 1) of their length."""
    left = share * sum(high - low for low, high in pieces)
    found = torch.full_like(left, pieces[0][0])
    for low, high in pieces:
        found = torch.where(left >= 0.0, low + left.clamp(max=high - low), found)
        left = left - (high - low)
    return found


@contextmanager
def spread_flights(
    spread: Spread, seed: int, batch: int, length: int, device: torch.device | str, rank: int = 0, world: int = 1
) -> Iterator[SpreadFlights]:
    """Endless batches made on the device, planned ahead by a thread; on a GPU several together.

    Raises:
        ScenarioError: a batch that cannot be shared out.
    """
    together = max(1, TOGETHER * world // batch) if torch.device(device).type == "cuda" else 1
    with ThreadPoolExecutor(1) as pool:
        yield SpreadFlights(spread, seed, batch, length, device, rank, world, pool, together)
