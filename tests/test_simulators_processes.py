"""Worker processes: answers, errors, and a kill at any time, in the middle of a large result above all."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress

import pytest

from ssrtrack.simulators.processes import Processes, WorkerDied

HUGE = 200_000_000  # bytes: writing it takes long enough to be killed in the middle


def twice(x: int) -> int:
    if x < 0:
        raise ValueError(f"{x} is below 0")
    return 2 * x


def huge(path: str) -> bytes:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    return bytes(HUGE)


def test_answers_and_errors_come_back() -> None:
    with Processes(2) as pool:
        answers = [pool.submit(twice, n) for n in range(7)]
        assert [a.result() for a in answers] == [0, 2, 4, 6, 8, 10, 12]
        with pytest.raises(ValueError, match="-3 is below 0"):
            pool.submit(twice, -3).result()
        assert pool.submit(twice, 4).result() == 8
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("later_s", [0.0, 0.02, 0.05])
def test_a_kill_in_the_middle_of_a_result_is_noticed(tmp_path, later_s: float) -> None:
    told = tmp_path / "pid"
    with Processes(1) as pool:
        answer = pool.submit(huge, str(told))
        while not (told.exists() and told.read_text()):
            time.sleep(0.001)
        time.sleep(later_s)
        os.kill(int(told.read_text()), signal.SIGKILL)
        with suppress(WorkerDied):
            assert len(answer.result(timeout=30)) == HUGE  # it had been written by then
        with pytest.raises(WorkerDied):
            pool.submit(twice, 1).result(timeout=30)


def test_work_that_is_no_longer_wanted_is_not_waited_for() -> None:
    begin = time.monotonic()
    with Processes(1) as pool:
        pool.submit(time.sleep, 60.0)
        pool.submit(time.sleep, 60.0)
        time.sleep(1.0)
    assert time.monotonic() - begin < 30.0
