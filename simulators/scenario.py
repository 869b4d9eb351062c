"""Scenarios by name or file."""

import tomllib
from dataclasses import replace
from difflib import get_close_matches
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from ssrtrack.data import Radar
from ssrtrack.errors import ScenarioError
from ssrtrack.simulators.blocks import parse_block
from ssrtrack.simulators.patterns import check_patterns
from ssrtrack.simulators.profile import self_contained, with_profiles
from ssrtrack.simulators.run import simulate as simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.traffic import MIN_FLIGHT_S, check_identities
from ssrtrack.units import DEG_RAD, NM_M

_FOLDER = Path(__file__).parent / "scenarios"


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

    Its `text` is the text given, with the built-in profiles that it uses written out: it alone repeats the scenario.

    Raises:
        ScenarioError: as load_scenario.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beyond TOMLDecodeError: numbers and nesting without end
        raise ScenarioError(f"{where}: not valid TOML: {error}") from error
    keys = with_profiles(table, where)
    scenario: Scenario = parse_block(Scenario, keys, where, name=name)
    scenario = replace(scenario, text=self_contained(text, table))
    try:
        _check(scenario)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from error
    return scenario


def _check(scenario: Scenario) -> None:
    """What no single key can tell."""
    if not scenario.radar:
        raise ScenarioError("there is no radar; give at least one [[radar]]")
    if scenario.gusts != "none" and scenario.turbulence_m2ps3 > 0:
        raise ScenarioError(
            f"gusts: found {scenario.gusts!r} as well as turbulence_m2ps3 = {scenario.turbulence_m2ps3:g}, expected "
            "one of the two; drop the other"
        )
    names = [r.name for r in scenario.radar]
    for name in names:
        if names.count(name) > 1:
            raise ScenarioError(f"radar.name: {name!r} is given {names.count(name)} times; give each radar its own")
        if not name.isascii():
            raise ScenarioError(f"radar.name: found {name!r}, expected ASCII characters")
    for r in scenario.radar:
        _check_effects(r)
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
    check_patterns(scenario)
    check_identities(scenario.aircraft)
    for n, a in enumerate(scenario.aircraft):
        if a.start_s > min(a.end_s, scenario.duration_s) - MIN_FLIGHT_S:
            raise ScenarioError(
                f"aircraft[{n}].start_s: found {a.start_s:g}, expected at least {MIN_FLIGHT_S:g} s "
                f"before its end and that of the scenario ({min(a.end_s, scenario.duration_s):g})"
            )


def _check_effects(radar: RadarSpec) -> None:
    """What no single key of a radar's effects can tell."""
    least = 1.0 / (1.0 - radar.fading.share)
    if radar.fading.mean_scans < least:
        raise ScenarioError(
            f"radar.fading.mean_scans: found {radar.fading.mean_scans:g}, expected at least 1 / (1 - share) = {least:g}"
        )
    if radar.tails.unit_variance and min(radar.tails.range_dof, radar.tails.azimuth_dof) <= 2.0:
        raise ScenarioError(
            "radar.tails.unit_variance: found true, expected false: Student's t of 2 degrees of freedom or fewer has "
            "no variance; give more degrees or leave sigma as the scale"
        )
    if np.isinf(radar.detection.half_range_nm) and radar.lobing.reflection:
        raise ScenarioError(
            "radar.detection.half_range_nm: missing; give it, as lobes change a signal that falls off with range"
        )
    for n, outage in enumerate(radar.outage):
        if outage.to_s <= outage.from_s:
            raise ScenarioError(
                f"radar.outage[{n}].to_s: found {outage.to_s:g}, expected more than from_s = {outage.from_s:g}"
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
        # Noise on x and y has no one sigma in range and azimuth: the plots state theirs.
        sigma_range_m=np.array([nan if isfinite(r.cartesian.snr_db) else r.noise.sigma_range_m for r in specs]),
        sigma_azimuth_rad=np.array(
            [nan if isfinite(r.cartesian.snr_db) else r.noise.sigma_azimuth_deg * DEG_RAD for r in specs]
        ),
    )
