"""Gated KalmaNet step by step: what a layer remembers of its sequences, and one row at a time."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from ssrtrack.kernels.gka import gka_step
from ssrtrack.kernels.gka_form import LOWEST, GkaForm
from ssrtrack.models.koss_taps import TAPS

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Where a state's H and U lie among other numbers, and where the next one's are to go: no copy is made of them.

    before, after (B, M): rows on a CPU, float32; of each, from number `at` on, are H and then U.
    """

    before: Tensor
    after: Tensor
    at: int


@dataclass(frozen=True, eq=False)
class GkaState:
    """All that a layer remembers of B sequences, of the same size however long they are: float32, or float64.

    H: decayed sum of squares of the keys (B, heads, D, D). U: decayed products with the values (B, heads, D, V).
    taps: the last three inputs of the convolution (B, 3, C), of rows that were there, oldest first. rows: where H and U
    lie, if a step is to be taken there; H is symmetric then.
    """

    H: Tensor
    U: Tensor
    taps: Tensor
    rows: Rows | None = None

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """(H, U), as the operator takes and gives it."""
        return self.H, self.U


class Asked(NamedTuple):
    """What the operator is given, time first: q, k (T, B, heads, D), v (T, B, heads, V), and per head the gates.

    log_decay, alpha (T, B, heads), float32 or float64; alpha None is 1.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    alpha: Tensor | None


def shapes(batch: int, heads: int, head: int, value_head: int) -> dict[str, tuple[int, ...]]:
    """Of a state's tensors, by name."""
    taps = (batch, TAPS - 1, heads * (2 * head + value_head))
    return {"H": (batch, heads, head, head), "U": (batch, heads, head, value_head), "taps": taps}


def nothing(like: Tensor, batch: int, heads: int, head: int, value_head: int) -> GkaState:
    """Before the first row of B sequences; on `like`'s device, float32 or its float64."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    H, U, taps = (like.new_zeros(shape, dtype=dtype) for shape in shapes(batch, heads, head, value_head).values())
    return GkaState(H, U, taps)


def stepped(asked: Asked, state: GkaState, taps: Tensor, form: GkaForm) -> tuple[Tensor, GkaState, Tensor]:
    """o (1, B, heads, V) of one row, the state after it, and qᵀ(H + λ I)⁻¹q (B, heads), infinite for an empty memory.

    taps: what the convolution remembers after the row.
    """
    if state.rows is not None:
        return _in_rows(asked, state.rows, taps, form)
    alpha = None if asked.alpha is None else asked.alpha[0]
    o, (H, U), variance = gka_step(
        asked.q[0], asked.k[0], asked.v[0], asked.log_decay[0], alpha, state.memory,
        ridge=form.ridge, steps=form.steps, scale=form.scale, variance=True,
    )  # fmt: skip
    return o[None], GkaState(H, U, taps), variance


def _in_rows(asked: Asked, rows: Rows, taps: Tensor, form: GkaForm) -> tuple[Tensor, GkaState, Tensor]:
    from ssrtrack.kernels import gka_rows_numba

    q, k, v, gamma = asked.q[0], asked.k[0], asked.v[0], asked.log_decay[0].clamp(min=LOWEST).exp()
    alpha = torch.ones_like(gamma) if asked.alpha is None else asked.alpha[0]
    q_, k_, v_, gamma_, alpha_ = (part.contiguous().numpy() for part in (q, k, v, gamma, alpha))
    before, written, threads = rows.before.numpy(), rows.after.numpy(), torch.get_num_threads()
    found = gka_rows_numba.step(q_, k_, v_, gamma_, alpha_, before, written, rows.at, form, threads=threads)
    (batch, heads, D), V = q.shape, v.shape[2]
    H, U = (rows.after[:, first:last] for first, last in pairwise(gka_rows_numba.bounds(rows.at, heads, D, V)))
    after = GkaState(H.view(batch, heads, D, D), U.view(batch, heads, D, V), taps)
    return torch.from_numpy(found.o)[None], after, torch.from_numpy(found.variance)
