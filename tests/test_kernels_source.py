"""Where generated source is kept: whose folder, what if there is none, and many processes at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssrtrack.kernels import kalman_numba, kalman_numba_smooth, kalman_simd, kalman_source
from ssrtrack.kernels.kalman_form import Form
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


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_a_folder_that_others_may_write_to_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Whoever can put a file there could have us run it."""
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(mode)
    monkeypatch.setenv("SSRTRACK_CACHE", str(open_folder))
    monkeypatch.setattr(kalman_source, "_SCRATCH", None)
    with pytest.warns(UserWarning, match="may be written by others.*chmod 700"):
        found = path_of(f"value = 1  # {tmp_path} {mode}\n")
    assert found.parent != open_folder and not list(open_folder.iterdir())
    assert found.parent.stat().st_mode & 0o077 == 0
    open_folder.chmod(0o770)
    assert path_of(f"value = 2  # {tmp_path} {mode}\n").parent == open_folder


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSRTRACK_CACHE", str(tmp_path))
    monkeypatch.setattr(kalman_source, "_SCRATCH", None)
    owner = tmp_path.stat().st_uid
    if owner == 0:
        os.chown(tmp_path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.warns(UserWarning, match="may be written by others"):
        assert path_of(f"value = 3  # {tmp_path}\n").parent != tmp_path


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no name."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("SSRTRACK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(kalman_source, "_SCRATCH", None)
    assert path_of(f"value = 4  # {tmp_path}\n").exists()


def test_a_file_that_is_not_this_source_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short by a full disk, or put there by hand: its name alone proves nothing."""
    monkeypatch.setenv("SSRTRACK_CACHE", str(tmp_path))
    text = f"value = 'whole, with é'  # {tmp_path}\n"
    path = path_of(text)
    del sys.modules[path.stem]
    path.write_bytes(text.encode()[:7])
    assert module("test", text).value == "whole, with é"
    assert path.read_bytes() == text.encode()


def test_what_makes_the_machine_code_is_part_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba sees by the source alone that machine code is old; the emitter, compiler and processor count too."""
    form = Form(("cv",), "extended", "position", False, False)
    sources = {kalman_numba.source(form, ("filtered",), "float64"), kalman_numba_smooth.source(form, "float64")}
    assert all(kalman_simd.maker() in text for text in sources)
    changed = tmp_path / "kalman_simd.py"
    changed.write_text(Path(kalman_simd.__file__).read_text() + "# another rounding\n")
    makers = {kalman_simd.maker(), kalman_simd.maker.__wrapped__()}
    assert len(makers) == 1
    with monkeypatch.context() as patch:
        patch.setattr(kalman_simd, "__file__", str(changed))
        makers.add(kalman_simd.maker.__wrapped__())
    with monkeypatch.context() as patch:
        patch.setattr("numba.__version__", "0.0")
        makers.add(kalman_simd.maker.__wrapped__())
    with monkeypatch.context() as patch:
        patch.setattr("llvmlite.binding.get_host_cpu_name", lambda: "another")
        makers.add(kalman_simd.maker.__wrapped__())
    assert len(makers) == 4


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
