"""What a log file looks like, shared by its writer and reader: names, attributes, filters (docs/log-format.md).

The file is netCDF-4 (HDF5 with dimension scales) with attributes of the CF conventions 1.11, so that xarray, MATLAB
and Panoply open it without this package.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ssrtrack.data import PLOT_TYPES, Column, Plots, Radar, Table, Tracks, Truth
from ssrtrack.errors import LogError

FORMAT = "ssrtrack-log"
FORMAT_VERSION = 1
CONVENTIONS = "CF-1.11"
INCOMPLETE_SUFFIX = ".incomplete"

# Rows stored out of time order are put right by the reader, which holds this much time in memory at most.
MAX_DISORDER_S = 600.0

# Rows per chunk. 65,536 float64 are 512 KiB: large enough that gzip and the index cost little per row, small enough
# that the last, partly filled chunk of a short log is negligible.
CHUNK_ROWS = 65_536
RADAR_CHUNK_ROWS = 64
COVARIANCE_CHUNK_ROWS = 16_384

# gzip-1 packs nearly as well as gzip-4, reads as fast as lzf, and unlike lzf every HDF5 and netCDF installation has it
# (benchmarks/log_filters.py). Fletcher-32 lets a damaged chunk be noticed even where HDF5 stored it uncompressed.
FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}

# HDF5 1.10's file structures: the first whose headers and chunk indexes all carry checksums.
LIBVER = ("v110", "v110")

TRACKS = "tracks"
# Table of each kind and the name of its netCDF dimension.
KINDS: dict[str, tuple[type[Table], str]] = {
    "radars": (Radar, "radar"),
    "plots": (Plots, "plot"),
    "truth": (Truth, "truth"),
    TRACKS: (Tracks, "track_point"),
}
ORIGIN_ATTRIBUTES = ("origin_latitude_deg", "origin_longitude_deg", "origin_height_m")


@dataclass(frozen=True)
class Provenance:
    """Where a log comes from.

    `epoch` is the UTC instant of time_s = 0. `created` is the time of writing (ISO 8601), given by the caller so that
    a run can be repeated bit for bit. `scenario` is the scenario's TOML text, `sources` the input files, `extra` any
    further named numbers or texts.

    Raises:
        LogError: `epoch` is not an aware UTC time, or `extra` holds something other than finite numbers and texts.
    """

    command: str
    epoch: datetime
    software_version: str
    created: str
    scenario: str = ""
    seed: int | None = None
    sources: tuple[str, ...] = ()
    extra: dict[str, float | str] | None = None

    def __post_init__(self) -> None:
        if self.epoch.utcoffset() != timedelta(0):
            raise LogError(f"Provenance: epoch {self.epoch!r} is not UTC; give datetime(..., tzinfo=timezone.utc)")
        for key, value in (self.extra or {}).items():
            if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
                raise LogError(f"Provenance: extra[{key!r}] is {value!r}; expected a finite number or a text")


def provenance_texts(provenance: Provenance) -> dict[str, str]:
    """The root attributes that hold a provenance, all as text."""
    return {
        "command": provenance.command,
        "epoch": provenance.epoch.isoformat(),
        "software_version": provenance.software_version,
        "created": provenance.created,
        "scenario": provenance.scenario,
        "seed": "" if provenance.seed is None else str(provenance.seed),
        "sources": json.dumps(list(provenance.sources)),
        "extra": json.dumps(provenance.extra or {}),
        "history": f"{provenance.created}: {provenance.command}",
    }


def parse_provenance(texts: Mapping[str, str]) -> Provenance:
    """The provenance that `provenance_texts` made.

    Raises:
        ValueError, TypeError: a text does not parse.
    """
    extra = json.loads(texts["extra"])
    return Provenance(
        command=texts["command"],
        epoch=datetime.fromisoformat(texts["epoch"]).astimezone(UTC),
        software_version=texts["software_version"],
        created=texts["created"],
        scenario=texts["scenario"],
        seed=int(texts["seed"]) if texts["seed"] else None,
        sources=tuple(str(s) for s in json.loads(texts["sources"])),
        extra=dict(extra) if extra else None,
    )


def column_units(name: str, spec: Column, epoch: datetime) -> str:
    """A column's `units` attribute; time_s counts from the log's epoch (CF 1.11, section 4.4)."""
    if name != "time_s":
        return spec.unit
    return f"seconds since {epoch.replace(tzinfo=None).isoformat(sep=' ')}"


def column_attributes(name: str, spec: Column, epoch: datetime, has_time: bool) -> dict[str, Any]:
    """CF attributes of one column's dataset."""
    found: dict[str, Any] = {"units": column_units(name, spec, epoch), "long_name": spec.description}
    if spec.standard_name:
        found["standard_name"] = spec.standard_name
    if name == "time_s":
        found |= {"calendar": "standard", "axis": "T"}
    elif has_time:
        found["coordinates"] = "time_s"
    if marks_absent(spec):
        found["_FillValue"] = np.asarray(spec.fill, spec.dtype)[()]
    for key, bound in (("valid_min", spec.low), ("valid_max", spec.high)):
        if bound is not None and bound != spec.fill:
            found[key] = np.asarray(bound, spec.dtype)[()]
    return found | _flag_attributes(name, spec)


def marks_absent(spec: Column) -> bool:
    """Whether the fill value means "absent" to other software too: not 0 of a bit set, nor an empty text."""
    return spec.fill is not None and np.dtype(spec.dtype).kind != "S" and spec.fill != 0


def _flag_attributes(name: str, spec: Column) -> dict[str, Any]:
    """CF 1.11, section 3.5: the meaning of bits (flag_masks) and codes (flag_values)."""
    if spec.flags is not None:
        masks = np.array([flag.value for flag in spec.flags], spec.dtype)
        return {"flag_masks": masks, "flag_meanings": " ".join(flag.name or "" for flag in spec.flags).lower()}
    if name == "plot_type":
        # A meaning is one word of letters, digits and _-.+@.
        meanings = " ".join(text.replace(" + ", "+").replace(" ", "_") for text in PLOT_TYPES)
        return {"flag_values": np.arange(len(PLOT_TYPES), dtype=spec.dtype), "flag_meanings": meanings}
    return {}


def columns_markdown(kind: type[Table]) -> str:
    """The columns of a table as a Markdown table, for docs/log-format.md."""
    lines = ["| column | type | unit | meaning | absent | range |", "|---|---|---|---|---|---|"]
    for name, spec in kind.specs().items():
        unit = "s since epoch" if name == "time_s" else spec.unit
        shape = f" × {spec.width}" if spec.width else ""
        absent = "required" if spec.fill is None else "empty" if spec.fill == b"" else str(spec.fill)
        low, high = ("" if bound is None else f"{bound:.8g}" for bound in (spec.low, spec.high))
        span = f"{low} … {high}".strip() if low or high else ""
        lines.append(f"| `{name}` | {spec.dtype}{shape} | {unit} | {spec.description} | {absent} | {span} |")
    return "\n".join(lines) + "\n"


def put_attributes(target: Any, values: Mapping[str, Any]) -> None:
    """Attributes of an HDF5 object; text is stored with a fixed length, inside the checksummed object header."""
    for key, value in values.items():
        if isinstance(value, str):
            data = value.encode()
            target.attrs.create(key, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(len(data), 1)))
        else:
            target.attrs[key] = value


def text_attribute(target: Any, key: str) -> str | None:
    """A text attribute, None if it is absent or no text."""
    value = target.attrs.get(key)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


@contextmanager
def h5_errors(path: Path, doing: str, remedy: str) -> Iterator[None]:
    """Everything h5py raises for a damaged file or a full disk, as a LogError naming the file and the remedy."""
    try:
        yield
    except LogError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise LogError(f"{path}: {doing} failed ({type(error).__name__}: {reason}); {remedy}") from error
