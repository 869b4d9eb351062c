"""The smoother compiled by numba: backward over filtered states, whole flights or a fixed lag."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_numba import BLOCK, in_blocks, program
from ssrtrack.kernels.kalman_simd import lanes, maker
from ssrtrack.kernels.kalman_source import back_body, module, show_body
from ssrtrack.kernels.kalman_trace import Trace, instructions
from ssrtrack.kernels.kalman_vector import functions

Array = NDArray[Any]


def smooth(
    form: Form, vector: Array, dt_s: Array, filtered: Array, layout: Layout, lag: int | None, threads: int | None = None
) -> Array:
    """One backend of `ssrtrack.kernels.kalman.smooth`, in the precision of `filtered`."""
    dtype = filtered.dtype.name
    out = np.empty((14, layout.plots), dtype)
    arguments = (dt_s.astype(dtype), np.ascontiguousarray(filtered), layout.offsets, layout.alive, vector.astype(dtype))
    kernel = compiled(form, dtype)
    in_blocks(
        lambda begin, end: kernel(*arguments, out, -1 if lag is None else lag, begin, end), layout.tracks, threads
    )
    return out


@cache
def compiled(form: Form, dtype: str) -> Any:
    """The kernel (dt, filtered, offsets, alive, parameters, out, lag, begin, end); a lag of −1 is the whole flight."""
    return module("numba_smooth", source(form, dtype)).smooth


def source(form: Form, dtype: str) -> str:
    """The kernel's source: loops in Python, a step back as a program of SIMD instructions."""
    bodies = (
        ("BACK", back_body(form, instructions, Trace(functions(dtype)))),
        ("SHOW", show_body(form, instructions, Trace(functions(dtype)))),
    )
    return SOURCE.format(
        title=f"{form} ({maker()})",
        programs="\n".join(program(name, body) for name, body in bodies),
        dtype=dtype,
        width=lanes(dtype),
        block=BLOCK,
        state=form.state_size,
        rows=form.state_size + 1,
    )


SOURCE = '''"""Smoother for {title}; written by ssrtrack, see kernels/kalman_source.py."""

import numpy as np
from numba import njit

from ssrtrack.kernels.kalman_simd import body

{programs}
back = body(*BACK, "{dtype}", {width}, {block})
show = body(*SHOW, "{dtype}", {width}, {block})


@njit(cache=True, nogil=True)
def smooth(dt, filtered, offsets, alive, parameters, out, lag, begin, end):
    # Row 0 is the step to the later plot, the others are the filtered state at the earlier one.
    here = np.ones(({rows}, {block}), np.{dtype})
    local = np.ones(({state}, {block}), np.{dtype})
    there = np.empty((14, {block}), np.{dtype})
    steps = 0
    while steps < alive.size and alive[steps] > begin:
        steps += 1
    whole = lag < 0
    for first in range(1 if whole else steps):
        top = steps - 1 if whole else min(first + lag, steps - 1)
        later = 0
        for k in range(top, first - 1, -1):
            count = min(end, alive[k]) - begin
            base = offsets[k] + begin
            for row in range({state}):
                for i in range(count):
                    here[row + 1, i] = filtered[row, base + i]
            if later > 0:
                ahead = offsets[k + 1] + begin
                for i in range(later):
                    here[0, i] = dt[ahead + i]
                for i in range(0, later, {width}):
                    back(here, local, there, parameters, i)
            for row in range({state}):
                for i in range(later, count):
                    local[row, i] = here[row + 1, i]
            later = count
            if whole or k == first:
                for i in range(0, count, {width}):
                    show(here, local, there, parameters, i)
                for row in range(14):
                    for i in range(count):
                        out[row, base + i] = there[row, i]
'''
