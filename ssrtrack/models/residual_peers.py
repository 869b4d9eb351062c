"""KOSS's peers as blocks of a tracker: what they remember of a track is handed over from plot to plot.

Each is the block of `ssrtrack.models.baselines` of like name with a state beside it, called as a `KossBlock` is. A
state is a tuple of tensors with the sequences first. Attention sees a window of the last rows, or its state would grow.
"""

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.koss_scan import selective_scan
from ssrtrack.models.baselines import BASE, AttentionBlock, S6Block
from ssrtrack.models.koss_taps import TAPS, tapped

Tensor = torch.Tensor
State = tuple[Tensor, ...]
EPS = 1e-5


class GruPeer(nn.Module):
    """x + W_out GRU(RMSNorm(x)) with `inner` numbers of state. A GRU has no time of its own: `gap` is not read."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.gru = nn.GRU(width, inner)
        self.outward = nn.Linear(inner, width, bias=False)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of a sequence's state: h."""
        return ((self.gru.hidden_size,),)

    def forward(
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Output (T, B, width) and the state after the last row; in float32, under autocast too."""
        _only_whole(valid)
        u = self.norm(x).float()
        with torch.autocast(x.device.type, enabled=False):
            y, h = self.gru(u, None if state is None else state[0][None].contiguous())
        return x + self.outward(y), (h[0],)


class S6Peer(S6Block):
    """Mamba's block; with `gap` its step Δ is proportional to the true time since the row before, as KOSS's is."""

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of a sequence's state: h, and the convolution's last inputs."""
        inner = self.skip.shape[0]
        return (self.states, inner), (TAPS - 1, inner)

    def forward(  # type: ignore[override]
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Output (T, B, width) and the state after the last row."""
        _only_whole(valid)
        u, gate = self.inward(self.norm(x)).chunk(2, -1)
        u = u.float()
        scan, before = state or tuple(u.new_zeros(x.shape[1], *shape) for shape in self.shapes())
        mixed, taps = tapped(u, self.taps, self.taps_bias, before)
        u = functional.silu(mixed)
        low, write, read = self.project(u).split((self.rank, self.states, self.states), -1)
        delta = functional.softplus(self.step(low).float())
        if gap is not None:
            delta = delta * gap[..., None]
        rate = -torch.exp(self.log_rate)
        with torch.autocast(x.device.type, enabled=False):
            u_, delta_, b, c = (v.transpose(0, 1) for v in (u, delta, write.float(), read.float()))
            y, after = selective_scan(u_, delta_, b, c, rate, scan)
        out = y.transpose(0, 1) + self.skip * u
        return x + self.outward(out * functional.silu(gate)), (after, taps)


class AttentionPeer(AttentionBlock):
    """A causal transformer's block that sees the last `plots` rows, its own one included; `gap` is not read.

    Its state is their keys and values. Rotary positions tell distances alone, so rows are counted from wherever the
    window begins, and a track of any length has small angles.
    """

    def __init__(self, width: int, hidden: int, heads: int, plots: int) -> None:
        if plots < 1 or width % heads or width // heads % 2:
            raise EstimatorError(f"plots {plots} is below 1, or {heads} heads do not part width {width} in pairs")
        super().__init__(width, hidden, heads)
        self.plots = plots

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of a sequence's state: keys and values of the rows before, oldest first, and of how many there are any."""
        rows = self.heads, self.plots - 1, self.norm.weight.shape[0] // self.heads
        return rows, rows, ()

    def forward(  # type: ignore[override]
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Output (T, B, width) and the state after the last row."""
        _only_whole(valid)
        steps, batch, width = x.shape
        past_keys, past_values, known = state or tuple(x.new_zeros(batch, *s).float() for s in self.shapes())
        parts = self.inward(self.norm(x)).reshape(steps, batch, 3, self.heads, -1).permute(2, 1, 3, 0, 4)
        keys = torch.cat([past_keys.to(parts.dtype), parts[1]], 2)
        values = torch.cat([past_values.to(parts.dtype), parts[2]], 2)
        seen = _banded(parts[0], keys, values, known, self.plots)
        x = x + self.outward(seen.permute(2, 0, 1, 3).reshape(steps, batch, width))
        out = x + self.narrow(functional.gelu(self.wide(self.norm_after(x))))
        back = self.plots - 1
        kept = (v[:, :, v.shape[2] - back :].float() for v in (keys, values))
        return out, (*kept, (known + steps).clamp(max=float(back)))


def _banded(query: Tensor, keys: Tensor, values: Tensor, known: Tensor, plots: int) -> Tensor:
    """Attention (B, heads, T, E) of every query to its own row and the plots − 1 before it.

    keys, values (B, heads, plots − 1 + T, E): of the first plots − 1 rows the last `known` (B,) are there. In pieces of
    `plots` queries, so that cost and memory grow with T and not with its square.
    """
    batch, heads, steps, wide = query.shape
    piece, back = min(plots, steps), plots - 1
    pieces = -(-steps // piece)
    spare = pieces * piece - steps
    query, keys, values = (functional.pad(v, (0, 0, 0, spare)) for v in (query, keys, values))
    window = piece + back
    q = query.reshape(batch, heads, pieces, piece, wide).transpose(1, 2).flatten(0, 1)
    k, v = (u.unfold(2, window, piece).permute(0, 2, 1, 4, 3).flatten(0, 1) for u in (keys, values))
    at = torch.arange(window, device=q.device)
    ahead = at - at[:piece, None]
    near = (ahead >= 0) & (ahead <= back)
    row = torch.arange(pieces, device=q.device)[:, None] * piece + at
    there = row >= back - known[:, None, None]
    mask = (near & there[:, :, None]).flatten(0, 1)[:, None]
    angles = _angles(window, wide, q.device)
    found = functional.scaled_dot_product_attention(_turned(q, angles[back:]), _turned(k, angles), v, attn_mask=mask)
    return found.reshape(batch, pieces, heads, piece, wide).transpose(1, 2).flatten(2, 3)[:, :, :steps]


def _angles(rows: int, wide: int, device: torch.device) -> Tensor:
    """(rows, wide / 2): position over wavelength."""
    slow = BASE ** (-torch.arange(0, wide, 2, device=device) / wide)
    return torch.arange(rows, device=device)[:, None] * slow


def _turned(v: Tensor, angles: Tensor) -> Tensor:
    """Pairs of numbers of (…, rows, wide) turned by their row's angles; in v's own precision after."""
    even, odd = v.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1).to(v.dtype)


def _only_whole(valid: Tensor | None) -> None:
    if valid is not None:
        raise EstimatorError("this block knows rows that are there only; leave the others out and give their gap")
