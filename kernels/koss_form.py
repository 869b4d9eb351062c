"""What a KOSS loop is given and how it runs: the operators' names and the inputs with their shapes.

Letters as in arXiv 2512.16723: B sequences of T steps, D = H·C channels in H heads of C, N states a channel.

What closes the loop, head by head, from the prediction ŷ⁻ = Σ_n c_n p_n and the innovation e = x − ŷ⁻ of a step:

    K = σ(W2ᵀ relu(W1ᵀ s + b1) + z),  s = e²/(1 + e²)                 (w1 of C rows: the paper's)
    K = σ(W2ᵀ relu(W1ᵀ s + W_pᵀ ŷ⁻ + b1) + z)                         (w1 of 2C rows, [W1; W_p]: an extension)
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

Tensor = torch.Tensor
OPERATORS = ("discrete", "neumann", "kalman", "exact", "bucy")
CLOSED = -1e9  # a gain's logit where there is no input: K = 0 in every precision


@dataclass(frozen=True)
class LoopForm:
    """How the loop is closed.

    operator: one of OPERATORS. segment: steps S that share one open-loop prediction; 1 is the exact loop. passes: J,
    how often a segment's innovations are made again from the states found before. innovate: where False the gain sees
    the input x itself in place of the innovation (an ablation).
    """

    operator: str = "discrete"
    segment: int = 1
    passes: int = 0
    innovate: bool = True

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise ValueError(f"operator {self.operator!r} is not one of {', '.join(OPERATORS)}")
        if self.segment < 1 or self.passes < 0:
            raise ValueError(f"segment {self.segment} must be 1 or more and passes {self.passes} 0 or more")


class LoopInputs(NamedTuple):
    """All tensors of a loop, time second; channels lie side by side in memory, other strides are free.

    x, delta, bias (B, T, D): input, step length Δ ≥ 0, the gain's logit z without φ (CLOSED: no input).
    read c (B, T, N), shared by the channels. rate A < 0 (N, D). w1, b1, w2 (H, C or 2C, C), (H, C), (H, C, C): the
    gain's φ. Rows of w1 beyond C multiply the prediction ŷ⁻ = c·p, each pass of a segment its own; with `innovate`
    False there is none to see, and w1 has C.
    start (B, N, D): the state before the first step, float32 or float64. slope ẋ (B, T, D) or None (0): the input's
    derivative per sample; `exact` needs x_t − x_{t−1} here. lead τ (D,) or None (0): weight of ẋ in `discrete`,
    `kalman` and `bucy`. offsets (B + 1,) int32 or None: sequences of unequal length lie one after another in
    tensors (1, ΣT, …), sequence b from offsets[b] to offsets[b + 1]; start then still is (B, N, D).
    """

    x: Tensor
    delta: Tensor
    read: Tensor
    bias: Tensor
    rate: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    start: Tensor
    slope: Tensor | None = None
    lead: Tensor | None = None
    offsets: Tensor | None = None


def sees_prediction(w1: Tensor) -> bool:
    """Whether the gain's φ sees the prediction beside the innovation: w1 has 2C rows, not C."""
    return w1.shape[-2] == 2 * w1.shape[-1]
