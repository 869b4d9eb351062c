"""The networks that recall: one shell around every mixer, so that they differ in the mixer and its gates alone.

    x = E[token];  twice x ← x + W_o RMSNorm(mixer(q, k, v, gates));  logits = E RMSNorm(x)
    u = W_qkv RMSNorm(x),  q, k, v = SiLU(conv₄(u)), q and k over their norms

One head as wide as the network, no second part (MLP) of a block, and no code of positions: the convolution of 4 taps
says what stood before. Softmax attention takes q and k unnormalised, without SiLU, and turned by their positions, as
it is used elsewhere. A gate is a linear map to one number a step, width + 1 parameters of width · V and more. E is both
the tokens' embedding and the classes' vectors, as in Zoology: what is to be learned is then the recall, the same for
all tokens, and not V/2 vectors apart.
"""

from collections.abc import Callable
from math import expm1, log

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.recall_mixers import delta_rule, linear_attention, softmax_attention
from ssrtrack.kernels.gka import gka

Tensor = torch.Tensor
Mix = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], Tensor]
DEPTH = 2
TAPS = 4
EPS = 1e-6  # as the layer of Gated KalmaNet has it
DECAY = 0.01  # −log γ at the start, the middle of Mamba-2's range of steps; the same for all that forget


def _gka(q: Tensor, k: Tensor, v: Tensor, gates: dict[str, Tensor]) -> Tensor:
    decay = gates.get("decay", q.new_zeros(q.shape[:2], dtype=torch.float32))
    if "beta" in gates:
        beta = (gates["beta"] + EPS)[..., None]
        k, v = (beta * k).to(q.dtype), (beta * v).to(q.dtype)
    alpha = gates["alpha"][:, :, None] if "alpha" in gates else None
    o, _ = gka(q[:, :, None], k[:, :, None], v[:, :, None], decay[:, :, None], alpha)
    return o[:, :, 0]


# A mixer's gates: decay is log γ, the others lie in (0, 1).
MIXERS: dict[str, tuple[tuple[str, ...], Mix]] = {
    "gka": ((), _gka),
    "gka gated": (("decay", "alpha", "beta"), _gka),
    "delta": (("beta",), lambda q, k, v, gates: delta_rule(q, k, v, gates["beta"])),
    "delta gated": (("beta", "decay"), lambda q, k, v, gates: delta_rule(q, k, v, gates["beta"], gates["decay"])),
    "linear": ((), lambda q, k, v, gates: linear_attention(q, k, v)),
    "linear gated": (("decay",), lambda q, k, v, gates: linear_attention(q, k, v, gates["decay"])),
    "softmax": ((), lambda q, k, v, gates: softmax_attention(q, k, v)),
}
OWN_PRECISION = {"gka", "gka gated", "softmax"}  # these follow q, k and v; the others compute in float32


class Mixer(nn.Module):
    """A mixer of MIXERS and what feeds it: (B, T, width) to the same shape."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name = name
        self.gates, self.mix = MIXERS[name]
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.taps = nn.Parameter(torch.empty(TAPS, 3 * width).uniform_(-(TAPS**-0.5), TAPS**-0.5))
        self.gate = nn.Linear(width, len(self.gates)) if self.gates else None
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.outward = nn.Linear(width, width, bias=False)
        if self.gate is not None:
            with torch.no_grad():
                starts = [log(expm1(DECAY)) if name == "decay" else 0.0 for name in self.gates]
                self.gate.bias.copy_(torch.tensor(starts))

    def forward(self, x: Tensor) -> Tensor:
        """Under autocast q, k and v are in its precision; the convolution, norms and gates in float32."""
        u = self.inward(x)
        q, k, v = (part.to(u.dtype) for part in self._fed(causal(u.float(), self.taps)))
        gates = self._gates(x)
        if self.name in OWN_PRECISION:
            o = self.mix(q, k, v, gates)
        else:
            with torch.autocast(x.device.type, enabled=False):
                o = self.mix(q, k, v, gates)
        y: Tensor = self.outward(self.norm(o.float()))
        return y

    def _fed(self, mixed: Tensor) -> list[Tensor]:
        if self.name == "softmax":
            return list(mixed.chunk(3, -1))
        q, k, v = functional.silu(mixed).chunk(3, -1)
        return [*(part * torch.rsqrt(part.square().sum(-1, keepdim=True) + EPS) for part in (q, k)), v]

    def _gates(self, x: Tensor) -> dict[str, Tensor]:
        """By name, (B, T) float32."""
        if self.gate is None:
            return {}
        found = zip(self.gates, self.gate(x).float().unbind(-1), strict=True)
        return {name: -functional.softplus(g) if name == "decay" else torch.sigmoid(g) for name, g in found}


class Recaller(nn.Module):
    """Tokens to logits of the vocabulary at the steps that are asked for."""

    def __init__(self, name: str, width: int, vocabulary: int, depth: int = DEPTH) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=EPS) for _ in range(depth))
        self.mixers = nn.ModuleList(Mixer(name, width) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=EPS)

    def forward(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Logits (answers, V) of tokens (B, T) at the steps `at` (answers,), counted through all sequences."""
        # Not nn.Embedding's call: its gradient sorts the tokens, in many kernels.
        x = self.embedding.weight.index_select(0, tokens.flatten()).view(*tokens.shape, -1)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        asked = self.norm(x.flatten(0, 1).index_select(0, at)).float()
        # In float32: bfloat16 has no two numbers between 16 and 16.1, and equal logits are no answer.
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(asked, self.embedding.weight)


def recaller(name: str, width: int, vocabulary: int, seed: int) -> Recaller:
    """A network of a mixer in MIXERS with weights that the seed alone decides."""
    if name not in MIXERS:
        raise TrainingError(f"mixer {name!r} is not one of {', '.join(MIXERS)}")
    if width < 2 or width % 2:
        raise TrainingError(f"width is {width}, expected an even number, 2 or more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Recaller(name, width, vocabulary)


def parameters(net: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in net.parameters())


def causal(u: Tensor, taps: Tensor) -> Tensor:
    """Σ_j taps_j u_{t−3+j} (B, T, C), zeros before the first step; taps (4, C), the newest step's last."""
    line = functional.pad(u, (0, 0, TAPS - 1, 0))
    mixed = taps[TAPS - 1] * u
    for j in range(TAPS - 1):
        mixed = torch.addcmul(mixed, taps[j], line[:, j : j + u.shape[1]])
    return mixed
