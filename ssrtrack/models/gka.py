"""Gated KalmaNet: recall by ridge regression over a fading memory, a layer in place of attention (arXiv 2511.21016).

The paper's parts under their names are in `ssrtrack.kernels`: adaptive regularisation, gating, Chebyshev iteration,
α-connection, chunk-wise kernel and implicit backward make up `gka`; `GatedKalmaNet` is the layer around it and
`GkaBlock` the layer ready for use, in the place of a `KossBlock` too. Sequences are (T, B, width), time first, as
`torch.nn.GRU` takes them.
"""

from typing import Any, Literal, overload

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.errors import EstimatorError
from ssrtrack.models.gka_layer import GatedKalmaNet
from ssrtrack.models.gka_stream import GkaState

__all__ = ["GatedKalmaNet", "GkaBlock", "GkaState"]

Tensor = torch.Tensor
EPS = 1e-5  # as KossBlock's norm has it


class GkaBlock(nn.Module):
    """x + GKA(RMSNorm(x)), and with `hidden` numbers, x + W₂(SiLU(g) ⊙ w), [g, w] = W₁ RMSNorm(x), after it.

    hidden: 0: no such second part; a `KossBlock` has none, the paper's block has it. `options` are those of
    `GatedKalmaNet` by name. It is called as a `KossBlock` is, and strictly causal.
    """

    def __init__(self, width: int, head: int = 64, *, hidden: int = 0, **options: Any) -> None:
        super().__init__()
        if hidden < 0:
            raise EstimatorError(f"hidden is {hidden}, expected 0 or more")
        self.width = width
        self.gka = GatedKalmaNet(width, head, **options)
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.norm_after = nn.RMSNorm(width, eps=EPS) if hidden else None
        self.wide = nn.Linear(width, 2 * hidden, bias=False) if hidden else None
        self.narrow = nn.Linear(hidden, width, bias=False) if hidden else None

    def cap(self) -> None:
        """Nothing: no weight of this block needs a bound after a step of training, as a `KossBlock`'s do."""

    def start(self, batch: int) -> GkaState:
        """What is remembered of `batch` sequences before their first row: nothing."""
        return self.gka.start(batch)

    def forward(
        self, x: Tensor, gap: Tensor | None = None, valid: Tensor | None = None, state: GkaState | None = None, *,
        lengths: Tensor | None = None, offsets: Tensor | None = None,
    ) -> tuple[Tensor, GkaState]:  # fmt: skip
        """Output (T, B, width) and what is remembered; arguments and errors as for `GatedKalmaNet`."""
        y, after = self.gka(self._normed(x), gap, valid, state, lengths=lengths, offsets=offsets)
        return self._after(x + y), after

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
        """One row online, arguments as `GatedKalmaNet.step`: output (B, width), the state, the heads' variances."""
        y, after, spread = self.gka.step(self._normed(x), gap, valid, state, variance=True)
        out = self._after(x + y)
        return (out, after, spread) if variance else (out, after)

    def _normed(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] != self.width or not x.is_floating_point():
            raise EstimatorError(f"x is {tuple(x.shape)} {x.dtype}, expected floating (…, {self.width})")
        y: Tensor = self.norm(x)
        return y

    def _after(self, x: Tensor) -> Tensor:
        if self.norm_after is None or self.wide is None or self.narrow is None:
            return x
        gate, wide = self.wide(self.norm_after(x)).chunk(2, -1)
        y: Tensor = x + self.narrow(functional.silu(gate) * wide)
        return y
