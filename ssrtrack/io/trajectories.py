"""Recorded trajectories from files: the columns of the `traffic` library or of OpenSky state vectors, cleaned."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssrtrack.data import Trajectories
from ssrtrack.errors import DataError
from ssrtrack.io.trajectories_clean import Cleaned, Cleaning, clean
from ssrtrack.io.trajectories_columns import KNOWN_NAMES, TEXT_NAMES, to_columns

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {".csv": "CSV", ".json": "JSON", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".parquet": "Parquet"}


@dataclass(frozen=True)
class TrajectorySummary:
    """What was read, and what was left out and why."""

    source: str
    rows: int  # in the file
    kept: int
    flights: int
    aircraft: int
    begin: datetime
    duration_s: float
    dropped: dict[str, int] = field(default_factory=dict)  # rows by reason
    unset: dict[str, int] = field(default_factory=dict)  # single values by reason, their rows kept
    splits: dict[str, int] = field(default_factory=dict)  # flights begun anew by reason
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.kept:,} of {self.rows:,} rows kept, {_flights(self.flights)} of "
            f"{self.aircraft:,} aircraft",
            f"  {self.begin:%Y-%m-%d %H:%M:%S} UTC and the {self.duration_s / 60:.0f} min after",
        ]
        for title, counts in (("dropped", self.dropped), ("set aside", self.unset), ("flights split", self.splits)):
            lines += [f"  {title}: {count:,} {reason}" for reason, count in counts.items() if count]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def read_trajectories(path: str | Path, *, rules: Cleaning | None = None) -> tuple[Trajectories, TrajectorySummary]:
    """Trajectories of a CSV, JSON or Parquet file, cleaned by `rules`, and what was left out.

    CSV and JSON may be compressed by gzip. Units belong to the column names (docs/trajectories.md); times without a
    zone are UTC. Where the file says when a position was last updated, that is the position's time.

    Raises:
        DataError: pandas is not installed; the file cannot be read or is of no known kind; a column is missing or
            holds something else; or nothing is left after cleaning.
    """
    path = Path(path)
    columns, notes = to_columns(_frame(path), str(path))
    rows = len(columns["time_s"])
    cleaned = clean(columns, rules or Cleaning())
    if not len(cleaned.rows["time_s"]):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in cleaned.dropped.items() if count)
        raise DataError(f"{path}: none of its {rows:,} rows can be used: {reasons}")
    table = _table(cleaned)
    return table, TrajectorySummary(
        source=str(path),
        rows=rows,
        kept=len(table),
        flights=int(table.flight_id.max()) + 1,
        aircraft=len(np.unique(table.address)),
        begin=table.epoch,
        duration_s=float(table.time_s.max()),
        dropped=cleaned.dropped,
        unset=cleaned.unset,
        splits=cleaned.splits,
        notes=notes,
    )


def _table(cleaned: Cleaned) -> Trajectories:
    """Times from a whole second on, so that a scenario's epoch can be the same."""
    time_s = cleaned.rows["time_s"]
    begin_s = float(np.floor(time_s.min()))
    epoch = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=begin_s)
    given = {
        name: np.asarray(cleaned.rows[name], spec.dtype)
        for name, spec in Trajectories.specs().items()
        if name in cleaned.rows
    }
    return Trajectories(**(given | {"time_s": time_s - begin_s}), epoch=epoch).validate()


def _flights(number: int) -> str:
    return "1 flight" if number == 1 else f"{number:,} flights"


def _frame(path: Path) -> "pd.DataFrame":
    """The known columns of a file as they are."""
    try:
        import pandas as pd
    except ImportError as error:
        raise DataError("reading trajectories needs pandas and pyarrow: pip install 'ssrtrack[truth]'") from error
    kind = _kind(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give trajectories as CSV, JSON or Parquet")
    try:
        frame = _read(pd, path, kind)
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'ssrtrack[truth]'") from error
    # What pandas, pyarrow, zlib and the operating system raise on damaged files has no common base.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as {kind}: {reason}") from error
    if not len(frame.columns):
        raise DataError(
            f"{path}: holds no column that is known, expected 'timestamp', 'latitude', 'longitude', 'altitude' and "
            "'icao24' or their other names, in small letters and, in CSV, with commas between (docs/trajectories.md)"
        )
    if frame.empty:
        raise DataError(f"{path}: holds no rows; expected trajectories (docs/trajectories.md)")
    return frame


def _kind(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    last = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if last not in _KINDS or (last == ".parquet" and suffixes[-1] == ".gz"):
        raise DataError(f"{path}: unknown kind of file; expected .csv, .json or .jsonl (also .gz), or .parquet")
    return _KINDS[last]


def _read(pd: Any, path: Path, kind: str) -> "pd.DataFrame":
    if kind == "Parquet":
        from pyarrow.parquet import read_schema

        names = [name for name in read_schema(path).names if name in KNOWN_NAMES]
        frame = pd.read_parquet(path, columns=names)
        # A table written with its times as the index has no column of them.
        return frame.reset_index() if KNOWN_NAMES & set(frame.index.names) else frame
    if kind == "CSV":
        # Addresses such as 400123 or 3e1234 would become numbers.
        texts = dict.fromkeys(TEXT_NAMES, str)
        return pd.read_csv(path, usecols=lambda name: name in KNOWN_NAMES, dtype=texts)
    frame = pd.read_json(path, dtype=False, lines=kind == "JSON lines")
    return frame[[name for name in frame.columns if name in KNOWN_NAMES]]
