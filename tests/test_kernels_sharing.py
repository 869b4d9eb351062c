"""Work shared out among threads: all of it, once, whoever does it."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from ssrtrack.kernels import sharing
from ssrtrack.kernels.sharing import LEAST, TURNS, shared_out


@pytest.mark.parametrize("count", [0, 1, LEAST, 2 * LEAST, 1000, 100_003])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_sequence_is_worked_on_once(count: int, threads: int) -> None:
    parts: list[tuple[int, int]] = []
    shared_out(lambda begin, end: parts.append((begin, end)), count, threads)
    parts.sort()
    assert parts[0][0] == 0 and parts[-1][1] == count
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    assert len(parts) == (max(1, min(TURNS * threads, count // LEAST)) if threads > 1 else 1)


def test_threads_work_side_by_side_and_the_caller_is_one_of_them() -> None:
    both, names = threading.Barrier(2), set()

    def work(begin: int, end: int) -> None:
        both.wait(20.0)  # raises where no other thread comes
        names.add(threading.current_thread().name)

    shared_out(work, 2 * LEAST, 2)
    assert len(names) == 2 and threading.current_thread().name in names


def test_a_thread_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only thread that helps is held up by others' work: the caller does its own alone."""
    held, done, names = threading.Event(), [], set()

    def work(begin: int, end: int) -> None:
        done.append(end - begin)
        names.add(threading.current_thread().name)

    with ThreadPoolExecutor(1) as crew:
        monkeypatch.setattr(sharing, "_crew", lambda: crew)
        crew.submit(held.wait, 20.0)
        try:
            shared_out(work, 1000, 2)
            assert not held.is_set()
        finally:
            held.set()
    assert sum(done) == 1000 and names == {threading.current_thread().name}


@pytest.mark.parametrize("where", [0, 999])
def test_an_error_of_a_part_is_the_callers(where: int) -> None:
    def work(begin: int, end: int) -> None:
        if begin <= where < end:
            raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        shared_out(work, 1000, 2)
    done: list[int] = []
    shared_out(lambda begin, end: done.append(end - begin), 1000, 2)
    assert sum(done) == 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork processes")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    shared_out(lambda begin, end: time.sleep(0.001), 1000, 2)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        shared_out(lambda begin, end: done.append(end - begin), 1000, 2)
        os._exit(0 if sum(done) == 1000 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
