"""Sequences in chunks of time, and Gated KalmaNet's algebra inside a chunk, in plain torch.

Letters as in `gka_form`. Tensors of a chunk are (chunk, head, C, …): C steps, padded by steps that leave a state as it
is. H0 and U0 are the state before a chunk, G the logs of its decays summed from its start, z_t = e^{G_t}, and
M_ti = e^{G_t − G_i} for i ≤ t, else 0:

    H_t = z_t H0 + Σ_i M_ti k_i k_iᵀ        U_t = z_t U0 + Σ_i M_ti k_i v_iᵀ
"""

from typing import NamedTuple

import torch

from ssrtrack.kernels.gka_form import (
    EMPTY,
    LOWEST,
    PADDING,
    GkaForm,
    GkaInputs,
    relaxations,
    shortest_step,
    state_dtype,
)

Tensor = torch.Tensor
CHUNK = 64  # steps


class Layout(NamedTuple):
    """Which step of which sequence stands where.

    step_at (n, C): the step at each place of n chunks, `steps` where there is none. place (steps,): where each step
    stands in the chunks laid end to end. turns: for the first, second, … chunk of all sequences that have so many,
    which chunks these are and of which sequences.
    """

    step_at: Tensor
    place: Tensor
    turns: list[tuple[Tensor, Tensor]]

    def chunked(self, v: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, T, H, …) → (n, H, C, …), zeros where there is no step."""
        rows = v.flatten(0, 1)
        rows = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
        return rows[self.step_at].transpose(1, 2).to(dtype)

    def unchunked(self, v: Tensor, like: Tensor) -> Tensor:
        """(n, H, C, …) → (B, T, H, …) in the precision of `like` (B, T, …)."""
        rows = v.transpose(1, 2).flatten(0, 1)[self.place]
        return rows.view(*like.shape[:2], *rows.shape[1:]).to(like.dtype)


def layout_of(inputs: GkaInputs) -> Layout:
    """Every sequence in chunks of its own, one sequence's after another's."""
    B, T = inputs.q.shape[:2]
    if inputs.offsets is None:
        starts = torch.arange(B) * T
        lengths = torch.full((B,), T)
    else:
        ends = inputs.offsets.cpu().long()
        starts, lengths = ends[:-1], ends[1:] - ends[:-1]
    C = min(CHUNK, max(int(lengths.max()), 1))
    counts = (lengths + C - 1) // C
    first = counts.cumsum(0) - counts
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    nth = torch.arange(len(owner)) - first[owner]
    step = nth[:, None] * C + torch.arange(C)
    valid = step < lengths[owner, None]
    step_at = torch.where(valid, starts[owner, None] + step, B * T)
    # Steps lie in the order of the sequences, so the valid places in their order are the steps in theirs.
    place = valid.flatten().nonzero()[:, 0]
    device = inputs.q.device
    own = [(counts > turn).nonzero()[:, 0] for turn in range(int(counts.max()))]
    # One copy to the device for all turns.
    sequences = torch.cat(own)
    chunks = torch.cat([first[those] + turn for turn, those in enumerate(own)])
    sizes = [len(those) for those in own]
    turns = zip(*(torch.split(rows.to(device), sizes) for rows in (chunks, sequences)), strict=True)
    return Layout(step_at.to(device), place.to(device), list(turns))


class Chunks(NamedTuple):
    """All chunks: K (n, H, C, D), V (n, H, C, V), M (n, H, C, C), z and left (n, H, C, 1), H0, U0 and ends, written.

    left_i = M_Ci: what is left of step i's share at the chunk's end. H0 (n, H, D, D), U0 (n, H, D, V). last: the
    sequences' states after their last step, (N, H, D, D) and (N, H, D, V).
    """

    K: Tensor
    V: Tensor
    M: Tensor
    z: Tensor
    left: Tensor
    H0: Tensor
    U0: Tensor
    last: tuple[Tensor, Tensor]

    def rows_H(self, X: Tensor) -> Tensor:
        """Rows H_t x_t of rows x_t (n, H, C, D)."""
        return self.z * (X @ self.H0) + ((X @ self.K.mT) * self.M) @ self.K

    def rows_U(self, X: Tensor) -> Tensor:
        """Rows U_tᵀ x_t (n, H, C, V) of rows x_t (n, H, C, D)."""
        return self.z * (X @ self.U0) + ((X @ self.K.mT) * self.M) @ self.V

    def rows_Ut(self, Y: Tensor) -> Tensor:
        """Rows U_t y_t (n, H, C, D) of rows y_t (n, H, C, V)."""
        return self.z * (Y @ self.U0.mT) + ((Y @ self.V.mT) * self.M) @ self.K

    def quadratic(self) -> tuple[Tensor, Tensor]:
        """h_i = k_iᵀ H0 k_i as (n, H, 1, C), and k_iᵀ H_t k_i (n, H, C, C), in row t and column i."""
        h = ((self.K @ self.H0) * self.K).sum(-1)[..., None, :]
        gram = self.K @ self.K.mT
        return h, self.z * h + self.M @ (gram * gram)

    def norms(self) -> Tensor:
        """‖H_t‖_F (n, H, C, 1): <H_t, H_t> = z_t² ‖H0‖² + Σ_i M_ti (z_t h_i + k_iᵀ H_t k_i)."""
        h, full = self.quadratic()
        start = self.H0.square().sum((-1, -2))[..., None, None]
        square = self.z.square() * start + (self.M * (self.z * h + full)).sum(-1, keepdim=True)
        return square.clamp(min=0.0).sqrt()


def chunks_of(inputs: GkaInputs, layout: Layout) -> Chunks:
    """Chunks with the states before them, walked through from the sequences' starts."""
    dtype = state_dtype(inputs.q)
    K, V = layout.chunked(inputs.k, dtype), layout.chunked(inputs.v, dtype)
    G = layout.chunked(inputs.log_decay.clamp(min=LOWEST), dtype).cumsum(-1)
    C = G.shape[-1]
    past = torch.ones(C, C, dtype=torch.bool, device=G.device).tril()
    M = (G[..., :, None] - G[..., None, :]).masked_fill(~past, -torch.inf).exp()
    z, left = G.exp()[..., None], M[..., -1, :, None]
    (heads, D), N = inputs.q.shape[2:], inputs.sequences
    H = K.new_zeros(N, heads, D, D) if inputs.H0 is None else inputs.H0.clone()
    U = K.new_zeros(N, heads, D, V.shape[-1]) if inputs.U0 is None else inputs.U0.clone()
    weighted, decay = (left * K).mT, z[..., -1:, :]
    H0 = walked(layout.turns, H, decay, weighted @ K)
    U0 = walked(layout.turns, U, decay, weighted @ V)
    return Chunks(K, V, M, z, left, H0, U0, (H, U))


def walked(turns: list[tuple[Tensor, Tensor]], state: Tensor, decay: Tensor, written: Tensor) -> Tensor:
    """The state before each chunk; `state` (N, …) becomes that after the last: S ← decay S + written, turn by turn."""
    before = torch.empty_like(written)
    for chunks, sequences in turns:
        own = state[sequences]
        before[chunks] = own
        state[sequences] = decay[chunks] * own + written[chunks]
    return before


class Ridge(NamedTuple):
    """What the solver needs of every step, (n, H, C, 1): F = ‖H_t‖_F, λ, and whether the memory is empty."""

    F: Tensor
    lam: Tensor
    empty: Tensor


def ridge_of(F: Tensor, form: GkaForm) -> Ridge:
    """As `gka_reference.regularised` has it; the norm of an empty memory is 1."""
    if not form.adaptive:
        return Ridge(F, torch.full_like(F, form.ridge), torch.zeros_like(F, dtype=torch.bool))
    empty = F <= EMPTY
    F = torch.where(empty, 1.0, F)
    return Ridge(F, form.ridge * F, empty)


def solve(chunks: Chunks, ridge: Ridge, Q: Tensor, form: GkaForm) -> Tensor:
    """Rows x_t with (H_t + λ_t I) x_t = q_t by `steps` Chebyshev iterations, 0 where the memory is empty.

    One iteration is y = x − s ((H + λ I) x − q), x' = x₋ + w (y − x₋) with x₋ the x before; s goes into the rows of z
    and M beforehand. With λ = a F all steps have the same w.
    """
    if form.adaptive:
        short, rho = shortest_step(form.ridge)
        s: Tensor = short / ridge.F
        weights: list[float] | list[Tensor] = relaxations(rho, form.steps)
    else:
        L = ridge.lam + ridge.F * (1.0 + PADDING)
        s = 2.0 / (L + ridge.lam)
        weights = relaxations((L - ridge.lam) / (L + ridge.lam), form.steps)
    scaled = chunks._replace(z=s * chunks.z, M=s * chunks.M)
    right, kept = s * Q, 1.0 - s * ridge.lam
    before, x = torch.zeros_like(right), right
    for w in weights:
        y = kept * x + right - scaled.rows_H(x)
        x, before = before + w * (y - before), x
    return torch.where(ridge.empty, 0.0, x)
