"""What a tracker was trained on, kept so that a log of the same flights is recognised before it is scored.

Three signs say that a log and a training set are the same, each of which can be missing:
- its split of the benchmark suite (name, version, split);
- its simulation (a digest of the scenario's text, and the seed);
- its marks: hashes of what was seen when and where. For true states these are the absolute UTC minute and the position
  there to 1e-4° (11 m), so that another radar's plots of the same flights are recognised as well. For plots they are
  the time of day to 1/128 s and range and azimuth in the units of CAT048 I048/040, so that a log without truth is
  recognised under another name, cut, joined, or written again as ASTERIX; the date is left out because CAT048 has none.
Of the marks the k smallest are kept, a bottom-k sketch (Broder 1997, "On the resemblance and containment of
documents"): of the marks of another log those below the largest one kept are a fair sample, and the share of them
that is known estimates how much of that log was trained on. Unrelated flights share no marks: a coincidence of position
and minute has a chance of about 1e-9 for each pair of aircraft. A short piece of a long training set may go unnoticed:
on average k/M of its marks are in the sample, for M marks trained on.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots, Truth
from ssrtrack.errors import LogError
from ssrtrack.io.hdf5 import LogReader, Provenance
from ssrtrack.units import AZIMUTH_LSB_RAD, RANGE_LSB_M

Array = NDArray[Any]
Text = str | int | float

KEPT = 4096  # marks of a sketch
OCTETS = 6  # of a mark's 8 that are kept: a false match among 1e6 marks then has a chance of 1.5e-5
LARGEST = np.uint64(2 ** (8 * OCTETS) - 1)
SAMPLED = 1 << 20  # of a log's marks that are looked up at most
MIN_MATCHES, MIN_SHARE = 3, 0.01  # of a log's sampled marks that must be known
EARTH_RADIUS_M = 6.371e6
MAX_SPACING_S = 30.0  # of truth rows between which a position at the full minute is interpolated
ROWS = 200_000
PLOT_COLUMNS = ("range_m", "azimuth_rad")  # optional in a log; the time always comes


@dataclass(frozen=True)
class Sketch:
    """The k smallest marks of a set (k,), ascending; `whole` if they are all there are."""

    marks: Array = field(default_factory=lambda: np.zeros(0, np.uint64))
    whole: bool = True

    @staticmethod
    def of(marks: Array) -> "Sketch":
        """The sketch of marks, repeats left out."""
        found = np.unique(marks)
        return Sketch(found[:KEPT], found.size <= KEPT)

    def joined(self, other: "Sketch") -> "Sketch":
        """The sketch of both sets together."""
        # Below both sketches' ends all marks of both sets are known; beyond, one of them has gaps.
        ends = [s.marks[-1] for s in (self, other) if not s.whole]
        both = np.union1d(self.marks, other.marks)
        if ends:
            both = both[both <= min(ends)]
        return Sketch(both[:KEPT], not ends and both.size <= KEPT)

    def known(self, marks: Array) -> tuple[int, int]:
        """How many of a log's marks are in the sample, and how many of those are known."""
        if not self.marks.size:
            return 0, 0
        sample = marks if self.whole else marks[marks <= self.marks[-1]]
        return int(sample.size), int(np.isin(sample, self.marks).sum())


@dataclass(frozen=True, eq=False)
class Sources:
    """What was trained on: one table of texts and numbers for each source, and the marks of all of them."""

    entries: tuple[Mapping[str, Text], ...] = ()
    truth: Sketch = field(default_factory=Sketch)
    plots: Sketch = field(default_factory=Sketch)

    def joined(self, other: "Sources") -> "Sources":
        """Both together; entries that are the same appear once."""
        entries = (*self.entries, *(e for e in other.entries if e not in self.entries))
        return Sources(entries, self.truth.joined(other.truth), self.plots.joined(other.plots))

    def to_list(self) -> list[dict[str, Any]]:
        """Plain tables for TOML or JSON; the marks are one table of texts."""
        tables = [dict(entry) for entry in self.entries]
        marks: dict[str, Any] = {"kind": "marks"}
        for name, sketch in (("truth", self.truth), ("plots", self.plots)):
            if sketch.marks.size:
                marks |= {f"{name}_whole": sketch.whole, name: _packed(sketch.marks)}
        return tables + ([marks] if len(marks) > 1 else [])

    @staticmethod
    def from_list(tables: Sequence[Mapping[str, Any]], where: str) -> "Sources":
        """Sources from the tables of `to_list`; `where` begins every message.

        Raises:
            LogError: a table is damaged.
        """
        found = Sources()
        for table in tables:
            if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
                raise LogError(f"{where}: a source is {str(table)[:60]!r}, expected a table with a kind; train again")
            if table["kind"] == "marks":
                sketches = {n: _unpacked(where, table[n], table.get(f"{n}_whole")) for n in _SKETCHES if n in table}
                found = found.joined(Sources((), **sketches))
            else:
                found = replace(found, entries=(*found.entries, dict(table)))
        return found


_SKETCHES = ("truth", "plots")


def sources_of_log(reader: LogReader, *, marks: bool = True) -> Sources:
    """What a log is, for training on it; with its marks, which takes one pass over truth and plots."""
    truth, plots = marks_of_log(reader) if marks else (Sketch(), Sketch())
    entry: dict[str, Text] = {"kind": "log", "name": reader.path.name, "plots": reader.plot_count}
    return Sources((entry | _signs(reader.provenance),), truth, plots)


def sources_of(readers: Iterable[LogReader]) -> Sources:
    """What several logs are together."""
    found = Sources()
    for reader in readers:
        found = found.joined(sources_of_log(reader))
    return found


def sources_of_simulation(name: str, text: str, seed: int, extra: Mapping[str, Text] | None = None) -> Sources:
    """What a simulation is that was never written to a log: scenario (name, TOML text), seed, suite_provenance."""
    return Sources((_simulation(name, text, seed) | dict(extra or {}),))


def _simulation(name: str, text: str, seed: int) -> dict[str, Text]:
    return {"kind": "simulation", "name": name, "scenario_sha256": _digest(text), "seed": seed}


def _signs(provenance: Provenance) -> dict[str, Text]:
    """What names a log's flights without looking at them."""
    signs: dict[str, Text] = {}
    extra = provenance.extra or {}
    # Recorded flights are not made by scenario and seed: parts of one recording share both. Their marks tell them.
    if provenance.scenario and provenance.seed is not None and "truth" not in extra:
        signs |= {"scenario_sha256": _digest(provenance.scenario), "seed": int(provenance.seed)}
    return signs | {key: extra[key] for key in ("suite", "suite_version", "suite_split") if key in extra}


def clash(trained: Sources, reader: LogReader) -> str | None:
    """What of a log was trained on, in words; None if nothing that can be recognised.

    Costs nothing where the training's marks are not kept; else one pass over the log's truth or plots.

    Raises:
        LogError: the log cannot be read.
    """
    signs = _signs(reader.provenance)
    for entry in trained.entries:
        for keys in (("suite", "suite_version", "suite_split"), ("scenario_sha256", "seed")):
            if all(key in entry and entry[key] == signs.get(key) for key in keys):
                if keys[0] == "suite":
                    return f"it is the {entry['suite_split']} split of suite:{entry['suite']}"
                return f"it is the simulation {entry.get('name', '')!r} with seed {entry['seed']}"
    for what, sketch, marks_of in (
        ("minutes of its true flights", trained.truth, _truth_marks_of_log),
        ("plots", trained.plots, _plot_marks_of_log),
    ):
        if not sketch.marks.size:
            continue
        end = LARGEST if sketch.whole else sketch.marks[-1]
        sample, known = sketch.known(_smallest(marks_of(reader), SAMPLED, end))
        if known >= MIN_MATCHES and known >= MIN_SHARE * sample:
            return f"{known} of {sample} sampled {what} ({100.0 * known / sample:.0f} %) are those trained on"
    return None


def marks_of_log(reader: LogReader) -> tuple[Sketch, Sketch]:
    """Sketches of a log's true states and of its plots."""
    truth, plots = (_smallest(parts, KEPT + 1) for parts in (_truth_marks_of_log(reader), _plot_marks_of_log(reader)))
    return Sketch.of(truth), Sketch.of(plots)


def marks_of_tables(epoch_s: float, plots: Iterable[Plots], truth: Iterable[Truth]) -> tuple[Sketch, Sketch]:
    """The same of tables in memory, in time order; epoch_s: UTC of time_s = 0, in seconds since 1970."""
    seen = (plot_marks(p, epoch_s) for p in plots)
    return Sketch.of(_smallest(_truth_marks(truth, epoch_s), KEPT + 1)), Sketch.of(_smallest(seen, KEPT + 1))


def _epoch_s(reader: LogReader) -> float:
    return reader.provenance.epoch.timestamp()


def _plot_marks_of_log(reader: LogReader) -> Iterable[Array]:
    return (plot_marks(p, _epoch_s(reader)) for p in reader.plots(ROWS, PLOT_COLUMNS))


def _truth_marks_of_log(reader: LogReader) -> Iterable[Array]:
    return _truth_marks(reader.truth(ROWS), _epoch_s(reader))


def _smallest(parts: Iterable[Array], most: int, end: np.uint64 = LARGEST) -> Array:
    """The `most` smallest different marks up to `end`, ascending; memory does not grow with the log."""
    found = np.zeros(0, np.uint64)
    for part in parts:
        found = np.unique(np.concatenate([found, part[part <= end]]))[:most]
        if found.size == most:
            end = found[-1]
    return found


def plot_marks(plots: Plots, epoch_s: float) -> Array:
    """Marks (n,) of plots: time of day, range and azimuth, each in the units of CAT048."""
    time = np.rint((plots.time_s + epoch_s % 86400.0) % 86400.0 * 128.0) % (86400 * 128)
    azimuth = np.rint(plots.azimuth_rad / AZIMUTH_LSB_RAD) % 65536
    return _hashed(time, np.rint(plots.range_m / RANGE_LSB_M), azimuth)


def _truth_marks(chunks: Iterable[Truth], epoch_s: float) -> Iterable[Array]:
    """Marks of the positions at full UTC minutes; rows of a chunk's end wait for those that follow."""
    held = Truth.empty()
    for chunk in chunks:
        if not len(chunk):
            continue
        table = Truth.concat([held, chunk])
        yield truth_marks(table, epoch_s)
        held = table[table.time_s > table.time_s[-1] - MAX_SPACING_S]


def truth_marks(truth: Truth, epoch_s: float) -> Array:
    """Marks of each aircraft's position at every full UTC minute, by cubic interpolation between its rows."""
    order = np.lexsort((truth.time_s, truth.truth_id))
    time, aircraft = truth.time_s[order] + epoch_s, truth.truth_id[order]
    minute = np.ceil(time[:-1] / 60.0) * 60.0
    step = np.diff(time)
    left = np.flatnonzero((np.diff(aircraft) == 0) & (minute < time[1:]) & (step > 0.0) & (step <= MAX_SPACING_S))
    if not left.size:
        return np.zeros(0, np.uint64)
    u, h = (minute[left] - time[left]) / step[left], step[left]
    latitude, longitude = truth.latitude_deg[order], truth.longitude_deg[order]
    across = EARTH_RADIUS_M * np.cos(np.radians(latitude))
    north = np.degrees(truth.v_north_mps[order] / EARTH_RADIUS_M)
    east = np.degrees(truth.v_east_mps[order] / across)
    # A flight over the date line keeps its longitudes neighbours.
    far = latitude[left + 1], longitude[left] + (np.diff(longitude)[left] + 180.0) % 360.0 - 180.0
    at_latitude = _cubic(latitude[left], far[0], north[left], north[left + 1], h, u)
    at_longitude = _cubic(longitude[left], far[1], east[left], east[left + 1], h, u)
    at_longitude = (at_longitude + 180.0) % 360.0
    return _hashed(minute[left] / 60.0, np.rint(at_latitude * 1e4) + 900_000, np.rint(at_longitude * 1e4) % 3_600_000)


def _cubic(a: Array, b: Array, slope_a: Array, slope_b: Array, h: Array, u: Array) -> Array:
    """Cubic Hermite interpolation at u in [0, 1) of values and slopes at both ends, h apart."""
    u2, u3 = u * u, u * u * u
    out: Array = (2 * u3 - 3 * u2 + 1) * a + (u3 - 2 * u2 + u) * h * slope_a
    out += (3 * u2 - 2 * u3) * b + (u3 - u2) * h * slope_b
    return out


def _hashed(*columns: Array) -> Array:
    """A mark (n,) for each row of whole numbers: splitmix64 (Steele et al. 2014) chained, its upper 48 bits."""
    mark = np.zeros(columns[0].shape, np.uint64)
    for column in columns:
        mark = _mixed(mark ^ column.astype(np.int64).astype(np.uint64))
    out: Array = mark >> np.uint64(64 - 8 * OCTETS)
    return out


def _mixed(x: Array) -> Array:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: Array = x ^ (x >> np.uint64(31))
    return out


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _packed(marks: Array) -> str:
    """Marks as base64 of their octets, least significant first."""
    octets = marks.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :OCTETS]
    return base64.b64encode(octets.tobytes()).decode("ascii")


def _unpacked(where: str, text: Any, whole: Any) -> Sketch:
    try:
        octets = np.frombuffer(base64.b64decode(str(text), validate=True), np.uint8).reshape(-1, OCTETS)
    except (binascii.Error, ValueError) as error:
        raise LogError(f"{where}: its marks are damaged ({error}); train again") from error
    marks = np.zeros((octets.shape[0], 8), np.uint8)
    marks[:, :OCTETS] = octets
    found = marks.view("<u8").ravel().astype(np.uint64)
    if (
        not isinstance(whole, bool)
        or found.size > KEPT
        or (np.diff(found) == 0).any()
        or (found[1:] < found[:-1]).any()
    ):
        raise LogError(f"{where}: its marks are damaged (not in order); train again")
    return Sketch(found, whole)
