"""The scan compiled by numba: straight-line code over blocks of neighbouring tracks, so that SIMD units are filled."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_scan import parted, row_count
from ssrtrack.kernels.kalman_simd import lanes, maker
from ssrtrack.kernels.kalman_source import Body, first_body, module, step_body
from ssrtrack.kernels.kalman_trace import Trace, instructions
from ssrtrack.kernels.kalman_vector import functions

Array = NDArray[Any]
BLOCK = 128  # tracks whose states a core keeps in its cache at a time


def scan(
    form: Form,
    vector: Array,
    columns: Array,
    layout: Layout,
    outputs: Sequence[str],
    state: Array | None,
    threads: int | None = None,
) -> tuple[dict[str, Array], Array]:
    """One backend of `ssrtrack.kernels.kalman.scan`, in the precision of `columns`, on `threads` cores (all)."""
    dtype = columns.dtype.name
    kernel = compiled(form, tuple(outputs), dtype)
    out = np.empty((row_count(form, outputs), layout.plots), dtype)
    final = np.empty((form.state_size, layout.tracks), dtype) if state is None else state.astype(dtype)
    arguments = (np.ascontiguousarray(columns), layout.offsets, layout.alive, vector.astype(dtype), final, out)
    in_blocks(lambda begin, end: kernel(*arguments, state is None, begin, end), layout.tracks, threads)
    return parted(form, outputs, out), final


def in_blocks(work: Callable[[int, int], None], tracks: int, threads: int | None = None) -> None:
    """work(begin, end) for blocks of tracks, on threads: the kernels let go of Python's lock."""
    blocks = [(begin, min(begin + BLOCK, tracks)) for begin in range(0, tracks, BLOCK)]
    threads = min(threads or cores(), len(blocks))
    if threads < 2:
        for begin, end in blocks:
            work(begin, end)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda block: work(*block), blocks))


def cores() -> int:
    """Cores this process may use: what numba was told, within what the system allows."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("NUMBA_NUM_THREADS", "")
    return min(allowed, int(told)) if told.isdigit() and int(told) else allowed


@cache
def compiled(form: Form, outputs: tuple[str, ...], dtype: str) -> Any:
    """The kernel (columns, offsets, alive, parameters, state, out, fresh, begin, end)."""
    return module("numba", source(form, outputs, dtype)).scan


def source(form: Form, outputs: tuple[str, ...], dtype: str) -> str:
    """The kernel's source: loops in Python, a track's step as a program of SIMD instructions."""
    start = first_body(form, outputs, instructions, Trace(functions(dtype)))
    step = step_body(form, outputs, instructions, Trace(functions(dtype)))
    return SOURCE.format(
        title=f"{form}: {', '.join(outputs)} ({maker()})",
        programs="\n".join(program(name, body) for name, body in (("FIRST", start), ("STEP", step))),
        dtype=dtype,
        width=lanes(dtype),
        block=BLOCK,
        columns=len(form.columns),
        state=form.state_size,
        out=row_count(form, outputs),
    )


def program(name: str, parts: Body) -> str:
    """A traced body as the arguments of `kalman_simd.body`."""
    lines, state, results = parts
    text = "\n".join(lines)
    return f'{name} = (\n    """\n{text}\n""",\n    "{" ".join(state)}".split(),\n    "{" ".join(results)}".split(),\n)'


SOURCE = '''"""Filter scan for {title}; written by ssrtrack, see kernels/kalman_source.py."""

import numpy as np
from numba import njit

from ssrtrack.kernels.kalman_simd import body

{programs}
first = body(*FIRST, "{dtype}", {width}, {block})
step = body(*STEP, "{dtype}", {width}, {block})


@njit(cache=True, nogil=True)
def scan(columns, offsets, alive, parameters, state, out, fresh, begin, end):
    # Blocks of their own: whole registers may be read and written, whatever the number of tracks left.
    here = np.ones(({columns}, {block}), np.{dtype})
    local = np.ones(({state}, {block}), np.{dtype})
    there = np.empty(({out}, {block}), np.{dtype})
    if not fresh:
        for row in range({state}):
            for i in range(end - begin):
                local[row, i] = state[row, begin + i]
    kept = end - begin
    for k in range(alive.size):
        count = max(min(end, alive[k]) - begin, 0)
        # Tracks that have ended share registers with others that go on: their states leave now.
        for row in range({state}):
            for i in range(count, kept):
                state[row, begin + i] = local[row, i]
        kept = count
        if count == 0:
            break
        base = offsets[k] + begin
        for row in range({columns}):
            for i in range(count):
                here[row, i] = columns[row, base + i]
        if fresh and k == 0:
            for i in range(0, count, {width}):
                first(here, local, there, parameters, i)
        else:
            for i in range(0, count, {width}):
                step(here, local, there, parameters, i)
        for row in range({out}):
            for i in range(count):
                out[row, base + i] = there[row, i]
    for row in range({state}):
        for i in range(kept):
            state[row, begin + i] = local[row, i]
'''
