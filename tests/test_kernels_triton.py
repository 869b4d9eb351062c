"""The functions that Triton's kernels expand into arithmetic: in its interpreter, on a card where there is one."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ssrtrack.kernels import kalman_triton
from ssrtrack.kernels.kalman_source import Constants, module
from ssrtrack.kernels.kalman_trace import statements
from tests.engine_cases import needs
from tests.test_kernels_vector import BOUNDS, DTYPES, WIDER, spread, ulps

COUNT = 4096
NAMES = ("expm1", "sin", "cos", "atan2", "larger")


@cache
def program(dtype: str) -> Any:
    """A kernel of all the functions, one block of COUNT numbers."""
    trace, constants = kalman_triton.trace(dtype), Constants()
    x, y = trace.input("c0"), trace.input("c1")
    results = [x.expm1(), x.sin(), x.cos(), x.atan2(y), x.larger(y)]
    lines, texts = statements(results, kalman_triton.spelling, constants)
    source = [
        "import triton",
        "import triton.language as tl",
        *kalman_triton.ROUNDING,
        "@triton.jit",
        "def run(columns, out, BLOCK: tl.constexpr):",
        "    place = tl.arange(0, BLOCK)",
        *kalman_triton.constant_lines(constants, dtype),
        "    c0 = tl.load(columns + place)",
        "    c1 = tl.load(columns + BLOCK + place)",
        *("    " + line for line in lines),
        *(f"    tl.store(out + {row} * BLOCK + place, {text})" for row, text in enumerate(texts)),
    ]
    return module("triton_functions", "\n".join(source) + "\n").run


def computed(name: str, dtype: str, *given: Any) -> Any:
    """One function of up to COUNT numbers."""
    needs("triton")
    columns = np.ones((2, COUNT), dtype)
    count = np.size(given[0])
    for row, value in enumerate(given):
        columns[row, :count] = value
    device = "cuda" if torch.cuda.is_available() else "cpu"
    block = torch.from_numpy(columns).to(device)
    out = block.new_full((len(NAMES), COUNT), float("nan"))
    with np.errstate(all="ignore"):
        program(dtype)[(1,)](block, out, BLOCK=COUNT)
    return out.cpu().numpy()[NAMES.index(name), :count]


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_are_good_to_the_last_places(dtype: str) -> None:
    for x in (spread(-60.0, 60.0, dtype), spread(-1.0, 1.0, dtype)):
        assert ulps(computed("expm1", dtype, x), np.expm1(x.astype(WIDER[dtype]))) < BOUNDS["expm1"]
    x = spread(-900.0, 900.0, dtype)
    for name, function in (("sin", np.sin), ("cos", np.cos)):
        error = np.abs(computed(name, dtype, x).astype(WIDER[dtype]) - function(x.astype(WIDER[dtype])))
        assert error.max() < BOUNDS[name] * np.finfo(dtype).eps / 2.0
    angle = np.random.default_rng(2).uniform(-np.pi, np.pi, 4000)
    for size in (1.0, 1e5):
        y, across = (size * np.sin(angle)).astype(dtype), (size * np.cos(angle)).astype(dtype)
        exact = np.arctan2(y.astype(WIDER[dtype]), across.astype(WIDER[dtype]))
        assert ulps(computed("atan2", dtype, y, across), exact) < BOUNDS["atan2"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges(dtype: str) -> None:
    assert computed("expm1", dtype, [0.0, -0.0, -1e4, -1e30]).tolist() == [0.0, 0.0, -1.0, -1.0]
    assert computed("sin", dtype, [0.0, -0.0]).tolist() == [0.0, 0.0]
    assert computed("cos", dtype, [0.0, 1e-20]).tolist() == [1.0, 1.0]
    y, x = [0.0, -0.0, 0.0, 1.0, -1.0, 0.0], [1.0, 1.0, -1.0, 0.0, -0.0, -0.0]
    expected = np.array([0.0, 0.0, np.pi, np.pi / 2.0, -np.pi / 2.0, 0.0], dtype)
    np.testing.assert_array_equal(computed("atan2", dtype, y, x), expected)
    assert computed("larger", dtype, [1.0, -2.0, 3.0], [2.0, -3.0, 3.0]).tolist() == [2.0, -2.0, 3.0]
