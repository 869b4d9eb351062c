"""The flights on which `learned_trackers.py` judges: test splits of the suite, and settings that differ from them.

A setting is a scenario of the suite in which some lines read otherwise, so that the log carries the whole scenario that
made it. All keep the seeds of the test splits: none of their flights is in a training or validation split.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import ssrtrack
from ssrtrack.data import Plots, Truth
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.simulators.scenario import parse_scenario, radars, simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.suite import list_suite, load_suite, suite_provenance

MIN_PLOTS = 10  # what `evaluate` asks of a flight: its warm-up of 8 and 2 more
# Line of a scenario -> what stands there instead; {0} is the number found.
Edits = Mapping[str, str]
NUMBER = r"([-0-9.]+)"


@dataclass(frozen=True)
class Setting:
    """A scenario of the suite with some lines changed. alike: it manoeuvres as the suite's scenario does."""

    suite: str
    edits: tuple[tuple[str, str], ...] = ()
    alike: bool = True


# Plots are displaced by nothing but Gaussian noise of the size that is told.
_GAUSSIAN = (
    (r"^tails = .*$", ""), (r"^jumps = .*$", ""), (r"^outliers = .*$", ""), (r"^garble = .*$", ""),
)  # fmt: skip
_PERIOD = r"^rotation_period_s = .*$"
_NOISE = rf"^noise = {{ sigma_range_m = {NUMBER}, sigma_azimuth_deg = {NUMBER} }}$"
_DETECTION = rf"^detection = {{ probability = {NUMBER}"
_OUTLIERS = rf"^outliers = {{ fraction = {NUMBER}"
_RADAR = r"^\[\[radar\]\]$"
_BANK = rf"^bank_deg = \[{NUMBER}, {NUMBER}\]$"
_RATE = rf"^manoeuvres_per_hour = {NUMBER}$"
# Half of what SUR.ET1.ST01 allows of range bias and of azimuth bias.
_BIAS = (_RADAR, "[[radar]]\nbias = { range_m = 50.0, azimuth_deg = 0.05 }")
_HARD_BANK = "bank_deg = [28.0, 40.0]\nmax_turn_rate_dps = 5.0"


def _scaled(factor: float, *names: str) -> str:
    return f"scale {factor:g} " + " ".join(names)


GAUSSIAN = {name: Setting(name, _GAUSSIAN) for name in list_suite()}
SUITE = {name: Setting(name) for name in list_suite()}
TRANSFER = {
    "tma, period 6 s": Setting("tma-4s", ((_PERIOD, "rotation_period_s = 6.0"),)),
    "enroute, period 10 s": Setting("enroute-8s", ((_PERIOD, "rotation_period_s = 10.0"),)),
    **{
        f"{name.partition('-')[0]}, {what}": Setting(name, (edit,))
        for name in ("tma-4s", "enroute-8s")
        for what, edit in {
            "sigma x 1.5": (_NOISE, _scaled(1.5)),
            "detection 0.7": (_DETECTION, "detection = { probability = 0.7"),
            "bias 50 m 0.05 deg": _BIAS,
            "outliers 8 %": (_OUTLIERS, "outliers = { fraction = 0.08"),
        }.items()
    },
    "tma, bank 6-12 deg": Setting("tma-4s", ((_BANK, "bank_deg = [6.0, 12.0]"),), alike=False),
    "tma, bank 28-40 deg": Setting("tma-4s", ((_BANK, _HARD_BANK),), alike=False),
    "tma, legs x 3": Setting("tma-4s", ((_RATE, _scaled(1.0 / 3.0)),), alike=False),
    "tma, legs / 2": Setting("tma-4s", ((_RATE, _scaled(2.0)),), alike=False),
}
# Aircraft that stay for all of the sixteen hours of the terminal area: over 10,000 updates each.
LONG = Setting("tma-4s", ((r"^flight_time_s = .*$", "flight_time_s = [57600.0, 57600.0]"),), alike=False)


def scenario_of(setting: Setting, split: str = "test") -> tuple[Scenario, int]:
    """The scenario as long as a split, and that split's seed.

    Raises:
        ValueError: an edit meets no line, because the suite's files are written otherwise now.
    """
    scenario, seed = load_suite(setting.suite, split)
    text = scenario.text
    for pattern, instead in setting.edits:
        text, times = re.subn(pattern, lambda m, instead=instead: _instead(m, instead), text, flags=re.MULTILINE)
        if not times and instead:  # a line that is to go may be missing
            raise ValueError(f"suite:{setting.suite} has no line {pattern!r} to change; mend learned_trackers_sets.py")
    return (parse_scenario(text, scenario.name, setting.suite) if setting.edits else scenario), seed


def _instead(found: re.Match[str], instead: str) -> str:
    """The text in its place, or the same line with its numbers multiplied."""
    if not instead.startswith("scale "):
        return instead
    factor, line = float(instead.split()[1]), found[0]
    for number in found.groups():
        line = line.replace(f" {number}", f" {float(number) * factor:g}", 1)
    return line


def log_of(setting: Setting, flights: int, folder: Path, split: str = "test") -> Path:
    """The log of a setting's first `flights` flights, simulated unless it is in the folder already."""
    scenario, seed = scenario_of(setting, split)
    made_from = f"{scenario.text}|{seed}|{flights}|{ssrtrack.__version__}"
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    path = folder / f"{setting.suite}-{flights}-{digest}.h5"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    extra: dict[str, float | str] = {"turbulence_m2ps3": scenario.turbulence_m2ps3}
    extra |= {"suite_variant": setting.suite} if setting.edits else suite_provenance(setting.suite, split)
    provenance = Provenance(
        command="learned_trackers.py",
        epoch=scenario.epoch,
        software_version=ssrtrack.__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        scenario=scenario.text,
        seed=seed,
        extra=extra,
    )
    with LogWriter(path, provenance, radars(scenario)) as log:
        for plots, truth in first_flights(scenario, seed, flights):
            log.append_plots(plots)
            log.append_truth(truth)
    return path


def first_flights(scenario: Scenario, seed: int, flights: int) -> Iterator[tuple[Plots, Truth]]:
    """Plots and truth of the first `flights` aircraft that have MIN_PLOTS plots, in the order of their first ones."""
    counts: dict[int, int] = {}
    held: list[tuple[Plots, Truth]] = []
    chosen: np.ndarray | None = None
    for plots, truth in simulate(scenario, seed):
        if chosen is None:
            held.append((plots, truth))
            for number, count in zip(*np.unique(plots.truth_id[plots.truth_id >= 0], return_counts=True), strict=True):
                counts[int(number)] = counts.get(int(number), 0) + int(count)
            long_enough = [number for number, count in counts.items() if count >= MIN_PLOTS]
            if len(long_enough) < flights:
                continue
            chosen = np.array(long_enough[:flights])
            yield from (_of(chosen, *part) for part in held)
            held.clear()
            continue
        part = _of(chosen, plots, truth)
        if not len(part[1]):
            return  # all have landed
        yield part
    if chosen is None:
        yield from held


def _of(chosen: np.ndarray, plots: Plots, truth: Truth) -> tuple[Plots, Truth]:
    return plots[np.isin(plots.truth_id, chosen)], truth[np.isin(truth.truth_id, chosen)]
