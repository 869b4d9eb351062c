"""TOML files of tuned parameters: what `ssrtrack train imm` writes and `-t FILE.toml` reads (docs/tuning.md).

A file holds every parameter of its estimator, so that it means the same when a later version has other defaults.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ssrtrack.errors import EstimatorError

FORMAT, VERSION = "ssrtrack-tuned", 1
FOLDER = Path(__file__).parent / "tuned"  # those that come with the package
HEAD = "# Tuned parameters of a tracker; `ssrtrack evaluate -t FILE.toml` tracks with them. Units are in the names.\n"
MAX_OCTETS = 4_000_000
Value = float | int | str | None


@dataclass(frozen=True)
class Tuned:
    """Contents of a file.

    estimator: a name of `ESTIMATORS`; parameters: all of it (None: no gate); variant: "mixture", "gated" or "plain",
    how outliers are met; training and validation: numbers and texts by name; sources: what it was tuned on, a table
    for each (`ssrtrack.models.provenance.Sources.to_list`).
    """

    estimator: str
    parameters: Mapping[str, Value]
    variant: str = ""
    description: str = ""
    software: str = ""
    created: str = ""
    command: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    sources: Sequence[Mapping[str, Any]] = ()


_TEXTS = ("estimator", "variant", "description", "software", "created", "command")
_TABLES = ("parameters", "training", "validation")
_KNOWN = {"format", "version", "source", *_TEXTS, *_TABLES}


def read_tuned(path: str | Path) -> Tuned:
    """The file's contents; that the estimator knows the parameters is checked when it is made.

    Raises:
        EstimatorError: there is no such file, or it is no file of tuned parameters.
    """
    where = Path(path)
    try:
        if where.stat().st_size > MAX_OCTETS:
            raise EstimatorError(f"{where}: {where.stat().st_size} octets; a file of tuned parameters is far smaller")
        text = where.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise EstimatorError(f"{where}: not UTF-8 text ({error}); expected TOML of `ssrtrack train imm`") from error
    except OSError as error:
        raise EstimatorError(f"{where}: cannot be read ({error.strerror or error}); give an existing file") from error
    return parse_tuned(text, str(where))


def parse_tuned(text: str, where: str) -> Tuned:
    """Contents from TOML text; `where` begins every message.

    Raises:
        EstimatorError: it is no TOML, of another kind or newer version, or something is missing or of a wrong kind.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EstimatorError(
            f"{where}: not valid TOML ({error}); the file is damaged: copy it again or run `ssrtrack train imm` again"
        ) from error
    if table.get("format") != FORMAT:
        raise EstimatorError(
            f"{where}: format is {table.get('format')!r}, expected {FORMAT!r}; give a file of `ssrtrack train imm`"
        )
    if table.get("version") != VERSION:
        raise EstimatorError(
            f"{where}: version is {table.get('version')!r}, this software reads {VERSION}; install a newer ssrtrack"
        )
    if unknown := sorted(set(table) - _KNOWN):
        raise EstimatorError(f"{where}: unknown keys {unknown}; known: {', '.join(sorted(_KNOWN))}")
    texts = {name: _of_kind(where, name, table.get(name, ""), str, "a text") for name in _TEXTS}
    tables = {name: _of_kind(where, name, table.get(name, {}), dict, "a table") for name in _TABLES}
    sources = _of_kind(where, "source", table.get("source", []), list, "tables")
    for source in sources:
        _of_kind(where, "source", source, dict, "a table")
    if not texts["estimator"] or not tables["parameters"]:
        raise EstimatorError(f"{where}: has no estimator or no [parameters]; run `ssrtrack train imm` again")
    tables["parameters"] = {key: _parameter(where, key, value) for key, value in tables["parameters"].items()}
    return Tuned(**texts, **tables, sources=tuple(sources))


def format_tuned(tuned: Tuned) -> str:
    """The TOML text of a file."""
    lines = [HEAD + _line("format", FORMAT), _line("version", VERSION)]
    lines += [_line(name, value) for name in _TEXTS if (value := getattr(tuned, name))]
    for name in _TABLES:
        if table := getattr(tuned, name):
            lines += ["", *_table_lines(name, table)]
    for source in tuned.sources:
        lines += ["", "[[source]]", *(_line(key, value) for key, value in source.items())]
    return "\n".join(lines) + "\n"


def _table_lines(name: str, table: Mapping[str, Any]) -> list[str]:
    """A table, with the tables in it after its own keys, as TOML wants them."""
    lines = [f"[{name}]", *(_line(k, v) for k, v in table.items() if not isinstance(v, Mapping))]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_table_lines(f"{name}.{key}", value)]
    return lines


def _line(key: str, value: Any) -> str:
    return f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)  # the shortest text that reads back as the same number; inf and nan are TOML as well
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    text = "".join(signs.get(c, c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in str(value))
    return f'"{text}"'


def _of_kind(where: str, name: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise EstimatorError(f"{where}: {name} is {value!r}, expected {expected}; run `ssrtrack train imm` again")
    return value


def _parameter(where: str, key: str, value: Any) -> Value:
    if value == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise EstimatorError(f"{where}: parameter {key} is {value!r}, expected a finite number or 'none'")
    return value
