"""Profiles: the keys of a kind of radar under one name, the built-in ones and a scenario's own."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ssrtrack.errors import ScenarioError

_FOLDER = Path(__file__).parent / "profiles"


def list_profiles() -> list[str]:
    """Names of the built-in profiles."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_profile(name: str) -> dict[str, Any]:
    """The keys of a built-in profile, as a [[radar]] block would give them; `description` is one line about it.

    Raises:
        ScenarioError: there is no such profile.
    """
    if name not in list_profiles():
        raise _unknown(name, list_profiles())
    return tomllib.loads(_text(name))


def with_profiles(table: dict[str, Any], where: str) -> dict[str, Any]:
    """A scenario's table in which each radar has its profile's keys as well; what the radar gives comes first.

    A `[profile.NAME]` of the scenario comes before the built-in one of that name, and is no longer in the table given
    back. Blocks are merged key by key; a list (`blanking`, `outage`, …) of the scenario replaces the profile's.

    Raises:
        ScenarioError: a radar asks for a profile that is not there, or `profile` is not made of tables.
    """
    own = table.get("profile", {})
    if not isinstance(own, dict) or not all(isinstance(keys, dict) for keys in own.values()):
        raise ScenarioError(f"{where}.profile: found {own!r:.60}, expected tables of a radar's keys ([profile.NAME])")
    rest = {name: value for name, value in table.items() if name != "profile"}
    radars = rest.get("radar")
    if isinstance(radars, list):
        rest["radar"] = [_with_profile(r, own, f"{where}.radar[{n}]") for n, r in enumerate(radars)]
    return rest


def self_contained(text: str, table: dict[str, Any]) -> str:
    """A scenario's text with the built-in profiles that it uses as profiles of its own, at the end.

    Such a text means the same to a later version, in which the built-in profile may be another.
    """
    names = {radar["profile"] for radar in table["radar"] if radar.get("profile")} - table.get("profile", {}).keys()
    for name in sorted(names):
        text = f"{text.rstrip()}\n\n[profile.{name}]\n{_text(name)}"
    return text


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.toml").read_text("utf-8")


def _unknown(name: str, known: list[str]) -> ScenarioError:
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"profiles: {', '.join(known)}"
    return ScenarioError(f"profile: found {name!r}, which is not known; {hint}")


def _with_profile(radar: Any, own: dict[str, dict[str, Any]], where: str) -> Any:
    # Whatever is not as it should be is left for the parser, which says so.
    if not isinstance(radar, dict) or not isinstance(radar.get("profile"), str) or not radar["profile"]:
        return radar
    name = radar["profile"]
    if name not in own and name not in list_profiles():
        raise ScenarioError(f"{where}.{_unknown(name, sorted({*own, *list_profiles()}))}")
    profile = own[name] if name in own else load_profile(name)
    return _merged({key: value for key, value in profile.items() if key != "description"}, radar)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = base | over
    for name in base.keys() & over.keys():
        if isinstance(base[name], dict) and isinstance(over[name], dict):
            out[name] = _merged(base[name], over[name])
    return out
