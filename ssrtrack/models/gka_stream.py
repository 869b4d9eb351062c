"""Gated KalmaNet step by step: what a layer remembers of its sequences, and one row at a time."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ssrtrack.kernels.gka import gka_step
from ssrtrack.kernels.gka_form import GkaForm
from ssrtrack.models.koss_taps import TAPS

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class GkaState:
    """All that a layer remembers of B sequences, of the same size however long they are: float32, or float64.

    H: decayed sum of squares of the keys (B, heads, D, D). U: decayed products with the values (B, heads, D, V).
    taps: the last three inputs of the convolution (B, 3, C), of rows that were there, oldest first.
    """

    H: Tensor
    U: Tensor
    taps: Tensor

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
    made = shapes(batch, heads, head, value_head)
    return GkaState(**{name: like.new_zeros(shape, dtype=dtype) for name, shape in made.items()})


def stepped(asked: Asked, state: GkaState, taps: Tensor, form: GkaForm) -> tuple[Tensor, GkaState, Tensor]:
    """o (1, B, heads, V) of one row, the state after it, and qᵀ(H + λ I)⁻¹q (B, heads), infinite for an empty memory.

    taps: what the convolution remembers after the row.
    """
    alpha = None if asked.alpha is None else asked.alpha[0]
    o, (H, U), variance = gka_step(
        asked.q[0], asked.k[0], asked.v[0], asked.log_decay[0], alpha, state.memory,
        ridge=form.ridge, steps=form.steps, scale=form.scale, variance=True,
    )  # fmt: skip
    return o[None], GkaState(H, U, taps), variance
