"""A Gated KalmaNet layer: the projections and gates that feed the operator, and the operator (arXiv 2511.21016)."""

from typing import Literal, overload

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.gka import BACKENDS, gka
from ssrtrack.kernels.gka_form import GkaForm
from ssrtrack.models.gka_calls import check_call, inside_of
from ssrtrack.models.gka_stream import Asked, GkaState, nothing, shapes, stepped
from ssrtrack.models.gka_taps import skipped
from ssrtrack.models.koss_taps import TAPS, tapped

Tensor = torch.Tensor
EPS = 1e-6  # of the keys' and queries' norms, of RMSNorm, and what β is at least
GREATEST_RATE = 16.0  # of exp(A_log) at the start, uniform from 0 on, as in Mamba-2
STEP_RANGE = (1e-3, 0.1)  # softplus(dt_bias) at the start, log-uniform


class GatedKalmaNet(nn.Module):
    """Recall by ridge regression over a fading memory: a layer in place of attention (arXiv 2511.21016, figure 2).

    For hidden rows h_t (with the letters of `ssrtrack.kernels.gka.gka`):

        u = W_qkv h                     q, k, v = SiLU(conv₄(u)), depthwise and causal
        q, k ← q/‖q‖, k/‖k‖ per head    (q rsqrt(‖q‖² + 1e-6))
        log γ = −exp(A_log) softplus(W_a h + dt_bias) Δt
        α = σ(W_α h + b_α)              β = σ(W_β h + b_β) + 1e-6;  k, v ← β k, β v
        o = gka(q, k, v, log γ, α)      y = W_o (RMSNorm(o) ⊙ SiLU(W_g h))

    Two things are not the paper's, which knows whole sequences of evenly spaced rows only. Δt, the row's time since the
    one before over the nominal one, makes γ a decay per time; where none is given it is 1 and the layer is the paper's.
    And a row may be missing: the memory decays by it, at the rate of h = 0, and nothing of it is written, neither to
    the memory nor to the convolution, whose past are the rows that were there; h there is the question that the
    output answers, so it must be finite.

    Under autocast q, k, v and all projections are in its precision. In float32 stay: the memory and ‖H‖_F, sums over
    all the past whose small terms bfloat16 would drop; log γ, for no γ between 0.996 and 1 exists in bfloat16; α, β;
    and the convolution with its past, the norms and the output gate, which are no matrix products.

    Args:
        width: of h. head: D, numbers of a key. heads: None: as many as the width holds. value_head: V, numbers of a
            value; None: D.
        ridge: a of λ = a ‖H‖_F. steps: Chebyshev iterations; 30 to train, 10 to 30 to serve.
        decay: False: γ = 1. alpha: False: α = 1, ridge regression alone. beta: False: β = 1, as in the paper's tables;
            its published models have it.
        timed: False: Δt = 1 whatever `gap` says, a decay per row.
        backend: as `gka` has it.

    Raises:
        EstimatorError: a width that its heads do not divide, or an option out of range.
    """

    def __init__(
        self, width: int, head: int = 64, *, heads: int | None = None, value_head: int | None = None,
        ridge: float = 0.02, steps: int = 30, decay: bool = True, alpha: bool = True, beta: bool = True,
        timed: bool = True, backend: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        self.head, self.heads = _sizes(width, head, heads)
        self.width, self.value_head = width, self.head if value_head is None else value_head
        if self.value_head < 1:
            raise EstimatorError(f"value_head is {value_head}, expected 1 or more")
        if backend not in BACKENDS:
            raise EstimatorError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
        try:
            self.form = GkaForm(ridge, steps, self.head**-0.5)
        except ValueError as error:
            raise EstimatorError(str(error)) from error
        self.timed, self.backend = timed, backend
        keys, values = self.heads * self.head, self.heads * self.value_head
        self.q_proj = nn.Linear(width, keys, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, values, bias=False)
        self.taps = nn.Parameter(torch.empty(TAPS, 2 * keys + values).uniform_(-(TAPS**-0.5), TAPS**-0.5))
        self.a_proj: nn.Linear | None = None
        if decay:
            self.a_proj = nn.Linear(width, self.heads, bias=False)
            # 1 − rand is never 0, whose logarithm is none.
            self.A_log = nn.Parameter(torch.log(GREATEST_RATE * (1.0 - torch.rand(self.heads))))
            low, high = (torch.tensor(v).log() for v in STEP_RANGE)
            start = torch.exp(low + (high - low) * torch.rand(self.heads))
            self.dt_bias = nn.Parameter(torch.log(torch.expm1(start)))
        self.alpha_proj = nn.Linear(width, self.heads) if alpha else None
        self.beta_proj = nn.Linear(width, self.heads) if beta else None
        self.g_proj = nn.Linear(width, values, bias=False)
        self.o_norm = nn.RMSNorm(self.value_head, eps=EPS)
        self.o_proj = nn.Linear(values, width, bias=False)

    def start(self, batch: int) -> GkaState:
        """What is remembered of `batch` sequences before their first row: nothing."""
        return nothing(self.taps, batch, self.heads, self.head, self.value_head)

    def forward(
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: GkaState | None = None, *,
        lengths: Tensor | None = None, offsets: Tensor | None = None,
    ) -> tuple[Tensor, GkaState]:  # fmt: skip
        """y (T, B, width) and the state after the last row.

        A sequence cut anywhere and taken up with the state gives what one call gives.

        Args:
            x: hidden rows (T, B, width), finite.
            gap: time since the row before, in units of the nominal step, 0 or more (T, B); None: 1.
            valid: where False, the row is missing: nothing is written, the memory decays, y is what it recalls (T, B).
            state: of a call before, to go on from; None: `start`.
            lengths: rows of each sequence (B,), 0 to T, where those past them are padding: they leave the state alone
                and y there is 0.
            offsets: sequences of unequal length one after another, b from offsets[b] to offsets[b + 1] (B + 1,), in x
                (ΣT, 1, width), with gap and valid (ΣT, 1); the state is (B, …).

        Raises:
            EstimatorError: shapes that do not fit, or a backend without a kernel for this.
        """
        batch = check_call(x, self.width, gap, valid, lengths, offsets)
        state = self._own(state, batch)
        inside = inside_of(x, lengths)
        if inside is not None:
            x = torch.where(inside[..., None], x, 0.0)
            valid = inside if valid is None else valid & inside
        asked, taps = self.asked(x, gap, valid, state, lengths, offsets)
        if inside is not None:
            asked = asked._replace(log_decay=torch.where(inside[..., None], asked.log_decay, 0.0))
        o, (H, U) = self._recall(asked, state, offsets)
        y = self._put_out(o, x)
        # A copy: the convolution's three rows are a view of all rows, which a state must not keep in memory.
        after = GkaState(H, U, taps.clone(memory_format=torch.contiguous_format))
        return (y if inside is None else torch.where(inside[..., None], y, 0.0)), after

    @overload
    def step(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: GkaState, *, variance: Literal[False] = ...
    ) -> tuple[Tensor, GkaState]: ...

    @overload
    def step(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: GkaState, *, variance: Literal[True]
    ) -> tuple[Tensor, GkaState, Tensor]: ...

    def step(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: GkaState, *, variance: bool = False
    ) -> tuple[Tensor, GkaState] | tuple[Tensor, GkaState, Tensor]:
        """One row online: y (B, width) and the state after it, for x (B, width), gap (B,), valid (B,), as `forward`.

        variance: whether qᵀ(H + λ I)⁻¹q (B, heads) is handed back too: how uncertain each head's recall is, in units of
        the noise of its values, 1/β² in all (gka's `variance`); infinite where a memory is empty. The gradient is that
        of the iterations, where forward's is the exact solution's.
        """
        row = x[None]
        gap, valid = (None if v is None else v[None] for v in (gap, valid))
        state = self._own(state, check_call(row, self.width, gap, valid))
        asked, taps = self.asked(row, gap, valid, state)
        o, after, spread = stepped(asked, state, taps, self.form)
        y = self._put_out(o, row)[0]
        return (y, after, spread) if variance else (y, after)

    def asked(
        self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: GkaState, lengths: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> tuple[Asked, Tensor]:  # fmt: skip
        """What the operator is given for rows x (T, B, width), and what the convolution remembers after them."""
        full = torch.promote_types(x.dtype, torch.float32)
        # One product for all three: their weights are put together sooner than what comes of them.
        u = functional.linear(x, torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])).to(full)
        weights = self.taps.to(full)
        if valid is None:
            mixed, taps = tapped(u, weights, u.new_zeros(()), state.taps.to(full), lengths, offsets)
        else:
            mixed, taps = skipped(u, weights, state.taps.to(full), valid, offsets)
        sizes = (self.head, self.head, self.value_head)
        parts = torch.split(functional.silu(mixed), [self.heads * size for size in sizes], -1)
        rows = (*x.shape[:2], self.heads)
        q, k, v = (part.reshape(*rows, size) for part, size in zip(parts, sizes, strict=True))
        q, k = _normed(q), _normed(k)
        if self.beta_proj is not None:
            beta = (torch.sigmoid(self.beta_proj(x).to(full)) + EPS)[..., None]
            k, v = beta * k, beta * v
        if valid is not None:
            k, v = (torch.where(valid[..., None, None], part, 0.0) for part in (k, v))
        alpha = None if self.alpha_proj is None else torch.sigmoid(self.alpha_proj(x).to(full))
        kind = _multiplied(x)
        return Asked(q.to(kind), k.to(kind), v.to(kind), self._log_decay(x, gap, valid, full), alpha), taps

    def _log_decay(self, x: Tensor, gap: Tensor | None, valid: Tensor | None, full: torch.dtype) -> Tensor:
        """log γ (T, B, heads); of a missing row at the rate of h = 0, so that nothing in it is remembered."""
        if self.a_proj is None:
            return x.new_zeros(*x.shape[:2], self.heads, dtype=full)
        a = self.a_proj(x).to(full)
        if valid is not None:
            a = torch.where(valid[..., None], a, 0.0)
        log_decay = -torch.exp(self.A_log.to(full)) * functional.softplus(a + self.dt_bias.to(full))
        return log_decay if gap is None or not self.timed else log_decay * gap.to(full)[..., None]

    def _recall(self, asked: Asked, state: GkaState, offsets: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """o (T, B, heads, V) and the memory after the last row."""
        q, k, v, log_decay = (part.transpose(0, 1) for part in asked[:4])
        alpha = None if asked.alpha is None else asked.alpha.transpose(0, 1)
        try:
            o, memory = gka(
                q, k, v, log_decay, alpha, ridge=self.form.ridge, steps=self.form.steps, scale=self.form.scale,
                initial_state=state.memory, output_final_state=True, cu_seqlens=offsets, backend=self.backend,
            )  # fmt: skip
        except ValueError as error:
            raise EstimatorError(str(error)) from error
        assert memory is not None
        return o.transpose(0, 1), memory

    def _put_out(self, o: Tensor, x: Tensor) -> Tensor:
        """y (T, B, width) of what is recalled (T, B, heads, V)."""
        full = torch.promote_types(o.dtype, torch.float32)
        gate = functional.silu(self.g_proj(x).to(full))
        normed = functional.rms_norm(o.to(full), (self.value_head,), self.o_norm.weight.to(full), EPS)
        y: Tensor = self.o_proj((normed.flatten(2) * gate).to(x.dtype))
        return y

    def _own(self, state: GkaState | None, batch: int) -> GkaState:
        """The state to begin with, refused where it is another layer's or another batch's."""
        if state is None:
            return self.start(batch)
        if not isinstance(state, GkaState):
            raise EstimatorError(f"the state is a {type(state).__name__}, expected the GkaState of an earlier call")
        for name, needed in shapes(batch, self.heads, self.head, self.value_head).items():
            came = tuple(getattr(state, name).shape)
            if came != needed:
                raise EstimatorError(
                    f"the state's {name} is {came}, expected {needed}: another layer's, or of other sequences"
                )
        return state


def _sizes(width: int, head: int, heads: int | None) -> tuple[int, int]:
    """Numbers of a key, and heads."""
    size = min(head, width)
    if min(width, head) < 1 or (heads is not None and heads < 1):
        raise EstimatorError(f"width {width}, head {head} and heads {heads} must be 1 or more")
    if heads is not None:
        return head, heads
    if width % size:
        raise EstimatorError(f"width {width} is not a multiple of the head's {size} numbers; name heads, or change one")
    return size, width // size


def _normed(v: Tensor) -> Tensor:
    """v over its norm, 0 where v is."""
    return v * torch.rsqrt(v.square().sum(-1, keepdim=True) + EPS)


def _multiplied(x: Tensor) -> torch.dtype:
    """The precision that the operator's matrix products are asked for: autocast's, or x's own."""
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)
