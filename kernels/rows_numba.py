"""Formulas over tables with a row for each track, compiled: what torch would do in one call for each operation.

A formula is written over scalars as those of `kalman_algebra` are, traced once, and runs in SIMD registers over blocks
of neighbouring rows, in float64. For a thousand rows of a few hundred operations that is a tenth of a millisecond,
where as many calls of torch take several.
"""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ssrtrack.kernels.kalman_simd import lanes, maker
from ssrtrack.kernels.kalman_source import module
from ssrtrack.kernels.kalman_trace import Expression, Trace, instructions
from ssrtrack.kernels.kalman_vector import functions

Array = NDArray[Any]
# From one vector of scalars for each table to the results.
Formula = Callable[..., Sequence[Any]]
BLOCK = 64  # rows whose numbers a core keeps in its cache at a time
DTYPE = "float64"


def compiled(title: str, formula: Formula, widths: Sequence[int], results: int) -> Callable[..., None]:
    """A function (tables, out) that fills out (N, results) from tables (N, width), float64 and contiguous all of them.

    out may be float32: results are rounded to it.

    Args:
        title: of the source, for a reader. formula: takes one vector (width) of scalars a table. widths: of the
            tables. results: how many scalars it returns.

    Raises:
        ValueError: another number of results.
    """
    trace = Trace(functions(DTYPE))
    columns = iter(range(sum(widths)))
    tables = [[trace.input(f"c{next(columns)}") for _ in range(width)] for width in widths]
    found = list(formula(*tables))
    if len(found) != results:
        raise ValueError(f"the formula {title!r} gives {len(found)} results, expected {results}")
    # What is traced to a plain number or to an input needs a line of its own all the same.
    lines, texts = instructions([x if isinstance(x, Expression) else trace.constant(float(x)) for x in found])
    run: Any = module("rows", _source(title, lines, texts, sum(widths))).run
    kept = [k for k, width in enumerate(widths) if width]

    def filled(tables: Sequence[Array], out: Array) -> None:
        run(tuple(tables[k] for k in kept), out)

    return filled


def _source(title: str, lines: Sequence[str], results: Sequence[str], columns: int) -> str:
    return SOURCE.format(
        title=title, maker=maker(), lines="\n".join(lines), results=" ".join(results), dtype=DTYPE, width=lanes(DTYPE),
        block=BLOCK, columns=columns, out=len(results),
    )  # fmt: skip


SOURCE = '''"""{title} ({maker}); written by ssrtrack, see kernels/rows_numba.py."""

import numpy as np
from numba import njit

from ssrtrack.kernels.kalman_simd import body

LINES = """
{lines}
"""
program = body(LINES, [], "{results}".split(), "{dtype}", {width}, {block})


@njit(cache=True, nogil=True)
def run(tables, out):
    # Blocks of their own: whole registers may be read and written, whatever the number of rows left.
    here = np.ones(({columns}, {block}), np.{dtype})
    nothing = np.ones((1, {block}), np.{dtype})
    there = np.empty(({out}, {block}), np.{dtype})
    for begin in range(0, out.shape[0], {block}):
        count = min({block}, out.shape[0] - begin)
        row = 0
        for table in tables:
            for j in range(table.shape[1]):
                for i in range(count):
                    here[row, i] = table[begin + i, j]
                row += 1
        for i in range(0, count, {width}):
            program(here, nothing, there, nothing[0], i)
        for i in range(count):
            for j in range({out}):
                out[begin + i, j] = there[j, i]
'''
