"""Processes that work ahead, each with a pipe of its own, so that one that is killed is always noticed.

`concurrent.futures.ProcessPoolExecutor` shares one pipe between its processes: if one is killed while it writes a large
result, the reader waits for the rest of it for ever.
"""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from ssrtrack.errors import SsrtrackError

P = ParamSpec("P")
R = TypeVar("R")
# A process that is told to end has this long to do so before it is killed.
PATIENCE_S = 5.0


class WorkerDied(SsrtrackError):  # noqa: N818 (it says what happened)
    """A process ended before its work."""


class Processes:
    """`count` processes for functions that can be pickled; use it in a `with`.

    Each is looked after by a thread, which waits while it works, and ends with it or when it is killed. They end when
    this one ends, however it does: their pipes close.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, "processes")
        self._own = threading.local()
        self._started: list[tuple[Any, Connection]] = []

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """The result to come of function(*args, **kwargs); WorkerDied if its process is killed."""
        return self._threads.submit(self._ask, function, args, kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process, _ in self._started:
            # Half a result is nobody's: there is no reason to wait for it.
            process.terminate()
        self._threads.shutdown(wait=True)
        for process, pipe in self._started:
            pipe.close()
            process.join(PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()

    def _ask(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        pipe = self._pipe()
        try:
            pipe.send((function, args, kwargs))
            worked, result = pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied("a worker process ended before its work") from error
        if worked:
            return result
        raise result

    def _pipe(self) -> Connection:
        """The pipe to this thread's process, which is started at its first work."""
        if not hasattr(self._own, "pipe"):
            # Spawned: a fork would copy the locks of other threads, but not the threads.
            context = get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            # While this end of the process's pipe is open, nothing tells that the process is gone.
            theirs.close()
            self._own.pipe = ours
            self._started.append((process, ours))
        return self._own.pipe  # type: ignore[no-any-return]


def _serve(pipe: Connection) -> None:
    """Answer until the pipe closes. A Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, function(*args, **kwargs)
        except Exception as error:  # every error is the caller's to see
            answer = False, error
        try:
            pipe.send(answer)
        except OSError:
            return
