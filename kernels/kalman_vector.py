"""exp, log, sin, … from arithmetic alone, so that they run in SIMD registers along with everything else.

Written over traced expressions (see `kalman_trace`) with four operations beyond arithmetic: `rint` and `floor` round,
`power2` is 2ⁿ for whole n in the exponent's range, `split` gives mantissa in [½, 1) and exponent. Each is good to a few
units in the last place over what a filter meets; ranges are in the docstrings. Reduction after Cody and Waite,
"Software Manual for the Elementary Functions" (1980); the series are Taylor's, cut where terms vanish.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, inf, log, nan, pi
from typing import Any

from ssrtrack.kernels.kalman_algebra import maximum, where

Scalar = Any


@dataclass(frozen=True)
class Precision:
    """Terms of each series, the least exponent of a normal number, and constants in parts that multiply exactly."""

    exp_terms: int
    log_terms: int
    trigonometric_terms: int
    arctangent_terms: int
    lowest: float
    log2: tuple[float, float]
    half_pi: tuple[float, float, float]


# The leading parts have trailing zero bits, so n times them is exact for the n that occur.
PRECISIONS = {
    "float64": Precision(
        14,
        11,
        10,
        13,
        -1022.0,
        (0.693147180369123816490, 1.90821492927058770002e-10),
        (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21),
    ),
    "float32": Precision(
        8, 5, 6, 6, -126.0, (0.693359375, -2.12194440e-4), (1.5703125, 4.83751297e-4, 7.5497894159e-8)
    ),
}


def functions(dtype: str) -> dict[str, Callable[..., Scalar]]:
    """Name to function, for `Trace(functions=...)`."""
    precision = PRECISIONS[dtype]
    return {
        "exp": lambda x: exp(precision, x),
        "expm1": lambda x: expm1(precision, x),
        "log": lambda x: logarithm(precision, x),
        "sin": lambda x: _turned(precision, x, 0.0),
        "cos": lambda x: _turned(precision, x, 1.0),
        "atan2": lambda y, x: atan2(precision, y, x),
    }


def exp(precision: Precision, x: Scalar) -> Scalar:
    """e^x; 0 where it would be denormal. Not for results beyond the largest number."""
    n, r = _reduced(precision, x)
    return where(x < (precision.lowest + 1.0) * log(2.0), 0.0, (_exp_less_1(precision, r) + 1.0) * n.power2())


def expm1(precision: Precision, x: Scalar) -> Scalar:
    """e^x − 1, relative precision also near 0."""
    n, r = _reduced(precision, maximum(x, precision.lowest * 0.5))
    scale = n.power2()
    return _exp_less_1(precision, r) * scale + (scale - 1.0)


def _reduced(precision: Precision, x: Scalar) -> tuple[Scalar, Scalar]:
    """Whole n and |r| ≤ ½ log 2 with x = n log 2 + r."""
    n = maximum((x * (1.0 / log(2.0))).rint(), precision.lowest + 1.0)
    return n, x - n * precision.log2[0] - n * precision.log2[1]


def _exp_less_1(precision: Precision, r: Scalar) -> Scalar:
    out: Scalar = 1.0 / factorial(precision.exp_terms)
    for k in range(precision.exp_terms - 1, 0, -1):
        out = out * r + 1.0 / factorial(k)
    return out * r


def logarithm(precision: Precision, x: Scalar) -> Scalar:
    """log x for normal positive x; −∞ at 0, NaN below."""
    mantissa, exponent = x.mantissa(), x.exponent()
    low = mantissa < 0.5**0.5
    f = where(low, mantissa + mantissa, mantissa) - 1.0
    exponent = where(low, exponent - 1.0, exponent)
    s = f / (f + 2.0)
    s2 = s * s
    series: Scalar = 1.0 / (2 * precision.log_terms + 1)
    for k in range(precision.log_terms - 1, -1, -1):
        series = series * s2 + 1.0 / (2 * k + 1)
    value = exponent * precision.log2[0] + (exponent * precision.log2[1] + (s + s) * series)
    return where(x > 0.0, value, where(x < 0.0, nan, where(x > -1.0, -inf, nan)))


def _turned(precision: Precision, x: Scalar, quarter: float) -> Scalar:
    """sin(x + quarter·π/2) for |x| < 10⁵ (float64) or 10³ (float32)."""
    n = (x * (2.0 / pi)).rint()
    r = x - n * precision.half_pi[0] - n * precision.half_pi[1] - n * precision.half_pi[2]
    r2 = r * r
    terms = precision.trigonometric_terms
    sine: Scalar = 1.0 / factorial(2 * terms + 1)
    cosine: Scalar = 1.0 / factorial(2 * terms)
    for k in range(terms - 1, -1, -1):
        sine = 1.0 / factorial(2 * k + 1) - sine * r2
        cosine = 1.0 / factorial(2 * k) - cosine * r2
    # Which quarter of the circle: 0 sine, 1 cosine, 2 and 3 their negatives.
    q = n + quarter
    q = q - (q * 0.25).floor() * 4.0
    odd = ((q > 0.5) & (q < 1.5)) | (q > 2.5)
    value = where(odd, cosine, sine * r)
    return where(q > 1.5, -value, value)


def atan2(precision: Precision, y: Scalar, x: Scalar) -> Scalar:
    """Angle of (x, y) in (−π, π]; two halvings bring the tangent under 0.2. Signs of zeros do not count."""
    across, along = maximum(y, -y), maximum(x, -x)
    steep = across > along
    large, small = where(steep, across, along), where(steep, along, across)
    t = small / where(large > 0.0, large, 1.0)
    for _ in range(2):
        t = t / ((t * t + 1.0).sqrt() + 1.0)
    t2 = t * t
    series: Scalar = 1.0 / (2 * precision.arctangent_terms + 1)
    for k in range(precision.arctangent_terms - 1, -1, -1):
        series = 1.0 / (2 * k + 1) - t2 * series
    angle = t * 4.0 * series
    angle = where(steep, pi / 2.0 - angle, angle)
    angle = where(x < 0.0, pi - angle, angle)
    return where(y < 0.0, -angle, angle)
