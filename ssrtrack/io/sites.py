"""What recordings do not say of a radar: its site and accuracy, from `--site` or a small TOML file.

[[radar]]
sac = 20
sic = 129
name = "Barcelona"
latitude_deg = 41.3007
longitude_deg = 2.1021
height_m = 27.3            # antenna, above the WGS84 ellipsoid
rotation_period_s = 4.0    # the rest is optional
max_range_nm = 60.0
sigma_range_m = 30.0
sigma_azimuth_deg = 0.05
"""

import tomllib
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ssrtrack.data import Radar
from ssrtrack.errors import ScenarioError
from ssrtrack.units import DEG_RAD, NM_M

# TOML key -> (column of the radar table, factor to its unit, lowest, highest)
KEYS: dict[str, tuple[str, float, float, float]] = {
    "latitude_deg": ("latitude_deg", 1.0, -90.0, 90.0),
    "longitude_deg": ("longitude_deg", 1.0, -180.0, 180.0),
    "height_m": ("height_m", 1.0, -500.0, 9000.0),
    "rotation_period_s": ("rotation_period_s", 1.0, 0.5, 60.0),
    "max_range_nm": ("max_range_m", NM_M, 1.0, 500.0),
    "sigma_range_m": ("sigma_range_m", 1.0, 0.0, 10000.0),
    "sigma_azimuth_deg": ("sigma_azimuth_rad", DEG_RAD, 0.0, 10.0),
}
IDENTITY = ("sac", "sic")


def parse_site(text: str) -> dict[str, float]:
    """Latitude, longitude (degrees) and height (m) from "LAT,LON,HEIGHT".

    Raises:
        ScenarioError: not three numbers, or one out of range.
    """
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise ScenarioError(f"site {text!r} is not LAT,LON,HEIGHT in degrees and metres, as in 41.3007,2.1021,27.3")
    site = dict(zip(("latitude_deg", "longitude_deg", "height_m"), numbers, strict=True))
    for key, value in site.items():
        _checked("site", key, value)
    return site


def load_radar_file(path: str | Path) -> list[dict[str, Any]]:
    """The `[[radar]]` blocks of a TOML file, checked.

    Raises:
        ScenarioError: not TOML, no block, an unknown key, a wrong type or a value out of range.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from error
    blocks = content.get("radar")
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks) or set(content) != {"radar"}:
        raise ScenarioError(f"{path} holds {sorted(content)}, expected [[radar]] blocks alone")
    known = {*KEYS, *IDENTITY, "name"}
    for number, block in enumerate(blocks, 1):
        where = f"{path}, radar block {number}"
        if unknown := set(block) - known:
            raise ScenarioError(f"{where}: unknown keys {sorted(unknown)}; known: {sorted(known)}")
        if missing := [key for key in IDENTITY if not _is_byte(block.get(key))]:
            raise ScenarioError(f"{where}: {missing} must be whole numbers from 0 to 255")
        if not isinstance(block.get("name", ""), str):
            raise ScenarioError(f"{where}: name is {block['name']!r}, expected text")
        for key in KEYS.keys() & block.keys():
            _checked(where, key, block[key])
    return blocks


def with_site(radars: Radar, site: dict[str, float]) -> Radar:
    """The radar table with one site, given on the command line.

    Raises:
        ScenarioError: there are several radars, so that the site could be any one's.
    """
    if len(radars) != 1:
        codes = ", ".join(f"{a}/{b}" for a, b in zip(radars.sac, radars.sic, strict=True))
        raise ScenarioError(f"--site was given but there are {len(radars)} radars ({codes}); give --radar FILE instead")
    return radars.replace(**{key: np.array([value]) for key, value in site.items()})


def with_radar_file(radars: Radar, blocks: list[dict[str, Any]]) -> Radar:
    """The radar table with what the blocks say of the radars they name by SAC/SIC; other radars stay as they are."""
    columns = {name: values.copy() for name, values in radars.columns().items()}
    for block in blocks:
        rows = (radars.sac == block["sac"]) & (radars.sic == block["sic"])
        for key, (column, factor, _, _) in KEYS.items():
            if key in block:
                columns[column][rows] = block[key] * factor
        if "name" in block:
            columns["name"][rows] = block["name"].encode("ascii", "replace")
    return radars.replace(**columns)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _checked(where: str, key: str, value: Any) -> None:
    _, _, low, high = KEYS[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not isfinite(value) or not low <= value <= high:
        raise ScenarioError(f"{where}: {key} is {value!r}, expected a number from {low:g} to {high:g}")
