"""The simulation of a scenario: truth and plots in time order, a block of time after another, on one or more cores."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from ssrtrack.data import Plots, Truth
from ssrtrack.errors import ScenarioError
from ssrtrack.simulators.effects_measurement import coordinate_rms
from ssrtrack.simulators.effects_time import lead_s
from ssrtrack.simulators.look import Columns, Look
from ssrtrack.simulators.replies_transponder import with_duplicates
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.ssr import observe, plots_table
from ssrtrack.simulators.timing import rotations
from ssrtrack.simulators.traffic import Fleet, Traffic, has_traffic
from ssrtrack.simulators.trajectory import Paths
from ssrtrack.simulators.truth import truth_rows
from ssrtrack.units import DEG_RAD

# Work is done in blocks of this length whatever the chunks and workers are, so that these cannot change a single bit.
BLOCK_S = 600.0
HORIZON_S = 3600.0  # flights are planned in steps of this
_AHEAD_ROTATIONS = 2
_FIRST_S = -1.1  # periods before the scenario at which its first rotation may begin
Air = tuple[Paths, Fleet]
Rows = TypeVar("Rows", Plots, Truth)


class Flights(Protocol):
    """Who flies: what `Traffic` makes at random, or flights that were recorded."""

    def until(self, time_s: float) -> Air | None:
        """The flights not given before that start before `time_s`, or None."""


@dataclass(frozen=True)
class _Block:
    """Work that depends on nothing but this: all radars and the truth of [begin_s, end_s)."""

    scenario: Scenario
    seed: int
    begin_s: float
    end_s: float
    air: Air | None


def simulate(
    scenario: Scenario, seed: int, *, chunk_s: float = 600.0, workers: int = 1, traffic: Flights | None = None
) -> Iterator[tuple[Plots, Truth]]:
    """Plots and truth of a scenario in time order, as chunks of `chunk_s` seconds.

    Every random number is a function of the seed, the effect, the radar, the flight and the rotation: neither chunks
    nor workers nor further radars change a bit. Memory depends on the traffic in the air, on the chunk and on the
    workers, not on the length of the scenario.

    Args:
        scenario: from `load_scenario` or `parse_scenario`.
        seed: 0 or more.
        chunk_s: length of a chunk.
        workers: processes that work on blocks of time while this one flies the aircraft; 1 does all in this one.
            They are spawned: a script that asks for them needs its `if __name__ == "__main__":`.
        traffic: who flies; by default the scenario's random and scripted aircraft.

    Raises:
        ScenarioError: chunk_s is not positive, the seed is negative, there is no worker, or nobody to see; while it
            runs, a worker process died.
    """
    if not chunk_s > 0:
        raise ScenarioError(f"chunk_s: found {chunk_s!r}, expected a positive number of seconds")
    if seed < 0:
        raise ScenarioError(f"seed: found {seed!r}, expected an integer of 0 or more")
    if workers < 1:
        raise ScenarioError(f"workers: found {workers!r}, expected 1 or more")
    if traffic is None and not has_traffic(scenario):
        raise ScenarioError("there is nobody to see; give a [[traffic]], an [[aircraft]] or recorded flights")
    blocks = _blocks(scenario, seed, traffic or Traffic(scenario, seed))
    done = map(_work, blocks) if workers == 1 else _worked_by(workers, blocks)
    return _chunks(_in_order(done, scenario.duration_s), scenario.duration_s, chunk_s)


def _blocks(scenario: Scenario, seed: int, traffic: Flights) -> Iterator[_Block]:
    """The work of a scenario in order of time, with the flights that are in the air."""
    ahead_s = max(_ahead_s(spec, scenario.duration_s) for spec in scenario.radar)
    air: Air | None = None
    begin_s = 0.0
    while begin_s < scenario.duration_s:
        end_s = min(begin_s + BLOCK_S, scenario.duration_s)
        horizon_s = np.ceil((end_s + ahead_s) / HORIZON_S) * HORIZON_S
        new = with_duplicates(scenario.identity, seed, traffic.until(horizon_s))
        air = _in_the_air(air, new, begin_s - ahead_s)
        yield _Block(scenario, seed, begin_s, end_s, air)
        begin_s = end_s


def _ahead_s(spec: RadarSpec, duration_s: float) -> float:
    """How long after a block a radar's rotations of that block may last."""
    return _AHEAD_ROTATIONS * spec.rotation_period_s + lead_s(spec.clock, duration_s)


def _in_the_air(air: Air | None, new: Air | None, since_s: float) -> Air | None:
    """The flights so far and the new ones; whoever has landed before a time leaves when somebody comes."""
    if air is None or new is None:
        return air or new
    flying = np.flatnonzero(air[0].end_s > since_s)
    return Paths.concat([air[0].take(flying), new[0]]), Fleet.concat([air[1].take(flying), new[1]])


def _work(block: _Block) -> tuple[float, Plots, Truth]:
    """End of a block, the plots of the rotations that belong to it, some of which last beyond it, and its truth."""
    scenario = block.scenario
    midnight_s = float(scenario.epoch.hour * 3600 + scenario.epoch.minute * 60 + scenario.epoch.second)
    tables = []
    for n, spec in enumerate(scenario.radar):
        sets = [_within(s, scenario.duration_s) for s in _turn_radar(block, n, spec)]
        tables.append(plots_table(spec.quantisation, midnight_s, sets))
    last = block.end_s >= scenario.duration_s
    truth = truth_rows(block.air, block.begin_s, block.end_s, scenario.truth_step_s, last)
    return block.end_s, _merged(tables), truth


def _turn_radar(block: _Block, number: int, spec: RadarSpec) -> list[Columns]:
    """Columns of all plots of the rotations that belong to a block.

    They are those that begin in it, or later by as much as the clock may be early: plots that are stamped before the
    end of the block then all come from this one or from one before.
    """
    lead = lead_s(spec.clock, block.scenario.duration_s)
    begin_s = block.begin_s + lead if block.begin_s > 0.0 else _FIRST_S * spec.rotation_period_s
    first, north_s = rotations(spec, block.seed, number, begin_s, block.end_s + lead)
    if len(north_s) < 2:
        return []
    whole, fleet = block.air or _nobody()
    touching = np.flatnonzero((whole.start_s < north_s[-1]) & (whole.end_s > north_s[0]))
    paths, fleet = whole.near(touching, north_s[0], north_s[-1]), fleet.take(touching)
    rms = coordinate_rms(spec, whole)[:, touching] if np.isfinite(spec.cartesian.snr_db) else None
    variation = block.scenario.magnetic_variation_deg * DEG_RAD
    return observe(
        Look(
            block.seed, number, spec, first, north_s, paths, fleet, variation,
            identity=block.scenario.identity, coordinate_rms_m=rms,
        )
    )  # fmt: skip


def _nobody() -> Air:
    """An empty sky, in which there may be false plots."""
    none, number = np.empty(0), np.empty(0, int)
    no = np.empty(0, bool)
    paths = Paths(none, none, np.zeros(1, int), none, none, np.empty((6, 3, 0)), np.empty((10, 0)), no.view("u1"), no)
    return paths, Fleet(number, np.empty((0, 3), int), no, number, number, np.empty(0, "S8"))


def _within(columns: Columns, duration_s: float) -> Columns:
    """The plots that are stamped inside the scenario."""
    inside = (columns["time_s"] >= 0.0) & (columns["time_s"] < duration_s)
    return columns if inside.all() else {name: value[inside] for name, value in columns.items()}


def _joined(tables: list[Rows]) -> Rows:
    """Rows of several tables (one at least), one after the other; no copy where only one of them has any."""
    some = [t for t in tables if len(t)]
    return tables[0].concat(some) if len(some) > 1 else some[0] if some else tables[0]


def _merged(tables: list[Plots]) -> Plots:
    """Rows of several tables in order of time; earlier tables first where times are equal."""
    whole = _joined(tables)
    late = np.any(np.diff(whole.time_s) < 0.0)
    return whole[np.argsort(whole.time_s, kind="stable")] if late else whole


def _worked_by(workers: int, blocks: Iterator[_Block]) -> Iterator[tuple[float, Plots, Truth]]:
    """Blocks worked on by several processes, in order; no more are begun than twice the processes."""
    from collections import deque
    from concurrent.futures import Future

    from ssrtrack.simulators.processes import Processes, WorkerDied

    with Processes(workers) as pool:
        begun: deque[Future[tuple[float, Plots, Truth]]] = deque()
        try:
            for block in blocks:
                begun.append(pool.submit(_work, _light(block)))
                if len(begun) > 2 * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except WorkerDied as error:
            raise ScenarioError(
                "a worker process ended before its work: killed, out of memory, or started by a script without "
                'if __name__ == "__main__":; run again with fewer workers'
            ) from error


def _light(block: _Block) -> _Block:
    """The same work with only those pieces of the paths that it needs: copies to other processes cost time."""
    # The signal-to-noise ratio of x and y is one over the whole way.
    if block.air is None or any(np.isfinite(r.cartesian.snr_db) for r in block.scenario.radar):
        return block
    paths, fleet = block.air
    ahead_s = max(_ahead_s(r, block.scenario.duration_s) for r in block.scenario.radar)
    begin_s, end_s = block.begin_s - ahead_s, block.end_s + ahead_s
    flights = np.flatnonzero((paths.start_s < end_s) & (paths.end_s > begin_s))
    near = (paths.near(flights, begin_s, end_s), fleet.take(flights)) if len(flights) else None
    return replace(block, air=near)


def _in_order(
    done: Iterator[tuple[float, Plots, Truth]], duration_s: float
) -> Iterator[tuple[float, Plots, Truth]]:  # fmt: skip
    """Blocks with their plots moved to the block in which they are stamped."""
    held = Plots.empty()
    for end_s, plots, truth in done:
        # Only where the held rows reach into the new ones is there anything to sort.
        reach = int(np.searchsorted(plots.time_s, held.time_s[-1], "right")) if len(held) else 0
        known = _joined([_merged([held, plots[:reach]]), plots[reach:]])
        at = int(np.searchsorted(known.time_s, end_s)) if end_s < duration_s else len(known)
        held = known[at:]
        yield end_s, known[:at], truth


def _chunks(
    blocks: Iterator[tuple[float, Plots, Truth]], duration_s: float, chunk_s: float
) -> Iterator[tuple[Plots, Truth]]:
    """Blocks (complete up to a time) cut anew at multiples of `chunk_s`."""
    plots, truth, number = [Plots.empty()], [Truth.empty()], 1
    for complete_s, more_plots, more_truth in blocks:
        plots.append(more_plots)
        truth.append(more_truth)
        while number * chunk_s <= complete_s and number * chunk_s < duration_s:
            yield _cut(plots, number * chunk_s), _cut(truth, number * chunk_s)
            number += 1
    yield _joined(plots), _joined(truth)


def _cut(tables: list[Rows], edge_s: float) -> Rows:
    """The rows before a time, taken out of the list of tables."""
    whole = _joined(tables)
    at = int(np.searchsorted(whole.time_s, edge_s))
    tables[:] = [whole[at:]]
    return whole[:at]
