"""The near-optimal reference beside the tuned IMMs on a scenario's flights: how much there is to win.

Scores are those of `evaluate`: a flight's first eight plots do not count, and every ratio is over the same updates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.experiments.near_optimum import CELLS, NearOptimum
from ssrtrack.experiments.near_optimum_prior import errors_of, habits_of
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import SIGMA_HEIGHT_M, Measurements, make_measurements, tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.models.load import load_tracker
from ssrtrack.scoring.accuracy import accuracy_values
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.tracking.flights import Cutting, flights
from ssrtrack.tracking.truth import TrueStates, TruthWindow

Array = NDArray[Any]
WARMUP_PLOTS = 8  # as in `evaluate`
IMMS = ("imm", "imm-gated")
PARTICLES = "near-optimal reference"
SCORES = (
    "position_rmse_m", "velocity_rmse_mps", "velocity_rmse_onset_mps", "position_rmse_straight_m",
    "predicted_position_rmse_m",
)  # fmt: skip
INSIDE_95 = 5.991464547  # chi-square of two components


@dataclass(frozen=True, eq=False)
class Flights:
    """N flights of a scenario: plots, true states and phases (N, T), and which updates count."""

    z: Measurements
    truth: TrueStates
    counted: Array

    @property
    def plots(self) -> int:
        """How many plots there are."""
        return int(self.z.valid.sum())


@dataclass(frozen=True, eq=False)
class Scored:
    """Of one tracker: sums of squared errors and their counts by flight (N,), of every score, and how honest it is.

    nees: mean normalised error of x, y, vx, vy over 4. inside_95: share of positions within the 95 % ellipse. worst_m:
    largest position error.
    """

    sums: dict[str, Array]
    counts: dict[str, Array]
    nees: float
    inside_95: float
    worst_m: float
    seconds: float

    def rmse(self, score: str) -> float:
        """Over all flights."""
        return float(np.sqrt(self.sums[score].sum() / self.counts[score].sum()))


def suite_flights(scenario: Scenario, seed: int, count: int, *, hours: float = 1.0) -> Flights:
    """`count` flights of a scenario's first hours, in an order that has nothing to do with their length.

    Raises:
        EstimatorError: there are not so many.
    """
    scenario = replace(scenario, duration_s=min(scenario.duration_s, 3600.0 * hours))
    table = radars(scenario)
    chunks = list(simulate(scenario, seed))
    frame = tracking_frame(table)
    window = TruthWindow((c[1] for c in chunks), frame.site_rad[0])
    cutting = Cutting(min_plots=WARMUP_PLOTS + 2, batch_cells=10**9)
    for batch in flights([_joined([c[0] for c in chunks])], identity="truth", cutting=cutting):
        if not len(batch):
            continue
        if len(batch) < count:
            break
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(batch))[:count]
        index = batch.index()
        true = window.at(batch.plots.truth_id, batch.plots.time_s)
        z = make_measurements(
            batch.plots, index[order], frame, sigma_range_m=table.sigma_range_m,
            sigma_azimuth_rad=table.sigma_azimuth_rad, sigma_height_m=SIGMA_HEIGHT_M,
        )  # fmt: skip
        states = true.grid(index[order])
        known = np.isfinite(states.velocity_mps).all(-1)
        return Flights(z, states, z.valid & known & (np.arange(z.valid.shape[1]) >= WARMUP_PLOTS))
    raise EstimatorError(f"{scenario.name}: fewer than {count} flights in {hours:g} h; ask for fewer or more hours")


def _joined(tables: Sequence[Any]) -> Any:
    return tables[0].concat(list(tables))


def scored(history: TrackHistory, of: Flights) -> Scored:
    """What a tracker's estimates of flights are worth."""
    values = accuracy_values(history.mean, history.predicted_mean, of.truth, of.counted)
    off = history.mean - np.concatenate([of.truth.position_m, of.truth.velocity_mps], -1)
    rows = of.counted
    error, spread = off[rows], history.covariance[rows]
    nees = np.einsum("ni,ni->n", error, np.linalg.solve(spread, error[..., None])[..., 0])
    place = np.einsum("ni,ni->n", error[:, :2], np.linalg.solve(spread[:, :2, :2], error[:, :2, None])[..., 0])
    return Scored(
        sums={name: np.nansum(values[name], 1) for name in SCORES},
        counts={name: np.isfinite(values[name]).sum(1).astype(float) for name in SCORES},
        nees=float(nees.mean() / 4.0),
        inside_95=float((place < INSIDE_95).mean()),
        worst_m=float(np.sqrt(np.nanmax(values["position_rmse_m"]))),
        seconds=history.seconds,
    )


def imm_scores(of: Flights) -> dict[str, Scored]:
    """The tuned IMMs on the same flights, by name."""
    return {name: scored(run(make_estimator(name), of.z), of) for name in IMMS}


def reference_scores(
    scenario: Scenario, of: Flights, particles: int, seed: int, *, device: str = "cpu", edge: bool = True,
    cells: int = CELLS,
) -> Scored:  # fmt: skip
    """The reference with so many particles on the same flights."""
    habits, errors = habits_of(scenario, device, edge=edge), errors_of(scenario, device)
    return scored(NearOptimum(habits, errors, particles, seed, cells).run_batch(of.z), of)


def ratio(ours: Scored, theirs: Scored, score: str, seed: int, draws: int = 2000) -> tuple[float, float, float]:
    """Our RMSE over theirs, and its 95 % interval by a paired bootstrap over flights."""
    sums = np.stack([ours.sums[score], theirs.sums[score]])
    rng = np.random.Generator(np.random.PCG64(seed))
    n = sums.shape[1]
    weight = rng.multinomial(n, np.full(n, 1.0 / n), size=draws)
    drawn = np.sqrt((weight @ sums[0]) / (weight @ sums[1]))
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return ours.rmse(score) / theirs.rmse(score), float(low), float(high)


def table(
    scenario: Scenario, simulated_seed: int, *, count: int, particles: Sequence[int], trackers: Sequence[str] = (),
    hours: float = 1.0, seed: int = 1, device: str = "cpu", edge: bool = True, cells: int = CELLS,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for each number of particles and each tracker, as `--tracker` has it, on the same flights.

    In it ratios to the IMM that is better on these flights, and honesty.

    Raises:
        EstimatorError: a scenario that the reference does not know, too few flights, or no such tracker.
    """
    of = suite_flights(scenario, simulated_seed, count, hours=hours)
    imms = imm_scores(of)
    every: list[int | str] = [*particles, *trackers]
    for who in every:
        if isinstance(who, int):
            ours = reference_scores(scenario, of, who, seed, device=device, edge=edge, cells=cells)
            about: dict[str, Any] = {"who": PARTICLES, "particles": who, "edge_known": edge}
        else:
            ours, about = scored(run(load_tracker(who), of.z), of), {"who": who, "particles": "", "edge_known": ""}
        row = {"scenario": scenario.name, "flights": count, "updates": int(of.counted.sum())} | about
        for score in SCORES:
            best = min(IMMS, key=lambda name: imms[name].rmse(score))
            found = ratio(ours, imms[best], score, seed)
            row |= {score: f"{ours.rmse(score):.4g}", f"{score}_imm": f"{imms[best].rmse(score):.4g}"}
            row[f"{score}_over_imm"] = f"{found[0]:.4f}"
            row[f"{score}_over_imm_95"] = f"{found[1]:.4f}..{found[2]:.4f}"
        row |= {
            "nees_per_n": f"{ours.nees:.3f}", "inside_95": f"{ours.inside_95:.4f}",
            "worst_m": f"{ours.worst_m:.0f}", "worst_imm_m": f"{min(s.worst_m for s in imms.values()):.0f}",
            "seconds_per_flight": f"{ours.seconds / count:.3f}",
        }  # fmt: skip
        yield row
