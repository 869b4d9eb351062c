"""Flights to tune on, out of logs or a simulation, cut and measured as in scoring; with or without truth."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots, Radar, Truth
from ssrtrack.errors import TrainingError
from ssrtrack.filters.measurement import SIGMA_HEIGHT_M, Measurements, make_measurements, tracking_frame
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.provenance import Sources, marks_of_tables, sources_of_log, sources_of_simulation
from ssrtrack.simulators.scenario import radars as radars_of
from ssrtrack.simulators.scenario import simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.tracking.flights import COLUMNS, MIN_RANGE_M, Cutting, FlightBatch, flights
from ssrtrack.tracking.sigma import choose_sigmas, tells_types_apart
from ssrtrack.tracking.truth import TruthWindow

Array = NDArray[Any]

MIN_PLOTS = 10  # as in scoring: eight plots of warm-up and two to score
ROWS = 200_000
HASH = 0x9E3779B97F4A7C15


@dataclass(frozen=True, eq=False)
class Block:
    """N flights of up to T plots: measurements (N, T); truth (N, T, 4) x, y (m), vx, vy (m/s), NaN where unknown."""

    z: Measurements
    truth: Array | None
    keys: Array  # (N,) address or true aircraft

    @property
    def plots(self) -> Array:
        """Plots of each flight (N,)."""
        count: Array = self.z.valid.sum(1)
        return count

    def take(self, rows: Array) -> "Block":
        """Some of the flights."""
        return Block(self.z.select(rows), None if self.truth is None else self.truth[rows], self.keys[rows])


@dataclass(frozen=True, eq=False)
class Group:
    """Flights that count together: those of one scenario, or of all logs.

    tail: heavy tail measured with the noise, where plots state no noise (options tail_weight, tail_scale).
    """

    name: str
    blocks: tuple[Block, ...]
    sources: Sources = field(default_factory=Sources)
    tail: Mapping[str, float] = field(default_factory=dict)

    @property
    def flights(self) -> int:
        """How many there are."""
        return sum(block.keys.size for block in self.blocks)

    @property
    def plots(self) -> int:
        """How many they have."""
        return sum(int(block.plots.sum()) for block in self.blocks)

    @property
    def has_truth(self) -> bool:
        """Whether the true states are known."""
        return bool(self.blocks) and all(block.truth is not None for block in self.blocks)


def simulated_group(
    scenario: Scenario, seed: int, *, suite: Mapping[str, Any] | None = None, max_plots: int | None = None
) -> Group:
    """The flights of a scenario, simulated in memory.

    Args:
        suite: what `suite_provenance` says, for a split of the benchmark suite.
        max_plots: flights are left out, the same for the same scenario and seed, until there are no more plots.

    Raises:
        TrainingError: no flight is long enough.
    """
    table = radars_of(scenario)
    chunks = list(simulate(scenario, seed))
    plots, truth = [c[0] for c in chunks], [c[1] for c in chunks]
    blocks = list(_blocks(plots, truth, table, "truth", Cutting(min_plots=MIN_PLOTS)))
    sources = sources_of_simulation(scenario.name, scenario.text, seed, suite)
    if not suite:  # a split of the suite is recognised by its name; marks would make the file a hundred times longer
        sources = replace(sources, **_marks(scenario.epoch.timestamp(), plots, truth))
    return _thinned(_required(Group(scenario.name, tuple(blocks), sources)), max_plots)


def log_group(paths: Sequence[str | Path], *, max_plots: int | None = None, identity: str = "auto") -> Group:
    """The flights of logs, read one after the other; noise that plots do not state is measured, as in scoring.

    Args:
        max_plots: of a longer log only some flights are used, chosen by their aircraft and not by their place.

    Raises:
        LogError: a log cannot be read.
        TrainingError: no flight is long enough, or some logs have truth and others do not.
    """
    groups = []
    for path in paths:
        with LogReader(path) as reader:
            groups.append(_one_log(reader, identity, max_plots))
    known = {group.has_truth for group in groups if group.blocks}
    if len(known) > 1:
        raise TrainingError("some logs have truth and others do not; tune on one kind alone")
    sources = Sources()
    for group in groups:
        sources = sources.joined(group.sources)
    worst: Mapping[str, float] = max((g.tail for g in groups), key=lambda t: t.get("tail_weight", 0.0), default={})
    blocks = tuple(block for group in groups for block in group.blocks)
    name = ", ".join(Path(path).name for path in paths)
    return _thinned(_required(Group(name, blocks, sources, worst)), max_plots)


def split_group(group: Group, share: float) -> tuple[Group, Group]:
    """Training and validation flights: about `share` of the aircraft, with all their flights, are for validation."""
    held = [_hashed(block.keys) < share for block in group.blocks]
    parts = [
        tuple(
            block.take(rows)
            for block, h in zip(group.blocks, held, strict=True)
            if (rows := np.flatnonzero(h == v)).size
        )
        for v in (False, True)
    ]
    training, validation = (replace(group, blocks=blocks) for blocks in parts)
    if not training.blocks or not validation.blocks:
        raise TrainingError(
            f"{group.name}: {group.flights} flights are too few to hold some back for validation; give --validation"
        )
    return training, validation


def _one_log(reader: LogReader, identity: str, max_plots: int | None) -> Group:
    # As `scoring.gather` does it: what is tuned here is scored there.
    truth_known = reader.has_truth
    if identity == "auto":
        identity = "truth" if truth_known else "address"
    per_radar = len(reader.radars) > 1 and not bool(reader.radars.has_site().all())
    cutting = Cutting(
        min_plots=MIN_PLOTS,
        min_range_m=0.0 if truth_known else MIN_RANGE_M,
        implausible=not truth_known,
        per_radar=per_radar,
        detected=tells_types_apart(reader),
    )
    sigmas = choose_sigmas(reader, identity, cutting, None, None)
    share = 1.0 if max_plots is None else max_plots / max(reader.plot_count, 1)
    chunks = (_some(chunk, identity, share) for chunk in reader.plots(ROWS, COLUMNS))
    truth = reader.truth(ROWS) if truth_known else None
    blocks = _blocks(chunks, truth, reader.radars, identity, cutting, (sigmas.range_m, sigmas.azimuth_rad))
    return Group(reader.path.name, tuple(blocks), sources_of_log(reader), sigmas.tail)


def _some(chunk: Plots, identity: str, share: float) -> Plots:
    """The plots of some aircraft, before anything is kept of the others."""
    if share >= 1.0:
        return chunk
    return chunk[_hashed(chunk.truth_id if identity == "truth" else chunk.address, 1) < share]


def _blocks(
    plots: Iterable[Plots],
    truth: Iterable[Truth] | None,
    radars: Radar,
    identity: str,
    cutting: Cutting,
    sigmas: tuple[Array, Array] | None = None,
) -> Iterator[Block]:
    radar_ids = range(len(radars)) if cutting.per_radar else [-1]
    frames = {k: tracking_frame(radars, None if k < 0 else [k]) for k in radar_ids}
    window = None if truth is None else TruthWindow(truth, frames[-1].site_rad[0])
    range_m, azimuth_rad = sigmas or (radars.sigma_range_m, radars.sigma_azimuth_rad)
    for batch in flights(plots, identity=identity, cutting=cutting):
        if len(batch):
            z = make_measurements(
                batch.plots,
                batch.index(),
                frames[batch.radar_id],
                sigma_range_m=range_m,
                sigma_azimuth_rad=azimuth_rad,
                sigma_height_m=SIGMA_HEIGHT_M,
            )
            yield Block(z, None if window is None else _true_states(batch, window), np.asarray(batch.keys, np.int64))
        if window is not None and batch.waiting is not None:
            window.forget(batch)


def _true_states(batch: FlightBatch, window: TruthWindow) -> Array:
    states = window.at(batch.plots.truth_id, batch.plots.time_s).grid(batch.index())
    return np.concatenate([states.position_m, states.velocity_mps], -1)


def _marks(epoch_s: float, plots: list[Plots], truth: list[Truth]) -> dict[str, Any]:
    seen_truth, seen_plots = marks_of_tables(epoch_s, plots, truth)
    return {"truth": seen_truth, "plots": seen_plots}


def _required(group: Group) -> Group:
    if not group.blocks:
        raise TrainingError(f"{group.name}: no flight has {MIN_PLOTS} plots; tune on a longer log or scenario")
    return group


def _thinned(group: Group, max_plots: int | None) -> Group:
    """Whole flights, in an order that depends on nothing but their aircraft, up to so many plots; at least one."""
    if max_plots is None or group.plots <= max_plots:
        return group
    order = np.argsort(np.concatenate([_hashed(b.keys, 2) for b in group.blocks]), kind="stable")
    count = np.concatenate([b.plots for b in group.blocks])
    kept = np.zeros(count.size, bool)
    kept[order] = np.cumsum(count[order]) <= max_plots
    kept[order[0]] = True
    parts = np.split(kept, np.cumsum([b.keys.size for b in group.blocks])[:-1])
    blocks = tuple(b.take(np.flatnonzero(k)) for b, k in zip(group.blocks, parts, strict=True) if k.any())
    return replace(group, blocks=blocks)


def _hashed(keys: Array, salt: int = 0) -> Array:
    """A number (n,) in [0, 1) for each aircraft, the same wherever and however often it appears."""
    x = np.asarray(keys, np.int64).astype(np.uint64) + np.uint64((salt + 1) * HASH % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: Array = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
    return out
