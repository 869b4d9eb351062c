"""What Gated KalmaNet's operator is given, what it refuses, and the numbers that all its backends share.

Letters as in arXiv 2511.21016: B sequences of T steps, H heads, keys of D numbers, values of V; the state is the pair
(H, U) of the keys' decayed sum of squares and their decayed products with the values. For each step and head

    H_t = γ_t H_{t−1} + k_t k_tᵀ        U_t = γ_t U_{t−1} + k_t v_tᵀ        γ_t = exp(log_decay_t)
    λ_t = a ‖H_t‖_F                     x_t = (H_t + λ_t I)⁻¹ q_t           by `steps` Chebyshev iterations
    q̃_t = q_t + α_t (x_t − q_t)         o_t = scale · U_tᵀ q̃_t
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch

Tensor = torch.Tensor
Number = TypeVar("Number", float, Tensor)
State = tuple[Tensor, Tensor]
PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
EMPTY = 1e-12  # ‖H‖_F up to which a memory holds nothing: x = 0 there, since 0 · I has no inverse
LOWEST = -100.0  # a log decay below counts as this: e^−100 is 0 in float32, and −inf − (−inf) is no number
# ‖H‖_F may be too small as a bound of H's eigenvalues by that much, where H's numbers are rounded to bfloat16.
PADDING = 2.0**-7


@dataclass(frozen=True)
class GkaForm:
    """How the ridge equations are posed and solved.

    ridge: a. steps: r, Chebyshev iterations. scale: of the outputs, D^−½ in the paper. adaptive: λ = a ‖H‖_F; where
    False λ = a at every step, an ablation that only the reference and torch backends know.
    """

    ridge: float = 0.02
    steps: int = 30
    scale: float = 1.0
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ridge) and self.ridge > 0.0):
            raise ValueError(f"ridge is {self.ridge}, expected a number above 0 (0.02 in the paper)")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}, expected a whole number of iterations, 1 or more (30)")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}, expected a finite number, or None for D^-0.5")


class GkaInputs(NamedTuple):
    """All tensors of a call as a backend gets them.

    q, k (B, T, H, D) and v (B, T, H, V): one precision, the last axis side by side, other strides free. log_decay and
    alpha (B, T, H): contiguous, float32, or float64 where q is; alpha None is 1 everywhere. H0 (N, H, D, D), symmetric,
    and U0 (N, H, D, V), contiguous in that same precision: the state before the first step, both None for zeros; N is
    B. offsets (N + 1,) int32 or None: N sequences of unequal length lie one after another in tensors (1, ΣT, …),
    sequence n from offsets[n] to offsets[n + 1].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    alpha: Tensor | None = None
    H0: Tensor | None = None
    U0: Tensor | None = None
    offsets: Tensor | None = None

    @property
    def sequences(self) -> int:
        return self.q.shape[0] if self.offsets is None else self.offsets.numel() - 1


# ∂L/∂ q, k, v, log_decay, alpha, H0, U0; None where the input is None.
GkaGradients = tuple[Tensor | None, ...]


def state_dtype(q: Tensor) -> torch.dtype:
    """Precision of the state, of ‖H‖_F and of the gates: float64 where q is, else float32."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def shortest_step(ridge: float) -> tuple[float, float]:
    """ŝ and ρ of Chebyshev's iteration on H / ‖H‖_F + a I, whose eigenvalues lie in [a, a + 1 + PADDING].

    ŝ = 2/(L + μ), ρ = (L − μ)/(L + μ) with μ = a and L = a + 1 + PADDING: the same for all steps of all sequences.
    """
    width = 1.0 + PADDING
    return 2.0 / (width + 2.0 * ridge), width / (width + 2.0 * ridge)


def relaxations(rho: Number, steps: int) -> list[Number]:
    """w_1 … w_r: w ← 4/(4 − ρ² w) from w_0 = 2 (arXiv 2511.21016, algorithm 1, whose first version prints w_0 = 0).

    All lie in (1, 2): the division is safe.
    """
    weights = [4.0 / (4.0 - 2.0 * rho * rho)]
    while len(weights) < steps:
        weights.append(4.0 / (4.0 - rho * rho * weights[-1]))
    return weights


def unsolved(ridge: float, steps: int) -> float:
    """Bound of ‖q − (H + λ I) x‖ / ‖q‖ after `steps` iterations, exact arithmetic: 2 Rⁿ/(1 + R²ⁿ), n = steps + 1."""
    root = math.sqrt((ridge + 1.0 + PADDING) / ridge)
    power = ((root - 1.0) / (root + 1.0)) ** (steps + 1)
    return 2.0 * power / (1.0 + power * power)


def readied(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None,
    initial_state: State | None, offsets: Tensor | None,
) -> GkaInputs:  # fmt: skip
    """The arguments of `gka.gka`, refused where they do not fit, else as a backend wants them.

    Raises:
        ValueError: what came, what was expected, what to do.
    """
    q, k, v = _one_precision(q, k, v)
    _check_tensors(q, k, v, log_decay, alpha)
    if offsets is not None:
        _check_offsets(offsets, q)
    sequences = q.shape[0] if offsets is None else offsets.numel() - 1
    dtype = state_dtype(q)
    H0, U0 = (None, None) if initial_state is None else readied_state(initial_state, q, v, sequences)
    return GkaInputs(
        q=_adjacent(q),
        k=_adjacent(k),
        v=_adjacent(v),
        log_decay=log_decay.to(dtype).contiguous(),
        alpha=None if alpha is None else alpha.to(dtype).contiguous(),
        H0=H0,
        U0=U0,
        offsets=None if offsets is None else offsets.to(torch.int32),
    )


def readied_state(state: State, q: Tensor, v: Tensor, sequences: int) -> State:
    """(H, U) in the state's precision, H symmetrised: a solver for symmetric matrices is to see nothing else.

    Raises:
        ValueError: as `fitting_state`.
    """
    H, U = fitting_state(state, q, v, sequences)
    return (0.5 * (H + H.transpose(-1, -2))).contiguous(), U.contiguous()


def fitting_state(state: State, q: Tensor, v: Tensor, sequences: int) -> State:
    """(H, U) in the state's precision, as they are else.

    Raises:
        ValueError: the pair's shapes, precisions or devices do not fit q (…, H, D) and v (…, H, V).
    """
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(f"the state is {_said(state)}, expected the pair (H, U) of tensors that an earlier call gave")
    heads, D, V = q.shape[-2], q.shape[-1], v.shape[-1]
    for name, part, wanted in zip("HU", state, ((sequences, heads, D, D), (sequences, heads, D, V)), strict=True):
        _check_tensor(f"the state's {name}", part, wanted, q, (torch.float32, torch.float64))
    H, U = (part.to(state_dtype(q)) for part in state)
    return H, U


def check_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None) -> None:
    """Refuse what does not fit in one step: q, k (B, H, D), v (B, H, V), log_decay and alpha (B, H).

    Raises:
        ValueError: what came, what was expected, what to do.
    """
    _check_shapes(q, k, v, log_decay, alpha, ("B", "H"))


def _one_precision(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast tensors of several precisions are taken in autocast's, as torch's own attention takes them."""
    kinds = {part.dtype for part in (q, k, v)}
    if len(kinds) == 1 or not kinds <= set(PRECISIONS):
        return q, k, v
    if torch.float64 in kinds or not torch.is_autocast_enabled(q.device.type):
        raise ValueError(f"q is {q.dtype}, k {k.dtype} and v {v.dtype}: cast them to one precision")
    kind = torch.get_autocast_dtype(q.device.type)
    return q.to(kind), k.to(kind), v.to(kind)


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None) -> None:
    _check_shapes(q, k, v, log_decay, alpha, ("B", "T", "H"))


def _check_shapes(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor | None, axes: tuple[str, ...]
) -> None:
    named = ", ".join(axes)
    if q.ndim != len(axes) + 1 or v.ndim != len(axes) + 1:
        raise ValueError(f"q {tuple(q.shape)} and v {tuple(v.shape)} must be ({named}, D) and ({named}, V)")
    if q.shape[-1] < 1 or v.shape[-1] < 1:
        raise ValueError(f"q {tuple(q.shape)} and v {tuple(v.shape)} must have 1 number a head or more")
    lead = tuple(q.shape[:-1])
    _check_tensor("q", q, tuple(q.shape), q)
    _check_tensor("k", k, tuple(q.shape), q)
    _check_tensor("v", v, (*lead, v.shape[-1]), q, hint="repeat k and v for queries that share them")
    _check_tensor("log_decay", log_decay, lead, q)
    if alpha is not None:
        _check_tensor("alpha", alpha, lead, q)


def _check_tensor(
    name: str,
    value: Tensor,
    shape: tuple[int, ...],
    q: Tensor,
    kinds: tuple[torch.dtype, ...] = PRECISIONS,
    hint: str = "",
) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is {_said(value)}, expected a tensor {shape}")
    if tuple(value.shape) != shape:
        more = f"; {hint}" if hint else ""
        raise ValueError(f"{name} has the shape {tuple(value.shape)}, expected {shape} beside q {tuple(q.shape)}{more}")
    if value.dtype not in kinds:
        raise ValueError(f"{name} is {value.dtype}, expected one of {', '.join(map(str, kinds))}")
    if value.device != q.device:
        raise ValueError(f"{name} is on {value.device} and q on {q.device}: move all tensors to one device")


def _check_offsets(offsets: Tensor, q: Tensor) -> None:
    """Kernels trust the offsets with the memory they write, so the values are read, also from a device."""
    if offsets.ndim != 1 or offsets.numel() < 2 or offsets.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens are {tuple(offsets.shape)} {offsets.dtype}, expected int32 (N + 1,): where each of N "
            "sequences begins, and the end of the last"
        )
    if q.shape[0] != 1:
        raise ValueError(f"q is {tuple(q.shape)}: with cu_seqlens, sequences lie one after another in (1, ΣT, H, D)")
    if offsets.device != q.device:
        raise ValueError(f"cu_seqlens are on {offsets.device} and q on {q.device}: move all tensors to one device")
    if offsets.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    at = offsets.tolist()
    if at[0] != 0 or at[-1] != q.shape[1] or any(a > b for a, b in pairwise(at)):
        raise ValueError(f"cu_seqlens {at[:4]} … {at[-1]} must rise from 0 to the number of steps, {q.shape[1]}")


def _adjacent(value: Tensor) -> Tensor:
    return value if value.stride(-1) == 1 else value.contiguous()


def _said(value: object) -> str:
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else f"a {kind}"
