"""Gated KalmaNet chunk by chunk in plain torch: any device, widths and precision, with its gradient by hand.

Forward as arXiv 2511.21016, section 4.2; backward by implicit differentiation: (H + λ I) x = q is solved once more,
with ∂L/∂x on the right, and no iteration is remembered. Its gradient is that of the exact solution, up to what the
iterations leave unsolved. Everything is computed in the state's precision, float32, or float64 where q is.

The three functions at the end are what a backend is made of; `gka` puts them behind one differentiable function.
"""

from typing import NamedTuple

import torch

from ssrtrack.kernels.gka_chunks import Chunks, Layout, chunks_of, layout_of, ridge_of, solve, walked
from ssrtrack.kernels.gka_form import GkaForm, GkaGradients, GkaInputs, State, state_dtype

Tensor = torch.Tensor


class _Rows(NamedTuple):
    """Rows of all chunks, (n, H, C, D), and of the readout's gradient, (n, H, C, V).

    x solves for q, d for ∂L/∂x; mixed q̃ = q + α (x − q) and go, which is scale · ∂L/∂o.
    """

    x: Tensor
    d: Tensor
    mixed: Tensor
    go: Tensor


def supported(inputs: GkaInputs, form: GkaForm) -> bool:
    """Everything is."""
    return True


def forward(inputs: GkaInputs, form: GkaForm, keep: bool) -> tuple[Tensor, State, tuple[Tensor, ...]]:
    """o (B, T, H, V) in v's precision, the last state, and where `keep` what backward wants: x and ‖H‖_F by chunks."""
    layout = layout_of(inputs)
    with torch.autocast(inputs.q.device.type, enabled=False):
        chunks = chunks_of(inputs, layout)
        q, alpha = _queries(inputs, layout)
        F = chunks.norms()
        x = solve(chunks, ridge_of(F, form), q, form)
        o = form.scale * chunks.rows_U(q + alpha * (x - q))
        return layout.unchunked(o, inputs.v), chunks.last, (x, F) if keep else ()


def backward(
    inputs: GkaInputs, form: GkaForm, saved: tuple[Tensor, ...], go: Tensor, gH: Tensor | None, gU: Tensor | None
) -> GkaGradients:
    """Gradients in the order of `GkaInputs`, without offsets', from those of o and of the last H and U."""
    (x, F), layout, dtype = saved, layout_of(inputs), state_dtype(inputs.q)
    with torch.autocast(go.device.type, enabled=False):
        chunks = chunks_of(inputs, layout)
        q, alpha = _queries(inputs, layout)
        ridge = ridge_of(F, form)
        go = form.scale * layout.chunked(go, dtype)
        g_mixed = chunks.rows_Ut(go)
        d = solve(chunks, ridge, alpha * g_mixed, form)
        rows = _Rows(x, d, q + alpha * (x - q), go)
        # ∂L/∂H_t of its own is −d xᵀ − (w/2) H_t, the second through λ_t = a ‖H_t‖_F.
        w = 2.0 * form.ridge * _dot(x, d) / ridge.F if form.adaptive else torch.zeros_like(F)
        b = chunks.M.mT @ (w * chunks.z)
        dH, dU, gH0, gU0 = _after(chunks, rows, w, b, layout, gH, gU)
        gk, gv = _written(chunks, rows, w, b, dH, dU)
        g_decay = _decays(chunks, rows, w, dH, dU)
        found = [(1.0 - alpha) * g_mixed + d, gk, gv, g_decay, _dot(g_mixed, x - q)]
        found[3:] = [part.squeeze(-1) for part in found[3:]]
        timed = [layout.unchunked(g, like) for g, like in zip(found, (*inputs[:4], inputs.log_decay), strict=True)]
    has_state = inputs.H0 is not None
    return (
        *timed[:4],
        None if inputs.alpha is None else timed[4],
        gH0 if has_state else None,
        gU0 if has_state else None,
    )


def _queries(inputs: GkaInputs, layout: Layout) -> tuple[Tensor, Tensor]:
    """q (n, H, C, D) and α (n, H, C, 1) by chunks."""
    dtype = state_dtype(inputs.q)
    alpha = torch.ones_like(inputs.log_decay) if inputs.alpha is None else inputs.alpha
    return layout.chunked(inputs.q, dtype), layout.chunked(alpha, dtype)[..., None]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _after(
    chunks: Chunks, rows: _Rows, w: Tensor, b: Tensor, layout: Layout, gH: Tensor | None, gU: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∂L/∂H and ∂L/∂U after each chunk, by all later ones, and those of the sequences' starts; H's symmetric.

    Of a chunk's steps, ∂L/∂H0 = −Σ z_t d_t x_tᵀ − ½ Σ w_t z_t H_t, where Σ w_t z_t H_t = (Σ w_t z_t²) H0 + Kᵀ diag(b) K
    with b_i = Σ_t w_t z_t M_ti.
    """
    z = chunks.z
    crossed = (z * rows.d).mT @ rows.x + 0.5 * (
        (w * z * z).sum(-2, keepdim=True) * chunks.H0 + (b * chunks.K).mT @ chunks.K
    )
    own_H = -0.5 * (crossed + crossed.mT)
    own_U = (z * rows.mixed).mT @ rows.go
    last_H, last_U = chunks.last
    H = torch.zeros_like(last_H) if gH is None else 0.5 * (gH + gH.mT)
    U = torch.zeros_like(last_U) if gU is None else gU.clone()
    back, decay = layout.turns[::-1], z[..., -1:, :]
    return walked(back, H, decay, own_H), walked(back, U, decay, own_U), H, U


def _written(chunks: Chunks, rows: _Rows, w: Tensor, b: Tensor, dH: Tensor, dU: Tensor) -> tuple[Tensor, Tensor]:
    """∂L/∂k and ∂L/∂v: of what step i wrote, M_ti is there at each later step t, and left_i after the chunk.

    The λ-paths of the later H_t, each a sum of its own over the chunk, come to
    b_i H0 k_i + Σ_j (Mᵀ diag(w) M)_ij (k_i·k_j) k_j.
    """
    K, V, M, left = chunks.K, chunks.V, chunks.M, chunks.left
    later = M.mT
    gram = (K @ K.mT) * (later @ (w * M))
    gk = -((K @ rows.x.mT) * later) @ rows.d - ((K @ rows.d.mT) * later) @ rows.x
    gk += 2.0 * left * (K @ dH) - b * (K @ chunks.H0) - gram @ K
    gk += ((V @ rows.go.mT) * later) @ rows.mixed + left * (V @ dU.mT)
    gv = ((K @ rows.mixed.mT) * later) @ rows.go + left * (K @ dU)
    return gk, gv


def _decays(chunks: Chunks, rows: _Rows, w: Tensor, dH: Tensor, dU: Tensor) -> Tensor:
    """∂L/∂log γ_t: the sum of all that goes from a step (or the state) before t to a step (or the state) after it.

    P_ji is what goes from i's share to step j, Z_j from H0 and U0 to step j; the last row is the state after the
    chunk. Then ∂L/∂log γ_t = Σ_{j ≥ t} (Z_j + Σ_{i < t} P_ji). Two sums of the same terms, o_j·∂L/∂o_j less
    k_i·∂L/∂k_i, would do too, but where decays are strong they leave rounding alone.
    """
    K, V, M, z = chunks.K, chunks.V, chunks.M, chunks.z
    h, full = chunks.quadratic()
    own = 0.5 * w
    P = M * ((rows.mixed @ K.mT) * (rows.go @ V.mT) - (rows.d @ K.mT) * (rows.x @ K.mT) - own * full)
    inner = z * chunks.H0.square().sum((-1, -2))[..., None, None] + (M * h).sum(-1, keepdim=True)
    Z = z * (_dot(rows.mixed @ chunks.U0, rows.go) - _dot(rows.d @ chunks.H0, rows.x) - own * inner)
    end = chunks.left * (_dot(K @ dH, K) + _dot(K @ dU, V))
    through = (dH * chunks.H0).sum((-1, -2)) + (dU * chunks.U0).sum((-1, -2))
    P = torch.cat([P, end.mT], -2)
    Z = torch.cat([Z, z[..., -1:, :] * through[..., None, None]], -2)
    # Row j, column t: all that reaches j from before t; nothing is taken away that was added.
    reaching = Z + torch.nn.functional.pad(P[..., :-1], (1, 0)).cumsum(-1)
    C = K.shape[-2]
    past = torch.ones(C + 1, C, dtype=torch.bool, device=K.device).tril()
    return torch.where(past, reaching, 0.0).sum(-2)[..., None]
