"""What a solver's error does to the gradient of a stack of layers: implicit, or through the iterations.

A layer is Gated KalmaNet's without its convolution, gates and α: x + W_o RMSNorm(U_tᵀ x_t) with q, k, v linear in
RMSNorm(x) and through SiLU, q and k of norm 1, γ = 0.98. All of it is float64 but the solver; the gradient is that of a
random linear function of the last layer's output with respect to the first layer's weights, so it has come through
every layer's adjoint equations.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from ssrtrack.experiments.gka_solvers import SOLVERS, Implicit

Tensor = torch.Tensor
STEPS, HEAD, HEADS, GAMMA = 48, 64, 2, 0.98
WIDTH = HEAD * HEADS


class Weights(NamedTuple):
    """One layer's matrices, (WIDTH, WIDTH)."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor


def stack(depth: int, seed: int) -> tuple[Tensor, list[Weights], Tensor]:
    """Input (T, WIDTH), each layer's weights, and what the output is weighed with."""
    g = torch.Generator().manual_seed(seed)

    def normal(rows: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(rows, WIDTH, generator=g, dtype=torch.float64)

    x, weigh = normal(STEPS), normal(STEPS)
    layers = [Weights(*(normal(WIDTH, WIDTH**-0.5) for _ in range(4))) for _ in range(depth)]
    return x, layers, weigh


def layer(x: Tensor, w: Weights, solver: str, way: str, steps: int, ridge: float, implicit: bool) -> Tensor:
    """x (T, WIDTH) after one layer."""
    h = _normed(x)
    q, k, v = (functional.silu(h @ m).view(-1, HEADS, HEAD).transpose(0, 1) for m in w[:3])
    q, k = (part / part.norm(dim=-1, keepdim=True) for part in (q, k))
    at = torch.arange(x.shape[0], dtype=x.dtype)
    decay = torch.tril(GAMMA ** (at[:, None] - at).clamp(min=0.0))
    H = torch.einsum("ts,hsi,hsj->htij", decay, k, k).flatten(0, 1)
    U = torch.einsum("ts,hsi,hsj->htij", decay, k, v).flatten(0, 1)
    F = H.norm(dim=(1, 2), keepdim=True)
    told = (H / F, q.flatten(0, 1)[..., None], ridge, steps, way)
    y = Implicit.apply(*told, solver) if implicit else SOLVERS[solver](*told)  # type: ignore[no-untyped-call]
    o = _normed((U.mT @ y / F)[..., 0]).view(HEADS, -1, HEAD).transpose(0, 1).flatten(1)
    return x + o @ w.o


def gradient(
    depth: int, solver: str, way: str, *, seed: int = 0, steps: int = 30, ridge: float = 0.02, implicit: bool = True
) -> list[Tensor]:
    """∂L/∂ the first layer's W_q, W_k and W_v of a stack of `depth` layers."""
    x, layers, weigh = stack(depth, seed)
    first = Weights(*(m.requires_grad_() for m in layers[0]))
    for w in [first, *layers[1:]]:
        x = layer(x, w, solver, way, steps, ridge, implicit)
    return list(torch.autograd.grad((weigh * x).sum(), first[:3]))


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """RMS of the difference over RMS of what is wanted, all tensors together."""
    off, size = (
        torch.cat([v.flatten() for v in some]).norm()
        for some in ([f - w for f, w in zip(found, wanted, strict=True)], wanted)
    )
    return float(off / size)


def _normed(v: Tensor) -> Tensor:
    return v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6)
