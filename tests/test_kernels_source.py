"""Where generated source is kept: whose folder, what if there is none, and many processes at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from ssrtrack.kernels import kalman_source
from ssrtrack.kernels.kalman_source import module


def path_of(text: str) -> Path:
    """Where a module of this source was written; its name is the text's alone, so each test has its own."""
    file = module("test", text).__file__
    assert file is not None
    return Path(file)


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("SSRTRACK_CACHE", str(tmp_path / "own"))
    text = f"where = 'own'  # {tmp_path}\n"
    assert path_of(text).parent == tmp_path / "own"
    assert path_of(text).read_text() == text
    monkeypatch.delenv("SSRTRACK_CACHE")
    assert path_of(f"where = 'xdg'  # {tmp_path}\n").parent == tmp_path / "xdg" / "ssrtrack"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert path_of(f"where = 'home'  # {tmp_path}\n").parent == tmp_path / "home" / ".cache" / "ssrtrack"
    # Nothing half-written is left, and others may not look in.
    assert not list(tmp_path.rglob("*.tmp"))
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0


def test_the_same_source_is_written_and_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSRTRACK_CACHE", str(tmp_path))
    text = f"value = object()  # {tmp_path}\n"
    assert module("test", text) is module("test", text)
    assert module("test", text + "\n") is not module("test", text)
    assert module("other", text) is not module("test", text)
    assert len(list(tmp_path.glob("*.py"))) == 3


@pytest.mark.parametrize("variable", ["SSRTRACK_CACHE", "XDG_CACHE_HOME"])
def test_without_a_writable_folder_it_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """As with a read-only home: a folder of the process's own."""
    (tmp_path / "file").write_text("no folder can be made under a file")
    monkeypatch.delenv("SSRTRACK_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(kalman_source, "_SCRATCH", None)
    text = f"value = 6 * 7  # {tmp_path} {variable}\n"
    found = module("test", text)
    assert found.value == 42
    assert found.__file__ is not None and not found.__file__.startswith(str(tmp_path))
    scratch = kalman_source._SCRATCH
    assert scratch is not None and Path(found.__file__).parent == Path(scratch.name)
    scratch.cleanup()


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from ssrtrack.kernels.kalman import scan
from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_source import module
folder, me = Path(sys.argv[1]), sys.argv[2]
(folder / me).touch()
while not all((folder / name).exists() for name in "ab"):
    time.sleep(0.001)
padding = "#" * 200_000
for n in range(100):
    assert module("race", f"value = {n}\\n{padding}\\nend = {n}\\n").end == n
form = Form(("cv",), "extended", "position", False, False)
plots = np.array([[0.0, 4.0], [1e3, 2e3], [0.0, 10.0], [900.0, 900.0], [0.0, 0.0], [900.0, 900.0]])
vector = np.array([1.0, 4e4, np.inf, 3.0, 0.0, 0.0, 1.0])
found, _ = scan(form, vector, plots, Layout.of(np.array([2])), ("filtered",), backend="numba")
print(found["filtered"].tobytes().hex())
"""


def test_processes_that_start_together_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both with an empty cache, both compiling the same kernels at the same moment."""
    monkeypatch.setenv("SSRTRACK_CACHE", str(tmp_path / "cache"))
    both = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), me], stdout=subprocess.PIPE, text=True)
        for me in "ab"
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert len(list((tmp_path / "cache").glob("ssrtrack_race_*.py"))) == 100
    assert not list((tmp_path / "cache").glob("*.tmp"))
