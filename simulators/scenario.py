"""Scenarios by name or file, and their simulation: truth and plots in time order, a chunk at a time."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ssrtrack.data import Plots, Radar, Truth
from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import ecef_to_geodetic
from ssrtrack.simulators.blocks import parse_block
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.ssr import draws, false_plots, observe, plots_table, to_enu
from ssrtrack.simulators.timing import crossings, north_times
from ssrtrack.simulators.traffic import (
    FALSE_PLOTS,
    MEASUREMENT,
    MIN_FLIGHT_S,
    ROTATION,
    Fleet,
    Traffic,
    check_identities,
    stream,
)
from ssrtrack.simulators.trajectory import MERGE_S, Paths
from ssrtrack.units import DEG_RAD, NM_M

_FOLDER = Path(__file__).parent / "scenarios"
# Work is done in blocks of this length whatever the chunks are, so that chunks cannot change a single bit.
BLOCK_S = 600.0
HORIZON_S = 1800.0  # flights are planned in steps of this
_AHEAD_ROTATIONS = 2
Rows = TypeVar("Rows", Plots, Truth)


def list_scenarios() -> list[str]:
    """Names of the built-in scenarios."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """A built-in scenario by name, or one from a TOML file (docs/scenario.md).

    Raises:
        ScenarioError: no such scenario or file, not TOML, or a key that is unknown, missing or out of range.
    """
    path = Path(name_or_path)
    if str(name_or_path) in list_scenarios():
        path = _FOLDER / f"{name_or_path}.toml"
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: not UTF-8 text ({error}); a scenario is a TOML file") from error
    except OSError as error:
        close = get_close_matches(str(name_or_path), list_scenarios(), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"built-in scenarios: {', '.join(list_scenarios())}"
        raise ScenarioError(f"{path}: cannot read a scenario there ({error.strerror}); {hint}") from error
    return parse_scenario(text, path.stem, str(path))


def parse_scenario(text: str, name: str, where: str) -> Scenario:
    """A scenario from TOML text; `where` begins every message.

    Raises:
        ScenarioError: as load_scenario.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{where}: not valid TOML: {error}") from error
    scenario: Scenario = parse_block(Scenario, table, where, name=name, text=text)
    try:
        _check(scenario)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from error
    return scenario


def _check(scenario: Scenario) -> None:
    """What no single key can tell."""
    if not scenario.radar:
        raise ScenarioError("there is no radar; give at least one [[radar]]")
    if not scenario.traffic and not scenario.aircraft:
        raise ScenarioError("there is nobody to see; give a [[traffic]] or an [[aircraft]]")
    names = [r.name for r in scenario.radar]
    for name in names:
        if names.count(name) > 1:
            raise ScenarioError(f"radar.name: {name!r} is given {names.count(name)} times; give each radar its own")
        if not name.isascii():
            raise ScenarioError(f"radar.name: found {name!r}, expected ASCII characters")
    for r in scenario.radar:
        if r.coverage.min_range_nm >= r.coverage.max_range_nm:
            raise ScenarioError(
                f"radar.coverage.min_range_nm: found {r.coverage.min_range_nm:g}, "
                f"expected less than max_range_nm = {r.coverage.max_range_nm:g}"
            )
    for n, flow in enumerate(scenario.traffic):
        if np.isnan(flow.latitude_deg) != np.isnan(flow.longitude_deg):
            raise ScenarioError(
                f"traffic[{n}]: found only one of latitude_deg and longitude_deg, expected both or none"
            )
    check_identities(scenario.aircraft)
    for n, a in enumerate(scenario.aircraft):
        if a.start_s > min(a.end_s, scenario.duration_s) - MIN_FLIGHT_S:
            raise ScenarioError(
                f"aircraft[{n}].start_s: found {a.start_s:g}, expected at least {MIN_FLIGHT_S:g} s "
                f"before its end and that of the scenario ({min(a.end_s, scenario.duration_s):g})"
            )


def radars(scenario: Scenario) -> Radar:
    """The radars of a scenario; a plot's radar_id is the row."""
    specs = scenario.radar

    def column(name: str) -> Any:
        return np.array([getattr(r, name) for r in specs])

    return Radar(
        name=np.array([r.name.encode() for r in specs], "S32"),
        sac=column("sac").astype("u1"),
        sic=column("sic").astype("u1"),
        latitude_deg=column("latitude_deg"),
        longitude_deg=column("longitude_deg"),
        height_m=column("height_m"),
        rotation_period_s=column("rotation_period_s"),
        max_range_m=np.array([r.coverage.max_range_nm * NM_M for r in specs]),
        sigma_range_m=np.array([r.noise.sigma_range_m for r in specs]),
        sigma_azimuth_rad=np.array([r.noise.sigma_azimuth_deg * DEG_RAD for r in specs]),
    )


def simulate(scenario: Scenario, seed: int, *, chunk_s: float = 600.0) -> Iterator[tuple[Plots, Truth]]:
    """Plots and truth of a scenario in time order, as chunks of `chunk_s` seconds; the same for any `chunk_s`.

    Every flight, radar and effect has its own random stream, so that adding one does not change the others. Memory
    depends on the traffic in the air and on the chunk, not on the length of the scenario.

    Raises:
        ScenarioError: chunk_s is not positive, or the seed is negative.
    """
    if not chunk_s > 0:
        raise ScenarioError(f"chunk_s: found {chunk_s!r}, expected a positive number of seconds")
    if seed < 0:
        raise ScenarioError(f"seed: found {seed!r}, expected an integer of 0 or more")
    return _chunks(_blocks(scenario, seed), scenario.duration_s, chunk_s)


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
    yield Plots.concat(plots), Truth.concat(truth)


def _cut(tables: list[Rows], edge_s: float) -> Rows:
    """The rows before a time, taken out of the list of tables."""
    whole = tables[0].concat(tables)
    at = int(np.searchsorted(whole.time_s, edge_s))
    tables[:] = [whole[at:]]
    return whole[:at]


@dataclass
class _Station:
    """One radar at work: the next rotation to do, and what each flight in the air left behind."""

    number: int
    spec: RadarSpec
    next_rotation: int
    azimuth: dict[int, float]
    rngs: dict[int, np.random.Generator]
    false_rng: np.random.Generator


def _blocks(scenario: Scenario, seed: int) -> Iterator[tuple[float, Plots, Truth]]:
    """Time up to which all is known, plots and truth, block after block."""
    midnight_s = float(scenario.epoch.hour * 3600 + scenario.epoch.minute * 60 + scenario.epoch.second)
    traffic = Traffic(scenario, seed)
    stations = [
        # Rotation −1 may sweep into the scenario before the first north.
        _Station(n, spec, -1 - int(spec.north_time_s // spec.rotation_period_s), {}, {}, stream(seed, FALSE_PLOTS, n))
        for n, spec in enumerate(scenario.radar)
    ]
    ahead_s = _AHEAD_ROTATIONS * max(spec.rotation_period_s for spec in scenario.radar)
    air: tuple[Paths, Fleet] | None = None
    held: list[dict[str, Any]] = [{} for _ in stations]
    begin_s = 0.0
    while begin_s < scenario.duration_s:
        end_s = min(begin_s + BLOCK_S, scenario.duration_s)
        horizon_s = np.ceil((end_s + ahead_s) / HORIZON_S) * HORIZON_S
        air = _in_the_air(air, traffic.until(horizon_s), begin_s - ahead_s)
        tables = []
        for n, station in enumerate(stations):
            parts = [held[n], *_turn_radar(scenario, station, air, end_s, seed)]
            parts = [p for p in parts if p]
            now = [_rows(p, (p["time_s"] >= 0.0) & (p["time_s"] < end_s)) for p in parts]
            later = [_rows(p, (p["time_s"] >= end_s) & (p["time_s"] < scenario.duration_s)) for p in parts]
            held[n] = _joined(later)
            tables.append(plots_table(station.spec.quantisation, midnight_s, now))
        last = end_s >= scenario.duration_s
        yield end_s, _merged(tables), truth_rows(air, begin_s, end_s, scenario.truth_step_s, last)
        begin_s = end_s


def _in_the_air(
    air: tuple[Paths, Fleet] | None, new: tuple[Paths, Fleet] | None, since_s: float
) -> tuple[Paths, Fleet] | None:
    """Flights still in the air after a time, and the new ones."""
    if air is None:
        return new
    flying = np.flatnonzero(air[0].end_s > since_s)
    old = air[0].take(flying), air[1].take(flying)
    return old if new is None else (Paths.concat([old[0], new[0]]), Fleet.concat([old[1], new[1]]))


def _turn_radar(
    scenario: Scenario, station: _Station, air: tuple[Paths, Fleet] | None, end_s: float, seed: int
) -> list[dict[str, Any]]:
    """Plot columns of all rotations not done before that begin before `end_s`."""
    north_s = _rotations(station, end_s, seed)
    if len(north_s) < 2:
        return []
    out = [false_plots(station.spec, station.number, north_s, station.false_rng)]
    if air is None:
        return out
    touching = np.flatnonzero((air[0].start_s < north_s[-1]) & (air[0].end_s > north_s[0]))
    if len(touching) == 0:
        return out
    paths, fleet = air[0].take(touching).window(north_s[0], north_s[-1]), air[1].take(touching)
    ids = fleet.truth_id.tolist()
    site = (station.spec.latitude_deg * DEG_RAD, station.spec.longitude_deg * DEG_RAD, station.spec.height_m)
    before = np.array([station.azimuth.get(i, np.nan) for i in ids])
    met, azimuth = crossings(paths, to_enu(paths.ecef, site), north_s, before)
    station.azimuth = dict(zip(ids, azimuth.tolist(), strict=True))
    known = station.rngs
    station.rngs = {
        i: known[i] if i in known else stream(seed, MEASUREMENT, station.number, *map(int, who))
        for i, who in zip(ids, fleet.who, strict=True)
    }
    d = draws(list(station.rngs.values()), np.bincount(met.flight, minlength=len(ids)))
    variation = scenario.magnetic_variation_deg * DEG_RAD
    return [observe(station.spec, station.number, paths, fleet, met, d, variation), *out]


def _rotations(station: _Station, end_s: float, seed: int) -> Floats:
    """Norths from the next rotation's first to the first one at or after `end_s`."""
    spec = station.spec
    most = int(np.ceil((end_s - spec.north_time_s) / spec.rotation_period_s)) + 2
    numbers = np.arange(station.next_rotation, most + 1)
    page = partial(stream, seed, ROTATION, station.number)
    # Spawn keys cannot be negative: pages are counted from two before zero.
    norths = north_times(
        spec.rotation_period_s, spec.north_time_s, spec.rotation_jitter, lambda p: page(p + 2), numbers
    )
    needed = int(np.searchsorted(norths, end_s)) + 1
    station.next_rotation += needed - 1
    return norths[:needed]


def _rows(part: dict[str, Any], keep: Any) -> dict[str, Any]:
    return {name: value[keep] for name, value in part.items()}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Parts as one; a column that some part lacks is filled with NaN there."""
    names = set().union(*parts)
    return {n: np.concatenate([p[n] if n in p else np.full(len(p["time_s"]), np.nan) for p in parts]) for n in names}


def _merged(tables: list[Plots]) -> Plots:
    whole = Plots.concat(tables)
    return whole if len(tables) == 1 else whole[np.argsort(whole.time_s, kind="stable")]


def truth_rows(air: tuple[Paths, Fleet] | None, begin_s: float, end_s: float, step_s: float, last: bool) -> Truth:
    """Truth of [begin_s, end_s), with the end if it is the last: on the grid, and where a law of motion changes.

    The extra rows make acceleration smooth between neighbours, so that cubic interpolation holds to a centimetre.
    """
    if air is None:
        return Truth.empty()
    paths, fleet = air
    grid = np.arange(np.ceil(begin_s / step_s), np.floor(end_s / step_s) + 1) * step_s
    low = np.searchsorted(grid, paths.start_s)
    high = np.searchsorted(grid, paths.end_s, "right")
    counts = np.maximum(high - low, 0)
    flight = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(flight)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.flatnonzero(paths.row)
    owner = paths.pieces_of()
    flight = np.concatenate([flight, owner[rows], np.arange(len(counts))])
    time_s = np.concatenate([grid[low[flight[: len(nth)]] + nth], paths.time_s[rows], paths.end_s])
    inside = (time_s >= begin_s) & ((time_s < end_s) | (last & (time_s <= end_s)))
    flight, time_s = flight[inside], time_s[inside]
    order = np.lexsort((time_s, flight))
    flight, time_s = flight[order], time_s[order]
    fresh = (np.diff(time_s, prepend=-1.0) > MERGE_S) | (np.diff(flight, prepend=-1) != 0)
    flight, time_s = flight[fresh], time_s[fresh]
    order = np.lexsort((flight, time_s))
    return _truth(paths, fleet, flight[order], time_s[order])


def _truth(paths: Paths, fleet: Fleet, flight: Any, time_s: Floats) -> Truth:
    if len(flight) == 0:
        return Truth.empty()
    piece = paths.locate(flight, time_s)
    position, v = paths.motion(piece, time_s)
    latitude, longitude, height = ecef_to_geodetic(position.T)
    s, c, sl, cl = np.sin(latitude), np.cos(latitude), np.sin(longitude), np.cos(longitude)
    outward = cl * v[0] + sl * v[1]
    return Truth(
        time_s=time_s,
        truth_id=fleet.truth_id[flight].astype("i4"),
        latitude_deg=latitude / DEG_RAD,
        longitude_deg=longitude / DEG_RAD,
        height_m=height,
        v_east_mps=cl * v[1] - sl * v[0],
        v_north_mps=c * v[2] - s * outward,
        v_up_mps=s * v[2] + c * outward,
        phase=paths.phase[piece],
    )
