"""KOSS's innovation-driven selectivity: the gain as a function of the innovation (arXiv 2512.16723)."""

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.kernels.koss_operators import innovation_gain

Tensor = torch.Tensor
SQUARINGS = 10
LEAST_TRACE = 1e-30  # of WᵀW = 0, whose logarithm is taken
SPECTRAL_CAP = 4.0  # of W1 and W2; the loop e → K → h → e turns chaotic where their product is between 23 and 36


class InnovationGain(nn.Module):
    """K = σ(W2ᵀ relu(W1ᵀ s + b1) + z) of an innovation e: one set of weights a head, heads = 1 is the paper's.

    s = e²/(1 + e²) is the gain 1 − R/S of a scalar filter with C P Cᵀ estimated by e² and R = 1; e² is a sample of
    C P Cᵀ + R, so s is too large where P is small. The operator `bucy` takes softplus for σ.

    s says how far off the prediction was, and nothing of what was predicted. With `see_prediction` φ sees that too,
    relu(W1ᵀ s + W_pᵀ ŷ⁻ + b1) with ŷ⁻ = c·p (an extension of the paper's), and w1 is [W1; W_p] of 2C rows.
    """

    def __init__(self, heads: int, channels: int, *, see_prediction: bool = False) -> None:
        super().__init__()
        rows = 2 * channels if see_prediction else channels
        self.w1 = nn.Parameter(torch.randn(heads, rows, channels) * (2.0 / rows) ** 0.5)
        self.b1 = nn.Parameter(torch.zeros(heads, channels))
        self.w2 = nn.Parameter(torch.randn(heads, channels, channels) * (1.0 / channels) ** 0.5)
        self.cap()

    def forward(self, e: Tensor, bias: Tensor, operator: str = "discrete", prediction: Tensor | None = None) -> Tensor:
        """K (…, D) from innovations e, logits z and, where it is seen, ŷ⁻ (…, D); z = CLOSED makes it 0."""
        return innovation_gain(e, bias, self.w1, self.b1, self.w2, operator, prediction)

    @torch.no_grad()
    def cap(self) -> None:
        """Scale W1 and W2 of every head back to a spectral norm of SPECTRAL_CAP; call after every step of training.

        With both at 4 the loop through the gain was contracting in every case tried; the gradient over a thousand
        steps grows from a product of 36 on (operator `discrete`, one step a segment, white noise of unit variance).
        [W1; W_p] is held to it as one matrix, and that is less: with Gaussian weights the gradient fell up to a product
        of 11 and grew at 16, the cap itself. Two layers trained on levels that jump ended at the cap, and forget there.
        """
        # Rows of zeros leave a norm as it is.
        pair = torch.cat([self.w1, functional.pad(self.w2, (0, 0, 0, self.w1.shape[1] - self.w2.shape[1]))])
        factors = (SPECTRAL_CAP / spectral_norm(pair)).clamp(max=1.0)[:, None, None]
        for weight, factor in zip((self.w1, self.w2), torch.split(factors, self.w1.shape[0]), strict=True):
            weight.mul_(factor)


def spectral_norm(weights: Tensor) -> Tensor:
    """σ₁ (M,) of matrices (M, R, C), as (tr (WᵀW)^m)^{1/2m} with m = 2^SQUARINGS, by repeated squaring.

    Never too small, and too large by C^{1/2m} − 1 at most (0.2 % at C = 64; 1e-6 where σ₂ is 1 % below σ₁). Unlike a
    singular value decomposition it asks the host for nothing, so a CUDA graph can hold it.
    """
    power = weights.transpose(1, 2) @ weights
    logarithm = torch.zeros_like(power[:, 0, 0])
    for k in range(SQUARINGS + 1):
        trace = power.diagonal(dim1=1, dim2=2).sum(1).clamp(min=LEAST_TRACE)
        logarithm = logarithm + trace.log() / 2**k
        if k < SQUARINGS:
            power = power / trace[:, None, None]
            power = power @ power
    return torch.exp(0.5 * logarithm)
