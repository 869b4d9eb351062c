"""Trackers by what a user writes: a name, a file of tuned parameters, or the folder of a learned one.

A name is one of `ESTIMATORS`, or a learned tracker that comes with the package (`shipped`, docs/models.md). Names go
before files and folders, so that they mean the same wherever they are written; a folder NAME is written ./NAME.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
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
PRETRAINED = Path(__file__).parent / "pretrained"  # learned trackers that come with the package


def shipped() -> dict[str, Path]:
    """Learned trackers that come with the package: name -> folder (benchmarks/ship_trackers.py puts them there)."""
    return {file.parent.name: file.parent for file in sorted(PRETRAINED.glob(f"*/{LEARNED}"))}


def tracker_names() -> list[str]:
    """All names of trackers: the classical ones, then the learned ones that come with the package."""
    return [*ESTIMATORS, *shipped()]


def written_as(folder: str | Path) -> str:
    """What a user writes to have the learned tracker in a folder: ./NAME where NAME alone is another tracker."""
    text = str(folder)
    return f"./{text}" if _name(text) in tracker_names() else text


def hidden_folders(texts: Iterable[str], *, folder: str | Path = ".") -> list[str]:
    """A line for each shipped tracker among `texts` beside which a folder of its name lies, and is not what is used."""
    names = [name for name in map(_name, texts) if name in shipped() and (Path(folder) / name).is_dir()]
    return [
        f"-t {name} is the tracker that comes with ssrtrack; the folder of that name is -t ./{name}" for name in names
    ]


def load_tracker(text: str, *, folder: str | Path = ".", **defaults: Any) -> Estimator:
    """The estimator written as NAME, FILE.toml, either with :key=value,... behind it, or the folder of a learned run.

    Args:
        text: one of `tracker_names` goes before a file or folder of that name; ./NAME is the latter.
        folder: where relative paths begin.
        defaults: parameters that hold where neither text nor file gives them. A name's own defaults yield to them, also
            tuned ones; but a name with a gate keeps Gaussian noise. To a learned tracker only a heavy tail means
            anything, and only one that is heavier than its base filter's (`_with_tail`).

    Raises:
        EstimatorError: unknown name or parameter, or no such file, or it is damaged.
        CheckpointError: the folder holds no learned tracker that can be used.
    """
    path, colon, rest = _parted(text, folder)
    if path is None:
        known = parameters_of(_name(text))
        if known["gate"] is not None:
            defaults = {key: value for key, value in defaults.items() if not key.startswith("tail_")}
        return parse_estimator(text, **defaults)
    if path.suffix == SUFFIX:
        tuned = read_tuned(path)
        return _tuned_estimator(text, path, tuned, rest if colon else None)
    if colon:
        raise EstimatorError(f"tracker {text!r}: a learned tracker takes no parameters; give it alone")
    from ssrtrack.models.checkpoint import load_run

    return _with_tail(load_run(path), defaults)


def sources_of_tracker(text: str, *, folder: str | Path = ".") -> Sources:
    """What a tracker was trained on; nothing for a name that was not tuned.

    Raises:
        EstimatorError, CheckpointError: as `load_tracker`.
        LogError: what it was trained on cannot be read from its file.
    """
    path, _, _ = _parted(text, folder)
    if path is None and _name(text) not in TUNED:
        return Sources()
    path = TUNED[_name(text)] if path is None else path
    if path.suffix == SUFFIX:
        return Sources.from_list(read_tuned(path).sources, str(path))
    from ssrtrack.models.checkpoint import read_description

    return Sources.from_list(read_description(path)["sources"], str(path))


def digest_of_tracker(text: str, *, folder: str | Path = ".") -> str:
    """A digest of the file or folder behind a tracker, also a shipped one; "" for a classical estimator's name, whose
    parameters are part of the software.

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


def _with_tail(tracker: Any, measured: dict[str, Any]) -> Estimator:
    """A learned tracker whose base allows for the outliers that were measured, if more and larger than those it knows.

    The network was trained above its base's tail, and corrects what that does to usual outliers better than a base
    told of fewer or smaller ones would; a radar with many more and larger ones it never saw.
    """
    own, names = tracker.bank.options, ("tail_weight", "tail_scale")
    if own.gate is None and all(measured.get(name, 0.0) > getattr(own, name) for name in names):
        options = replace(own, **{name: measured[name] for name in names})
        tracker = replace(tracker, bank=replace(tracker.bank, options=options))
    estimator: Estimator = tracker
    return estimator


def _name(text: str) -> str:
    return text.partition(":")[0].strip()


def _parted(text: str, folder: str | Path) -> tuple[Path | None, str, str]:
    """The file or folder meant (None: a name of `ESTIMATORS`), the colon, and the parameters behind it.

    Raises:
        EstimatorError: it is neither a name nor something on disk.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name in ESTIMATORS:
        return None, colon, rest
    if (own := shipped().get(name)) is not None:
        return own, colon, rest
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
    what = f"tracker {text!r}: there is no {Path(folder) / name}" if "/" in name else f"no estimator {name!r}"
    raise EstimatorError(f"{what}; known: {', '.join(tracker_names())}")


def _tuned_estimator(text: str, path: Path, tuned: Tuned, rest: str | None) -> Estimator:
    if tuned.estimator not in ESTIMATORS:
        raise EstimatorError(f"{path}: no estimator {tuned.estimator!r}; known: {', '.join(ESTIMATORS)}")
    known = parameters_of(tuned.estimator) | dict(tuned.parameters)
    try:
        return make_estimator(tuned.estimator, **(dict(tuned.parameters) | given_parameters(text, rest, known)))
    except EstimatorError as error:
        raise EstimatorError(f"{path}: {error}") from error
