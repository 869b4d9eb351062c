"""What the fused KOSS kernels are compared with, in plain torch: segments in a Python loop.

`eager` is the package's own loop, whose recurrence inside a segment is a multiply-add a step. `segment` is written from
the description in arXiv 2512.16723: innovations of all steps from the state carried in, and a parallel prefix scan of
logarithmic depth. The published operator is replaced by `discrete`, so that the result is the same as the other ways'
and can be checked. Both multiply in φ what the fused kernels multiply: bfloat16 where x is, summed in float32.
"""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn import functional

from ssrtrack.kernels import koss_torch
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs

Tensor = torch.Tensor
Segment = Callable[..., tuple[Tensor, Tensor]]


def prefix_scan(a: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Products Π a and states h_t = a_t h_{t−1} + u_t from h = 0 along dimension 1, in log2 S doublings."""
    reach = 1
    while reach < a.shape[1]:
        before = [functional.pad(v[:, :-reach], (0, 0, 0, 0, reach, 0), value=fill) for v, fill in ((a, 1.0), (u, 0.0))]
        u, a = u + a * before[1], a * before[0]
        reach *= 2
    return a, u


def segment(
    h: Tensor, x: Tensor, delta: Tensor, read: Tensor, bias: Tensor, rate: Tensor, w1: Tensor, b1: Tensor, w2: Tensor,
    passes: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y (B, S, D) of one segment and the state after it; x, delta, bias (B, S, D), read (B, S, N), h (B, N, D)."""
    kind = x.dtype
    x, delta, bias, c = x.float(), delta.float(), bias.float(), read.float()[..., None]
    E = torch.exp(delta[:, :, None] * rate)
    p = torch.cumprod(E, 1) * h[:, None]
    for j in range(passes + 1):
        e = x - (c * p).sum(2)
        K = torch.sigmoid(_logit(e * e / (1.0 + e * e), w1, b1, w2, kind) + bias)[:, :, None]
        decay, states = prefix_scan((1.0 - K * c) * E, (K * x[:, :, None]).expand_as(E))
        states = states + decay * h[:, None]
        if j < passes:
            p = E * torch.cat([h[:, None], states[:, :-1]], 1)
    return (c * states).sum(2), states[:, -1]


def _logit(s: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, kind: torch.dtype) -> Tensor:
    """φ of all heads; its operands in the precision of x, as the fused kernel's are."""
    by_head = s.unflatten(-1, (w1.shape[0], -1)).movedim(2, 0).flatten(1, 2)
    hidden = torch.relu(torch.bmm(by_head.to(kind), w1.to(kind)).float() + b1[:, None])
    z = torch.bmm(hidden.to(kind), w2.to(kind)).float()
    return z.unflatten(1, s.shape[:2]).movedim(0, 2).flatten(2)


def eager(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
    """`koss_torch.forward` with φ's products in the precision of x, where that is bfloat16."""
    if inputs.x.dtype != torch.bfloat16:
        return koss_torch.forward(inputs, form)
    w1, w2 = inputs.w1.bfloat16(), inputs.w2.bfloat16()  # once, as the fused kernel has them

    def gain(
        e: Tensor, bias: Tensor, _1: Tensor, b1: Tensor, _2: Tensor, operator: str = "discrete", _: Tensor | None = None
    ) -> Tensor:
        square = e * e
        z = _logit(square / (1.0 + square), w1, b1, w2, torch.bfloat16) + bias
        return functional.softplus(z, threshold=1e4) if operator == "bucy" else torch.sigmoid(z)

    with mock.patch.object(koss_torch, "innovation_gain", gain):
        return koss_torch.forward(inputs, form)


def loop(inputs: LoopInputs, form: LoopForm, body: Segment = segment) -> tuple[Tensor, Tensor]:
    """All segments, one after another; a last, shorter one is allowed."""
    if form.operator != "discrete" or not form.innovate:
        raise ValueError(f"the loop in Python is written for discrete operators with innovations, not for {form}")
    h, out = inputs.start, []
    kind = inputs.x.dtype
    weights = inputs.rate, inputs.w1.to(kind), inputs.b1, inputs.w2.to(kind)
    # split's gradient is one concatenation; a slice's would be a tensor of T steps for every segment.
    timed = [v.split(form.segment, 1) for v in (inputs.x, inputs.delta, inputs.read, inputs.bias)]
    for part in zip(*timed, strict=True):
        y, h = body(h, *part, *weights, form.passes)
        out.append(y)
    return torch.cat(out, 1).to(inputs.x.dtype), h


def compiled_ways(form: LoopForm) -> Iterator[tuple[str, Any]]:
    """The same under torch.compile: each segment as one compiled function, then the loop whole (unrolled by it)."""
    body = torch.compile(segment, dynamic=False, fullgraph=True)
    yield "torch.compile of a segment", lambda inputs: loop(inputs, form, body)
    whole = torch.compile(loop, dynamic=False, fullgraph=True)
    yield "torch.compile of the whole loop", lambda inputs: whole(inputs, form)
