"""KOSS in plain torch: a state-space layer whose Kalman gain is a function of its own innovation (arXiv 2512.16723).

What is built is the operator `discrete`, the discrete Kalman filter's own recursion with the posterior fed back. It is
an adaptation: in the form published, taken exactly, the state has no memory of its input while the gain rests, in this
one it has. With segments of one step the innovation is exact. Sequences are (T, B, D), time first, as `torch.nn.GRU`
takes them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.models.koss_scan import koss_scan

Tensor = torch.Tensor
STEP_RANGE = (1e-3, 0.1)  # Δ at the start, log-uniform: memories of 1/Δ steps
GAIN_RANGE = (-4.0, 0.0)  # its logit at the start: K from 0.02 to 0.5, a spread of time constants
SPECTRAL_CAP = 4.0  # of W1 and W2; the loop e → K → h → e turns chaotic where their product is between 23 and 36
LEAST_GAP = 1e-3  # of the nominal one, where the logarithm of a gap is taken
CLOSED = -1e9  # a gain's logit where there is no input: K = 0 in every precision
TAPS = 4  # of the causal convolution


@dataclass(frozen=True, eq=False)
class BlockState:
    """What a block remembers of B sequences: scan (B, N, D) float32, taps (B, 3, D) the convolution's last inputs."""

    scan: Tensor
    taps: Tensor


class InnovationGain(nn.Module):
    """K = σ(W2ᵀ relu(W1ᵀ s + b1) + z): weights of the gain, one set a head; used inside `koss_scan`.

    s = e²/(1 + e²) is the gain 1 − R/S of a scalar filter with C P Cᵀ estimated by e² and R = 1.
    """

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(heads, channels, channels) * (2.0 / channels) ** 0.5)
        self.b1 = nn.Parameter(torch.zeros(heads, channels))
        self.w2 = nn.Parameter(torch.randn(heads, channels, channels) * (1.0 / channels) ** 0.5)
        self.cap()

    @torch.no_grad()
    def cap(self) -> None:
        """Scale W1 and W2 back to a spectral norm of SPECTRAL_CAP; call after every step of the optimiser."""
        for weight in (self.w1, self.w2):
            norm = torch.linalg.matrix_norm(weight, ord=2, dim=(1, 2), keepdim=True)
            weight.mul_((SPECTRAL_CAP / norm).clamp(max=1.0))


class KossLayer(nn.Module):
    """The scan and the projections that steer it: step length Δ, read-out c and the gain's bias z, all from the input.

    D channels in heads whose scans share nothing but c; N states a channel with A = −exp(A_log); Δ is proportional to
    the true time since the sequence's last step.
    """

    def __init__(self, width: int, states: int = 4, head: int = 64, rank: int = 4) -> None:
        super().__init__()
        channels = min(head, width)
        if width % channels:
            raise ValueError(f"width {width} is not a multiple of the head's {channels} channels")
        self.heads, self.states, self.rank = width // channels, states, rank
        self.project = nn.Linear(width, rank + states, bias=False)
        self.step = nn.Linear(rank, width)
        low, high = (torch.tensor(v).log() for v in STEP_RANGE)
        start = torch.exp(low + (high - low) * torch.rand(width))
        with torch.no_grad():
            self.step.bias.copy_(torch.log(torch.expm1(start)))
        self.log_rate = nn.Parameter(torch.arange(1, states + 1.0).log()[:, None].repeat(1, width))
        self.read_bias = nn.Parameter(torch.zeros(states))
        self.gain_bias = nn.Parameter(torch.empty(width).uniform_(*GAIN_RANGE))
        self.gain_input = nn.Linear(width, width, bias=False)
        self.gain_gap = nn.Parameter(torch.zeros(width))
        self.skip = nn.Parameter(torch.ones(width))
        self.gain = InnovationGain(self.heads, channels)

    def kalman_operators(self, x: Tensor, gap: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Δ (T, B, D), c (T, N, B) and z (T, B, D): all of the scan that does not depend on its state."""
        low, read = self.project(x).split((self.rank, self.states), -1)
        delta = functional.softplus(self.step(low).float()) * gap[..., None]
        read = torch.sigmoid(read.float() + self.read_bias).transpose(1, 2)
        bias = self.gain_input(x).float() + self.gain_bias + self.gain_gap * gap.clamp(min=LEAST_GAP).log()[..., None]
        if valid is not None:
            bias = torch.where(valid[..., None], bias, CLOSED)
        return delta, read, bias

    def forward(
        self, x: Tensor, gap: Tensor, valid: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """y (T, B, D) and the state (B, N, D) after the last step.

        Args:
            x: input (T, B, D).
            gap: time since the step before, in units of the nominal step (T, B).
            valid: where False, x is not there: the state is predicted only, and y is the prediction (T, B).
            state: of a call before, to go on from (B, N, D).
        """
        if valid is not None:
            x = torch.where(valid[..., None], x, 0.0)
        delta, read, bias = self.kalman_operators(x, gap, valid)
        full = x.float()
        start = full.new_zeros((x.shape[1], self.states, x.shape[2])) if state is None else state
        rate = -torch.exp(self.log_rate).reshape(self.states, self.heads, -1)
        by_head = [self._by_head(v) for v in (full, delta, bias)]
        with torch.autocast(x.device.type, enabled=False):
            y, final = koss_scan(
                by_head[0],
                by_head[1],
                rate,
                read,
                by_head[2],
                self.gain.w1,
                self.gain.b1,
                self.gain.w2,
                self._by_head(start.transpose(0, 1)),
            )
        out = y.transpose(1, 2).reshape(x.shape) + self.skip * full
        return out, final.transpose(1, 2).reshape(self.states, *x.shape[1:]).transpose(0, 1)

    def _by_head(self, v: Tensor) -> Tensor:
        return v.reshape(*v.shape[:2], self.heads, -1).transpose(1, 2)


class KossBlock(nn.Module):
    """x + W_out(KOSS(u) ⊙ SiLU(z)), u = SiLU(conv(u₀)), [u₀, z] = W_in RMSNorm(x): a gated residual block."""

    def __init__(self, width: int, states: int = 4, head: int = 64, rank: int = 4) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.inward = nn.Linear(width, 2 * width, bias=False)
        self.taps = nn.Parameter(torch.empty(TAPS, width).uniform_(-(TAPS**-0.5), TAPS**-0.5))
        self.taps_bias = nn.Parameter(torch.zeros(width))
        self.koss = KossLayer(width, states, head, rank)
        self.outward = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, gap: Tensor, valid: Tensor | None = None, state: BlockState | None = None
    ) -> tuple[Tensor, BlockState]:
        """Output (T, B, D) and what is remembered; arguments as for `KossLayer`. Strictly causal.

        A sequence cut in two calls, the second with the first one's state, gives what one call gives; so does one
        call a step.
        """
        u, gate = self.inward(self.norm(x)).chunk(2, -1)
        u = u.float()
        if valid is not None:
            u = torch.where(valid[..., None], u, 0.0)
        before = u.new_zeros((TAPS - 1, *u.shape[1:])) if state is None else state.taps.transpose(0, 1)
        line = torch.cat([before, u])
        steps = u.shape[0]
        mixed: Any = self.taps_bias
        for k in range(TAPS):
            mixed = mixed + self.taps[k] * line[k : k + steps]
        y, scan = self.koss(functional.silu(mixed), gap, valid, None if state is None else state.scan)
        return x + self.outward(y * functional.silu(gate)), BlockState(scan, line[steps:].transpose(0, 1))
