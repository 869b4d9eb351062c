"""The command line on terminals of all kinds: progress bars, interrupts, closed pipes, folders and signs."""

import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli_fixture import in_process

COMMAND = [sys.executable, "-c", "from ssrtrack.cli.main import main; main()"]


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = os.environ | {"NO_COLOR": "1", "TERM": "dumb"} | environment
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=known, timeout=240, errors="replace")


def on_terminal(*arguments: object, cwd: Path) -> str:
    """What a terminal of 100 columns shows, without the codes that move the cursor."""
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.environ.update({"COLUMNS": "100", "TERM": "xterm"})
        os.execv(COMMAND[0], [*COMMAND, *map(str, arguments)])
    seen = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the other side is gone
            break
        if not part:
            break
        seen += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode("utf-8", "replace"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name holds a space, with the demo log."""
    folder = tmp_path_factory.mktemp("with space")
    assert in_process("simulate", "demo", "-o", "my [log].h5", cwd=folder).returncode == 0
    return folder


# Command -> what its bar must have named on the way.
BARS = {
    "simulate": (["simulate", "demo", "-o", "again.h5"], ["simulating"]),
    "export": (["export", "my [log].h5", "-o", "log.ast"], ["exporting"]),
    "info": (["info", "my [log].h5"], ["reading"]),
    "evaluate": (
        ["evaluate", "my [log].h5", "-t", "alpha-beta", "-o", "report"],
        ["starting", "my [log].h5: comparing with truth", "my [log].h5: alpha-beta", "intervals", "drawing the report"],
    ),
}


@pytest.mark.parametrize(("arguments", "named"), BARS.values(), ids=BARS.keys())
def test_a_terminal_sees_what_goes_on(folder: Path, arguments: list[str], named: list[str]) -> None:
    shown = on_terminal(*arguments, cwd=folder)
    at = -1
    for text in named:
        assert (at := shown.find(text, at + 1)) >= 0, (text, shown)


def test_ingest_shows_a_bar(folder: Path) -> None:
    assert in_process("export", "my [log].h5", "-o", "in.ast", cwd=folder).returncode == 0
    assert "ingesting" in on_terminal("ingest", "in.ast", "-o", "in.h5", "--date", "2025-06-01", cwd=folder)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_any_encoding_of_the_terminal_will_do(folder: Path, encoding: str) -> None:
    for arguments in (["info", "my [log].h5"], ["evaluate", "my [log].h5", "-t", "alpha-beta", "-o", "plain"]):
        if encoding == "ascii":  # which Python then gives its streams, as it would give them the others
            done = run(*arguments, cwd=folder, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        else:
            done = in_process(*arguments, cwd=folder, encoding=encoding)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert "+-" in done.stdout or encoding != "ascii"
    assert "?" not in done.stdout


def test_an_interrupt_says_stopped_and_leaves_nothing(folder: Path) -> None:
    command = [*COMMAND, "evaluate", "my [log].h5", "-t", "imm", "-t", "ukf", "-o", "stopped", "--save-tracks"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(folder.glob("stopped/*.incomplete")):
            time.sleep(0.01)
        time.sleep(0.5)  # past the opening of files, where HDF5's callbacks can swallow an interrupt
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "stopped\n")
    assert not list(folder.glob("stopped/*"))


def test_a_closed_pipe_is_silent(folder: Path) -> None:
    command = [*COMMAND, "info", "my [log].h5"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write into")
@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "demo", "-o", "/proc/x.h5"],
        ["export", "my [log].h5", "-o", "/proc/x.ast"],
        ["evaluate", "my [log].h5", "-t", "alpha-beta", "-o", "/proc/report"],
        ["evaluate", "my [log].h5", "-t", "alpha-beta", "-o", "my [log].h5/report"],
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(folder: Path, arguments: list[str]) -> None:
    done = in_process(*arguments, cwd=folder)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .{1,200}\n", done.stderr), done.stderr
    assert "cannot write" in done.stderr or "is a file" in done.stderr


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf"])
def test_a_sigma_must_be_a_positive_number(folder: Path, value: str) -> None:
    done = in_process("evaluate", "my [log].h5", "-t", "kf", f"--sigma-range={value}", cwd=folder)
    assert done.returncode == 2
    assert "--sigma-range" in done.stderr and "above 0" in done.stderr


def test_help_names_units_and_answers_at_once(folder: Path) -> None:
    shown = " ".join(run("evaluate", "--help", cwd=folder, COLUMNS="200").stdout.split())
    assert "Range sigma in m" in shown and "Azimuth sigma in degrees" in shown and "Silence in s" in shown
    imported = run("--help", cwd=folder, PYTHONPROFILEIMPORTTIME="1").stderr
    assert "| typer" in imported and not re.search(r"\| +(numpy|scipy|torch|matplotlib|h5py|numba)$", imported, re.M)
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("--help", cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5, seconds
