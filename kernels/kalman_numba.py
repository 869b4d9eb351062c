"""The scan compiled by numba: straight-line code over blocks of neighbouring tracks, so that SIMD units are filled."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_form import Form
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_scan import output_sizes
from ssrtrack.kernels.kalman_source import Body, Constants, first_body, module, step_body, used

Array = NDArray[Any]
BLOCK = 128  # tracks whose states a core keeps in its cache at a time
SPELLED = {"where": "select", "not": "not "}


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
    sizes = output_sizes(form)
    out = np.empty((sum(sizes[name] for name in outputs), layout.plots), dtype)
    final = np.empty((form.state_size, layout.tracks), dtype) if state is None else state.astype(dtype)
    arguments = (np.ascontiguousarray(columns), layout.offsets, layout.alive, vector.astype(dtype), final, out)

    def run(begin: int) -> None:
        kernel(*arguments, state is None, begin, min(begin + BLOCK, layout.tracks))

    blocks, threads = range(0, layout.tracks, BLOCK), threads or os.cpu_count() or 1
    if threads == 1 or len(blocks) < 2:
        for begin in blocks:
            run(begin)
    else:
        with ThreadPoolExecutor(min(threads, len(blocks))) as pool:
            list(pool.map(run, blocks))
    parts, at = {}, 0
    for name in outputs:
        parts[name], at = out[at : at + sizes[name]], at + sizes[name]
    return parts, final


@lru_cache(maxsize=None)
def compiled(form: Form, outputs: tuple[str, ...], dtype: str) -> Any:
    """The kernel (columns, offsets, alive, parameters, state, out, fresh, begin, end)."""
    return module("numba", source(form, outputs, dtype)).scan


def source(form: Form, outputs: tuple[str, ...], dtype: str) -> str:
    """The kernel's source."""
    constants = Constants()
    start = first_body(form, outputs, _spelling, constants)
    step = step_body(form, outputs, _spelling, constants)
    lines = [
        f'"""Filter scan for {form}: {", ".join(outputs)}; written by ssrtrack, see kernels/kalman_source.py."""',
        "from math import atan2, cos, exp, expm1, log, sin, sqrt",
        "import numpy as np",
        "from numba import njit",
        "from ssrtrack.kernels.kalman_select import select",
        *constants.lines(lambda digits: f"np.{dtype}({digits!r})"),
        '@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")',
        "def scan(columns, offsets, alive, parameters, state, out, fresh, begin, end):",
        *(
            f"    p{i} = parameters[{i}]"
            for i in used(start[0] + step[0] + start[1] + step[1], "p", form.parameter_count)
        ),
        f"    local = np.empty(({form.state_size}, end - begin), columns.dtype)",
        "    first = 0",
        "    if fresh:",
        "        first = 1",
        "        base = offsets[0] + begin",
        "        for i in range(end - begin):",
        *_lane(form, start, "            "),
        "    else:",
        "        local[:, :] = state[:, begin:end]",
        "    for k in range(first, alive.size):",
        "        count = min(end, alive[k]) - begin",
        "        if count <= 0:",
        "            break",
        "        base = offsets[k] + begin",
        "        for i in range(count):",
        *(f"            s{i} = local[{i}, i]" for i in range(form.state_size)),
        *_lane(form, step, "            "),
        "    state[:, begin:end] = local",
    ]
    return "\n".join(lines) + "\n"


def _spelling(operation: str) -> str:
    return SPELLED.get(operation, operation)


def _lane(form: Form, body: Body, indent: str) -> list[str]:
    """One track's lines: load the columns, compute, store state and outputs."""
    lines, state, results = body
    needed = used([*lines, *state, *results], "c", len(form.columns))
    return [
        *(f"{indent}c{i} = columns[{i}, base + i]" for i in needed),
        *(indent + line for line in lines),
        *(f"{indent}out[{d}, base + i] = {text}" for d, text in enumerate(results)),
        *(f"{indent}local[{s}, i] = {text}" for s, text in enumerate(state)),
    ]
