"""The checks a log has to pass before anything of it is read."""

from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ssrtrack.data import Column, Table
from ssrtrack.errors import LogError
from ssrtrack.io.hdf5_schema import (
    FORMAT,
    FORMAT_VERSION,
    INCOMPLETE_SUFFIX,
    MAX_DISORDER_S,
    Provenance,
    column_units,
    parse_provenance,
    provenance_texts,
    text_attribute,
)

UNFINISHED = (
    "an unfinished log: its writer was interrupted or is still running; use the log of the last finished run, "
    "or write it again and delete this file"
)
DAMAGED = "copy it again from its source, or write the log again"
FOREIGN = "expected a log written by ssrtrack; `ssrtrack ingest` makes one of an ASTERIX recording"


def open_log(path: Path, file: Any = None) -> Any:
    """The HDF5 file at `path`, open for reading; or an open binary `file`, which messages call `path`.

    Raises:
        LogError: there is no such file, it is not HDF5, it is truncated, or its writer did not finish.
    """
    if file is None and not path.is_file():
        raise LogError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give the path of a log")
    try:
        return h5py.File(path if file is None else file, "r")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise LogError(f"{path}: {_why_not_opened(path, ' '.join(str(error).split()))}") from error


def _why_not_opened(path: Path, reason: str) -> str:
    if path.name.endswith(INCOMPLETE_SUFFIX) or "consistency flags" in reason or "already open for write" in reason:
        return f"is {UNFINISHED}"
    if "unable to lock file" in reason:
        return "is being written by another process; wait until it is done"
    if "ermission denied" in reason:
        return "may not be read; ask its owner for permission"
    if "truncated file" in reason:
        return f"is truncated ({reason}); {DAMAGED}"
    if "signature not found" in reason:
        return f"is not an HDF5 file; {FOREIGN}"
    return f"cannot be opened as HDF5 ({reason}); {DAMAGED}"


def check_root(path: Path, file: Any) -> Provenance:
    """The provenance of an open file, once its root attributes show a finished log of a known version.

    Raises:
        LogError: they do not.
    """
    if (found := text_attribute(file, "format")) != FORMAT:
        raise LogError(f"{path}: is an HDF5 file whose format is {found!r}, not {FORMAT!r}; {FOREIGN}")
    version = _integer(path, file, "format_version")
    if version > FORMAT_VERSION:
        raise LogError(
            f"{path}: has format version {version}, this ssrtrack reads up to {FORMAT_VERSION}; upgrade ssrtrack"
        )
    if version < 1:
        raise LogError(f"{path}: has format version {version}, expected 1 to {FORMAT_VERSION}; {DAMAGED}")
    if _integer(path, file, "complete") != 1:
        raise LogError(f"{path}: is {UNFINISHED}")
    return _provenance(path, file)


def _integer(path: Path, file: Any, name: str) -> int:
    value = np.asarray(file.attrs.get(name, np.nan))
    if value.size != 1 or value.dtype.kind not in "iu":
        raise LogError(f"{path}: root attribute {name!r} is {value.tolist()!r}, expected a whole number; {DAMAGED}")
    return int(value.item())


def _provenance(path: Path, file: Any) -> Provenance:
    names = provenance_texts(Provenance("", datetime.fromisoformat("1970-01-01T00:00:00+00:00"), "", ""))
    texts = {name: text_attribute(file, name) for name in names}
    known = {name: text for name, text in texts.items() if text is not None}
    missing = sorted(set(texts) - set(known))
    if missing:
        raise LogError(f"{path}: root attributes {missing} are missing or no text; {DAMAGED}")
    try:
        return parse_provenance(known)
    except (ValueError, TypeError, AttributeError, LogError) as error:
        raise LogError(f"{path}: provenance cannot be understood ({error}); {DAMAGED}") from error


def check_group(path: Path, file: Any, key: str, kind: type[Table], epoch: datetime) -> Any:
    """The group `key`, once it holds every column of `kind` with its type, unit and one common length.

    Raises:
        LogError: it does not.
    """
    group = file.get(key)
    if not isinstance(group, h5py.Group):
        raise LogError(f"{path}: has no group /{key}; {FOREIGN}")
    for name, spec in kind.specs().items():
        problem = _column_problem(group.get(name), name, spec, epoch)
        if problem:
            raise LogError(f"{path}: column /{key}/{name} {problem}; correct the program that wrote the log")
    lengths = {name: int(group[name].shape[0]) for name in kind.specs()}
    if len(set(lengths.values())) > 1:
        raise LogError(f"{path}: columns of /{key} have unequal lengths {lengths}; {DAMAGED}")
    _check_chunks(path, group, key, kind)
    if lengths.get("time_s"):
        _check_times(path, group, key)
    return group


def _column_problem(dataset: Any, name: str, spec: Column, epoch: datetime) -> str:
    """What is wrong with a column's dataset, empty if nothing is."""
    if not isinstance(dataset, h5py.Dataset):
        return "is missing"
    if dataset.dtype != np.dtype(spec.dtype):
        return f"has type {dataset.dtype}, expected {np.dtype(spec.dtype)}"
    if dataset.ndim != (2 if spec.width else 1) or (spec.width and dataset.shape[1] != spec.width):
        return f"has shape {dataset.shape}, expected (rows{f', {spec.width}' if spec.width else ','})"
    if dataset.chunks is None:
        return "is stored in one piece, expected chunks"
    units, expected = text_attribute(dataset, "units"), column_units(name, spec, epoch)
    if units != expected:
        return f"has units {units!r}, expected {expected!r}"
    if spec.fill is not None and not np.array_equal(
        dataset.fillvalue, np.asarray(spec.fill, spec.dtype), equal_nan=np.dtype(spec.dtype).kind == "f"
    ):
        return f"has fill value {dataset.fillvalue!r}, expected {spec.fill!r}"
    return ""


def _check_chunks(path: Path, group: Any, key: str, kind: type[Table]) -> None:
    """Required columns must be stored throughout: a chunk that is not there would read as zeros."""
    for name in (name for name, spec in kind.specs().items() if spec.fill is None):
        dataset = group[name]
        expected = -(-dataset.shape[0] // dataset.chunks[0])
        if dataset.id.get_num_chunks() != expected:
            found = dataset.id.get_num_chunks()
            raise LogError(f"{path}: column /{key}/{name} has {found} of its {expected} chunks; {DAMAGED}")


def _check_times(path: Path, group: Any, key: str) -> None:
    values = [group.attrs.get(name) for name in ("time_start_s", "time_end_s", "max_disorder_s")]
    numbers = [float(v) if isinstance(v, float | np.floating) else np.nan for v in values]
    start_s, end_s, disorder_s = numbers
    if not (start_s <= end_s and 0.0 <= disorder_s <= MAX_DISORDER_S):
        raise LogError(
            f"{path}: attributes time_start_s, time_end_s, max_disorder_s of /{key} are {values}, expected two "
            f"ordered times and 0 to {MAX_DISORDER_S:.0f}; {DAMAGED}"
        )
