"""KOSS step by step: what a layer remembers, and the loop taken up and cut anywhere, inside a segment too.

With segments of S steps and J passes, pass j of step t sees the state of pass j − 1 after step t − 1. So the J + 1
states of a step, the open-loop prediction and the place in the segment are all that a sequence has to carry on; at a
segment's beginning all of them are the last pass' state. No buffer of inputs is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_operators import (
    innovation_gain,
    kalman_operators,
    led,
    rank_one_scan,
    segment_scan,
    transition,
)
from ssrtrack.models.koss_causal import Seen

Tensor = torch.Tensor
Loop = Callable[[LoopInputs, LoopForm], tuple[Tensor, Tensor]]
TIMED = ("x", "delta", "read", "bias", "slope")


@dataclass(frozen=True, eq=False)
class LayerState:
    """What a layer remembers of B sequences.

    scan: h after the last step (B, N, D), float32 or float64. position: steps since the segment began, 0 at its
    beginning; inside one also passes, the states of the passes before the last (J, B, N, D), and open_loop, the
    prediction p (B, N, D). seen: samples that a causal derivative or `exact` looks back at, None where none does.
    """

    scan: Tensor
    seen: Seen | None = None
    position: int = 0
    passes: Tensor | None = None
    open_loop: Tensor | None = None


@dataclass(frozen=True, eq=False)
class BlockState:
    """What a block remembers of B sequences: its layer's state, and taps (B, 3, D), its convolution's last inputs."""

    koss: LayerState
    taps: Tensor


def run_segments(inputs: LoopInputs, form: LoopForm, state: LayerState, loop: Loop) -> tuple[Tensor, LayerState]:
    """y (B, T, D) and the state after T steps from `state`, wherever in a segment that is; `seen` is left alone.

    `loop` runs whole segments (`koss_closed_loop`). The rows up to the next segment are stepped, whole segments run at
    once, and the state inside the last one comes from a run of every pass over the rows it has.
    """
    if form.passes >= form.segment:
        form = replace(form, passes=form.segment - 1)
    steps, out = inputs.x.shape[1], []
    head = min((form.segment - state.position) % form.segment, steps)
    for t in range(head):
        y, state = step_inside(_rows(inputs, t, t + 1), form, state)
        out.append(y)
    whole = head + (steps - head) // form.segment * form.segment
    if whole > head:
        y, scan = loop(_rows(inputs, head, whole)._replace(start=state.scan), form)
        out.append(y)
        state = LayerState(scan, state.seen)
    if whole < steps:
        tail = _rows(inputs, whole, steps)._replace(start=state.scan)
        y, scan = loop(tail, form)
        out.append(y)
        earlier = [loop(tail, replace(form, passes=j))[1] for j in range(form.passes)]
        p = transition(tail.delta.to(scan.dtype).sum(1), tail.rate) * state.scan
        passes = torch.stack(earlier) if earlier else p.new_zeros(0, *p.shape)
        state = LayerState(scan, state.seen, steps - whole, passes, p)
    return (out[0] if len(out) == 1 else torch.cat(out, 1) if out else inputs.x), state


def step_inside(row: LoopInputs, form: LoopForm, state: LayerState) -> tuple[Tensor, LayerState]:
    """y (B, 1, D) and the state one step on: all passes of one step side by side, tensors of `row` (B, 1, …)."""
    dtype = state.scan.dtype
    x, delta, read, bias = (v.to(dtype) for v in (row.x, row.delta, row.read, row.bias))
    slope = None if row.slope is None else row.slope.to(dtype)
    E = transition(delta, row.rate)
    if state.passes is None or state.open_loop is None:
        before, p = [state.scan] * (form.passes + 1), E[:, 0] * state.scan
    else:
        before, p = [*state.passes, state.scan], E[:, 0] * state.open_loop
    after: list[Tensor] = []
    for j, h in enumerate(before):
        prediction = p if j == 0 else E[:, 0] * before[j - 1]
        predicted = (read[:, 0, :, None] * prediction).sum(1, keepdim=True)
        e = x - predicted if form.innovate else x
        K = innovation_gain(e, bias, row.w1, row.b1, row.w2, form.operator, predicted)
        if form.operator == "kalman":
            after.append(rank_one_scan(K, read, E, led(x, slope, row.lead), h)[:, 0])
        else:
            a, u = kalman_operators(form.operator, K, read, delta, row.rate, x, slope, row.lead, E=E)
            after.append(segment_scan(a, u, h)[:, 0])
    y = (read[:, 0, :, None] * after[-1]).sum(1, keepdim=True).to(row.x.dtype)
    position = (state.position + 1) % form.segment
    if position == 0:
        return y, LayerState(after[-1], state.seen)
    passes = torch.stack(after[:-1]) if form.passes else p.new_zeros(0, *p.shape)
    return y, LayerState(after[-1], state.seen, position, passes, p)


def _rows(inputs: LoopInputs, first: int, last: int) -> LoopInputs:
    if first == 0 and last == inputs.x.shape[1]:
        return inputs
    values = inputs._asdict()
    return inputs._replace(**{n: values[n][:, first:last] for n in TIMED if values[n] is not None})
