"""KOSS as its authors published it, defects included, for the record: what `KossLayer(published=True)` runs.

Written from the equations (arXiv 2512.16723, and how the released model applies them). It differs from what the paper
says, and from `ssrtrack.models.koss`, in this:

- No state goes from one segment to the next: h = 0 at each one's beginning. A segment learns of those before it by
  the innovation e_t = x_t − ŷ_{t−S} against the output one segment earlier, and by its gain.
- K_t = (1 − α) K_{t−S} + α φ(e_t), α clamped to 0.01 … 0.99 from a parameter that starts at 0: outside, where the
  clamp has no gradient, so α stays 0.01 and the gain is a slow average of some hundred segments, small at first.
- φ has three layers and a LayerNorm, so K has any sign and no bound; |κ| > 1 would make a state grow.
- The derivative is made in each segment by itself, as if it were periodic: its ends are wrong, and it sees up to
  S − 1 steps ahead. Frequency bin k is divided by Δ of step k, which mixes time and frequency. Its Gaussian low-pass
  still passes 0.94 at the Nyquist frequency.
- A is modulated by 1 − κ² and only so (a truncated Neumann series, multiplied element by element).

Time between steps and missing steps have no place in it. This is the layer alone: the block around it is `KossBlock`,
with one convolution where the released model has two in series.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.kernels.koss_operators import segment_scan

Tensor = torch.Tensor
SEGMENTS, LEAST_SEGMENT = 16, 8  # a sequence has 16 segments, of 8 steps or more
ALPHA = (0.01, 0.99)
WIDTH_OF_LOW_PASS = 0.5  # σ at the start
LEAST_DELTA = 1e-5


class PublishedGain(nn.Module):
    """K̃ = LayerNorm(W3 relu(W2 relu(W1 s + b1))), s = e²/(1 + e²): D → 3D → D → D, and its average over segments."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 3 * width)
        self.second = nn.Linear(3 * width, width, bias=False)
        self.third = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.k_alpha = nn.Parameter(torch.zeros(width))

    def forward(self, e: Tensor, before: Tensor) -> Tensor:
        """K (B, S, D) from innovations e (B, S, D) and the segment before's K (B, S, D)."""
        s = functional.softsign(e * e)
        now = self.norm(self.third(torch.relu(self.second(torch.relu(self.first(s))))))
        alpha = self.k_alpha.clamp(*ALPHA)
        mixed: Tensor = (1.0 - alpha) * before + alpha * now
        return mixed

    def cap(self) -> None:
        """Nothing: the published gain has no cap."""


class PublishedKoss(nn.Module):
    """The published layer over D channels with N states each: y (T, B, D) from x (T, B, D)."""

    def __init__(self, width: int, states: int = 2, rank: int = 4) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.project = nn.Linear(width, rank + states, bias=False)
        self.step = nn.Linear(rank, width)
        self.log_rate = nn.Parameter(torch.arange(1, states + 1.0).log()[:, None].repeat(1, width))
        self.skip = nn.Parameter(torch.ones(width))
        self.low_pass = nn.Parameter(torch.tensor(WIDTH_OF_LOW_PASS))
        self.gain = PublishedGain(width)

    def forward(self, x: Tensor) -> Tensor:
        """y (T, B, D), segment after segment; the last may be short."""
        full = x.transpose(0, 1)
        full = full if full.dtype == torch.float64 else full.float()
        low, read = self.project(full).split((self.rank, self.states), -1)
        delta = functional.softplus(self.step(low))
        with torch.autocast(x.device.type, enabled=False):
            y = self._segments(full, delta.to(full.dtype), read.to(full.dtype))
        return y.transpose(0, 1)

    def _segments(self, x: Tensor, delta: Tensor, read: Tensor) -> Tensor:
        length = segment_length(x.shape[1])
        rate = -torch.exp(self.log_rate)
        before_y, before_gain = (torch.zeros_like(x[:, :length]) for _ in range(2))
        out = []
        for first in range(0, x.shape[1], length):
            part = slice(first, first + length)
            u, d, c = x[:, part], delta[:, part], read[:, part]
            steps = u.shape[1]
            K = self.gain(u - before_y[:, :steps], before_gain[:, :steps])
            slope = published_slope(u, d, self.low_pass)
            kappa = K[:, :, None] * c[..., None]
            decay = (1.0 - kappa) * rate
            a = torch.exp(d[:, :, None] * (1.0 + kappa) * decay)
            written = d[:, :, None] * -decay * (K * u)[:, :, None] + (K * slope)[:, :, None]
            h = segment_scan(a, written, u.new_zeros(u.shape[0], self.states, u.shape[2]))
            y = (c[..., None] * h).sum(2) + self.skip * u
            out.append(y)
            before_y, before_gain = y, K
        return torch.cat(out, 1)


def segment_length(steps: int) -> int:
    """S: a sixteenth of the sequence, 8 or more."""
    return max(LEAST_SEGMENT, round(steps / SEGMENTS))


def published_slope(x: Tensor, delta: Tensor, width: Tensor) -> Tensor:
    """ẋ (B, S, D) = Re IFFT(i 2πf_k exp(−f_k² σ²)/(Δ_k + 1e-5) · FFT(x)_k), bin k divided by Δ of step k."""
    frequency = torch.fft.fftfreq(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
    gain = 2.0 * math.pi * frequency * torch.exp(-((frequency * width) ** 2)) / (delta + LEAST_DELTA)
    slope: Tensor = torch.fft.ifft(1j * gain * torch.fft.fft(x, dim=1), dim=1).real
    return slope
