"""Work on many sequences shared out among a CPU's cores, for compiled functions that let go of Python's lock."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

LEAST = 64  # sequences worth being handed to another thread
TURNS = 4  # parts for each thread, so that one on a core that others use as well keeps nobody waiting long
MOST = 64  # threads


def shared_out(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """work(begin, end) of parts that make up 0 … count, at most `threads` of them at a time.

    The caller's thread takes its share from the first moment on: the others are there from call to call, and what they
    have not begun when the caller is through is done without them. An error of `work` is raised here.
    """
    parts = max(1, min(TURNS * threads, count // LEAST))
    if threads < 2 or parts == 1:
        work(0, count)
        return
    ends = [count * part // parts for part in range(parts + 1)]
    waiting = deque(pairwise(ends))

    def some() -> None:
        while True:
            try:
                begin, end = waiting.popleft()
            except IndexError:
                return
            work(begin, end)

    helpers = [_crew().submit(some) for _ in range(min(threads, parts, MOST) - 1)]
    try:
        some()
    finally:
        waiting.clear()
        for helper in helpers:
            if not helper.cancel():
                helper.result()


@cache
def _crew() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, "ssrtrack")


if hasattr(os, "register_at_fork"):
    # Threads do not come along into a forked process: it gets others once it needs some.
    os.register_at_fork(after_in_child=_crew.cache_clear)
