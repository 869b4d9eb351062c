"""The closed loop of KOSS in plain torch: a Python loop over segments, everything inside a segment at once.

For any device, head width, number of states and precision, differentiated by autograd; the state is float32, float64
where x is. What the fused kernels are compared with in speed, and what runs where they do not.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from ssrtrack.kernels.koss_form import CLOSED, LoopForm, LoopInputs
from ssrtrack.kernels.koss_operators import (
    innovation_gain,
    kalman_operators,
    led,
    rank_one_scan,
    segment_scan,
    transition,
)

Tensor = torch.Tensor


class _Segment(NamedTuple):
    """Steps of one segment: tensors (B, S, …) in the state's precision; gain where it does not wait for the state."""

    x: Tensor
    delta: Tensor
    read: Tensor
    bias: Tensor
    slope: Tensor | None
    gain: Tensor | None


def state_dtype(x: Tensor) -> torch.dtype:
    """float64 where x is, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def forward(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
    """y (B, T, D) in x's precision and the last state (B, N, D) in the state's, recorded by autograd."""
    if inputs.offsets is not None:
        return _packed(inputs, form, inputs.offsets)
    dtype = state_dtype(inputs.x)
    cast: dict[str, Any] = {name: None if v is None else v.to(dtype) for name, v in inputs._asdict().items()}
    full = LoopInputs(**cast)
    y, h = [], full.start
    # The state keeps its precision whatever the caller's autocast says.
    with torch.autocast(inputs.x.device.type, enabled=False):
        for segment in _segments(full, form):
            states = _run(segment, full, h, form)
            y.append(_read(segment.read, states))
            h = states[:, -1]
    return torch.cat(y, 1).to(inputs.x.dtype), h


def _segments(full: LoopInputs, form: LoopForm) -> list[_Segment]:
    gain = None if form.innovate else innovation_gain(full.x, full.bias, full.w1, full.b1, full.w2, form.operator)
    timed = (full.x, full.delta, full.read, full.bias, full.slope, gain)
    count = -(-full.x.shape[1] // form.segment)
    # split's gradient is one concatenation; a slice's would be a tensor of T steps for every segment.
    parts: Any = [[None] * count if v is None else torch.split(v, form.segment, 1) for v in timed]
    return [_Segment(*part) for part in zip(*parts, strict=True)]


def _run(segment: _Segment, full: LoopInputs, h: Tensor, form: LoopForm) -> Tensor:
    """All states (B, S, N, D) of a segment, from the state h (B, N, D) before it."""
    E = transition(segment.delta, full.rate)
    if segment.gain is not None:
        return _update(segment, segment.gain, E, full, h, form.operator)
    # Open-loop: p_t = e^{(Δ_1 + … + Δ_t) A} h.
    p = (E if segment.x.shape[1] == 1 else transition(segment.delta.cumsum(1), full.rate)) * h[:, None]
    states = _closed(segment, p, E, full, h, form.operator)
    # Pass j has the first j + 1 steps exact, so more than S − 1 passes change nothing.
    for _ in range(min(form.passes, segment.x.shape[1] - 1)):
        p = E * torch.cat([h[:, None], states[:, :-1]], 1)
        states = _closed(segment, p, E, full, h, form.operator)
    return states


def _closed(segment: _Segment, p: Tensor, E: Tensor, full: LoopInputs, h: Tensor, operator: str) -> Tensor:
    """States from the gains of the innovations that the predictions p (B, S, N, D) leave."""
    predicted = _read(segment.read, p)
    K = innovation_gain(segment.x - predicted, segment.bias, full.w1, full.b1, full.w2, operator, predicted)
    return _update(segment, K, E, full, h, operator)


def _update(segment: _Segment, K: Tensor, E: Tensor, full: LoopInputs, h: Tensor, operator: str) -> Tensor:
    if operator == "kalman":
        return rank_one_scan(K, segment.read, E, led(segment.x, segment.slope, full.lead), h)
    a, u = kalman_operators(
        operator, K, segment.read, segment.delta, full.rate, segment.x, segment.slope, full.lead, E=E
    )
    return segment_scan(a, u, h)


def _read(c: Tensor, states: Tensor) -> Tensor:
    """c·h over the states: (B, S, N), (B, S, N, D) → (B, S, D)."""
    return (c[..., None] * states).sum(-2)


def _packed(inputs: LoopInputs, form: LoopForm, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences packed in (1, ΣT, …), side by side: padded by steps that leave a state as it is (K = 0, Δ = 0)."""
    lengths: list[int] = (offsets[1:] - offsets[:-1]).tolist()

    def padded(v: Tensor, fill: float = 0.0) -> Tensor:
        fill = max(fill, torch.finfo(v.dtype).min)
        return pad_sequence(list(torch.split(v[0], lengths)), batch_first=True, padding_value=fill)

    side_by_side = inputs._replace(
        x=padded(inputs.x),
        delta=padded(inputs.delta),
        read=padded(inputs.read),
        bias=padded(inputs.bias, CLOSED),
        slope=None if inputs.slope is None else padded(inputs.slope),
        offsets=None,
    )
    y, h = forward(side_by_side, form)
    return torch.cat([row[:length] for row, length in zip(y, lengths, strict=True)])[None], h
