"""The KOSS loop with its gate's operands rounded where the kernels round them: what bfloat16 kernels are measured by.

An exact gate is no measure of one that multiplies in bfloat16: about one hidden unit in 500 lies within the rounding of
0, on the other side of its ReLU, and has its whole gradient or none (W1 and b1 are 3 to 5 % off, in small batches
others too). Rounded alike, the two agree on nearly all of them, and limits can be those of what is handed back.
"""

from typing import Any
from unittest import mock

import torch
from torch.nn import functional

from ssrtrack.kernels import koss_torch
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_operators import gate_input

Tensor = torch.Tensor


class _Rounded(torch.autograd.Function):
    """A value as bfloat16 has it, or (`value` False) its gradient; the other passes as it is."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, value: bool) -> Tensor:
        ctx.value = value
        return v.bfloat16().to(v.dtype) if value else v.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g if ctx.value else g.bfloat16().to(g.dtype), None


def product(a: Tensor, w: Tensor, rough: bool) -> Tensor:
    """a w by heads; `rough` as kernels make it from bfloat16: of rounded operands, and so its two gradients."""
    if not rough:
        return torch.bmm(a, w)
    rounded: Any = _Rounded.apply
    out: Tensor = rounded(torch.bmm(rounded(a, True), rounded(w, True)), False)
    return out


def as_multiplied(
    rough: bool, inputs: LoopInputs, form: LoopForm, nearest: list[float] | None = None
) -> tuple[Tensor, Tensor]:
    """The loop by `koss_torch` in the precision of `inputs`, φ's operands rounded if `rough`.

    Adds to `nearest` how near 0 a hidden unit came.
    """

    def gain(
        e: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, operator: str = "discrete",
        prediction: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        sums = product(gate_input(e, w1, prediction), w1, rough) + b1[:, None]
        if nearest is not None:
            nearest.append(float(sums.detach().abs().min()))
        z = product(torch.relu(sums), w2, rough).transpose(0, 1).reshape(e.shape) + bias
        return functional.softplus(z, threshold=1e4) if operator == "bucy" else torch.sigmoid(z)

    with mock.patch.object(koss_torch, "innovation_gain", gain):
        return koss_torch.forward(inputs, form)
