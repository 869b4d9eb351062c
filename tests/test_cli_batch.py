"""`ssrtrack batch` as a person uses it: exit codes, the files it leaves, an interrupt and what follows."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssrtrack.cli import batch as command_module
from ssrtrack.cli.main import main
from tests.batch_fixture import TRACKERS, small_logs
from tests.cli_fixture import in_process
from tests.scoring_fixture import simple_log

COMMAND = [sys.executable, "-c", "from ssrtrack.cli.main import main; main()", "batch"]
ENVIRONMENT = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
OPTIONS = [option for name in TRACKERS for option in ("-t", name)]


def ssrtrack_batch(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=240)


def all_gone(group: int) -> bool:
    """Whether no process of the group goes on; Python's own helper leaves a moment after the command."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def summary(out: Path) -> Any:
    return json.loads((out / "summary.json").read_text())


def test_batch_of_good_and_bad_logs(tmp_path: Path) -> None:
    small_logs(tmp_path / "logs")
    (tmp_path / "logs" / "bad<b>.h5").write_bytes(b"nothing")
    done = ssrtrack_batch("logs", *OPTIONS, "--workers", 2, "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "failed: bad<b>.h5: is not an HDF5 file; expected a log written by ssrtrack; `ssrtrack ingest` makes one of an "
        "ASTERIX recording"
    ]
    assert "3 logs scored, 0 reused, 1 failed" in done.stdout
    about = summary(tmp_path / "out")
    assert (about["scored"], about["failed"], about["finished"]) == (3, 1, True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "bad&lt;b&gt;.h5" in page
    assert "bad<b>" not in page
    assert page.index("is not an HDF5 file") < page.index("a.h5</a>")
    for result in about["results"]:
        assert (result["folder"] is None) == (result["status"] == "failed")
        assert result["folder"] is None or f'href="{result["folder"]}/result.json"' in page
    (tmp_path / "logs" / "bad<b>.h5").unlink()
    again = in_process("batch", "logs", *OPTIONS, "--workers", 0, "-o", "out", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert "0 logs scored, 3 reused, 0 failed" in again.stdout


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "</dev/null >/dev/full 2>/dev/full"])
def test_nobody_listens(tmp_path: Path, streams: str) -> None:
    """Closed or broken streams, as under some schedulers: the results come all the same."""
    small_logs(tmp_path / "logs")
    (tmp_path / "logs" / "bad.h5").write_bytes(b"nothing")
    command = shlex.join([*COMMAND, "logs", *OPTIONS, "--workers", "1", "-o", "out"])
    done = subprocess.run(["sh", "-c", f"{command} {streams}"], cwd=tmp_path, env=ENVIRONMENT, timeout=240)
    assert done.returncode != 0
    about = summary(tmp_path / "out")
    assert (about["scored"], about["failed"], about["finished"]) == (3, 1, True)
    assert (tmp_path / "out" / "report.html").is_file()


def test_progress_in_a_journal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    show = command_module._lines(lambda: now)
    for i in range(5):
        now = 50.0 * i
        show("logs, 1 failed", i, 9)
    assert capsys.readouterr().err.splitlines() == ["2 of 9 logs, 1 failed", "4 of 9 logs, 1 failed"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing argument"),
        (["a.h5", "--workers", "-1"], 2, "workers"),
        (["a.h5", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], 2, "give one of the two"),
        (["a.h5", "--gpu"], 2, "needs --scheduler"),
        (["a.h5", "--timeout", "60", "--workers", "0"], 2, "--timeout kills worker processes"),
        (["a.h5", "--sigma-range", "0"], 2, "--sigma-range is 0"),
        (["none*.h5"], 1, "no log found"),
        (["a.h5", "-t", "nosuch"], 1, "nosuch"),
        (["a.h5", "-o", "."], 1, "is not empty"),
    ],
)
def test_wrong_usage(
    tmp_path: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    simple_log(tmp_path / "a.h5", flights=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ssrtrack", "batch", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == status
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_whole_results_and_can_be_resumed(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C reaches the command and its workers alike, as on a terminal; SIGTERM the command, as from a queue."""
    small_logs(tmp_path / "logs", {f"{i:02}.h5": 12 for i in range(40)})
    out = tmp_path / "out"
    command = [*COMMAND, "logs", "-t", "ukf", "--workers", "2", "-o", "out"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline and not list(out.glob("logs/*/result.json")):
            time.sleep(0.02)
        (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + number, errors
    stopped = ["stopped"] if number == signal.SIGINT else []
    assert errors.splitlines() == ["finished results are in out; go on there with --resume", *stopped]
    done = [json.loads(path.read_text()) for path in out.glob("logs/*/result.json")]
    assert 1 <= len(done) < 40
    about = summary(out)
    assert not about["finished"]
    assert len(done) - about["scored"] in (0, 1)  # the last one may be stored and not yet counted
    assert (about["scored"] + about["stopped"], about["failed"]) == (40, 0)
    assert not list(out.rglob("*.part"))
    assert all_gone(running.pid)
    some = sorted((tmp_path / "logs").iterdir())[:4]
    again = in_process("batch", *some, "-t", "ukf", "--workers", 0, "-o", "out", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    reused = summary(out)["reused"]
    assert reused == sum(path["log"] in map(str, some) for path in done)
    assert reused >= 1
