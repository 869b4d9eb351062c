"""Functions that Triton's language lacks, for blocks of float32 or float64, on a GPU and in its interpreter alike."""

import triton
import triton.language as tl


@triton.jit
def expm1(x):  # type: ignore[no-untyped-def]
    """e^x − 1 without loss of digits near 0: by its series for |x| < 1/2 (to 1e-17), directly beyond."""
    near = tl.abs(x) < 0.5
    t = tl.where(near, x, 0.0)
    series = t * 0.0
    for i in tl.static_range(17):
        # Horner from the seventeenth term: 1 + t/2 (1 + t/3 (1 + …)).
        series = (1.0 + series) * t / (17.0 - i)
    return tl.where(near, series, tl.exp(x) - 1.0)


@triton.jit
def atan2(y, x):  # type: ignore[no-untyped-def]
    """Angle of (x, y) in (−π, π]: two halvings bring the tangent under 0.2, then the arctangent's series."""
    ax, ay = tl.abs(x), tl.abs(y)
    large, small = tl.maximum(ax, ay), tl.minimum(ax, ay)
    t = small / tl.where(large > 0.0, large, 1.0)
    t = t / (1.0 + tl.sqrt(1.0 + t * t))
    t = t / (1.0 + tl.sqrt(1.0 + t * t))
    t2 = t * t
    series = t * 0.0
    for i in tl.static_range(13):
        series = 1.0 / (25.0 - 2.0 * i) - t2 * series
    angle = 4.0 * t * series
    angle = tl.where(ay > ax, 1.5707963267948966 - angle, angle)
    angle = tl.where(x < 0.0, 3.141592653589793 - angle, angle)
    return tl.where(y < 0.0, -angle, angle)
