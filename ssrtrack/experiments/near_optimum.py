"""A tracker that knows the scenario: a yardstick near the optimum, to tell how much is left to win. Not for use.

What simulated aircraft do is a few numbers a manoeuvre (when it begins, bank, angle turned, acceleration), a known law
of motion, and turbulence that is small and white. So the reference is a Rao-Blackwellised particle filter (Doucet,
de Freitas, Murphy, Russell 2000): particles carry the manoeuvre and its clock, each with a Kalman filter of position,
velocity and the flight's range error given these. That leaves few dimensions to sample, none of them static for long,
which is why it holds on where a particle filter of the whole state at a radar's accuracy does not. It knows no more
of a flight than other trackers: the horizontal plots; not altitude, codes or BDS registers. It does know the rates,
ranges and shares that the scenario file gives, the circles at whose edge aircraft turn back, and the radar's error
distributions.

As the number of particles grows its estimate becomes the posterior mean under that prior, which no tracker beats in
mean square; `benchmarks/near_optimum.py` doubles it until nothing changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.experiments.near_optimum_motion import Particles, predicted
from ssrtrack.experiments.near_optimum_plots import Seen, moments, resampled, seen_of, started, updated
from ssrtrack.experiments.near_optimum_prior import Errors, Habits
from ssrtrack.filters.history import TrackHistory, flight_lengths
from ssrtrack.filters.measurement import Measurements

Array = NDArray[Any]
Tensor = torch.Tensor
LONGEST_STEP_S = 30.0  # in a longer silence more than one manoeuvre may begin
CELLS = 65_536  # particles at work at a time on a CPU: their covariances stay near its caches


@dataclass(frozen=True, eq=False)
class NearOptimum:
    """The reference over whole flights.

    particles: of each flight. seed: the estimates of a flight are a function of it, the flights beside it and the
    device. cells: flights x particles worked on at a time.
    """

    habits: Habits
    errors: Errors
    particles: int = 2048
    seed: int = 0
    cells: int = CELLS

    def run_batch(self, measurements: Measurements, backend: str = "auto", dtype: str = "float64") -> TrackHistory:
        """Estimates of all flights of (N, T) measurements, on the device of the habits.

        Raises:
            EstimatorError: measurements that are not (N, T) from one radar at the frame's origin, a flight without a
                plot in its first column, times that run backwards, or fewer than 2 particles.
        """
        begin = perf_counter()
        lengths = _checked(measurements, self.particles)
        flights, steps = measurements.time_s.shape
        found = [np.full((flights, steps, *tail), np.nan) for tail in ((4,), (4, 4), (4,), (4, 4))]
        order = np.argsort(-lengths, kind="stable")
        room = max(1, self.cells // self.particles)
        for at in range(0, flights, room):
            rows = order[at : at + room]
            self._follow(measurements.select(rows), lengths[rows], rows, found, at)
        before, before_p, after, after_p = found
        used, seconds = measurements.valid.copy(), perf_counter() - begin
        return TrackHistory(before, before_p, after, after_p, used, None, seconds)

    def _follow(self, z: Measurements, lengths: Array, rows: Array, found: list[Array], key: int) -> None:
        """Fill in the estimates of some flights, longest first."""
        device = self.habits.device
        words = np.random.SeedSequence(self.seed, spawn_key=(key,)).generate_state(1, np.uint64)
        rng = torch.Generator(device).manual_seed(int(words[0] >> 1))
        plots = _plots(z, device)
        time_s = torch.as_tensor(z.time_s, device=device)
        p: Particles | None = None
        for k in range(int(lengths.max(initial=0))):
            alive = int((lengths > k).sum())
            seen = plots.rows((slice(0, alive), k))
            if p is None:
                p = started(seen, self.habits, self.errors, self.particles, rng)
            else:
                p = p.rows(slice(0, alive))
                for step_s in _steps(time_s[:alive, k] - time_s[:alive, k - 1]):
                    p = predicted(p, self.habits, step_s, rng)
                _keep(found[:2], rows[:alive], k, p)
                p = updated(p, seen, self.errors)
            _keep(found[2:], rows[:alive], k, p)
            p = resampled(p, rng)


def _checked(z: Measurements, particles: int) -> Array:
    lengths = flight_lengths(z)
    if particles < 2:
        raise EstimatorError(f"found {particles} particles, expected at least 2; some thousands make a reference")
    away = z.frame.position_m[np.unique(z.radar_id[z.valid])]
    if away.shape[0] != 1 or np.abs(away).max() > 1.0:
        raise EstimatorError("the plots must come from one radar, at the tracking frame's origin; give such a log")
    if (np.diff(z.time_s, axis=1) < 0.0).any():
        raise EstimatorError("plots must be in time order; sort them first")
    return lengths


def _plots(z: Measurements, device: torch.device) -> Seen:
    """Plots (N, T) on the device; a miss has numbers that are never used."""
    cell = z.valid[..., None]
    position = np.where(cell, z.position_m, 1.0)
    covariance = np.where(cell[..., None], z.covariance_m2, np.eye(2))
    sigma = np.where(z.valid, z.sigma_range_m, 1.0)
    place, spread, own = (torch.as_tensor(a, dtype=torch.float64, device=device) for a in (position, covariance, sigma))
    return seen_of(place, spread, own, torch.as_tensor(z.valid, device=device))


def _steps(whole_s: Tensor) -> Iterator[Tensor]:
    """The time (B,) in steps of at most LONGEST_STEP_S."""
    left = whole_s
    while True:
        step = left.clamp(max=LONGEST_STEP_S)
        yield step
        left = left - step
        if not bool((left > 0.0).any()):
            return


def _keep(found: list[Array], rows: Array, k: int, p: Particles) -> None:
    for table, values in zip(found, moments(p), strict=True):
        table[rows, k] = values.cpu().numpy()
