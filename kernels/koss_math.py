"""Elementwise pieces of KOSS that its Triton kernels share: one step and its gradient for one state of each channel.

Tiles are float32 of any shapes that broadcast together; letters as in `koss_form` and `reference.koss_update`. All
pieces are finite for finite inputs with z ≤ 0: K = 0, Δ = 0, Δ so large that e^z is 0, innovations beyond √(largest).

Every operator is written with p = e^{ΔA} h beside h, since the closed loop has the prediction p anyway. A caller folds
log₂ e into A once, before its loop, and takes e^{ΔA} as `tl.exp2(delta * rate2)`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

DISCRETE = tl.constexpr(0)
NEUMANN = tl.constexpr(1)
KALMAN = tl.constexpr(2)
EXACT = tl.constexpr(3)
BUCY = tl.constexpr(4)
CODES = {"discrete": 0, "neumann": 1, "kalman": 2, "exact": 3, "bucy": 4}

# The interpreter knows no machine instructions.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Below this |z| both series are exact to float32's last digit, above it both quotients lose less than three bits.
NEAR = tl.constexpr(0.5)
# Squares beyond this change nothing in e²/(1 + e²), and their own square root still is a number.
LARGE = tl.constexpr(1e30)


@triton.jit
def phi1(z, ez):
    """φ1(z) = (e^z − 1)/z from z and e^z; 1 at z = 0."""
    near = tl.abs(z) < NEAR
    series = 1.0 / 720.0 + z * (1.0 / 5040.0 + z * (1.0 / 40320.0))
    series = 1.0 / 6.0 + z * (1.0 / 24.0 + z * (1.0 / 120.0 + z * series))
    series = 1.0 + z * (0.5 + z * series)
    return tl.where(near, series, (ez - 1.0) / tl.where(near, 1.0, z))


@triton.jit
def phi1_slope(z, ez, f):
    """φ1'(z) = (e^z − φ1)/z from z, e^z and f = φ1(z); 1/2 at z = 0."""
    near = tl.abs(z) < NEAR
    series = 1.0 / 840.0 + z * (1.0 / 5760.0 + z * (1.0 / 45360.0))
    series = 1.0 / 8.0 + z * (1.0 / 30.0 + z * (1.0 / 144.0 + z * series))
    series = 0.5 + z * (1.0 / 3.0 + z * series)
    return tl.where(near, series, (ez - f) / tl.where(near, 1.0, z))


@triton.jit
def reciprocal(x):
    """1/x for x ≥ 1 in one instruction; a division also looks after tiny x, seven instructions each."""
    if INTERPRETED:
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)


@triton.jit
def saturation(e):
    """s = e²/(1 + e²) and 1/(1 + e²), from which ds/de = 2 e/(1 + e²)²."""
    square = tl.minimum(e * e, LARGE)
    rest = reciprocal(1.0 + square)
    return square * rest, rest


@triton.jit
def saturation_slope(e, rest):
    """ds/de from e and the `rest` of `saturation`; as good as 0 where e² is beyond LARGE."""
    return e * rest * (2.0 * rest)


@triton.jit
def gain(OP: tl.constexpr, z):
    """K from its logit z: σ(z), or softplus(z) for `bucy`; exactly 0 for a closed gate."""
    if OP == BUCY:
        t = tl.exp2(-tl.abs(z) * LOG2E)
        u = 1.0 + t
        # log1p that keeps t's own digits: what rounding took from u − 1 it took from log u too.
        log1p = tl.where(u == 1.0, t, LN2 * tl.log2(u) * (t / tl.where(u == 1.0, 1.0, u - 1.0)))
        return tl.maximum(z, 0.0) + log1p
    return reciprocal(1.0 + tl.exp2(z * -LOG2E))


@triton.jit
def gain_slope(OP: tl.constexpr, K):
    """dK/dz from K itself: K (1 − K), for `bucy` 1 − e^{−K}; exactly 0 for a closed gate."""
    if OP == BUCY:
        return K * phi1(-K, tl.exp2(K * -LOG2E))
    return K * (1.0 - K)


@triton.jit
def drive(OP: tl.constexpr, x, slope, lead):
    """v that `advance` and `retreat` take: x + τ ẋ, but for `bucy` τ ẋ alone, whose x is weighted by Δ.

    `kalman` takes the residual v − Σ_n c p instead, which its caller sums over the states.
    """
    if OP == BUCY:
        return lead * slope
    return x + lead * slope


@triton.jit
def advance(OP: tl.constexpr, h, p, A, delta, K, c, x, slope, v):
    """One state after a step: h before it, p = e^{ΔA} h, v from `drive` (`kalman`: the residual).

    discrete (1 − κ) p + K v;  kalman p + κ r;  exact p + K (x − E (x − ẋ)), E = e^{ΔA};  with φ1, κ = K c:
    neumann e^z h + φ1 K (ẋ − (1 − κ) Δ A x), z = Δ (1 − κ²) A;  bucy e^z h + φ1 K (Δ x + τ ẋ), z = Δ (A − κ).
    """
    kappa = K * c
    if OP == DISCRETE:
        return (1.0 - kappa) * p + K * v
    elif OP == KALMAN:
        return p + kappa * v
    elif OP == EXACT:
        return p + K * (x - tl.exp2(delta * (A * LOG2E)) * (x - slope))
    elif OP == NEUMANN:
        z = delta * A * (1.0 - kappa * kappa)
        ez = tl.exp2(z * LOG2E)
        return ez * h + phi1(z, ez) * K * (slope - (1.0 - kappa) * (delta * A) * x)
    else:
        z = delta * (A - kappa)
        ez = tl.exp2(z * LOG2E)
        return ez * h + phi1(z, ez) * K * (delta * x + v)


@triton.jit
def retreat(
    OP: tl.constexpr,
    G,
    gr,
    h,
    p,
    E,
    A,
    delta,
    K,
    c,
    x,
    slope,
    v,
):
    """Gradients of `advance` from G = ∂L/∂(its result); E = e^{ΔA}, p = E h; all per element.

    gr = Σ_n G K c over the states is for `kalman` alone. Returns (carry, q, gK, gc, gx, gslope, gv, gdelta):
    carry = ∂L/∂h;  q = ∂L/∂(ΔA), so that the caller adds q A to Δ's gradient and q Δ to A's;  gv to what `drive` gave
    (`kalman`: gv = G K c, whose sum over the states is gr);  gdelta what `bucy`'s Δ gets beside q A.
    Zero for every operator but those named:  gx exact, neumann, bucy;  gslope exact, neumann;  gdelta bucy;  gv not
    exact, not neumann;  gc not exact.
    """
    kappa = K * c
    zero = tl.zeros_like(G)
    if OP == DISCRETE:
        gp = G - kappa * G
        g_kappa = -G * p
        return gp * E, gp * p, G * v + c * g_kappa, K * g_kappa, zero, zero, G * K, zero
    elif OP == KALMAN:
        gp = G - c * gr
        return gp * E, gp * p, G * c * v, G * K * v - gr * p, zero, zero, G * kappa, zero
    elif OP == EXACT:
        left = E * (x - slope)
        gu = G * K
        return G * E, G * (p - K * left), G * (x - left), zero, gu * (1.0 - E), gu * E, zero, zero
    elif OP == NEUMANN:
        step, rest = delta * A, 1.0 - kappa
        z = step * (1.0 - kappa * kappa)
        ez = tl.exp2(z * LOG2E)
        f = phi1(z, ez)
        w = slope - rest * step * x
        gz = G * (ez * h + phi1_slope(z, ez, f) * K * w)
        gw = G * f * K
        g_kappa = step * (gw * x - 2.0 * kappa * gz)
        q = rest * ((1.0 + kappa) * gz - gw * x)
        return ez * G, q, G * f * w + c * g_kappa, K * g_kappa, -gw * rest * step, gw, zero, zero
    else:
        z = delta * (A - kappa)
        ez = tl.exp2(z * LOG2E)
        f = phi1(z, ez)
        w = delta * x + v
        gz = G * (ez * h + phi1_slope(z, ez, f) * K * w)
        gw = G * f * K
        g_kappa = -delta * gz
        return ez * G, gz, G * f * w + c * g_kappa, K * g_kappa, gw * delta, zero, gw, gw * x - kappa * gz
