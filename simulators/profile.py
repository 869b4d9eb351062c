"""Profiles: the keys of a kind of radar under one name."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ssrtrack.errors import ScenarioError

_FOLDER = Path(__file__).parent / "profiles"


def list_profiles() -> list[str]:
    """Names of the profiles that a [[radar]] may take."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_profile(name: str) -> dict[str, Any]:
    """The keys of a profile, as a [[radar]] block would give them; `description` is one line about it.

    Raises:
        ScenarioError: there is no such profile.
    """
    if name not in list_profiles():
        close = get_close_matches(name, list_profiles(), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"profiles: {', '.join(list_profiles())}"
        raise ScenarioError(f"profile: found {name!r}, which is not known; {hint}")
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text("utf-8"))


def with_profiles(table: dict[str, Any], where: str) -> dict[str, Any]:
    """A scenario's table in which each radar has its profile's keys as well; what the scenario gives comes first.

    Blocks are merged key by key; a list (`blanking`, `outage`, …) of the scenario replaces the profile's.

    Raises:
        ScenarioError: a radar asks for a profile that is not there.
    """
    radars = table.get("radar")
    if not isinstance(radars, list):
        return table
    return table | {"radar": [_with_profile(r, f"{where}.radar[{n}]") for n, r in enumerate(radars)]}


def _with_profile(radar: Any, where: str) -> Any:
    # Whatever is not as it should be is left for the parser, which says so.
    if not isinstance(radar, dict) or not isinstance(radar.get("profile"), str) or not radar["profile"]:
        return radar
    try:
        profile = load_profile(radar["profile"])
    except ScenarioError as error:
        raise ScenarioError(f"{where}.{error}") from error
    profile.pop("description")
    return _merged(profile, radar)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = base | over
    for name in base.keys() & over.keys():
        if isinstance(base[name], dict) and isinstance(over[name], dict):
            out[name] = _merged(base[name], over[name])
    return out
