"""KOSS: a state-space layer whose Kalman gain is a function of its own innovation (arXiv 2512.16723).

The paper's parts under their names: `InnovationGain` (innovation-driven selectivity), `kalman_operators` (A_K and B_K),
`segment_scan` (the segment-wise scan), `SpectralDifferentiation` (the spectral differentiation unit); `KossLayer` puts
them together and `KossBlock` is a layer ready for use. The loop itself is `koss_closed_loop`. Sequences are (T, B, D),
time first, as `torch.nn.GRU` takes them.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.kernels.koss_form import CLOSED
from ssrtrack.kernels.koss_operators import kalman_operators, segment_scan
from ssrtrack.models.koss_derivative import SpectralDifferentiation
from ssrtrack.models.koss_gain import SPECTRAL_CAP, InnovationGain
from ssrtrack.models.koss_layer import KossLayer
from ssrtrack.models.koss_stream import BlockState, LayerState
from ssrtrack.models.koss_taps import TAPS, tapped

__all__ = [
    "CLOSED",
    "SPECTRAL_CAP",
    "TAPS",
    "BlockState",
    "InnovationGain",
    "KossBlock",
    "KossLayer",
    "LayerState",
    "SpectralDifferentiation",
    "kalman_operators",
    "segment_scan",
]

Tensor = torch.Tensor


class KossBlock(nn.Module):
    """x + W_out(KOSS(u) ⊙ SiLU(z)), u = SiLU(conv(u₀)), [u₀, z] = W_in RMSNorm(x): a gated residual block.

    conv is depthwise and causal over the last four rows. Strictly causal with every derivative but the spectral one.
    `options` are those of `KossLayer` by name.
    """

    def __init__(self, width: int, states: int = 4, head: int = 64, rank: int = 4, **options: Any) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.inward = nn.Linear(width, 2 * width, bias=False)
        self.taps = nn.Parameter(torch.empty(TAPS, width).uniform_(-(TAPS**-0.5), TAPS**-0.5))
        self.taps_bias = nn.Parameter(torch.zeros(width))
        self.koss = KossLayer(width, states, head, rank, **options)
        self.outward = nn.Linear(width, width, bias=False)

    def cap(self) -> None:
        """As `KossLayer.cap`."""
        self.koss.cap()

    def start(self, batch: int) -> BlockState:
        """What is remembered of `batch` sequences before their first row: nothing."""
        koss = self.koss.start(batch)
        return BlockState(koss, koss.scan.new_zeros(batch, TAPS - 1, self.width))

    def step(self, x: Tensor, gap: Tensor | None, valid: Tensor | None, state: BlockState) -> tuple[Tensor, BlockState]:
        """One row online: output (B, D) and the state after it, for x (B, D), gap (B,), valid (B,), as `forward`."""
        y, after = self(x[None], None if gap is None else gap[None], None if valid is None else valid[None], state)
        return y[0], after

    def forward(
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: BlockState | None = None, *,
        lengths: Tensor | None = None, offsets: Tensor | None = None,
    ) -> tuple[Tensor, BlockState]:  # fmt: skip
        """Output (T, B, D) and what is remembered; arguments and errors as for `KossLayer`.

        A sequence cut in two calls, the second with the first one's state, gives what one call gives; so does one
        call a step.
        """
        batch = self.koss.checked(x, gap, valid, None if state is None else state.koss, lengths, offsets)
        u, gate = self.inward(self.norm(x)).chunk(2, -1)
        u = u if u.dtype == torch.float64 else u.float()
        if valid is not None:
            u = torch.where(valid[..., None], u, 0.0)
        before = u.new_zeros(batch, TAPS - 1, self.width) if state is None else state.taps
        mixed, taps = tapped(u, self.taps, self.taps_bias, before, lengths, offsets)
        own = None if state is None else state.koss
        y, koss = self.koss(functional.silu(mixed), gap, valid, own, lengths=lengths, offsets=offsets)
        return x + self.outward(y * functional.silu(gate)), BlockState(koss, taps)
