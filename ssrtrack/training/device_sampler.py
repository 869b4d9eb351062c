"""Endless windows of flights made on the training device: batch k follows from scenario, seed, k and how many share it.

For a GPU, which would wait for a simulator on the CPU. Random traffic and one radar can be made here; the rest of what
a scenario may say is the simulator's (`flown_simulated`), which also makes the held-out flights of every run, so that
whatever the two differ in shows in the validation.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from ssrtrack.errors import ScenarioError
from ssrtrack.filters.measurement import DEBIAS_LIMIT, SIGMA_HEIGHT_M
from ssrtrack.geodesy import slant_jacobian, slant_to_enu
from ssrtrack.models.residual_inputs import Flown
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.training.device_motion import Site, flown_paths
from ssrtrack.training.device_plan import AGE_S, Plans, planned
from ssrtrack.training.device_radar import Plots, left_out, observed, site_of
from ssrtrack.training.flown_windows import MIN_PLOTS
from ssrtrack.units import DEG_RAD, NM_M

Tensor = torch.Tensor
PLANS, NOISE = 111, 112  # first words of the spawn keys of random streams
PLANNED = 4096  # flights planned at a time
SPARE = 1.2  # flights made for one wanted: some are never long enough in sight
PATTERNS = ("approach", "departure", "crossing", "low_level")  # blocks of a scenario, beside traffic and aircraft
MAX_SILENCE_S = 60.0  # a longer one ends a flight, as in scoring


def not_on_device(scenario: Scenario) -> str:
    """Why the flights of a scenario cannot be made on the device; empty if they can."""
    if len(scenario.radar) != 1:
        return f"{len(scenario.radar)} radars see it"
    others = [name for name in ("aircraft", *PATTERNS) if getattr(scenario, name)]
    if others or not scenario.traffic:
        return f"it has traffic that does not fly at random ({', '.join(others) or 'none at random'})"
    if scenario.gusts != "none":
        return "its turbulence is not white"
    spec = scenario.radar[0]
    if np.isfinite(spec.cartesian.snr_db):
        return "its noise is on x and y"
    variance = (spec.noise.sigma_azimuth_deg * DEG_RAD) ** 2
    if spec.coverage.max_range_nm * NM_M * variance > DEBIAS_LIMIT * spec.noise.sigma_range_m:
        return "its azimuths are so coarse that converted positions are biased"
    return ""


class DeviceFlights:
    """Part `rank` of `world` of endless batches of `batch` windows of `length` plots, made on `device`."""

    def __init__(
        self, scenario: Scenario, seed: int, batch: int, length: int, device: torch.device | str, rank: int, world: int,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:  # fmt: skip
        if batch % world:
            raise ScenarioError(f"a batch of {batch} windows cannot be shared by {world} processes; give a multiple")
        if reason := not_on_device(scenario):
            raise ScenarioError(f"{scenario.name}: cannot be made on the training device: {reason}; use the simulator")
        self._scenario, self._seed, self._length = scenario, seed, length
        self._rows, self._made = batch // world, int(np.ceil(SPARE * batch / world))
        self._rank, self._world, self._device, self._pool = rank, world, torch.device(device), pool
        spec = scenario.radar[0]
        seen = spec.detection.probability * (1.0 - spec.fading.share)
        self._meetings = int(np.ceil(length / max(seen, 0.2) * 1.1)) + 4
        self._span_s = (self._meetings + 2) * spec.rotation_period_s
        self._per_plan = max(1, PLANNED // self._made)  # batches that one plan serves
        self._plans: dict[int, Future[Plans]] = {}

    @property
    def left_out(self) -> list[str]:
        """Blocks of the radar whose effects these flights go without."""
        return left_out(self._scenario.radar[0])

    def windows(self, k: int) -> Flown:
        """This process's windows of batch k.

        Raises:
            ScenarioError: hardly a flight is long enough in sight.
        """
        number, turn = divmod(k, self._per_plan)
        plans = self._plan(number).rows(slice(turn * self._made, (turn + 1) * self._made))
        words = np.random.SeedSequence(self._seed, spawn_key=(NOISE, k, self._rank)).generate_state(1, np.uint64)
        rng = torch.Generator(self._device).manual_seed(int(words[0] >> 1))
        with torch.no_grad():
            return self._flown(plans, rng)

    def _plan(self, number: int) -> Plans:
        self._plans = {n: plan for n, plan in self._plans.items() if n >= number}
        found = self._submit(number)
        if self._pool is not None:
            self._submit(number + 1)
        return found.result()

    def _submit(self, number: int) -> "Future[Plans]":
        if number not in self._plans:
            key = PLANS, number, self._rank, self._world
            count = self._per_plan * self._made
            if self._pool is not None:
                found = self._pool.submit(planned, self._scenario, self._seed, key, count, self._span_s)
            else:
                found = Future()
                found.set_result(planned(self._scenario, self._seed, key, count, self._span_s))
            self._plans[number] = found
        return self._plans[number]

    def _flown(self, plans: Plans, rng: torch.Generator) -> Flown:
        spec, device = self._scenario.radar[0], self._device
        site = site_of(spec, device)
        turbulence = self._scenario.turbulence_m2ps3
        paths = flown_paths(plans, site, AGE_S + self._span_s, turbulence, rng)
        mode_s = torch.as_tensor(plans.mode_s, device=device) > 0.5
        age_s = torch.as_tensor(plans.age_s, device=device)
        plots = observed(spec, site, paths, mode_s, age_s, self._meetings, rng)
        return windows_of_plots(spec, site, plots, self._length, self._rows)


def windows_of_plots(spec: RadarSpec, site: Site, plots: Plots, length: int, count: int) -> Flown:
    """`count` windows of the first `length` plots of each flight, converted as in scoring."""
    order = torch.argsort((~plots.detected).to(torch.int8), dim=1, stable=True)[:, :length]

    def kept(values: Tensor) -> Tensor:
        return values.gather(-1, order.expand(*values.shape[:-1], -1))

    time_s, valid = kept(plots.time_s), kept(plots.detected)
    # An error of the clock may change the order of two plots; nothing else can.
    silent = torch.nn.functional.pad(torch.diff(time_s, dim=1), (1, 0)) > MAX_SILENCE_S
    valid &= ~(silent & valid).cummax(1).values
    long_enough = valid.sum(1) >= MIN_PLOTS
    found = int(long_enough.sum())
    if 2 * found < count:
        raise ScenarioError(
            f"only {found} of {valid.shape[0]} flights have {MIN_PLOTS} plots and no silence of {MAX_SILENCE_S:g} s; "
            "give the radar more range or the traffic a smaller circle"
        )
    # Whatever is missing is made up by flights that are there twice.
    rows = torch.nonzero(long_enough)[:, 0][torch.arange(count, device=valid.device) % found]
    time_s, valid, truth = time_s[rows], valid[rows], kept(plots.truth)[:, rows]
    range_m, azimuth, altitude = (kept(x)[rows] for x in (plots.range_m, plots.azimuth_rad, plots.altitude_m))
    enu = slant_to_enu(range_m, azimuth, altitude, site)
    stated = (spec.noise.sigma_range_m, spec.noise.sigma_azimuth_deg * DEG_RAD, SIGMA_HEIGHT_M)
    # (N, 1) each: a spec may be of one radar, or of a radar for each flight.
    sigmas = [(torch.zeros_like(plots.time_s[:, :1]) + sigma)[rows] for sigma in stated]
    spread = slant_jacobian(enu, site) * torch.stack(sigmas, -1)[:, :, None]
    nan = torch.full_like(time_s, torch.nan)
    return Flown(
        time_s=torch.where(valid, time_s, nan),
        position_m=torch.where(valid[..., None], enu[..., :2], nan[..., None]),
        covariance_m2=torch.where(valid[..., None, None], spread @ spread.transpose(-1, -2), nan[..., None, None]),
        sigma_range_m=torch.where(valid, sigmas[0], nan),
        sigma_azimuth_rad=torch.where(valid, sigmas[1], nan),
        range_m=torch.where(valid, range_m, nan),
        azimuth_rad=torch.where(valid, azimuth, nan),
        valid=valid,
        truth=torch.where(valid[..., None], truth.permute(1, 2, 0), nan[..., None]),
    )


@contextmanager
def device_flights(
    scenario: Scenario, seed: int, batch: int, length: int, device: torch.device | str, rank: int = 0, world: int = 1
) -> Iterator[DeviceFlights]:
    """Endless batches made on the device, planned ahead by a thread.

    Raises:
        ScenarioError: see `not_on_device`, or a batch that cannot be shared out.
    """
    with ThreadPoolExecutor(1) as pool:
        yield DeviceFlights(scenario, seed, batch, length, device, rank, world, pool)
