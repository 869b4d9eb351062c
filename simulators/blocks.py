"""Blocks of a TOML file as frozen dataclasses; the rules of a key stand beside its field, and the parser reads them."""

import datetime as dt
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from math import inf
from typing import Any

from ssrtrack.errors import ScenarioError

_HUGE = 1e300


@dataclass(frozen=True)
class Key:
    """Rules of one key: `kind` is float, integer, bool, text, choice, utc, pair (ascending), block or blocks."""

    kind: str
    unit: str
    meaning: str
    low: float = -inf
    high: float = inf
    source: str = ""
    block: type[Any] | None = None
    choices: tuple[str, ...] = ()


def key(kind: str, default: Any, unit: str, meaning: str, low: float = -inf, high: float = inf, **more: Any) -> Any:
    metadata = {"key": Key(kind, unit, meaning, low, high, **more)}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


REQUIRED: Any = MISSING


def keys_of(block: type[Any]) -> dict[str, tuple[Key, Any]]:
    """Rules and default (REQUIRED if it has none) of each key of a block, in file order."""
    return {f.name: (f.metadata["key"], f.default) for f in fields(block) if "key" in f.metadata}


def parse_block(block: type[Any], table: Any, where: str, **extra: Any) -> Any:
    """A block from its TOML table.

    Raises:
        ScenarioError: unknown or missing key, wrong type, value out of range; names `where`, the key and the remedy.
    """
    if not isinstance(table, dict):
        raise ScenarioError(f"{where}: found {_shown(table)}, expected a table of keys")
    known = keys_of(block)
    for name in table:
        if name not in known:
            raise ScenarioError(f"{where}: unknown key {name!r}{_suggestion(name, list(known))}")
    missing = [name for name, (_, default) in known.items() if default is REQUIRED and name not in table]
    if missing:
        rule = known[missing[0]][0]
        raise ScenarioError(f"{where}: key {missing[0]!r} is missing; give {_expected(rule)} ({rule.meaning})")
    values = {name: _value(known[name][0], value, f"{where}.{name}") for name, value in table.items()}
    return block(**values, **extra)


def _value(rule: Key, value: Any, where: str) -> Any:
    if rule.kind == "block":
        return parse_block(_block(rule), value, where)
    if rule.kind == "blocks":
        if not isinstance(value, list):
            block = where.split(".")[-1]
            raise ScenarioError(f"{where}: found {_shown(value)}, expected a list of tables ([[{block}]])")
        return tuple(parse_block(_block(rule), v, f"{where}[{i}]") for i, v in enumerate(value))
    if rule.kind == "pair":
        return _pair(rule, value, where)
    if rule.kind == "choice":
        if value not in rule.choices:
            raise ScenarioError(f"{where}: found {_shown(value)}, expected {allowed(rule)}")
        return value
    checks = {"float": _is_number, "integer": _is_integer, "bool": _is_bool, "text": _is_text, "utc": _is_utc}
    if not checks[rule.kind](value):
        raise ScenarioError(f"{where}: found {_shown(value)}, expected {_expected(rule)}")
    size = len(value) if rule.kind == "text" else value
    if rule.kind in ("float", "integer", "text") and not rule.low <= size <= rule.high:
        raise ScenarioError(f"{where}: found {_shown(value)}, expected {_expected(rule)}")
    return float(value) if rule.kind == "float" else value


def _block(rule: Key) -> type[Any]:
    return rule.block or object


def _pair(rule: Key, value: Any, where: str) -> tuple[float, float]:
    good = isinstance(value, list) and len(value) == 2 and all(_is_number(v) for v in value)
    if not good or not rule.low <= value[0] <= value[1] <= rule.high:
        raise ScenarioError(f"{where}: found {_shown(value)}, expected {_expected(rule)}")
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    # Compared, not converted: Python's TOML reader lets integers through that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_utc(value: Any) -> bool:
    return (
        isinstance(value, dt.datetime)
        and value.tzinfo is not None
        and value.utcoffset() == dt.timedelta(0)
        and value.microsecond == 0
    )


def allowed(rule: Key) -> str:
    """The values a key may take, in words."""
    unit = f" {rule.unit}" if rule.unit not in ("", "1") else ""
    limits = f"{rule.low:g} to {rule.high:g}{unit}"
    return {
        "float": limits,
        "integer": f"{rule.low:.0f} to {rule.high:.0f}",
        "bool": "true or false",
        "text": f"{rule.low:g} to {rule.high:g} characters",
        "choice": ", ".join(rule.choices),
        "utc": "in whole seconds, such as 2025-06-01T10:00:00Z",
        "pair": f"[low, high], {limits}",
        "block": "a table",
        "blocks": "a list of tables",
    }[rule.kind]


def _expected(rule: Key) -> str:
    noun = {"float": "a number, ", "integer": "an integer, ", "text": "a text of ", "utc": "a UTC time, "}
    return noun.get(rule.kind, "") + allowed(rule)


def _suggestion(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"
