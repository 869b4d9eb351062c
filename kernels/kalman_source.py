"""Python source of the scan, traced from the formulas: what numba and Triton compile.

The source lies in the user's cache folder, one file for each form, outputs and precision, so that numba keeps its
machine code beside it and a reader or a debugger can look at it. `SSRTRACK_CACHE` names another folder. What lies
there is run, so a folder that others may write to is not used.
"""

import hashlib
import importlib.util
import os
import re
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ssrtrack.kernels.kalman_form import Form, parameters
from ssrtrack.kernels.kalman_scan import Results, advance, first
from ssrtrack.kernels.kalman_smooth import back
from ssrtrack.kernels.kalman_step import estimate, packed, unpacked, upper
from ssrtrack.kernels.kalman_trace import Trace

Body = tuple[list[str], list[str], list[str]]  # lines; the new state's scalars; the outputs' scalars


class Constants:
    """Numbers of a traced body as named constants of the kernel's own precision: a bare 0.1 would be float64."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def __call__(self, value: float) -> str:
        return self.names.setdefault(repr(float(value)), f"K{len(self.names)}")

    def lines(self, spell: Callable[[str], str]) -> list[str]:
        """One assignment for each constant; `spell` wraps its digits in the precision."""
        return [f"{name} = {spell(digits)}" for digits, name in self.names.items()]


Write = Callable[[Sequence[Any]], tuple[list[str], list[str]]]


def first_body(form: Form, outputs: Sequence[str], write: Write, trace: Trace) -> Body:
    """From parameters p… and columns c… to state and outputs at a track's first plot."""
    columns = [trace.input(f"c{i}") for i in range(len(form.columns))]
    return _body(*first(form, _parameters(form, trace), columns, outputs), outputs, write)


def step_body(form: Form, outputs: Sequence[str], write: Write, trace: Trace) -> Body:
    """From parameters p…, state s… and columns c… to state and outputs one column later."""
    columns = [trace.input(f"c{i}") for i in range(len(form.columns))]
    state = [trace.input(f"s{i}") for i in range(form.state_size)]
    return _body(*advance(form, _parameters(form, trace), state, columns, outputs), outputs, write)


def back_body(form: Form, write: Write, trace: Trace) -> Body:
    """From parameters p…, dt (c0), filtered state (c1…) and later smoothed state (s…) to the smoothed state."""
    here = unpacked(form, [trace.input(f"c{i + 1}") for i in range(form.state_size)])
    later = unpacked(form, [trace.input(f"s{i}") for i in range(form.state_size)])
    state = back(form, _parameters(form, trace), here, later, trace.input("c0"))
    return _body(packed(form, state), {}, (), write)


def show_body(form: Form, write: Write, trace: Trace) -> Body:
    """From state s… to its estimate: mean and upper covariance."""
    state = [trace.input(f"s{i}") for i in range(form.state_size)]
    mean, covariance = estimate(form, unpacked(form, state))
    return _body(state, {"smoothed": [*mean, *upper(covariance)]}, ("smoothed",), write)


def _parameters(form: Form, trace: Trace) -> Any:
    return parameters(form, [trace.input(f"p{i}") for i in range(form.parameter_count)])


def _body(values: Sequence[Any], results: Results, outputs: Sequence[str], write: Write) -> Body:
    lines, texts = write([*values, *(x for name in outputs for x in results[name])])
    return lines, texts[: len(values)], texts[len(values) :]


def used(lines: Sequence[str], letter: str, count: int) -> list[int]:
    """Which of the inputs letter0 … the lines mention, so that a kernel loads no other."""
    words = {word for line in lines for word in re.findall(r"\w+", line)}
    return [i for i in range(count) if f"{letter}{i}" in words]


def module(name: str, text: str) -> ModuleType:
    """The module with this source, written to the cache folder if it is not there yet."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"ssrtrack_{name}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    path = _folder() / f"{name}.py"
    if not _holds(path, text):
        _write(path, text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has them
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    sys.modules[name] = loaded
    return loaded


def _holds(path: Path, text: str) -> bool:
    """Whether the file has this very text: not one that was cut short, or that somebody else put there."""
    try:
        return path.read_bytes() == text.encode()
    except FileNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    # Whole or not at all: other processes may look at the same moment.
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode())
    Path(temporary).replace(path)


def _folder() -> Path:
    given = os.environ.get("SSRTRACK_CACHE")
    try:
        base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssrtrack"
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=base):
            if _is_ours(base):
                return base
    except (OSError, RuntimeError):
        # A read-only home, or none: compile anew in every process rather than fail.
        return _scratch()
    warnings.warn(
        f"{base} may be written by others, so compiled filters are not kept there and each process compiles anew; "
        "make it yours alone (chmod 700), or name another folder in SSRTRACK_CACHE",
        stacklevel=2,
    )
    return _scratch()


def _is_ours(folder: Path) -> bool:
    """Whether nobody but this user, root and the folder's group can put files there."""
    if not hasattr(os, "getuid"):
        return True
    found = folder.stat()
    return found.st_uid in (0, os.getuid()) and not found.st_mode & stat.S_IWOTH


def _scratch() -> Path:
    global _SCRATCH
    if _SCRATCH is None:
        _SCRATCH = tempfile.TemporaryDirectory(prefix="ssrtrack-kernels-")
    return Path(_SCRATCH.name)


_SCRATCH: "tempfile.TemporaryDirectory[str] | None" = None
