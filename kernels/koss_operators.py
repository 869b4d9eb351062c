"""What turns a gain into a state of KOSS, in torch: the gate φ, the operators a and u, the scan inside a segment.

Letters as in arXiv 2512.16723 and `koss_form`: K and Δ (…, D), c (…, N), A (N, D), states (…, N, D), κ = K c. Leading
dimensions are free, (B, S) as a rule. The formulas are those of `reference.koss_update`, for all steps at once.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ssrtrack.kernels.koss_form import OPERATORS, sees_prediction

Tensor = torch.Tensor
DIAGONAL = tuple(name for name in OPERATORS if name != "kalman")
# Below this |z| (e^z − 1)/z is summed as a series: the gradient of the quotient loses 1/|z| of its digits.
SERIES_BELOW = 0.1
TERMS = {torch.float32: 6, torch.float64: 11}  # that reach rounding there, the derivative's series too


def phi1(z: Tensor) -> Tensor:
    """φ1(z) = (e^z − 1)/z, φ1(0) = 1, exact to rounding with its gradient also near z = 0. float32 or float64."""
    small = z.abs() < SERIES_BELOW
    near = torch.where(small, z, 0.0)
    series = torch.ones_like(near)
    for k in range(TERMS[z.dtype] + 1, 1, -1):
        series = 1.0 + near / k * series
    far = torch.where(small, 1.0, z)
    return torch.where(small, series, torch.expm1(far) / far)


def innovation_gain(
    e: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, operator: str = "discrete",
    prediction: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """K (…, D) = σ(W2ᵀ relu(W1ᵀ s + b1) + z), s = e²/(1 + e²), in H heads of C channels (D = H·C).

    s is the gain 1 − R/S of a scalar filter with C P Cᵀ estimated by e² and R = 1 (`InnovationGain` of the paper,
    section "innovation-driven selectivity"). `bucy`, whose gain has no upper limit, takes softplus in place of σ.

    Args:
        e: innovation (…, D). bias: z (…, D), CLOSED where there is no input: K = 0 with no gradient.
        w1, b1, w2: (H, C or 2C, C), (H, C), (H, C, C), used as s W1, or [s, ŷ⁻] w1, and hidden W2.
        prediction: ŷ⁻ = c·p (…, D), which a w1 of C rows does not look at.

    Raises:
        ValueError: w1 has 2C rows and there is no prediction.
    """
    hidden = torch.relu(torch.baddbmm(b1[:, None], gate_input(e, w1, prediction), w1))
    z = torch.bmm(hidden, w2).transpose(0, 1).reshape(e.shape) + bias
    # softplus is log(1 + e^z) without the linear short cut, whose gradient jumps.
    return functional.softplus(z, threshold=1e4) if operator == "bucy" else torch.sigmoid(z)


def gate_input(e: Tensor, w1: Tensor, prediction: Tensor | None = None) -> Tensor:
    """What φ sees, (H, steps, C or 2C) as w1 (H, C or 2C, C) asks: s of all e (…, D), and beside it ŷ⁻ (…, D).

    Raises:
        ValueError: as for `innovation_gain`.
    """
    square = e * e
    heads, _, channels = w1.shape
    s = (square / (1.0 + square)).reshape(-1, heads, channels).transpose(0, 1)
    if not sees_prediction(w1):
        return s
    if prediction is None:
        raise ValueError(f"w1 {tuple(w1.shape)} has rows for the prediction: give the prediction c·p beside e")
    return torch.cat([s, prediction.reshape(-1, heads, channels).transpose(0, 1)], 2)


def transition(delta: Tensor, rate: Tensor) -> Tensor:
    """E = e^{ΔA} (…, N, D), the prediction's multiplier, for Δ (…, D) and A (N, D)."""
    return torch.exp(delta[..., None, :] * rate)


def led(x: Tensor, slope: Tensor | None, lead: Tensor | None) -> Tensor:
    """v = x + τ ẋ (…, D), the input with lead τ (D,); x where ẋ or τ is None."""
    return x if slope is None or lead is None else x + lead * slope


def kalman_operators(
    operator: str,
    K: Tensor,
    c: Tensor,
    delta: Tensor,
    rate: Tensor,
    x: Tensor,
    slope: Tensor | None = None,
    lead: Tensor | None = None,
    *,
    E: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """a and u (…, N, D) of h_t = a_t h_{t−1} + u_t, for the diagonal operators. κ = K c, v = x + τ ẋ.

    discrete  a = (1 − κ) e^{ΔA}             u = K v                      |a| ≤ 1 for 0 ≤ κ ≤ 1 (up to 1 + e^{Δ|A|})
    exact     a = e^{ΔA}                     u = K (x − e^{ΔA} (x − ẋ))   |a| ≤ 1 for every gain
    neumann   a = e^z, z = Δ (1 − κ²) A      u = φ1(z) K (ẋ − (1 − κ) Δ A x)      |a| ≤ 1 if and only if |κ| ≤ 1
    bucy      a = e^z, z = Δ (A − κ)         u = φ1(z) K (Δ x + τ ẋ)      |a| ≤ 1 for κ ≥ A, so for every κ ≥ 0

    `neumann` is the published A_K = (A − KCA)(I + KC), B_K = −(A − KCA) K, + K x′ with elementwise products, over a
    step of length Δ in which x is held; `exact` does not truncate: A_K = (I − KC) A (I − KC)⁻¹, elementwise A,
    and B_K = −A K. With ẋ = x_t − x_{t−1} it is h = g + K x, g = e^{ΔA} (g − (K_t − K_{t−1}) x_{t−1}), which remembers
    how the gain moved and nothing of the input itself. `discrete` is the discrete Kalman filter's own recursion, `bucy`
    the Kalman–Bucy filter.
    K = 0 is pure prediction, a = e^{ΔA} and u = 0, with all of them.

    Args:
        operator: one of DIAGONAL; `kalman` is not diagonal in the states: `rank_one_scan`.
        K: gain (…, D). c: read-out (…, N). delta: step length Δ (…, D). rate: A < 0 (N, D). x: input (…, D).
        slope: ẋ per sample (…, D) or None (0). lead: τ (D,) or None (0).
        E: `transition(delta, rate)`, where it is known already.

    Raises:
        ValueError: the operator is not diagonal, or none.
    """
    if operator not in DIAGONAL:
        raise ValueError(f"operator {operator!r} has no diagonal form; those that have one: {', '.join(DIAGONAL)}")
    if operator in ("discrete", "exact"):
        E = transition(delta, rate) if E is None else E
        if operator == "exact":
            last = x if slope is None else x - slope
            return E, K[..., None, :] * torch.addcmul(x[..., None, :], E, last[..., None, :], value=-1.0)
        a = (1.0 - K[..., None, :] * c[..., None]) * E
        return a, (K * led(x, slope, lead))[..., None, :].expand(a.shape)
    kappa = K[..., None, :] * c[..., None]
    if operator == "neumann":
        rise = delta[..., None, :] * rate
        z = rise * (1.0 - kappa * kappa)
        w = (kappa - 1.0) * rise * x[..., None, :]
        w = w if slope is None else w + slope[..., None, :]
    else:
        z = delta[..., None, :] * (rate - kappa)
        w = (delta * x if slope is None or lead is None else delta * x + lead * slope)[..., None, :]
    return torch.exp(z), phi1(z) * (K[..., None, :] * w)


def segment_scan(a: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """h_t = a_t h_{t−1} + u_t for t = 1 … S, all of them (B, S, N, D), from a, u (B, S, N, D) and h (B, N, D).

    A multiply-add a step, over all sequences at once: no product of a's is ever divided by, so a may be 0, and for
    segments up to a few hundred steps the log-depth forms are slower by 2 to 5 times. The gradient is the same scan
    backwards: G_t = g_t + a_{t+1} G_{t+1}, ∂u = G, ∂a = G h_{t−1}, differentiable once.
    """
    if a.shape[1] == 1:
        return torch.addcmul(u, a, h[:, None])
    if torch.compiler.is_compiling():
        # The compiler fuses the plain steps and their gradient, and does not take writes into slices.
        return _stepped(a, u, h)
    apply: Any = _SegmentScan.apply
    states: Tensor = apply(a, u, h)
    return states


def _stepped(a: Tensor, u: Tensor, h: Tensor) -> Tensor:
    states = []
    for now, written in zip(a.unbind(1), u.unbind(1), strict=True):
        h = torch.addcmul(written, now, h)
        states.append(h)
    return torch.stack(states, 1)


class _SegmentScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor, h: Tensor) -> Tensor:
        states = _stepped(a, u, h)
        ctx.save_for_backward(a, h, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, states = ctx.saved_tensors
        G, ga = torch.empty_like(states), torch.empty_like(states)
        G[:, -1] = g[:, -1]
        for t in range(a.shape[1] - 2, -1, -1):
            torch.addcmul(g[:, t], a[:, t + 1], G[:, t + 1], out=G[:, t])
        torch.mul(G[:, 0], h, out=ga[:, 0])
        torch.mul(G[:, 1:], states[:, :-1], out=ga[:, 1:])
        return ga, G, a[:, 0] * G[:, 0]


def rank_one_scan(K: Tensor, c: Tensor, E: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """The operator `kalman` for S steps: h = h⁻ + K c (v − c·h⁻), h⁻ = E h, all states (B, S, N, D).

    One gain along c for all states of a channel, the Kalman filter's with a prior covariance that is a multiple of
    the identity; the step's matrix is (I − K c cᵀ) E. With ‖c‖ = 1 its 2-norm is at most 1 for 0 ≤ K ≤ 2, whatever
    the sequence of c. It mixes the states, so the steps run one after the other.

    Args:
        K: gain (B, S, D). c: read-out (B, S, N). E: `transition` (B, S, N, D). v: x + τ ẋ (B, S, D).
        h: the state before (B, N, D).
    """
    states = []
    for k, read, decay, value in zip(K.unbind(1), c[..., None].unbind(1), E.unbind(1), v.unbind(1), strict=True):
        prior = decay * h
        innovation = value - (read * prior).sum(1)
        h = torch.addcmul(prior, read, (k * innovation)[:, None])
        states.append(h)
    return torch.stack(states, 1)
