"""The networks that are compared: KOSS in its variants, and its peers, within a tenth of the same parameters.

Three kinds are not, by what they are: without the gain's linear part in the input KOSS has 15 % fewer, with a gain that
sees the prediction 15 % more (without the linear part as many as the default), the published scheme 60 % more.

Every network is: numbers through the same fixed bumps (or the number itself, for regression), a linear layer to WIDTH
channels, blocks, a linear layer to the answers. Blocks differ, and nothing else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.selective_copy import BUMPS, bumps
from ssrtrack.models.baselines import AttentionBlock, GruBlock, S4dBlock, S6Block
from ssrtrack.models.koss import KossBlock

Tensor = torch.Tensor
WIDTH = 64  # channels between blocks
STATES = 8  # of a KOSS channel
PEER_STATES = 16  # of a channel of S6 and S4D, as Mamba has them

# What sets each variant of KOSS off from the default: operator `discrete`, one step a segment, gain sees input too.
VARIANTS: dict[str, dict[str, Any]] = {
    "koss": {},
    "koss-s4": {"segment": 4},
    "koss-s16-j0": {"segment": 16, "passes": 0},
    "koss-s16-j1": {"segment": 16, "passes": 1},
    "koss-input-only": {"innovate": False},
    "koss-no-input-gain": {"input_gain": False},
    "koss-input-only-no-input-gain": {"innovate": False, "input_gain": False},
    "koss-prediction": {"see_prediction": True},
    "koss-prediction-no-input-gain": {"see_prediction": True, "input_gain": False},
    "koss-difference": {"derivative": "difference"},
    "koss-neumann": {"operator": "neumann", "segment": 16, "passes": 0, "derivative": "difference"},
    "koss-neumann-no-derivative": {"operator": "neumann", "segment": 16, "passes": 0, "derivative": "none"},
    "koss-neumann-s1": {"operator": "neumann", "derivative": "difference"},
    "koss-kalman": {"operator": "kalman"},
    "koss-exact": {"operator": "exact"},
    "koss-published": {"published": True},
}
PEERS: dict[str, Callable[[], nn.Module]] = {
    "s6": lambda: S6Block(WIDTH, inner=112, states=PEER_STATES),
    "s4d": lambda: S4dBlock(WIDTH, inner=120, states=PEER_STATES),
    "gru": lambda: GruBlock(WIDTH),
    "transformer": lambda: AttentionBlock(WIDTH, hidden=96),
}
MODELS = (*VARIANTS, *PEERS)


class Koss(nn.Module):
    """A KOSS block on samples that lie evenly in time."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.block = KossBlock(WIDTH, STATES, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, WIDTH) to the same shape."""
        y, _ = self.block(x)
        return torch.as_tensor(y)


class Network(nn.Module):
    """Numbers (B, T) to answers (B, last, outputs) at the last steps."""

    def __init__(self, blocks: list[nn.Module], outputs: int, *, values: int, last: int) -> None:
        super().__init__()
        self.values, self.last = values, last
        self.inward = nn.Linear(BUMPS * values if values else 1, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        # A norm would take the size from a number that is to be regressed.
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5) if values else nn.Identity()
        self.outward = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The blocks work time first."""
        told = x.T.contiguous()
        h = self.inward(bumps(told, self.values) if self.values else told[..., None]).float()
        for block in self.blocks:
            h = block(h)
        return torch.as_tensor(self.outward(self.norm(h[-self.last :]))).transpose(0, 1)


def network(
    model: str, seed: int, outputs: int, *, values: int, last: int, depth: int = 2, conv: bool = True
) -> Network:
    """A network of `depth` blocks of a model in MODELS, with weights that the seed alone decides.

    values: whole numbers that the input takes; 0 where it is a measurement. last: steps that are answered. conv: where
    False, the causal convolutions of KOSS, S6 and S4D pass their input on unchanged and stay so.
    """
    if model not in MODELS:
        raise TrainingError(f"model {model!r} is not one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make = PEERS[model] if model in PEERS else lambda: Koss(**VARIANTS[model])
        net = Network([make() for _ in range(depth)], outputs, values=values, last=last)
    if not conv:
        for module in net.modules():
            _let_through(module)
    return net


def parameters(net: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@torch.no_grad()
def _let_through(block: nn.Module) -> None:
    """Make a block's causal convolution the identity, and keep it there."""
    if not isinstance(block, KossBlock | S6Block | S4dBlock):
        return
    block.taps.zero_()[-1] = 1.0
    block.taps_bias.zero_()
    block.taps.requires_grad_(False)
    block.taps_bias.requires_grad_(False)
