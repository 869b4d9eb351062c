"""What KOSS is compared with: blocks of the same shape around other mixers, in plain torch and the package's scan.

S6 (Mamba, arXiv 2312.00752), S4D (arXiv 2206.11893), a GRU (arXiv 1406.1078) and causal attention (arXiv 1706.03762)
with rotary positions (arXiv 2104.09864). A block maps (T, B, width) to the same shape, time first, is strictly causal,
and starts every sequence from nothing. Matrices follow autocast; recurrences and their states stay in float32.
"""

from math import pi

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.kernels.koss_scan import selective_scan
from ssrtrack.models.koss_taps import TAPS, tapped

Tensor = torch.Tensor
STEP_RANGE = (1e-3, 0.1)  # Δ at the start, log-uniform, as in KOSS
BASE = 10_000.0  # of the rotary positions' wavelengths
EPS = 1e-5


class S6Block(nn.Module):
    """x + W_out(S6(u) ⊙ SiLU(z)), u = SiLU(conv(u₀)), [u₀, z] = W_in RMSNorm(x): Mamba's block.

    S6: h = e^{ΔA} h + Δ b x, y = c·h + D x; Δ = softplus(W_Δ low + β) and b, c (N) are linear in the input.
    `inner` channels of N `states` each; `rank` of Δ's projection.
    """

    def __init__(self, width: int, inner: int, states: int = 16, rank: int = 4) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.inward = nn.Linear(width, 2 * inner, bias=False)
        self.taps, self.taps_bias = _taps(inner)
        self.project = nn.Linear(inner, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, inner)
        self.log_rate = nn.Parameter(torch.arange(1, states + 1.0).log()[:, None].repeat(1, inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.outward = nn.Linear(inner, width, bias=False)
        with torch.no_grad():
            self.step.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.step.bias.copy_(_softplus_inverse(_log_uniform(inner)))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, width) to the same shape."""
        u, gate = self.inward(self.norm(x)).chunk(2, -1)
        u = functional.silu(_causal(u, self.taps, self.taps_bias))
        low, write, read = self.project(u).split((self.rank, self.states, self.states), -1)
        delta = functional.softplus(self.step(low).float())
        start = delta.new_zeros((x.shape[1], self.states, u.shape[-1]))
        rate = -torch.exp(self.log_rate)
        with torch.autocast(x.device.type, enabled=False):
            u_, delta_, b, c = (v.transpose(0, 1) for v in (u, delta, write.float(), read.float()))
            y, _ = selective_scan(u_, delta_, b, c, rate, start)
        mixed = y.transpose(0, 1) + self.skip * u
        return _plus(x, self.outward(mixed * functional.silu(gate)))


class S4dBlock(nn.Module):
    """The same block around S4D: the state's matrices are diagonal, complex, and know nothing of the input.

    y = k ∗ u + D u, k_t = 2 Re Σ_n c_n (e^{ΔA_n} − 1)/A_n e^{ΔA_n t} with A_n = −½ + iπn at the start (S4D-Lin), N/2
    conjugate pairs a channel; the convolution by FFT over the whole sequence.
    """

    def __init__(self, width: int, inner: int, states: int = 16) -> None:
        super().__init__()
        pairs = states // 2
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.inward = nn.Linear(width, 2 * inner, bias=False)
        self.taps, self.taps_bias = _taps(inner)
        self.log_step = nn.Parameter(_log_uniform(inner).log())
        self.log_decay = nn.Parameter(torch.full((inner, pairs), 0.5).log())
        self.frequency = nn.Parameter(pi * torch.arange(pairs).float().repeat(inner, 1))
        self.read = nn.Parameter(torch.randn(inner, pairs, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.ones(inner))
        self.outward = nn.Linear(inner, width, bias=False)

    def kernel(self, steps: int) -> Tensor:
        """k (T, inner), float32."""
        A = torch.complex(-torch.exp(self.log_decay), self.frequency)
        z = torch.exp(self.log_step)[:, None] * A
        weight = torch.view_as_complex(self.read) * (torch.exp(z) - 1.0) / A
        powers = torch.exp(z[None] * torch.arange(steps, device=z.device)[:, None, None])
        return 2.0 * torch.einsum("dn,tdn->td", weight, powers).real

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, width) to the same shape."""
        u, gate = self.inward(self.norm(x)).chunk(2, -1)
        u = functional.silu(_causal(u, self.taps, self.taps_bias))
        with torch.autocast(x.device.type, enabled=False):
            size = _fft_size(2 * x.shape[0])
            spectrum = torch.fft.rfft(u, size, 0) * torch.fft.rfft(self.kernel(x.shape[0]), size, 0)[:, None]
            y = torch.fft.irfft(spectrum, size, 0)[: x.shape[0]] + self.skip * u
        return _plus(x, self.outward(y * functional.silu(gate)))


class GruBlock(nn.Module):
    """x + W_out GRU(RMSNorm(x)): torch's own GRU, cuDNN's on a GPU, in float32 there too.

    Under autocast cuDNN would carry the state itself in half precision, which no other mixer has to.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.gru = nn.GRU(width, width)
        self.outward = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, width) to the same shape."""
        u = self.norm(x).float()
        with torch.autocast(x.device.type, enabled=False):
            y, _ = self.gru(u)
        return _plus(x, self.outward(y))


class AttentionBlock(nn.Module):
    """x + W_o attention(RMSNorm(x)), then + W₂ GELU(W₁ RMSNorm(·)): a causal transformer's block, rotary positions."""

    def __init__(self, width: int, hidden: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width, bias=False)
        self.norm_after = nn.RMSNorm(width, eps=EPS)
        self.wide = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, width) to the same shape."""
        steps, batch, width = x.shape
        parts = self.inward(self.norm(x)).reshape(steps, batch, 3, self.heads, -1).permute(2, 1, 3, 0, 4)
        angles = _angles(steps, parts.shape[-1], x.device)
        query, key = (_turned(v, angles) for v in parts[:2])
        seen = functional.scaled_dot_product_attention(query, key, parts[2], is_causal=True)
        x = _plus(x, self.outward(seen.permute(2, 0, 1, 3).reshape(steps, batch, width)))
        return _plus(x, self.narrow(functional.gelu(self.wide(self.norm_after(x)))))


def _plus(x: Tensor, branch: Tensor) -> Tensor:
    """The residual sum, in the stream's own precision."""
    return x + branch


def _taps(channels: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights and bias of a causal convolution, as a KOSS block has them."""
    weights = torch.empty(TAPS, channels).uniform_(-(TAPS**-0.5), TAPS**-0.5)
    return nn.Parameter(weights), nn.Parameter(torch.zeros(channels))


def _causal(u: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """The convolution of whole sequences (T, B, D), float32."""
    u = u.float()
    return tapped(u, taps, bias, u.new_zeros(u.shape[1], TAPS - 1, u.shape[2]))[0]


def _log_uniform(count: int) -> Tensor:
    low, high = (torch.tensor(v).log() for v in STEP_RANGE)
    return torch.exp(low + (high - low) * torch.rand(count))


def _softplus_inverse(x: Tensor) -> Tensor:
    return torch.log(torch.expm1(x))


def _fft_size(least: int) -> int:
    """The smallest 4, 5, 6 or 7 times a power of two that is not below: sizes that FFTs are fast at."""
    sizes = (m << j for m in (4, 5, 6, 7) for j in range(least.bit_length()))
    return min(size for size in sizes if size >= least)


def _angles(steps: int, width: int, device: torch.device) -> Tensor:
    """(T, width / 2): position over wavelength."""
    slow = BASE ** (-torch.arange(0, width, 2, device=device) / width)
    return torch.arange(steps, device=device)[:, None] * slow


def _turned(v: Tensor, angles: Tensor) -> Tensor:
    """Pairs of numbers of (B, heads, T, width) turned by their step's angles; in v's own precision after."""
    even, odd = v.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1).to(v.dtype)
