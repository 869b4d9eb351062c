"""A log appears whole or not at all, whatever happens to its writer."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ssrtrack.data import Plots, Radar
from ssrtrack.errors import LogError
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance

MADE = Provenance("ssrtrack test", datetime(2023, 5, 2, tzinfo=UTC), "0.1.0", "2024-02-29T12:00:00Z")
RADARS = Radar(name=np.array([b"north"]))

ENDLESS = """
import sys
from datetime import UTC, datetime
import numpy as np
from ssrtrack.data import Plots, Radar
from ssrtrack.io.hdf5 import LogWriter, Provenance
made = Provenance("endless", datetime(2023, 5, 2, tzinfo=UTC), "0.1.0", "now")
with LogWriter(sys.argv[1], made, Radar(name=np.array([b"north"]))) as log:
    for i in range(10**9):
        n = 20_000
        ranges = np.random.default_rng(i).uniform(0, 1e5, n)
        log.append_plots(Plots(time_s=np.full(n, i), radar_id=np.zeros(n), range_m=ranges, azimuth_rad=np.zeros(n)))
        print(i, flush=True)
"""


def plots(rows: int) -> Plots:
    return Plots(
        time_s=np.arange(rows), radar_id=np.zeros(rows), range_m=np.full(rows, 9e3), azimuth_rad=np.zeros(rows)
    )


def write(path: Path, rows: int) -> None:
    with LogWriter(path, MADE, RADARS) as log:
        log.append_plots(plots(rows))


def count(path: Path) -> int:
    with LogReader(path) as log:
        return len(log.read_plots())


def test_a_new_log_replaces_the_old_one_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.h5"
    write(path, 5)
    with LogWriter(path, MADE, RADARS) as log:
        log.append_plots(plots(100_000))
        assert count(path) == 5
    assert count(path) == 100_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("mid-way"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_keeps_the_old_log_and_removes_the_part(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "log.h5"
    write(path, 5)
    with pytest.raises(type(error)), LogWriter(path, MADE, RADARS) as log:
        log.append_plots(plots(100_000))
        raise error
    assert list(tmp_path.iterdir()) == [path]
    assert count(path) == 5


# 1 append: less than a chunk, nothing but headers on disk; 9 and 40: in the midst of chunks.
@pytest.mark.parametrize("appends", [1, 9, 40])
def test_a_killed_writer_leaves_the_old_log_and_a_part_that_is_refused(tmp_path: Path, appends: int) -> None:
    path = tmp_path / "log.h5"
    write(path, 5)
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(appends):
            assert writer.stdout.readline(), "the writer ended by itself"
        (part,) = tmp_path.glob("*.incomplete")
        with pytest.raises(LogError, match="interrupted or is still running"):
            LogReader(part)
        os.kill(writer.pid, signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert count(path) == 5
    assert sorted(tmp_path.iterdir()) == sorted([path, part])
    # Whatever the part is called, and without the mark HDF5 itself leaves, it never reads as a whole log.
    renamed = tmp_path / "renamed.h5"
    renamed.write_bytes(part.read_bytes())
    for refused in (part, renamed):
        with pytest.raises(LogError, match=r"is an unfinished log: .* delete this file"):
            LogReader(refused)
    write(path, 7)  # the leftover does not disturb the next writer
    assert count(path) == 7


def test_the_complete_mark_alone_is_enough_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "log.h5"
    write(path, 5)
    import h5py

    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = np.int32(0)
    with pytest.raises(LogError, match="is an unfinished log"):
        LogReader(path)


@pytest.mark.parametrize("place", ["missing/log.h5", ""])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    with (
        pytest.raises(LogError, match=r"cannot write a log here; give a file name inside an existing folder"),
        LogWriter(tmp_path / place, MADE, RADARS),
    ):
        pass


def test_a_full_disk_is_a_log_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file size stands for the full disk: writing beyond it fails in the same call."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "from ssrtrack.errors import LogError\n"
        f"source = {ENDLESS!r}\n"
        "try:\n    exec(source)\n"
        "except LogError as error:\n    sys.exit('LogError: ' + str(error))\n"
    )
    path = tmp_path / "log.h5"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.startswith(f"LogError: {path}: writing plots failed"), done.stderr[-2000:]
    assert "check free space" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_path_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log.h5"
    with LogWriter(path, MADE, RADARS) as first:
        with LogWriter(path, MADE, RADARS) as second:
            second.append_plots(plots(2))
        first.append_plots(plots(1))
    assert count(path) == 1
    assert list(tmp_path.iterdir()) == [path]
