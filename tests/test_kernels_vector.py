"""exp, log, sin, … of arithmetic alone, compiled as the kernels compile them, in units in the last place."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_simd import body, lanes
from ssrtrack.kernels.kalman_trace import Trace, instructions
from ssrtrack.kernels.kalman_vector import PRECISIONS, functions

Array = NDArray[Any]
BLOCK = 4096
DTYPES = tuple(PRECISIONS)
WIDER = {"float64": np.longdouble, "float32": np.float64}
RESULTS: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda x, _: x.exp(),
    "expm1": lambda x, _: x.expm1(),
    "log": lambda x, _: x.log(),
    "sin": lambda x, _: x.sin(),
    "cos": lambda x, _: x.cos(),
    "atan2": lambda y, x: y.atan2(x),
    "mantissa": lambda x, _: x.mantissa(),
    "exponent": lambda x, _: x.exponent(),
    "power2": lambda x, _: x.power2(),
    "rint": lambda x, _: x.rint(),
    "floor": lambda x, _: x.floor(),
    "maximum": lambda x, y: x.larger(y),
}


@cache
def program(dtype: str) -> Any:
    """All functions at once, over rows of BLOCK numbers."""
    trace = Trace(functions(dtype))
    x, y = trace.input("c0"), trace.input("c1")
    lines, texts = instructions([function(x, y) for function in RESULTS.values()])
    width = lanes(dtype)
    run = body("\n".join(lines), [], texts, dtype, width, BLOCK)

    @njit
    def go(columns: Any, state: Any, out: Any, parameters: Any) -> None:
        for i in range(0, BLOCK, width):
            run(columns, state, out, parameters, i)

    return go


def computed(name: str, dtype: str, *given: Any) -> Array:
    """One function of numbers, any number of them up to BLOCK."""
    columns = np.ones((2, BLOCK), dtype)
    values = np.broadcast_arrays(*(np.asarray(v, dtype) for v in given))
    count = values[0].size
    for row, value in enumerate(values):
        columns[row, :count] = value.ravel()
    out = np.empty((len(RESULTS), BLOCK), dtype)
    program(dtype)(columns, np.empty((0, BLOCK), dtype), out, np.empty(1, dtype))
    found: Array = out[list(RESULTS).index(name), :count]
    return found


def ulps(got: Array, exact: Array) -> float:
    """Greatest error in units of the last place of the exact value."""
    unit = np.spacing(np.abs(exact).astype(got.dtype))
    return float((np.abs(got.astype(exact.dtype) - exact) / unit.astype(exact.dtype)).max())


def spread(low: float, high: float, dtype: str, seed: int = 0) -> Array:
    """Numbers evenly between the two and, near 0, over all magnitudes."""
    rng = np.random.default_rng(seed)
    small = np.exp(rng.uniform(np.log(1e-30), 0.0, 1000)) * rng.choice([-1.0, 1.0], 1000)
    small = small[(small > low) & (small < high)]
    values: Array = np.concatenate([rng.uniform(low, high, 3000), small]).astype(dtype)
    return values


def limits(dtype: str) -> tuple[float, float]:
    """Arguments of exp with normal results: from (lowest + 1) log 2 up to just under the largest."""
    return (PRECISIONS[dtype].lowest + 1.0) * np.log(2.0), (-PRECISIONS[dtype].lowest + 1.0) * np.log(2.0)


# Measured, rounded up: units in the last place.
BOUNDS = {"exp": 1.6, "expm1": 2.5, "log": 3.0, "sin": 1.6, "cos": 1.6, "atan2": 4.5}


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_and_expm1(dtype: str) -> None:
    low, high = limits(dtype)
    for name, function, x in (
        ("exp", np.exp, spread(low, high, dtype)),
        ("expm1", np.expm1, spread(0.49 * low, high, dtype)),
        ("expm1", np.expm1, spread(-1.0, 1.0, dtype)),
    ):
        assert ulps(computed(name, dtype, x), function(x.astype(WIDER[dtype]))) < BOUNDS[name], name
    assert computed("exp", dtype, [0.0, -0.0]).tolist() == [1.0, 1.0]
    assert computed("expm1", dtype, [0.0, -0.0]).tolist() == [0.0, 0.0]
    # Below the normal numbers: 0 and −1, whatever the argument.
    far = [low * 1.0001, 2.0 * low, -1e4, -1e30, -np.inf]
    assert computed("exp", dtype, far).tolist() == [0.0] * 5
    assert computed("expm1", dtype, far).tolist() == [-1.0] * 5
    assert computed("exp", dtype, [low * 0.9999])[0] > 0.0
    tiny = np.finfo(dtype).tiny
    assert computed("expm1", dtype, [tiny, -tiny]).tolist() == [tiny, -tiny]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log(dtype: str) -> None:
    rng = np.random.default_rng(1)
    largest = np.log(float(np.finfo(dtype).max))
    smallest = np.log(float(np.finfo(dtype).tiny))
    wide = np.exp(rng.uniform(smallest, largest, 2000)).astype(dtype)
    near = (1.0 + rng.uniform(-1e-3, 1e-3, 1000)).astype(dtype)
    for x in (wide, near, rng.uniform(0.4, 2.1, 1000).astype(dtype), np.array([2.0**k for k in range(-99, 99)], dtype)):
        exact = np.log(x.astype(WIDER[dtype]))
        assert ulps(computed("log", dtype, x), exact) < BOUNDS["log"]
    # Next to 1, where the result is as small as the argument's last digit.
    eps = np.finfo(dtype).eps
    beside = np.array([1.0, 1.0 + eps, 1.0 - eps / 2.0, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype)
    assert ulps(computed("log", dtype, beside), np.log(beside.astype(WIDER[dtype]))) < BOUNDS["log"]
    np.testing.assert_array_equal(
        computed("log", dtype, [0.0, -0.0, -1.0, -1e-30, np.nan]), [-np.inf, -np.inf, np.nan, np.nan, np.nan]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_sin_and_cos(dtype: str) -> None:
    """In ulps of the result within a turn or two; absolutely, in ulps of 1, up to the stated ranges."""
    reach = {"float64": 1e5, "float32": 1e3}[dtype]
    quarters = (np.arange(-9, 10) * np.pi / 2.0).astype(dtype)
    edges = np.concatenate([np.nextafter(quarters, -np.inf), quarters, np.nextafter(quarters, np.inf), quarters / 2])
    for name, function in (("sin", np.sin), ("cos", np.cos)):
        for x in (spread(-4.0, 4.0, dtype), spread(-reach, reach, dtype), edges.astype(dtype)):
            exact = function(x.astype(WIDER[dtype]))
            error = np.abs(computed(name, dtype, x).astype(WIDER[dtype]) - exact)
            assert error.max() < BOUNDS[name] * np.finfo(dtype).eps / 2.0, name
    near = spread(-0.78, 0.78, dtype)
    assert ulps(computed("sin", dtype, near), np.sin(near.astype(WIDER[dtype]))) < BOUNDS["sin"]
    assert computed("sin", dtype, [0.0, -0.0]).tolist() == [0.0, 0.0]
    assert computed("cos", dtype, [0.0, -0.0, 1e-20]).tolist() == [1.0] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_atan2(dtype: str) -> None:
    rng = np.random.default_rng(2)
    angle = np.concatenate([rng.uniform(-np.pi, np.pi, 2000), np.arange(-8, 9) * np.pi / 8.0])
    for size in (1.0, 1e5, 1e-12):
        y, x = (size * np.sin(angle)).astype(dtype), (size * np.cos(angle)).astype(dtype)
        got, exact = computed("atan2", dtype, y, x), np.arctan2(y.astype(WIDER[dtype]), x.astype(WIDER[dtype]))
        assert ulps(got, exact) < BOUNDS["atan2"]
    # Small angles keep their digits; a filter's innovations are such.
    small = np.exp(rng.uniform(-60.0, -1.0, 2000)) * rng.choice([-1.0, 1.0], 2000)
    small = small.astype(dtype)
    assert ulps(computed("atan2", dtype, small, 1.0), np.arctan(small.astype(WIDER[dtype]))) < BOUNDS["atan2"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_atan2_on_the_axes(dtype: str) -> None:
    """Signs of zeros do not count: (±0, −1) is π and the origin is 0."""
    y = [0.0, -0.0, 0.0, -0.0, 1.0, -1.0, 1.0, -1.0, 0.0, -0.0]
    x = [1.0, 1.0, -1.0, -1.0, 0.0, -0.0, -0.0, 0.0, 0.0, -0.0]
    quarter = np.pi / 2.0
    expected = np.array([0.0, 0.0, np.pi, np.pi, quarter, -quarter, quarter, -quarter, 0.0, 0.0], dtype)
    np.testing.assert_array_equal(computed("atan2", dtype, y, x), expected)
    diagonal = computed("atan2", dtype, [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0])
    assert ulps(diagonal, np.array([0.25, 0.75, -0.25, -0.75]) * np.pi) < BOUNDS["atan2"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_splits_into_mantissa_and_exponent(dtype: str) -> None:
    x = np.exp(np.random.default_rng(3).uniform(-80.0, 80.0, 2000)).astype(dtype)
    x = np.concatenate([x, [1.0, 2.0, 0.5, np.finfo(dtype).tiny, np.finfo(dtype).max]]).astype(dtype)
    mantissa, exponent = np.frexp(x)
    np.testing.assert_array_equal(computed("mantissa", dtype, x), mantissa)
    np.testing.assert_array_equal(computed("exponent", dtype, x), exponent)


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_powers_of_two_are_exact(dtype: str) -> None:
    n = np.arange(PRECISIONS[dtype].lowest, -PRECISIONS[dtype].lowest + 2.0)
    np.testing.assert_array_equal(computed("power2", dtype, n), np.exp2(n).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_and_the_larger_of_two(dtype: str) -> None:
    x = np.array([-2.5, -1.5, -0.5, -0.2, 0.0, 0.4999, 0.5, 1.5, 2.5, 7.99, 1e6], dtype)
    np.testing.assert_array_equal(computed("rint", dtype, x), np.rint(x))
    np.testing.assert_array_equal(computed("floor", dtype, x), np.floor(x))
    np.testing.assert_array_equal(computed("maximum", dtype, x, 0.4), np.maximum(x, np.array(0.4, dtype)))
