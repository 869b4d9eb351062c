"""Scans with given gains in plain torch: a Python loop over blocks of time, everything but the recurrence at once.

For any device, precision and number of states, differentiated by autograd; the state is float32, float64 where x is.
"""

from itertools import pairwise
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint

from ssrtrack.kernels.koss_operators import kalman_operators, led, rank_one_scan, segment_scan, transition
from ssrtrack.kernels.koss_scan_form import ScanInputs, state_dtype

Tensor = torch.Tensor
BLOCK = 64  # steps at once
# States of all steps beyond which a block's are made again for its gradient: a third more work, T/BLOCK less memory.
KEPT_STATES = 1 << 26
TIMED = ("x", "delta", "gain", "write", "read", "slope")


def forward(inputs: ScanInputs, operator: str) -> tuple[Tensor, Tensor]:
    """y (B, T, D) in x's precision and the last state (B, N, D) in the state's, recorded by autograd."""
    if inputs.offsets is not None:
        return _packed(inputs, operator, inputs.offsets.tolist())
    dtype = state_dtype(inputs.x)
    cast: dict[str, Any] = {name: None if v is None else v.to(dtype) for name, v in inputs._asdict().items()}
    full = ScanInputs(**cast)
    steps, h, out = full.x.shape[1], full.start, []
    again = torch.is_grad_enabled() and full.x.numel() * full.rate.shape[0] > KEPT_STATES
    # The state keeps its precision whatever the caller's autocast says.
    with torch.autocast(inputs.x.device.type, enabled=False):
        for first in range(0, steps, BLOCK):
            part = _between(full, first, min(first + BLOCK, steps))._replace(start=h)
            y, h = checkpoint(_block, part, operator, use_reentrant=False) if again else _block(part, operator)
            out.append(y)
    return torch.cat(out, 1).to(inputs.x.dtype), h


def _between(inputs: ScanInputs, first: int, last: int) -> ScanInputs:
    values = inputs._asdict()
    cut: dict[str, Any] = {name: None if values[name] is None else values[name][:, first:last] for name in TIMED}
    return inputs._replace(**cut)


def _block(part: ScanInputs, operator: str) -> tuple[Tensor, Tensor]:
    x, delta, _, write, read, rate, start, slope, lead, _ = part
    gain = cast(Tensor, part.gain)
    if write is not None:
        states = segment_scan(transition(delta, rate), write[..., None] * (delta * x)[..., None, :], start)
    elif operator == "kalman":
        states = rank_one_scan(gain, read, transition(delta, rate), led(x, slope, lead), start)
    else:
        a, u = kalman_operators(operator, gain, read, delta, rate, x, slope, lead)
        states = segment_scan(a, u, start)
    return torch.einsum("btn,btnd->btd", read, states), states[:, -1]


def _packed(inputs: ScanInputs, operator: str, at: list[int]) -> tuple[Tensor, Tensor]:
    """Sequences one after another in one row, each from its own start."""
    out, final = [], []
    for i, (first, last) in enumerate(pairwise(at)):
        h = inputs.start[i : i + 1]
        if last > first:
            y, h = forward(_between(inputs, first, last)._replace(start=h, offsets=None), operator)
            out.append(y)
        final.append(h)
    return torch.cat(out, 1), torch.cat(final)
