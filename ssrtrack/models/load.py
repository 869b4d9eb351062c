"""Trackers by what a user writes: a name, a file of tuned parameters, or the folder of a learned one."""

import hashlib
from pathlib import Path
from typing import Any

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.estimators import (
    ESTIMATORS,
    TUNED,
    Estimator,
    given_parameters,
    make_estimator,
    parameters_of,
    parse_estimator,
)
from ssrtrack.filters.tuned_file import Tuned, read_tuned
from ssrtrack.models.provenance import Sources

SUFFIX = ".toml"
LEARNED = "model.json"  # of a learned run; it names the digest of its weights


def load_tracker(text: str, *, folder: str | Path = ".", **defaults: Any) -> Estimator:
    """The estimator written as NAME, FILE.toml, either with :key=value,... behind it, or the folder of a learned run.

    Args:
        text: a name of `ESTIMATORS` goes before a file or folder of that name; ./NAME is the latter.
        folder: where relative paths begin.
        defaults: parameters that hold where neither text nor file gives them. A name's own defaults yield to them, also
            tuned ones; but a name with a gate keeps Gaussian noise. They mean nothing to a learned tracker.

    Raises:
        EstimatorError: unknown name or parameter, or no such file, or it is damaged.
        CheckpointError: the folder holds no learned tracker that can be used.
    """
    path, colon, rest = _parted(text, folder)
    if path is None:
        known = parameters_of(text.partition(":")[0].strip())
        if known["gate"] is not None:
            defaults = {key: value for key, value in defaults.items() if not key.startswith("tail_")}
        return parse_estimator(text, **defaults)
    if path.suffix == SUFFIX:
        tuned = read_tuned(path)
        return _tuned_estimator(text, path, tuned, rest if colon else None)
    if colon:
        raise EstimatorError(f"tracker {text!r}: a learned tracker takes no parameters; give the folder alone")
    from ssrtrack.models.checkpoint import load_run

    estimator: Estimator = load_run(path)
    return estimator


def sources_of_tracker(text: str, *, folder: str | Path = ".") -> Sources:
    """What a tracker was trained on; nothing for a name that was not tuned.

    Raises:
        EstimatorError, CheckpointError: as `load_tracker`.
        LogError: what it was trained on cannot be read from its file.
    """
    path, _, _ = _parted(text, folder)
    name = text.partition(":")[0].strip()
    if path is None and name not in TUNED:
        return Sources()
    path = TUNED[name] if path is None else path
    if path.suffix == SUFFIX:
        return Sources.from_list(read_tuned(path).sources, str(path))
    from ssrtrack.models.checkpoint import read_description

    return Sources.from_list(read_description(path)["sources"], str(path))


def digest_of_tracker(text: str, *, folder: str | Path = ".") -> str:
    """A digest of the file or folder behind a tracker; "" for a name, whose parameters come with the software.

    Raises:
        EstimatorError: there is no such file.
    """
    path, _, _ = _parted(text, folder)
    if path is None:
        return ""
    file = path if path.is_file() else path / LEARNED
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise EstimatorError(f"{file}: cannot be read ({error.strerror or error})") from error


def _parted(text: str, folder: str | Path) -> tuple[Path | None, str, str]:
    """The file or folder meant (None: a name), the colon, and the parameters behind it.

    Raises:
        EstimatorError: it is neither a name nor something on disk.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name in ESTIMATORS:
        return None, colon, rest
    head, dot, tail = text.strip().partition(SUFFIX)
    if dot and (not tail.strip() or tail.strip().startswith(":")):
        colon, rest = tail.strip()[:1], tail.strip()[1:]
        path = Path(folder) / (head + dot)
        if not path.is_file():
            raise EstimatorError(f"tracker {text!r}: there is no file {path}; `ssrtrack train imm` makes such files")
        return path, colon, rest
    for written, sign, after in ((text.strip(), "", ""), (name, colon, rest)):
        path = Path(folder) / written
        if written and path.is_dir():
            return path, sign, after
        if written and path.is_file():
            raise EstimatorError(
                f"tracker {text!r}: {path} is neither a {SUFFIX} of tuned parameters nor a learned tracker's folder"
            )
    if "/" in name:
        raise EstimatorError(
            f"tracker {text!r}: there is no {Path(folder) / name}; known names: {', '.join(ESTIMATORS)}"
        )
    return None, colon, rest


def _tuned_estimator(text: str, path: Path, tuned: Tuned, rest: str | None) -> Estimator:
    if tuned.estimator not in ESTIMATORS:
        raise EstimatorError(f"{path}: no estimator {tuned.estimator!r}; known: {', '.join(ESTIMATORS)}")
    known = parameters_of(tuned.estimator) | dict(tuned.parameters)
    try:
        return make_estimator(tuned.estimator, **(dict(tuned.parameters) | given_parameters(text, rest, known)))
    except EstimatorError as error:
        raise EstimatorError(f"{path}: {error}") from error
