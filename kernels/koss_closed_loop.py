"""The closed loop of KOSS, public: refusals, the choice of a backend, and the gradient of those that bring their own.

The formulas are those of `reference.koss_loop` and the letters those of `koss_form` (arXiv 2512.16723).
"""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ssrtrack.kernels import koss_cpu, koss_torch
from ssrtrack.kernels.koss_form import LoopForm, LoopInputs, sees_prediction
from ssrtrack.kernels.koss_torch import state_dtype

Tensor = torch.Tensor
BACKENDS = ("triton", "numba", "torch")
PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
UNTIMED = ("rate", "w1", "b1", "w2", "start", "lead")
LED = ("discrete", "kalman", "bucy")  # operators that read the lead τ
COMPILED_FROM = 1 << 16  # inputs; below, numba would take longer to load than it saves
COMPILED_STEPS = 8  # fewer come from a loop that runs online, which a compiler must not hold up


def koss_closed_loop(
    inputs: LoopInputs, form: LoopForm | None = None, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """All steps of B sequences whose gain follows from their own innovation.

    For each segment of S steps, from the state h before it, J + 1 times: predictions p_t = e^{Δ_t A} p_{t−1} (open-loop
    at first, then from the states just found), innovations e_t = x_t − c_t·p_t, gains
    K_t = σ(W2ᵀ relu(W1ᵀ s_t + b1) + z_t) with s = e²/(1 + e²), states by the operator; then y_t = c_t·h_t. With a w1 of
    2C rows, [W1; W_p], the gain sees what the state carries too: relu(W1ᵀ s_t + W_pᵀ (c_t·p_t) + b1).

    Args:
        inputs: shapes and units as in `LoopInputs`; x, delta, read, bias and slope in float32, bfloat16, float16 or
            float64, each in its own; weights and start are taken in the state's precision, which is float32, or float64
            where x is. Tensors whose channels do not lie side by side are copied.
        form: operator, segment S, passes J, innovate; `LoopForm()` where None.
        backend: "triton" (a CUDA device; a CPU in Triton's interpreter only), "numba" (a CPU; `discrete`, S = 1, no
            slope, no offsets, x not float64), "torch" (everything). None: on a CUDA device triton where its kernels
            have the form (heads of 16, 32, 64 or 128 channels, up to 16 states, segments of 1 to 32 steps that are a
            power of two, x not float64; with a w1 of 2C rows segments of 1 step), on a CPU numba where it has it and
            there is enough work, else torch.

    Returns:
        y (B, T, D) in x's precision and the state after each sequence's last step (B, N, D) in the state's;
        differentiable once with respect to every tensor of `inputs`.

    Raises:
        ValueError: a tensor's shape, precision or device does not fit the others; offsets do not part the steps; a lead
            without a slope or an operator that reads it; `exact` without a slope; a w1 of 2C rows where `innovate` is
            False; a backend that is none, or has no kernel for this form.
    """
    form = LoopForm() if form is None else form
    _check(inputs, form)
    # Pass j has a segment's first j + 1 steps exact, so more passes than steps but one change nothing.
    form = replace(form, passes=min(form.passes, form.segment - 1))
    inputs = _readied(inputs, form)
    if inputs.x.numel() == 0:
        return torch.zeros_like(inputs.x), inputs.start.clone()
    backend = _choice(inputs, form) if backend is None else _granted(backend, inputs, form)
    if backend == "torch":
        return koss_torch.forward(inputs, form)
    run = _outside_graphs(_on_triton if backend == "triton" else _on_numba)
    y, last = run(inputs, form)
    return y, last


def _readied(inputs: LoopInputs, form: LoopForm) -> LoopInputs:
    """Weights and state in the state's precision and contiguous, the channels of all others side by side."""
    if inputs.lead is None and form.operator in LED:
        inputs = inputs._replace(slope=None)  # nothing weighs it
    state = state_dtype(inputs.x)
    ready: dict[str, Any] = {}
    for name, v in inputs._asdict().items():
        if name in UNTIMED and v is not None:
            ready[name] = v.to(state).contiguous()
        else:
            ready[name] = v if v is None else _adjacent(v)
    return LoopInputs(**ready)


def _adjacent(v: Tensor) -> Tensor:
    return v if v.stride(-1) == 1 else v.contiguous()


def _check(inputs: LoopInputs, form: LoopForm) -> None:
    x, start, b1 = inputs.x, inputs.start, inputs.b1
    if x.ndim != 3 or start.ndim != 3 or b1.ndim != 2:
        raise ValueError(
            f"x {tuple(x.shape)}, start {tuple(start.shape)} and b1 {tuple(b1.shape)} must be (B, T, D), (B, N, D) and "
            "(heads, channels of a head)"
        )
    (B, T, D), N, (H, C) = x.shape, start.shape[1], b1.shape
    if H * C != D:
        raise ValueError(f"x has {D} channels, b1 {H} heads of {C}: {H} × {C} must be {D}")
    sequences = start.shape[0] if inputs.offsets is not None else B
    shapes = {
        "start": (sequences, N, D),
        "read": (B, T, N),
        "rate": (N, D),
        "w1": (H, 2 * C if inputs.w1.shape[1:2] == (2 * C,) else C, C),
        "w2": (H, C, C),
        "lead": (D,),
        **dict.fromkeys(("delta", "bias", "slope"), (B, T, D)),
    }
    for name, v in inputs._asdict().items():
        if v is None:
            continue
        if v.device != x.device:
            raise ValueError(f"{name} is on {v.device} and x on {x.device}: move all tensors to one device")
        if name == "offsets":
            continue
        if v.dtype not in PRECISIONS:
            raise ValueError(f"{name} is {v.dtype}, expected one of {', '.join(map(str, PRECISIONS))}")
        if tuple(v.shape) != shapes.get(name, tuple(v.shape)):
            raise ValueError(
                f"{name} has the shape {tuple(v.shape)}, expected {shapes[name]} beside x {tuple(x.shape)} (B, T, D), "
                f"{N} states and {H} heads of {C} channels"
                + (f"; or {(H, 2 * C, C)}, for a gain that also sees the prediction" if name == "w1" else "")
            )
    if sees_prediction(inputs.w1) and not form.innovate:
        raise ValueError(
            f"w1 {tuple(inputs.w1.shape)} has rows for the prediction, which a gain with innovate=False does not see: "
            f"give {(H, C, C)}, or innovate=True"
        )
    _check_slope(inputs, form)
    if inputs.offsets is not None:
        _check_offsets(inputs.offsets, sequences, tuple(x.shape))


def _check_slope(inputs: LoopInputs, form: LoopForm) -> None:
    if inputs.slope is None and form.operator == "exact":
        raise ValueError("the operator exact looks back at x_{t−1}: give x_t − x_{t−1} as slope")
    if inputs.lead is not None and inputs.slope is None:
        raise ValueError("lead weighs the slope, and there is none: give a slope, or lead = None")
    if inputs.lead is not None and form.operator not in LED:
        raise ValueError(f"the operator {form.operator} reads no lead: give lead = None, or one of {', '.join(LED)}")


def _check_offsets(offsets: Tensor, sequences: int, shape: tuple[int, ...]) -> None:
    """Kernels trust the offsets with the memory they write, so the values are read, also from a device."""
    if offsets.shape != (sequences + 1,) or offsets.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"offsets are {tuple(offsets.shape)} {offsets.dtype}, expected ({sequences + 1},) int32: one more than "
            "start has sequences"
        )
    if shape[0] != 1:
        raise ValueError(f"x is {shape}: with offsets, sequences lie one after another in (1, steps, D)")
    if offsets.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    at = offsets.tolist()
    if at[0] != 0 or at[-1] != shape[1] or any(a > b for a, b in pairwise(at)):
        raise ValueError(f"offsets {at[:4]} … {at[-1]} must rise from 0 to the number of steps, {shape[1]}")


def _choice(inputs: LoopInputs, form: LoopForm) -> str:
    if inputs.x.is_cuda:
        return "triton" if _triton_refusal(inputs, form) is None else "torch"
    enough = inputs.x.numel() >= COMPILED_FROM and inputs.x.shape[1] >= COMPILED_STEPS
    return "numba" if enough and koss_cpu.refusal(inputs, form) is None else "torch"


def _granted(backend: str, inputs: LoopInputs, form: LoopForm) -> str:
    """The backend asked for by name, if it has this form."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}, or None")
    refusal = None
    if backend == "triton":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        on_device = inputs.x.is_cuda or interpreted
        refusal = _triton_refusal(inputs, form) if on_device else f"x is on {inputs.x.device}, not on a CUDA device"
    elif backend == "numba":
        refusal = koss_cpu.refusal(inputs, form)
    if refusal:
        raise ValueError(f"the backend {backend} has no kernel for this: {refusal}; use backend='torch' or None")
    return backend


def _triton_refusal(inputs: LoopInputs, form: LoopForm) -> str | None:
    """Why the Triton kernels cannot, or None where they can."""
    if inputs.x.dtype == torch.float64:
        return "x is float64"
    kernels = _kernels(form.segment == 1)
    if kernels is None:
        return "Triton is not installed"
    (H, C), N = inputs.b1.shape, inputs.start.shape[1]
    if not kernels[0].supported(inputs, form):
        seen = " and a gain that sees the prediction" if sees_prediction(inputs.w1) else ""
        return f"{form} with {H} heads of {C} channels and {N} states{seen}"
    return None


@cache
def _kernels(step: bool) -> tuple[ModuleType, ModuleType] | None:
    """The modules of forward and backward, loaded when first used: a CPU's process never loads Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    if step:
        from ssrtrack.kernels import koss_step_backward, koss_step_forward

        return koss_step_forward, koss_step_backward
    from ssrtrack.kernels import koss_segment_backward, koss_segment_forward

    return koss_segment_forward, koss_segment_backward


def _outside_graphs(run: Any) -> Any:
    """`run`, which torch.compile is to leave as it is: its kernels have compilers of their own."""
    disable: Any = torch.compiler.disable
    return disable(run) if torch.compiler.is_compiling() else run


def _on_numba(inputs: LoopInputs, _: LoopForm) -> tuple[Tensor, Tensor]:
    return koss_cpu.forward(inputs)


def _on_triton(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
    kernels: Any = _kernels(form.segment == 1)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        apply: Any = _Kernels.apply
        y, last = apply(kernels, form, *inputs)
    else:
        with _device_of(inputs.x):
            y, last, _ = kernels[0].forward(inputs, form, False)
    return y, last


def _device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever the tensors' is."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


class _Kernels(torch.autograd.Function):
    """A forward and a backward kernel as one differentiable function."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, form: LoopForm, *given: Any) -> tuple[Tensor, Tensor]:
        inputs = LoopInputs(*given)
        with _device_of(inputs.x):
            y, last, saved = kernels[0].forward(inputs, form, True)
        ctx.save_for_backward(*given, *saved)
        ctx.backward_kernel, ctx.form = kernels[1].backward, form
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, g_last: Tensor) -> tuple[Tensor | None, ...]:
        count = len(LoopInputs._fields)
        inputs: Any = LoopInputs(*ctx.saved_tensors[:count])
        with _device_of(gy):
            found = ctx.backward_kernel(inputs, ctx.form, ctx.saved_tensors[count:], _adjacent(gy), g_last.contiguous())
        needed = ctx.needs_input_grad[2 : count + 1]
        grads = [g.to(v.dtype) if need else None for v, g, need in zip(inputs[:-1], found, needed, strict=True)]
        return None, None, *grads, None
