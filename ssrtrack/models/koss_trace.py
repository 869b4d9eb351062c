"""A look inside a KOSS layer: the innovation, the gain and the state of every step, which no fused kernel stores.

Computed by the torch operators of `ssrtrack.kernels.koss_operators`, so it is as slow as a Python loop over segments
and runs anywhere; autograd records it. For pictures and studies, not for training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import EstimatorError
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_operators import innovation_gain, kalman_operators, rank_one_scan, transition
from ssrtrack.models.koss import KossLayer
from ssrtrack.models.koss_stream import LayerState

Tensor = torch.Tensor
Gain = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, str, Tensor], Tensor]  # as `innovation_gain`


@dataclass(frozen=True, eq=False)
class LoopTrace:
    """Every step of B sequences in a loop, batch first.

    innovation e and gain K (B, T, D) of the last pass; state h (B, T, N, D) after each step; output y (B, T, D).
    """

    innovation: Tensor
    gain: Tensor
    state: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class KossTrace:
    """Every step of B sequences in a layer, time first as the layer's own tensors.

    innovation e = x − C h⁻ (T, B, D), which where x is missing only says what was predicted (e = −C h⁻); gain K
    (T, B, D), 0 where x is missing, and its logit without φ, z (T, B, D); read-out c (T, B, N); step Δ (T, B, D); state
    h (T, B, N, D) after the step; output y (T, B, D), the layer's own, skip included.
    """

    innovation: Tensor
    gain: Tensor
    logit: Tensor
    read: Tensor
    delta: Tensor
    state: Tensor
    output: Tensor

    @property
    def kappa(self) -> Tensor:
        """κ = K c (T, B, N, D): the share of its state that a step of `discrete` forgets and writes anew."""
        return self.gain[..., None, :] * self.read[..., None]


def trace(
    layer: KossLayer,
    x: Tensor,
    gap: Tensor | None = None,
    valid: Tensor | None = None,
    state: LayerState | None = None,
) -> KossTrace:
    """What happens inside `layer` on x (T, B, D); arguments and output y as the layer's own call.

    Raises:
        EstimatorError: the layer's own refusals; a layer in the published form, which has neither a carried state nor
            an innovation of the same step; a state in the middle of a segment, whose prediction began before x.
    """
    if layer.published is not None:
        raise EstimatorError("the published scheme has no closed loop to look into; trace a layer without published")
    layer.checked(x, gap, valid, state, None, None)
    if state is not None and state.position:
        raise EstimatorError(f"the state is {state.position} steps into a segment; trace from a segment's beginning")
    x = x if valid is None else torch.where(valid[..., None], x, 0.0)
    inputs, _ = layer.loop_inputs(x, gap, valid, state)
    inside = trace_loop(inputs, layer.form)
    told = inputs.bias, inputs.read, inputs.delta
    parts = (inside.innovation, inside.gain, *told, inside.state, inside.output + layer.skip * inputs.x)
    return KossTrace(*(v.transpose(0, 1) for v in parts))


def look_inside(network: nn.Module, *arguments: Any, **more: Any) -> tuple[Any, dict[str, KossTrace]]:
    """What `network` gives for these arguments, and a trace of every `KossLayer` in it by the layer's name.

    A layer that runs several times is traced at its last run. No gradients.

    Raises:
        EstimatorError: there is no such layer, one that `trace` refuses, or one with sequences of unequal length.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, KossLayer)}
    calls: dict[str, tuple[Any, dict[str, Any]]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls[name] = given, {key: value for key, value in named.items() if value is not None}

        return hook

    hooks = [layer.register_forward_pre_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            out = network(*arguments, **more)
            for name, (_, named) in calls.items():
                if unequal := {"lengths", "offsets"} & named.keys():
                    raise EstimatorError(f"{name} was given {unequal.pop()}; look at sequences of equal length")
            found = {name: trace(layers[name], *given, **named) for name, (given, named) in calls.items()}
    finally:
        for one in hooks:
            one.remove()
    if not found:
        raise EstimatorError(f"{type(network).__name__} ran no KossLayer: there is nothing to look into")
    return out, found


def trace_loop(inputs: LoopInputs, form: LoopForm, gain: Gain = innovation_gain) -> LoopTrace:
    """The loop of `koss_closed_loop` with all it does on the way kept, for sequences of equal length.

    `gain` may be another function in place of φ, to study how it is computed.

    Raises:
        ValueError: packed sequences (offsets): trace them one by one.
    """
    if inputs.offsets is not None:
        raise ValueError("offsets were given: trace takes sequences of equal length, so give packed ones one by one")
    parts: list[tuple[Tensor, ...]] = []
    h = inputs.start
    for first in range(0, inputs.x.shape[1], form.segment):
        e, K, states = _segment(inputs, form, slice(first, first + form.segment), h, gain)
        h = states[:, -1]
        parts.append((e, K, states))
    innovation, gains, state = (torch.cat(some, 1) for some in zip(*parts, strict=True))
    return LoopTrace(innovation, gains, state, _read(inputs.read, state))


def _segment(v: LoopInputs, form: LoopForm, at: slice, h: Tensor, gain: Gain) -> tuple[Tensor, Tensor, Tensor]:
    """e and K (B, S, D) of the last pass and the states (B, S, N, D) of the steps `at`, from h (B, N, D) before."""
    x, delta, read = v.x[:, at], v.delta[:, at], v.read[:, at]
    E = transition(delta, v.rate)
    # Open-loop: E_t h for the first step, E_{t+1} E_t h for the next, …
    p = E.cumprod(1) * h[:, None]
    for again in range(form.passes, -1, -1):
        predicted = _read(read, p)
        e = x - predicted if form.innovate else x
        K = gain(e, v.bias[:, at], v.w1, v.b1, v.w2, form.operator, predicted)
        states = _states(v, form.operator, at, K, E, h)
        if again:
            p = E * torch.cat([h[:, None], states[:, :-1]], 1)
    return e, K, states


def _states(v: LoopInputs, operator: str, at: slice, K: Tensor, E: Tensor, h: Tensor) -> Tensor:
    """The states (B, S, N, D) under the gains K (B, S, D)."""
    x, read = v.x[:, at], v.read[:, at]
    slope = None if v.slope is None else v.slope[:, at]
    if operator == "kalman":
        led = x if slope is None or v.lead is None else x + v.lead * slope
        return rank_one_scan(K, read, E, led, h)
    a, u = kalman_operators(operator, K, read, v.delta[:, at], v.rate, x, slope, v.lead, E=E)
    # Written out, where segment_scan would do: forward-mode differentiation goes through it too.
    states = []
    for t in range(a.shape[1]):
        h = torch.addcmul(u[:, t], a[:, t], h)
        states.append(h)
    return torch.stack(states, 1)


def _read(read: Tensor, states: Tensor) -> Tensor:
    """Σ_n c_n h_n (B, S, D)."""
    return (read[..., None] * states).sum(2)
